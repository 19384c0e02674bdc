"""`list`, `show`, `metrics` and `logs` tell people and scripts about runs."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from relight.drill.proof import DrillProof, write_proof
from relight.metrics.writer import MetricWriter
from relight.runs.record_file import read_record, write_record
from relight.runs.records import AttemptStart, RankEnd, RanksFailure, ResumeCheck, RunRecord
from relight.supervision.ranks import record_rank

if TYPE_CHECKING:
    from tests.cli.conftest import Ask, RunMaker

SHOW_KEYS = {
    "run", "name", "status", "reason", "attempt", "step", "epoch", "steps_total", "durable_step", "work_at_risk_s",
    "work_at_risk_steps", "best", "metrics", "pids", "path",
}  # fmt: skip


def test_no_runs_is_a_sentence_with_a_next_step(ask: Ask, runs: Path) -> None:
    answer = ask("list")
    assert answer.exit_code == 0
    assert answer.stdout == f"There are no runs in {runs} yet. Start one with: relight run digits\n"
    assert ask("list", "--json").json == []


def test_the_list_shows_status_progress_best_and_risk_newest_first(ask: Ask, make_run: RunMaker) -> None:
    first = make_run("first")
    second = make_run("second", outcome=None, step=23)
    answer = ask("list")
    head, *rows = answer.stdout.splitlines()
    assert head.split() == ["RUN", "STATUS", "PROGRESS", "BEST", "AT", "RISK", "UPDATED"]
    assert [row.split()[0] for row in rows] == [second.run_id, first.run_id]
    assert rows[0].split()[1:7] == ["running", "23/40", "57%", "0.95", "validation/accuracy", "3"]
    assert rows[1].split()[1:7] == ["finished", "20/20", "100%", "0.95", "validation/accuracy", "-"]


def test_a_list_is_searched_sorted_and_has_chosen_columns(ask: Ask, make_run: RunMaker) -> None:
    first, second = make_run("first"), make_run("second", outcome="crashed")
    ask("tag", first.run_id, "vision")
    assert [run["run"] for run in ask("list", "--filter", "tag:vision lr<1", "--json").json] == [first.run_id]
    assert [run["run"] for run in ask("list", "--sort", "name", "--json").json] == [first.run_id, second.run_id]
    table = ask("list", "--columns", "status, best,lr,tag", "--sort=-name").stdout
    assert [line.split() for line in table.splitlines()] == [
        ["RUN", "STATUS", "BEST", "lr", "TAGS"],
        [second.run_id, "crashed", "0.95", "0.003", "-"],
        [first.run_id, "finished", "0.95", "0.003", "vision"],
    ]
    assert ask("list", "--columns", "differing").stdout.splitlines()[0] == "RUN"


def test_a_search_that_finds_nothing_says_so_and_one_without_sense_says_where(ask: Ask, make_run: RunMaker) -> None:
    make_run()
    assert ask("list", "--filter", "nowhere").stdout == "No runs match (1 in all).\n"
    assert "Did you mean 'lr'?" in ask("list", "--filter", "lrr<1").stdout
    wrong = ask("list", "--filter", "digits lr<")
    assert (wrong.exit_code, "character 11" in wrong.error) == (2, True)
    assert ask("list", "--sort", "updatd").exit_code == 2
    assert ask("list", "--columns", "best", "--json").exit_code == 2
    assert "status:crashed" in ask("list", "--filter", "help").stdout


def test_archived_runs_are_counted_and_shown_when_asked_for(ask: Ask, make_run: RunMaker) -> None:
    first, second = make_run("first"), make_run("second")
    ask("archive", first.run_id)
    said = ask("list").stdout
    assert first.run_id not in said
    assert said.splitlines()[-1] == "1 archived run not shown; --archived shows them."
    assert [run["run"] for run in ask("list", "--json").json] == [second.run_id]
    assert first.run_id in ask("list", "--archived").stdout
    assert first.run_id in ask("list", "--filter", "archived").stdout


def test_a_damaged_run_is_listed_and_hides_no_other(ask: Ask, make_run: RunMaker) -> None:
    good, bad = make_run("good"), make_run("bad")
    bad.record.write_text("{")
    answer = ask("list")
    assert answer.exit_code == 0
    assert good.run_id in answer.stdout
    assert f"{bad.run_id}" in answer.stdout
    assert "run.json" in answer.error
    entries = {entry["run"]: entry for entry in ask("list", "--json").json}
    assert entries[bad.run_id]["status"] == "damaged"
    assert "run.json" in entries[bad.run_id]["reason"]
    assert entries[bad.run_id].keys() == entries[good.run_id].keys() >= SHOW_KEYS


def test_show_json_has_the_keys_of_the_contract(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run(outcome=None, step=23)
    shown = ask("show", layout.run_id, "--json").json
    assert shown.keys() >= SHOW_KEYS
    assert shown["pids"].keys() == {"supervisor", "trainer", "writer"}
    assert shown["pids"]["writer"] is None
    assert shown["best"] == {"step": 20, "metric": "validation/accuracy", "value": 0.95}
    assert (shown["status"], shown["step"], shown["durable_step"], shown["work_at_risk_steps"]) == (
        "running",
        23,
        20,
        3,
    )
    assert shown["metrics"]["validation/accuracy"] == pytest.approx(0.95)
    assert shown["path"] == str(layout.folder)


def test_a_run_is_found_by_id_name_or_unique_prefix(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run("trial")
    make_run("other")
    for name in (layout.run_id, "trial", "tri"):
        assert ask("show", name, "--json").json["run"] == layout.run_id


def test_an_unknown_run_is_wrong_usage_and_names_the_nearest(ask: Ask, make_run: RunMaker) -> None:
    make_run("trial")
    answer = ask("show", "trail")
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert "trial" in answer.error


def test_show_answers_the_first_questions_about_a_run(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run(outcome=None, step=23)
    facts = dict(line.split("  ", 1) for line in ask("show", layout.run_id).stdout.splitlines())
    facts = {name.strip(): text.strip() for name, text in facts.items()}
    assert facts["status"] == "running"
    assert facts["progress"] == "23/40 57%, 2 steps/s, 8.5 s left"
    assert facts["best"] == "validation/accuracy 0.95 at step 20"
    assert facts["saved"] == "up to step 20"
    assert facts["at risk"].startswith("3 steps, ")
    assert facts["folder"] == str(layout.folder)


def test_show_says_what_the_drill_of_its_task_proved(ask: Ask, make_run: RunMaker, runs: Path) -> None:
    layout = make_run()
    assert ask("show", layout.run_id, "--json").json["proof"] is None
    record = read_record(layout.record, RunRecord)
    proof = DrillProof(
        task=record.task, config={}, time_s=time.time(), bit_exact=True, fingerprint={"torch": "2.13.0"}, steps=40,
        killed_at_step=12, resumed_from_step=11, mid_epoch=True, checkpoints_compared=4, tensors_compared=17,
        metric_steps_compared=40, state_digest="", first_difference=None, duration_s=9.0,
    )  # fmt: skip
    write_proof(runs, proof)
    assert "proven bit-exact by a drill just now\n" in ask("show", layout.run_id).stdout
    layout.attempt(layout.latest_attempt()).environment.write_text('{"torch": "2.14.0"}')
    told = ask("show", layout.run_id).stdout
    assert "proven bit-exact by a drill just now; out of date: torch was 2.13.0 and is 2.14.0" in told
    shown = ask("show", layout.run_id, "--json").json["proof"]
    assert shown["bit_exact"] is True
    assert shown["changes"] == [{"key": "torch", "before": "2.13.0", "now": "2.14.0"}]


def test_show_has_the_whole_traceback_of_a_crash(ask: Ask, make_run: RunMaker) -> None:
    traceback = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nValueError: no\n'
    layout = make_run(outcome="crashed", reason="ValueError: no", error="ValueError: no", traceback=traceback)
    answer = ask("show", layout.run_id)
    assert answer.exit_code == 0
    assert answer.stdout.endswith(traceback)
    assert "status" in answer.stdout and "crashed: ValueError: no" in answer.stdout


def test_metrics_are_one_row_each_without_the_machine(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    machine = MetricWriter(layout.metrics, stream="system", attempt=1)
    machine.log(1, {"cpu_percent": 50.0})
    machine.close()
    rows = {row["metric"]: row for row in ask("metrics", layout.run_id, "--json").json}
    assert rows.keys() == {"train/loss", "train/lr", "validation/accuracy"}
    assert rows["train/loss"] == {
        "metric": "train/loss", "latest": 1.05, "step": 20, "lowest": 1.05, "highest": 2.0, "records": 20,
    }  # fmt: skip
    assert [row["metric"] for row in ask("metrics", layout.run_id, "--stream", "system", "--json").json] == [
        "system/cpu_percent"
    ]
    table = ask("metrics", layout.run_id).stdout.splitlines()
    assert table[0].split() == ["METRIC", "LATEST", "AT", "STEP", "LOWEST", "HIGHEST", "RECORDS"]
    assert table[1].split() == ["train/loss", "1.05", "20", "1.05", "2", "20"]


def test_a_metric_that_was_never_finite_has_no_lowest(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    writer = MetricWriter(layout.metrics, stream="mine", attempt=1)
    writer.log(1, {"x": math.nan})
    writer.close()
    (row,) = ask("metrics", layout.run_id, "--stream", "mine", "--json").json
    assert (row["latest"], row["lowest"], row["highest"]) == (None, None, None)


def test_csv_has_each_step_once_and_ghosts_only_when_asked(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    make_run.log_metrics(layout, attempt=2, steps=range(15, 21))
    rows = list(csv.DictReader(io.StringIO(ask("metrics", layout.run_id, "--csv", "--stream", "train").stdout)))
    assert [int(row["step"]) for row in rows] == list(range(1, 21))
    assert [row["attempt"] for row in rows] == ["1"] * 14 + ["2"] * 6
    assert float(rows[19]["train/loss"]) == 1 / 20 + 2
    with_ghosts = ask("metrics", layout.run_id, "--csv", "--ghosts", "--stream", "train").stdout
    rows = list(csv.DictReader(io.StringIO(with_ghosts)))
    assert sum(row["ghost"] == "1" for row in rows) == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ghosts",), "--csv"),
        (("--csv", "--json"), "cannot be combined"),
        (("--stream", "trian"), "train, validation"),
    ],
)
def test_wrong_options_of_metrics_are_wrong_usage(
    ask: Ask, make_run: RunMaker, arguments: tuple[str, ...], said: str
) -> None:
    layout = make_run()
    answer = ask("metrics", layout.run_id, *arguments)
    assert answer.exit_code == 2
    assert said in answer.error


def test_logs_prints_the_last_lines_of_the_latest_attempt(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    assert ask("logs", layout.run_id, "-n", "2").stdout == "line 29\nline 30\n"
    assert len(ask("logs", layout.run_id).stdout.splitlines()) == 30
    answer = ask("logs", layout.run_id, "--lines", "1", "--json").json
    assert answer == {
        "run": layout.run_id, "attempt": 1, "path": str(layout.attempt(1).log), "lines": ["line 30"],
    }  # fmt: skip


def test_logs_of_a_missing_attempt_says_which_exist(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    answer = ask("logs", layout.run_id, "--attempt", "7")
    assert answer.exit_code == 2
    assert "no attempt 7: it has 1." in answer.error


def test_following_the_log_of_a_dead_run_ends(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    with layout.attempt(1).log.open("a") as log:
        log.write("unfinished")
    assert ask("logs", layout.run_id, "-f", "-n", "1").stdout.endswith("unfinished")


def test_bytes_that_are_not_text_do_not_stop_the_log(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    layout.attempt(1).log.write_bytes(b"ok\n\xff\xfe\n10%\r20%\rdone\n")
    assert ask("logs", layout.run_id).stdout.splitlines() == ["ok", "\ufffd\ufffd", "done"]


def test_show_says_when_a_real_resume_contradicts_the_drill(ask: Ask, make_run: RunMaker, runs: Path) -> None:
    layout = make_run()
    record = read_record(layout.record, RunRecord)
    proof = DrillProof(
        task=record.task, config={}, time_s=time.time(), bit_exact=True, fingerprint={}, steps=40,
        killed_at_step=12, resumed_from_step=11, mid_epoch=True, checkpoints_compared=4, tensors_compared=17,
        metric_steps_compared=40, state_digest="", first_difference=None, duration_s=9.0,
    )  # fmt: skip
    write_proof(runs, proof)
    assert ask("show", layout.run_id, "--json").json["proof"]["disagreement"] == ""
    number = layout.latest_attempt()
    check = ResumeCheck(attempt=number, time_s=1.0, verdict="different", against=1, equal_steps=3, sentence="")
    write_record(layout.attempt(number).resume_check, check)
    said = f"The drill found that a resume of this task is exact, but the resume of attempt {number} was not."
    assert said in " ".join(ask("show", layout.run_id).stdout.split())
    assert said in ask("show", layout.run_id, "--json").json["proof"]["disagreement"]


def test_a_dead_run_shows_the_line_that_failed_and_what_to_do(ask: Ask, make_run: RunMaker) -> None:
    trace = (
        'Traceback (most recent call last):\n  File "/home/me/train.py", line 12, in step\n    f(x)\nValueError: no\n'
    )
    run = make_run(outcome="crashed", step=23, error="ValueError: no", traceback=trace).run_id
    shown = ask("show", run)
    assert re.search(r"^raised at +train\.py:12, in step: f\(x\)$", shown.stdout, re.MULTILINE)
    assert "Fix the code at train.py:12, in step. Resume it from step 20; 3 steps" in shown.stdout
    assert f"relight resume {run}\n" in shown.stdout
    death = ask("show", run, "--json").json["death"]
    assert (death["cause"], death["frame"]["line"], death["advice"]["action"]) == ("exception", 12, "fix_then_resume")
    assert ask("show", make_run("good").run_id, "--json").json["death"] is None


def test_a_loss_that_is_nan_is_shown_with_the_branch_that_leads_back(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run(outcome="crashed", step=22, error="ValueError: no")
    (file,) = layout.metrics.glob("0001-train.rlm")
    data = bytearray(file.read_bytes())
    for step in range(15, 23):  # the last records: step, time, loss, lr
        struct.pack_into("<d", data, len(data) - (23 - step) * 32 + 16, math.nan)
    file.write_bytes(data)
    shown = ask("show", layout.run_id).stdout
    assert "train/loss is NaN since step 15. The last healthy checkpoint is at step 10." in shown
    assert f"relight branch {layout.run_id} --from 10 --set KEY=VALUE" in shown


def test_show_and_logs_tell_the_ranks_apart(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run(outcome="crashed")
    assert ask("show", layout.run_id, "--json").json["ranks"] is None
    assert "it was trained by one process" in ask("logs", layout.run_id, "--rank", "1").error
    start = read_record(layout.attempt(1).start, AttemptStart)
    write_record(layout.attempt(1).start, msgspec.structs.replace(start, nproc=2))
    rank_1 = record_rank(layout, rank=1, attempt=1)
    rank_1.log.write_text("words of rank 1\n")
    write_record(layout.attempt(1).ranks_failure, RanksFailure(failed=(RankEnd(0, signal="SIGKILL"),)))
    first, second = ask("show", layout.run_id, "--json").json["ranks"]
    assert first == {
        "rank": 0, "pid": None, "host": "", "step": 20, "gpu": None, "exit_code": None, "signal": "SIGKILL",
        "log": str(layout.attempt(1).log),
    }  # fmt: skip
    assert (second["pid"], second["step"], second["log"]) == (os.getpid(), 0, str(rank_1.log))
    shown = ask("show", layout.run_id).stdout
    assert "rank 0 ended by SIGKILL at step 20" in shown
    assert f"rank 1 at step 0 (pid {os.getpid()})" in shown
    assert ask("logs", layout.run_id, "--rank", "1").stdout == "words of rank 1\n"
    assert "has no rank 2: it has 0 to 1" in ask("logs", layout.run_id, "--rank", "2").error
