"""The runs of a task find its proof, and the proof holds for them until something changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from relight.drill.proof import DrilledKill, DrillProof, find_proof, judge_proof, judge_run, word_kills, write_proof
from relight.runs.catalog import list_layouts
from relight.runs.fingerprint import digest_code
from relight.runs.layout import RunLayout
from relight.runs.record_file import write_record
from relight.runs.records import ResumeCheck, RunRecord, TaskReference

CONFIG = {"epochs": 10, "lr": 0.001, "workers": 0, "hidden": 16, "device": "auto", "optimizer": "adamw"}
FINGERPRINT = {"torch": "2.13.0", "threads": 2, "device": "cpu", "git.commit": "a" * 40}


def make_proof(task: TaskReference, **changes: Any) -> DrillProof:
    facts: dict[str, Any] = {
        "task": task, "config": {"workers": 0, "hidden": 16, "optimizer": "adamw"}, "time_s": 100.0, "bit_exact": True,
        "fingerprint": FINGERPRINT, "steps": 40, "killed_at_step": 12, "resumed_from_step": 11, "mid_epoch": True,
        "checkpoints_compared": 4, "tensors_compared": 17, "metric_steps_compared": 40, "state_digest": "d" * 32,
        "first_difference": None, "duration_s": 9.0,
    }  # fmt: skip
    return DrillProof(**facts | changes)


@pytest.fixture
def task(tmp_path: Path) -> TaskReference:
    file = tmp_path / "spiral.py"
    file.write_text("x = 1")
    return TaskReference(kind="file", name="spiral.py:Spiral", path=str(file), class_name="Spiral")


def test_a_proof_is_found_by_task_and_config_and_hides_among_no_runs(tmp_path: Path, task: TaskReference) -> None:
    runs = tmp_path / "runs"
    assert find_proof(runs, task, CONFIG) is None
    proof = make_proof(task)
    write_proof(runs, proof)
    assert find_proof(runs, task, CONFIG) == proof
    assert list_layouts(runs) == []
    write_proof(runs, make_proof(task, time_s=200.0, bit_exact=False))
    found = find_proof(runs, task, CONFIG)
    assert found is not None and not found.bit_exact, "the newest replaces the one before"
    assert len(list((runs / ".drills").iterdir())) == 1


def test_a_proof_for_several_ranks_does_not_replace_the_one_for_one_process(
    tmp_path: Path, task: TaskReference
) -> None:
    alone, ranked = make_proof(task), make_proof(task, nproc=2, time_s=200.0)
    write_proof(tmp_path, alone)
    write_proof(tmp_path, ranked)
    assert find_proof(tmp_path, task, CONFIG) == alone
    assert find_proof(tmp_path, task, CONFIG, nproc=2) == ranked


def test_a_kill_of_several_ranks_names_the_rank(task: TaskReference) -> None:
    proof = make_proof(task, kills=(DrilledKill(step=3, from_step=2, rank=1),), nproc=2)
    assert word_kills(proof) == "at step 3 (rank 1, resumed from step 2)"


def test_the_file_has_no_field_that_only_a_fresh_proof_has(tmp_path: Path, task: TaskReference) -> None:
    write_proof(tmp_path, make_proof(task, uninterrupted_digest="e" * 32, folder=None, script_config={"lr": 1}))
    assert find_proof(tmp_path, task, CONFIG) == make_proof(task)


def test_rates_and_lengths_do_not_matter_but_workers_do(tmp_path: Path, task: TaskReference) -> None:
    write_proof(tmp_path, make_proof(task))
    proof = find_proof(tmp_path, task, CONFIG | {"lr": 1.0, "epochs": 3, "batch_size": 7})
    assert proof is not None
    assert judge_proof(proof, config=CONFIG | {"lr": 1.0}, fingerprint=FINGERPRINT) == ()
    other = CONFIG | {"workers": 4}
    proof = find_proof(tmp_path, task, other)
    assert proof is not None, "the nearest there is"
    (change,) = judge_proof(proof, config=other, fingerprint=FINGERPRINT)
    assert (change.key, change.before, change.now) == ("config.workers", 0, 4)


def test_a_proof_for_exactly_this_config_beats_a_newer_one_for_another(tmp_path: Path, task: TaskReference) -> None:
    write_proof(tmp_path, make_proof(task))
    write_proof(tmp_path, make_proof(task, time_s=300.0, config={"workers": 4, "hidden": 16, "optimizer": "adamw"}))
    found = find_proof(tmp_path, task, CONFIG)
    assert found is not None and found.time_s == 100.0
    found = find_proof(tmp_path, task, CONFIG | {"hidden": 32})
    assert found is not None and found.time_s == 300.0


def test_another_task_has_another_proof(tmp_path: Path, task: TaskReference) -> None:
    write_proof(tmp_path, make_proof(task))
    assert find_proof(tmp_path, msgspec.structs.replace(task, class_name="Other"), CONFIG) is None
    assert find_proof(tmp_path, msgspec.structs.replace(task, path="/elsewhere/spiral.py"), CONFIG) is None
    assert find_proof(tmp_path, TaskReference(kind="builtin", name="digits"), CONFIG) is None


@pytest.mark.parametrize("change", [{"torch": "2.14.0"}, {"threads": 8}, {"device": "cuda:0"}])
def test_another_torch_device_or_number_of_threads_ends_it(task: TaskReference, change: dict[str, Any]) -> None:
    changes = judge_proof(make_proof(task), config=CONFIG, fingerprint=FINGERPRINT | change)
    assert [changed.key for changed in changes] == list(change)


def test_a_commit_alone_does_not_end_it_and_an_empty_fingerprint_is_no_difference(task: TaskReference) -> None:
    assert judge_proof(make_proof(task), config=CONFIG, fingerprint=FINGERPRINT | {"git.commit": "b"}) == ()
    assert judge_proof(make_proof(task), config=CONFIG, fingerprint={}) == ()


def test_changed_code_ends_it_and_the_code_put_back_brings_it_back(tmp_path: Path, task: TaskReference) -> None:
    digest = digest_code(tmp_path, ["spiral.py"])
    proof = make_proof(task, fingerprint=FINGERPRINT | {"code.digest": digest}, code_files=("spiral.py",))
    run = FINGERPRINT | {"code.digest": "of the run's own time"}
    assert judge_proof(proof, config=CONFIG, fingerprint=run) == ()
    (tmp_path / "spiral.py").write_text("x = 2")
    assert [change.key for change in judge_proof(proof, config=CONFIG, fingerprint=run)] == ["code.digest"]
    (tmp_path / "spiral.py").unlink()
    assert [change.key for change in judge_proof(proof, config=CONFIG, fingerprint={})] == ["code.digest"]
    (tmp_path / "spiral.py").write_text("x = 1")
    assert judge_proof(proof, config=CONFIG, fingerprint=run) == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}'])
def test_a_damaged_proof_counts_as_none(tmp_path: Path, task: TaskReference, text: str) -> None:
    write_proof(tmp_path, make_proof(task))
    (path,) = (tmp_path / ".drills").iterdir()
    path.write_text(text)
    assert find_proof(tmp_path, task, CONFIG) is None
    assert find_proof(tmp_path, task, CONFIG | {"workers": 3}) is None


@pytest.mark.parametrize(
    ("bit_exact", "verdict", "said"),
    [
        (True, "different", "but the resume of attempt 2 was not"),
        (False, "exact", "but attempt 2 computed 51 steps exactly as attempt 1 had"),
        (True, "exact", ""),
        (False, "different", ""),
        (True, "changed", ""),
        (False, "changed", ""),
        (True, None, ""),
    ],
)
def test_a_real_resume_that_contradicts_the_drill_is_named(
    tmp_path: Path, task: TaskReference, bit_exact: bool, verdict: Any, said: str
) -> None:
    layout = RunLayout(tmp_path / "runs" / "spiral-abcd")
    for number in (1, 2, 3):  # the third has nothing to compare
        layout.attempt(number).folder.mkdir(parents=True)
        layout.attempt(number).environment.write_text(msgspec.json.encode(FINGERPRINT).decode())
    write_proof(tmp_path / "runs", make_proof(task, bit_exact=bit_exact))
    if verdict is not None:
        check = ResumeCheck(attempt=2, time_s=1.0, verdict=verdict, against=1, equal_steps=51, sentence="")
        write_record(layout.attempt(2).resume_check, check)
    record = RunRecord(run="spiral-abcd", name="spiral", created_s=1.0, task=task, config=CONFIG)
    judged = judge_run(layout, record)
    assert judged is not None
    assert said in judged.disagreement
    assert bool(said) is bool(judged.disagreement)
    layout.attempt(3).environment.write_text('{"torch": "2.14.0"}')
    outdated = judge_run(layout, record)
    assert outdated is not None
    assert outdated.changes and not outdated.disagreement, "then the drill says nothing about this resume"


def test_the_kills_are_told_in_words_also_those_of_an_older_proof(task: TaskReference) -> None:
    assert word_kills(make_proof(task)) == "at step 12 (resumed from step 11)"
    kills = (DrilledKill(step=3, from_step=2), DrilledKill(step=16, from_step=8, in_validation=True))
    assert word_kills(make_proof(task, kills=kills)) == (
        "at step 3 (resumed from step 2), in the validation after step 16 (resumed from step 8)"
    )
