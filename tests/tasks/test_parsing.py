"""Turning typed text into a config, and the sentence for each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import field_validator, model_validator

from relight import TaskConfig, option
from relight.errors import ConfigError
from relight.tasks.parsing import nearest_name, parse_config, split_assignments


class Config(TaskConfig):
    """Fields whose values are not plain text."""

    width: int = option(8, "Width.", ge=1, le=64)
    depth: int | None = option(None, "Depth.", ge=1)
    heads: Literal[1, 2, 4] = option(2, "Heads.")
    flip: bool = option(False, "Flip.")
    sizes: tuple[int, ...] = option((1, 2), "Sizes.")
    mixed: int | str = option("a", "Number or text.")
    folder: Path = option(Path(), "Folder.")

    @field_validator("folder")
    @classmethod
    def _must_not_be_root(cls, value: Path) -> Path:
        if str(value) == "/":
            raise ValueError("the root folder is too large.")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")
        return self


def explain(*assignments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(Config, assignments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_text_becomes_typed_values() -> None:
    config = parse_config(
        Config, ["width=4", "lr=1e-2", "flip=yes", "heads=4", "sizes=[3, 4]", "folder=/tmp", "depth=7"]
    )
    assert (config.width, config.lr, config.flip, config.heads) == (4, 0.01, True, 4)
    assert (config.sizes, config.folder, config.depth) == ((3, 4), Path("/tmp"), 7)


def test_a_mapping_of_typed_values_works_as_well_as_text() -> None:
    given: dict[str, Any] = {"width": 4, "flip": True, "heads": 4, "sizes": [3], "depth": None}
    assert parse_config(Config, given).sizes == (3,)


@pytest.mark.parametrize("text", ["none", "None", "null"])
def test_none_clears_a_nullable_key(text: str) -> None:
    assert parse_config(Config, [f"depth={text}"]).depth is None


def test_the_last_assignment_of_a_key_wins_and_values_may_contain_equal_signs() -> None:
    assert split_assignments(["a=1", " a = 2=3 "]) == {"a": "2=3"}


@pytest.mark.parametrize("text", ["", "=", "=3", "epochs", " = 3"])
def test_text_that_sets_nothing_is_refused_with_an_example(text: str) -> None:
    assert "epochs=5" in explain(text)


def test_an_unknown_key_gets_the_nearest_name() -> None:
    assert explain("epoch=3") == "Unknown key 'epoch': did you mean 'epochs'?"
    assert explain("Batch-Size=3") == "Unknown key 'Batch-Size': did you mean 'batch_size'?"


def test_an_unknown_key_without_a_similar_name_gets_all_names() -> None:
    sentence = explain("zzzzzz=3")
    assert "the keys are width, depth" in sentence
    assert "epochs" in sentence


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("width=0", "width=0 is out of bounds: it must be at least 1 and at most 64."),
        ("width=65", "width=65 is out of bounds: it must be at least 1 and at most 64."),
        ("lr=0", "lr=0 is out of bounds: it must be greater than 0 and at most 100."),
        ("width=wide", "width=wide must be a whole number."),
        ("width=2.5", "width=2.5 must be a whole number."),
        ("depth=deep", "depth=deep must be a whole number or none."),
        ("depth=0", "depth=0 is out of bounds: it must be at least 1."),
        ("lr=fast", "lr=fast must be a number."),
        ("lr=nan", "lr=nan must be a finite number."),
        ("lr=inf", "lr=inf must be a finite number."),
        ("flip=maybe", "flip=maybe must be true or false."),
        ("heads=3", "heads=3 is not valid: it must be one of 1, 2, 4."),
        ("optimizer=adm", "optimizer=adm is not valid: it must be one of adamw, adam, sgd. Did you mean 'adam'?"),
        ("sizes=3,4", "sizes=3,4 must be JSON, such as [1, 2]."),
        ("folder=/", "folder=/: the root folder is too large."),
        ("heads=4", "width=6 must be a multiple of heads=4."),
    ],
)  # fmt: skip
def test_a_wrong_value_gets_one_sentence(assignment: str, sentence: str) -> None:
    assert explain("width=6", assignment) == sentence


def test_a_wrong_device_gets_the_help_of_its_field() -> None:
    assert explain("device=gpu") == (
        "device=gpu is not valid: auto picks CUDA, else MPS, else the CPU; or name a device: cpu, mps, cuda, cuda:1."
    )


def test_a_wrong_element_of_a_list_names_the_key() -> None:
    assert explain('sizes=[1, "x"]').startswith("sizes=x: ")


def test_a_key_of_several_types_is_named_even_when_none_fits() -> None:
    with pytest.raises(ConfigError, match=r"^mixed=\[\]"):
        parse_config(Config, {"mixed": []})


def test_a_key_without_default_must_be_set() -> None:
    class Needy(TaskConfig):
        data: str = option(..., "Folder of the data.")

    with pytest.raises(ConfigError) as caught:
        parse_config(Needy, [])
    assert str(caught.value) == "'data' must be set: Folder of the data."


def test_every_mistake_is_named_not_only_the_first() -> None:
    sentence = explain("width=0", "lrr=3", "epochs=x")
    assert "width=0" in sentence and "'lrr'" in sentence and "epochs=x" in sentence


def test_long_and_unprintable_values_stay_on_one_short_line() -> None:
    sentence = explain("width=" + "a\n\x1b" * 10_000)
    assert len(sentence) < 200
    assert sentence.isprintable()


@settings(deadline=None)  # a busy machine is slow
@given(st.dictionaries(st.sampled_from([*Config.model_fields, "other"]), st.text(max_size=20), max_size=4))
def test_any_text_gives_a_config_or_a_sentence(values: dict[str, str]) -> None:
    try:
        parse_config(Config, values)
    except ConfigError as error:
        assert str(error) and "\n" not in str(error)


@settings(deadline=None)  # a busy machine is slow
@given(st.text(max_size=30))
def test_the_nearest_name_is_always_a_known_one(name: str) -> None:
    assert nearest_name(name, ["epochs", "batch_size"]) in ("epochs", "batch_size", None)
