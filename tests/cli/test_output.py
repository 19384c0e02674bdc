"""What the command line prints, and where."""

from __future__ import annotations

import math

import msgspec
import pytest

from relight.cli.output import say_error, say_json, say_table


def test_columns_are_aligned_and_have_no_trailing_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(("N", "RUN"), [("1", "a"), ("200", "longer")], right=("N",))
    assert capsys.readouterr().out == "  N  RUN\n  1  a\n200  longer\n"


def test_a_table_without_rows_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(("RUN", "N"), [])
    assert capsys.readouterr().out == "RUN  N\n"


def test_an_error_is_always_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say_error("The file\n  is gone:\tput it back.\n")
    captured = capsys.readouterr()
    assert captured.err == "relight: The file is gone: put it back.\n"
    assert captured.out == ""


def test_json_has_null_for_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    say_json({"loss": math.nan, "best": math.inf, "name": "ü"})
    out = capsys.readouterr().out
    assert msgspec.json.decode(out) == {"loss": None, "best": None, "name": "ü"}
