"""The config of a run."""

from __future__ import annotations

from relight_app.parts.config import build_config


def test_a_config_marks_values_that_are_not_the_default() -> None:
    shown = build_config(
        {"lr": 0.002, "flip": True}, defaults={"lr": 0.001, "flip": True}, changes={"lr": (0.1, 0.002)}
    )
    assert "default 0.001" in shown
    assert shown.count("changed in this branch, was 0.1") == 1
    assert ">true<" in shown
