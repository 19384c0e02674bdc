"""Branching: a child run with its own copy of the checkpoint, and a parent that keeps its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.recovery import verify_store
from relight.checkpoints.snapshot_header import SnapshotHeader, TensorRef, TensorSpec
from relight.checkpoints.store import CheckpointStore
from relight.errors import CheckpointNotFound, ConfigError, DamagedCheckpoint, RelightError, RunBusy
from relight.mirror.address import parse_mirror
from relight.mirror.report import read_mirror, set_mirror
from relight.runs.about import NAME_CHARACTERS
from relight.runs.catalog import create_run, list_layouts
from relight.runs.evidence import gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, write_record
from relight.runs.records import AttemptStart, Objective, RunRecord, ScriptRecord, TaskReference
from relight.supervision.attempt_start import Launched, begin_attempt
from relight.supervision.branch import branch_run, name_branch
from relight.supervision.checkpoint_choice import choose_checkpoint
from relight.tasks import inspection
from relight.tasks.inspection import Inspection
from relight.tasks.reference import validate_config
from supervision.conftest import Lab, stand_in, wait_for
from tests.opened_files import count_reads

pytestmark = pytest.mark.processes


def commit(layout: RunLayout, step: int, *, score: float | None = None) -> CheckpointInfo:
    """Commit a checkpoint with one tensor that changes and one that all checkpoints share."""
    tensors = [TensorSpec("model.w", "F32", (4,), 16), TensorSpec("model.frozen", "U8", (3,), 3)]
    state = {"step": step, 7: (float("inf"), b"x"), "w": TensorRef("model.w"), "frozen": TensorRef("model.frozen")}
    header = SnapshotHeader(
        step=step, epoch=0, reason="periodic", time_s=1.0 * step, tensors=tensors, state=state, score=score
    )
    return CheckpointStore(layout.checkpoints).commit(header, [memoryview(bytes([step] * 16)), memoryview(b"abc")])


@pytest.fixture
def parent(lab: Lab) -> RunLayout:
    """A run of the stand-in with checkpoints of steps 10, 20 (the best) and 30."""
    layout = create_run(lab.folder, stand_in("train", "10000"), name="Parent").layout
    attempt = begin_attempt(layout, AttemptStart(attempt=1, time_s=0.0, reason="launch"))
    write_record(attempt.script, ScriptRecord(config={"lr": 0.1, "epochs": 3}, best_metric="validation/accuracy"))
    for step, score in ((10, 0.5), (20, 0.9), (30, 0.7)):
        commit(layout, step, score=score)
    return layout


def flip_a_byte(layout: RunLayout, info: CheckpointInfo) -> None:
    pack = layout.checkpoints / "packs" / info.name.pack
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)


def branch(layout: RunLayout, from_: str | int = "best", **more: Any) -> Launched:
    return branch_run(layout, from_=from_, config_changes=more.pop("config_changes", {"lr": 0.01}), **more)


def test_a_branch_has_the_same_state_in_its_own_store(lab: Lab, parent: RunLayout) -> None:
    child = branch(parent).layout
    store, own = CheckpointStore(parent.checkpoints), CheckpointStore(child.checkpoints)
    (copied,) = own.list().checkpoints
    original = store.find(20)
    assert own.digest(copied) == store.digest(original)
    assert (copied.step, copied.score, copied.time_s, copied.reason) == (20, 0.9, 20.0, "periodic")
    assert not verify_store(own).damaged
    assert choose_checkpoint(gather_evidence(child), None).sequence == copied.sequence
    shutil.rmtree(parent.folder)
    assert not verify_store(own).damaged


def test_a_branch_is_named_after_its_parent_and_step_by_default(lab: Lab, parent: RunLayout) -> None:
    name = read_record(parent.record, RunRecord).name
    assert read_record(branch(parent, 10).layout.record, RunRecord).name == f"{name}-from-10"
    assert len(name_branch("x" * NAME_CHARACTERS, 10**12)) <= NAME_CHARACTERS


def test_a_branch_records_its_parent_and_what_was_changed(lab: Lab, parent: RunLayout) -> None:
    launched = branch(parent, 10, name="Child", max_restarts=2)
    record = read_record(launched.layout.record, RunRecord)
    assert record.parent is not None
    assert (record.name, record.parent.run, record.parent.step, record.parent.sequence) == (
        "Child",
        parent.run_id,
        10,
        1,
    )
    assert record.parent.changes == {"lr": (0.1, 0.01)}
    assert record.config == {"lr": 0.01}  # the script adds the rest when it runs
    assert record.best_metric == "validation/accuracy"
    start = read_record(launched.layout.attempt(1).start, AttemptStart)
    assert (start.reason, start.from_sequence, start.from_step, start.max_restarts) == ("branch", 1, 10, 2)


def test_a_branch_is_copied_to_where_its_parent_is_copied(lab: Lab, parent: RunLayout, tmp_path: Path) -> None:
    address = parse_mirror(str(tmp_path))
    set_mirror(parent, address)
    child = branch(parent).layout
    assert read_mirror(child) == address
    wait_for((tmp_path / child.run_id / "run.json").exists)


def test_a_branch_reads_its_parents_record_once(lab: Lab, parent: RunLayout) -> None:
    with count_reads(parent.folder) as reads:
        branch(parent)
    assert {name: reads[name] for name in ("run.json", "attempts/0001/script.json")} == {
        "run.json": 1,
        "attempts/0001/script.json": 1,
    }


def test_the_parent_keeps_the_checkpoint_permanently(lab: Lab, parent: RunLayout) -> None:
    branch(parent, 10)
    assert CheckpointStore(parent.checkpoints).find(10).labels == ("parent",)


def test_the_same_token_again_is_the_same_branch(lab: Lab, parent: RunLayout) -> None:
    first, second = branch(parent, token="click"), branch(parent, token="click")
    assert (first.created, second.created) == (True, False)
    assert first.layout == second.layout
    assert len(list_layouts(lab.folder)) == 2


@pytest.mark.parametrize(
    ("from_", "changes", "error"),
    [(15, {}, CheckpointNotFound), ("20", {"wrong": 1}, ConfigError), ("sideways", {}, CheckpointNotFound)],
)
def test_a_refused_branch_leaves_no_run(
    lab: Lab, parent: RunLayout, from_: str | int, changes: dict[str, Any], error: type[RelightError]
) -> None:
    with pytest.raises(error):
        branch(parent, from_, config_changes=changes)
    assert list_layouts(lab.folder) == [parent]
    assert all("parent" not in info.labels for info in CheckpointStore(parent.checkpoints).list().checkpoints)


def test_a_failed_copy_leaves_no_run_and_no_label(lab: Lab, parent: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*arguments: Any, **more: Any) -> Any:
        raise RelightError("No space left on device.")

    monkeypatch.setattr("relight.supervision.branch.copy_checkpoint", full_disk)
    with pytest.raises(RelightError, match="No space left"):
        branch(parent)
    assert list_layouts(lab.folder) == [parent]
    assert "parent" not in CheckpointStore(parent.checkpoints).find(20).labels


def test_a_damaged_checkpoint_is_refused_by_step_and_skipped_by_latest(lab: Lab, parent: RunLayout) -> None:
    flip_a_byte(parent, CheckpointStore(parent.checkpoints).find(30))
    with pytest.raises(DamagedCheckpoint, match="step 30"):
        branch(parent, 30)
    launched = branch(parent, "latest")
    assert read_record(launched.layout.record, RunRecord).parent.step == 20
    assert "step 30 was skipped" in launched.notes[0]
    assert (
        len(CheckpointStore(parent.checkpoints).list().checkpoints) == 3
    )  # the parent may be training, so nothing is quarantined


def test_a_resume_takes_the_newest_undamaged_checkpoint_and_says_what_it_costs(lab: Lab, parent: RunLayout) -> None:
    flip_a_byte(parent, CheckpointStore(parent.checkpoints).find(30))
    choice = choose_checkpoint(gather_evidence(parent), "latest")
    assert (choice.sequence, choice.step) == (2, 20)
    assert choice.notes[0].startswith("The checkpoint at step 30 was skipped: Tensor ")
    assert choice.notes[1] == "Training continues from the checkpoint at step 20. That costs 10 steps."
    assert [info.step for info in CheckpointStore(parent.checkpoints).list().checkpoints] == [10, 20]


def test_a_resume_without_an_undamaged_checkpoint_starts_over_and_says_so(lab: Lab, parent: RunLayout) -> None:
    for pack in (parent.checkpoints / "packs").iterdir():
        pack.write_bytes(b"")
    choice = choose_checkpoint(gather_evidence(parent), None)
    assert (choice.sequence, choice.step) == (None, 0)
    assert "from the beginning" in choice.notes[-1]


@pytest.mark.parametrize(("wanted", "step"), [("best", 20), (10, 10), ("10", 10), ("latest", 30), (None, 30)])
def test_each_way_to_name_a_checkpoint_finds_it(
    lab: Lab, parent: RunLayout, wanted: str | int | None, step: int
) -> None:
    choice = choose_checkpoint(gather_evidence(parent), wanted)
    assert (choice.step, choice.notes) == (step, ())


def test_a_requested_checkpoint_that_is_damaged_is_refused_with_the_reason(lab: Lab, parent: RunLayout) -> None:
    flip_a_byte(parent, CheckpointStore(parent.checkpoints).find(20))
    with pytest.raises(DamagedCheckpoint, match=r"step 20 .* is damaged: Tensor "):
        choose_checkpoint(gather_evidence(parent), "best")
    (parent.checkpoints / "packs" / CheckpointStore(parent.checkpoints).find(10).name.pack).unlink()
    with pytest.raises(DamagedCheckpoint, match=r"step 10 .* is missing"):
        choose_checkpoint(gather_evidence(parent), 10)


def test_a_run_without_checkpoints_starts_from_the_beginning(lab: Lab) -> None:
    layout = create_run(lab.folder, stand_in("train")).layout
    assert choose_checkpoint(gather_evidence(layout), None).sequence is None
    with pytest.raises(CheckpointNotFound):
        choose_checkpoint(gather_evidence(layout), "best")


@pytest.mark.parametrize(("changes", "asked"), [({"lr": 0.01, "epochs": 9, "seed": 4}, False), ({"width": 64}, True)])
def test_a_config_whose_model_does_not_fit_is_refused_and_leaves_nothing_behind(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], asked: bool
) -> None:
    questions: list[Any] = []

    def inspect(task: TaskReference, *, config: Mapping[str, Any], fits: tuple[Any, int]) -> Inspection:
        questions.append((task.name, config["width"], fits))
        return Inspection(schema={}, objective=Objective(), title="", summary="", misfit="1 of another")

    def refuse_to_start(layout: RunLayout, prepare: Any) -> NoReturn:
        raise RunBusy("It would start here.")

    monkeypatch.setattr(inspection, "inspect_task", inspect)
    monkeypatch.setattr("relight.supervision.branch.start_first_attempt", refuse_to_start)
    digits = TaskReference(kind="builtin", name="digits")
    layout = create_run(lab.folder, validate_config(digits)).layout
    commit(layout, 20)
    if asked:
        with pytest.raises(RelightError, match=r"branch with width=64: the model .* at step 20 .*1 of another\."):
            branch(layout, 20, config_changes=changes)
        assert questions == [("digits", 64, (layout.checkpoints, 1))]
        assert [layout.run_id for layout in list_layouts(lab.folder)] == [layout.run_id]
        assert CheckpointStore(layout.checkpoints).find(20).labels == ()
    else:
        with pytest.raises(RunBusy):
            branch(layout, 20, config_changes=changes)
        assert questions == [], "what every task has changes no model"
        (child,) = (found for found in list_layouts(lab.folder) if found != layout)
        record = read_record(child.record, RunRecord)
        assert record.parent is not None and record.parent.changes == {
            "epochs": (12, 9),
            "lr": (0.003, 0.01),
            "seed": (0, 4),
        }
