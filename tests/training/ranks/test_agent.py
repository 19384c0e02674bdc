"""Which of the failures that torchrun reports is the cause."""

from __future__ import annotations

import signal

import pytest

from relight.training.ranks.agent import _order_failures


@pytest.mark.parametrize(
    ("failures", "first"),
    [
        ({0: (3, 10.0), 1: (-signal.SIGKILL, 10.0)}, 1),  # rank 0 lost its connection to the killed one
        ({0: (-signal.SIGTERM, 12.0), 1: (3, 10.0)}, 1),  # torchrun ended rank 0
        ({0: (-signal.SIGKILL, 40.0), 1: (3, 10.0)}, 1),  # it did not react, so torchrun killed it
        ({0: (-signal.SIGSEGV, 11.0), 1: (3, 10.0)}, 0),
    ],
)
def test_the_failure_that_caused_the_others_comes_first(failures: dict[int, tuple[int, float]], first: int) -> None:
    assert _order_failures(failures)[0].rank == first
