"""Values set by a launch go into a script's config with the right type, and the record of it is always JSON."""

from __future__ import annotations

import argparse
import enum
import json
from pathlib import Path
from typing import Any

import pytest

from relight.errors import ConfigError
from relight.tasks.script_config import apply_overrides, plain_config


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("there", "text", "read"),
    [
        (0.1, "3e-4", 3e-4),
        (3, "4", 4),
        (True, "no", False),
        ("adam", "sgd", "sgd"),
        (None, "none", None),
        (None, "5", 5),
        (None, "a path", "a path"),
        ([1], "[2, 3]", [2, 3]),
        ((1,), "[2, 3]", (2, 3)),
        (Path("a"), "b/c", Path("b/c")),
        (3, 5, 5),
    ],
)
def test_text_is_converted_to_the_type_of_the_current_value(there: Any, text: Any, read: Any) -> None:
    args = argparse.Namespace(key=there)
    assert apply_overrides(vars(args), {"key": text}) == {}
    assert args.key == read
    assert type(args.key) is type(read)


@pytest.mark.parametrize(
    ("there", "text", "said"),
    [
        (0.1, "fast", "key=fast must be a number; the script's own value is 0.1."),
        (3, "4.5", "key=4.5 must be a whole number; the script's own value is 3."),
        (True, "perhaps", "key=perhaps must be true or false; the script's own value is True."),
        ([1], "[2,", "key=[2, must be JSON; the script's own value is [1]."),
        (print, "x", "key cannot be set at launch: the script's own value is a builtin_function_or_method."),
    ],
)
def test_text_that_cannot_be_converted_is_refused_with_one_sentence(there: Any, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"key": there}, {"key": text})
    assert str(caught.value) == said


def test_the_options_of_init_can_be_set_and_the_scripts_own_keys_win() -> None:
    config = {"seed": 1, "lr": 0.1}
    settings = apply_overrides(config, {"seed": "2", "relight.seed": "3", "checkpoint_every_s": "5", "lr": "1"})
    assert config == {"seed": 2, "lr": 1.0}
    assert settings == {"seed": "3", "checkpoint_every_s": "5"}
    with pytest.raises(ConfigError, match="did you mean 'lr'"):
        apply_overrides(config, {"lrr": "1"})


def test_any_config_becomes_json() -> None:
    args = {
        "path": Path("/x"), "inf": float("inf"), "nan": float("nan"), "color": Colour.RED, "act": print, "flag": True,
        "nested": {1: (2, {3})}, "kind": int, "n": None, "text": "é",
    }  # fmt: skip
    plain = plain_config(args)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["path"] == "/x"
    assert (plain["inf"], plain["color"], plain["act"], plain["kind"]) == ("inf", "red", "print", "int")
    assert plain["nested"] == {"1": [2, ["3"]]}
