"""The `relight` command: help, errors, exit codes, and a fast start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

from relight.cli.application import app
from relight.version import __version__

if TYPE_CHECKING:
    from tests.cli.conftest import Ask, RunMaker

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
RELIGHT = str(Path(sys.executable).parent / "relight")


def test_the_commands_are_those_of_the_contract() -> None:
    contract = "run list show checkpoints metrics logs stop resume branch export verify digest pin drill up"
    added = "import tasks prune rename note tag star archive delete trash restore mirror fetch"
    assert sorted(f"{contract} {added}".split()) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_what_it_does_and_has_an_example(ask: Ask, command: str) -> None:
    answer = ask(command, "--help")
    assert answer.exit_code == 0
    assert f"relight {command}" in answer.stdout.split("Example", 1)[1]
    group = typer.main.get_command(app)
    documented = group.commands[command]  # type: ignore[attr-defined]
    assert documented.help
    first = documented.help.split("\n\n")[0]
    assert first.endswith(".") and len(first) < 60, "the first line is what `relight --help` lists"
    assert all(getattr(parameter, "help", None) for parameter in documented.params)


def test_without_a_command_the_help_is_shown(ask: Ask) -> None:
    answer = ask()
    assert answer.exit_code == 0
    assert all(command in answer.stdout for command in COMMANDS)
    assert answer.stdout == ask("--help").stdout


def test_version(ask: Ask) -> None:
    assert ask("--version").stdout == f"relight {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("shwo",), "Did you mean 'show'?"),
        (("show",), "Missing argument 'RUN'"),
        (("show", "a", "b"), "unexpected extra argument"),
        (("list", "--jsn"), "--jsn"),
        (("logs", "a", "--lines", "many"), "'--lines'"),
        (("branch", "a"), "'--from'"),
        (("pin", "a"), "'STEP'"),
    ],
)
def test_wrong_usage_is_one_line_exit_2_and_says_where_to_look(ask: Ask, arguments: tuple[str, ...], said: str) -> None:
    answer = ask(*arguments)
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert said in answer.error
    assert "--help`." in answer.error


def test_a_bug_keeps_its_whole_traceback(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    import relight.overview.summary

    def broken(*_arguments: object, **_more: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(relight.overview.summary, "list_runs", broken)
    with pytest.raises(KeyError, match="ours"):
        ask("list")


def test_an_error_of_the_operating_system_is_one_line(ask: Ask, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    answer = ask("list", "--runs", str(tmp_path / "a file"))
    assert answer.exit_code == 1
    assert "a file" in answer.error


def test_the_runs_option_wins_over_the_environment(ask: Ask, make_run: RunMaker, tmp_path: Path) -> None:
    layout = make_run()
    assert [run["run"] for run in ask("list", "--json").json] == [layout.run_id]
    assert ask("list", "--json", "--runs", str(tmp_path / "other")).json == []


def test_a_closed_pipe_ends_the_command_without_noise(runs: Path, make_run: RunMaker) -> None:
    layout = make_run()
    make_run.log_metrics(layout, attempt=2, steps=range(21, 20_000))
    process = subprocess.Popen(
        [RELIGHT, "metrics", layout.run_id, "--csv"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(60)


@pytest.mark.parametrize("arguments", [("list",), ("show", "digits"), ("checkpoints", "digits"), ("--help",)])
def test_inspecting_loads_neither_torch_nor_numpy(runs: Path, make_run: RunMaker, arguments: tuple[str, ...]) -> None:
    make_run()
    code = (
        "import sys\n"
        "from relight.cli.application import run_command_line\n"
        f"sys.argv = ['relight', *{arguments!r}]\n"
        "try:\n    run_command_line()\n"
        "finally:\n    sys.stderr.write(' '.join(m for m in ('torch', 'numpy') if m in sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", [("--help",), ("list",)])
def test_starting_loads_few_modules(runs: Path, make_run: RunMaker, arguments: tuple[str, ...]) -> None:
    # Count modules, not seconds: nearly all of a start is imports, and their duration depends on the machine's load.
    make_run()
    code = (
        "import sys\n"
        "from relight.cli.application import run_command_line\n"
        f"sys.argv = ['relight', *{arguments!r}]\n"
        "try:\n    run_command_line()\n"
        "finally:\n    sys.stderr.write(str(len(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert int(result.stderr) <= 345  # 337 and 325 on Linux with Python 3.11
