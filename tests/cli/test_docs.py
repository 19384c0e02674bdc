"""docs/cli.md is correct: it has every command, every key in it exists, and every example runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from relight.cli.application import app
from relight.drill.proof import DrilledKill, DrillProof, FirstDifference
from relight.runs.records import TaskReference

if TYPE_CHECKING:
    from tests.cli.conftest import Ask, RunMaker

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def _read_section(command: str) -> str:
    """Return the section of the page about one command."""
    return PAGE.split(f"### `relight {command}`\n")[1].split("\n### ")[0].split("\n## ")[0]


def _read_table_keys(section: str) -> set[str]:
    """Return every word in backticks in the first column of a section's table."""
    first_cells = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    return {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)}


def _list_examples() -> list[list[str]]:
    """Return every `$ relight …` of the page, in order, without the first word."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [
        shlex.split(line.removeprefix("$ relight "))
        for block in blocks
        for line in block.splitlines()
        if line.startswith("$ relight ")
    ]


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    assert sorted(re.findall(r"^### `relight (\w+)`$", PAGE, flags=re.MULTILINE)) == sorted(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_on_the_page_exists(command: str) -> None:
    known = {name for parameter in COMMANDS[command].params for name in parameter.opts}
    text = re.sub(rf"`relight (?!{command})[^`]*`", "", _read_section(command))
    text = re.sub(rf"[$:] relight (?!{command}).*", "", text)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) <= known | {"--json", "--runs"}


def test_the_keys_of_show_and_checkpoints_are_documented_and_no_others(ask: Ask, make_run: RunMaker) -> None:
    run = make_run().run_id
    shown = _read_table_keys(_read_section("show")) | {"reason"}
    assert shown == set(ask("show", run, "--json").json)
    listed = _read_table_keys(_read_section("checkpoints"))
    assert listed == set(ask("checkpoints", run, "--json").json[0])


@pytest.mark.parametrize("command", ["export", "verify", "digest"])
def test_the_keys_in_the_text_are_those_that_are_printed(ask: Ask, make_run: RunMaker, command: str) -> None:
    told = _read_section(command).split("JSON keys:")[1].split("(")[0]
    answer = ask(command, make_run().run_id, "--json")
    assert set(re.findall(r"`(\w+)`", told)) == set(answer.json)


def test_the_keys_of_the_drill_are_those_that_are_printed(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    difference = FirstDifference(part="tensor", name="w", step=22, detail="", cause="", cure="", others=0)
    proof = DrillProof(
        task=TaskReference(kind="builtin", name="digits"), config={}, time_s=1.0, bit_exact=False, fingerprint={},
        steps=40, killed_at_step=12, resumed_from_step=11, mid_epoch=True, checkpoints_compared=4, tensors_compared=17,
        metric_steps_compared=40, state_digest="d", uninterrupted_digest="e", first_difference=difference,
        duration_s=9.0, folder=None, script_config=None, nproc=2, kills=(DrilledKill(step=12, from_step=11, rank=1),),
    )  # fmt: skip
    monkeypatch.setattr("relight.drill.rehearsal.run_drill", lambda *_, **__: proof)
    answer = ask("drill", "digits", "--json")
    assert answer.exit_code == 1
    told = _read_section("drill").split("JSON keys:")[1]
    assert set(re.findall(r"`(\w+)`", told)) == {*answer.json, *answer.json["first_difference"], "rank"}
    assert answer.json["kills"][0]["rank"] == 1


def test_every_command_that_ends_has_an_example() -> None:
    assert {example[0] for example in _list_examples()} == set(COMMANDS) - {"up"}


@pytest.mark.processes
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("end_runs")
@pytest.mark.parametrize("drills", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_every_example_runs_as_written(
    relight: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drills: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copies").mkdir()  # as the page does
    examples = [example for example in _list_examples() if (example[0] == "drill") == drills]
    assert examples
    for example in examples:
        answer = relight(*example, timeout_s=300)
        assert (answer.exit_code, answer.stderr) == (0, ""), (example, answer)
        assert answer.stdout, example
