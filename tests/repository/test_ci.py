"""`.ci/run` fails when anything fails, and always runs the tests."""

from __future__ import annotations

import shutil

import pytest

from tests.repository.conftest import Checkout


@pytest.mark.parametrize(("check", "test"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_ci_passes_only_when_checks_and_tests_both_pass(checkout: Checkout, check: int, test: int) -> None:
    bash = shutil.which("bash")
    assert bash
    (checkout.commands / "make").unlink()
    checkout.add_command("make", f'#!/bin/sh\necho "ran $1"\n[ $1 = check ] && exit {check}\nexit {test}\n')
    result = checkout.run(bash, ".ci/run", CI="true")
    assert (result.returncode == 0) == (check == 0 and test == 0)
    assert result.stdout.splitlines() == ["ran check", "ran test"]
