"""Exports hold only the weights, and are compared with the checkpoint before the file gets its name."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
from safetensors import safe_open

from relight.checkpoints import weights_file
from relight.checkpoints.export import export_best, export_weights
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.snapshot_header import TensorRef, TensorSpec
from relight.checkpoints.store import CheckpointStore
from relight.errors import DamagedCheckpoint, ExportError, UsageError
from relight.runs.layout import RunLayout
from relight.runs.record_file import write_record
from relight.runs.records import RunRecord, TaskReference
from tests.checkpoints.faults import CHANGING, READING, FaultAt
from tests.checkpoints.snapshots import make_snapshot, make_tensor


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    layout = RunLayout(tmp_path / "runs" / "digits-k3f9")
    layout.folder.mkdir(parents=True)
    write_record(
        layout.record,
        RunRecord(
            run="digits-k3f9",
            name="digits",
            created_s=1.0,
            task=TaskReference(kind="builtin", name="digits"),
            config={"epochs": 3},
            best_metric="validation/accuracy",
        ),
    )
    return layout


@pytest.fixture
def store(layout: RunLayout) -> CheckpointStore:
    return CheckpointStore(layout.checkpoints)


@pytest.fixture
def info(store: CheckpointStore) -> CheckpointInfo:
    """The second of two checkpoints, which shares its backbone with the first and has unusual tensor types."""
    extra = [
        make_tensor("model.half", "F8_E4M3", (5,), seed=1),
        make_tensor("model.empty", "F32", (0, 3), seed=1),
        make_tensor("model.scalar", "BOOL", (), seed=1),
        make_tensor("model.phase", "C64", (2,), seed=1),
        make_tensor("buffer.mask", "F32", (4,), seed=1),
    ]
    store.commit(*make_snapshot(1, frozen=5_000, extra=extra))
    return store.commit(*make_snapshot(2, frozen=5_000, extra=extra, score=0.5, metrics={"train/loss": float("nan")}))


def test_an_export_holds_exactly_the_models_weights(
    store: CheckpointStore, info: CheckpointInfo, tmp_path: Path
) -> None:
    exported = export_weights(store, info, tmp_path / "a 0" / "weights.safetensors")
    header, buffers = make_snapshot(2, frozen=5_000)
    expected = {spec.name: data for spec, data in zip(header.tensors, buffers, strict=True)}
    with safe_open(exported.path, "np") as opened:
        assert set(opened.keys()) == {
            "head.weight", "head.bias", "backbone.weight", "half", "empty", "scalar", "phase",
        }  # fmt: skip
        assert opened.metadata()["format"] == "pt"
        for name in ("head.weight", "backbone.weight"):
            assert opened.get_tensor(name).tobytes() == expected[f"model.{name}"]
        assert opened.get_slice("phase").get_shape() == [2]
    assert exported.tensors == 7
    assert exported.bytes == exported.path.stat().st_size
    assert exported.sha256 == hashlib.sha256(exported.path.read_bytes()).hexdigest()


def test_the_card_says_where_the_weights_are_from(
    store: CheckpointStore, info: CheckpointInfo, layout: RunLayout
) -> None:
    exported = export_weights(store, info, layout.exports / "weights.safetensors")
    card = json.loads(exported.card.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert exported.card.name == "weights.safetensors.json"
    assert (
        card
        | {
            "run": "digits-k3f9",
            "task": "digits",
            "step": 2,
            "score": 0.5,
            "config": {"epochs": 3},
            "best_metric": "validation/accuracy",
            "metrics": {"train/loss": "nan"},
            "sha256": exported.sha256,
            "state_digest": store.digest(info),
            "format": "safetensors",
        }
        == card
    )


def test_an_export_labels_its_checkpoint(store: CheckpointStore, info: CheckpointInfo, tmp_path: Path) -> None:
    export_weights(store, info, tmp_path / "x.safetensors")
    assert store.find(2).labels == ("exported",)


def test_an_export_replaces_a_file_of_that_name_in_one_step(
    store: CheckpointStore, info: CheckpointInfo, tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    out.write_text("old")
    export_weights(store, info, out)
    assert out.stat().st_size > 1000
    assert {path.name for path in tmp_path.iterdir()} == {"x.safetensors", "x.safetensors.json", "runs"}


def test_a_damaged_checkpoint_is_not_exported_and_the_old_file_stays(
    store: CheckpointStore, info: CheckpointInfo, tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    out.write_text("old")
    pack = store.layout.packs / info.packs[1]
    data = bytearray(pack.read_bytes())
    data[4096] ^= 1
    pack.write_bytes(data)
    with pytest.raises(DamagedCheckpoint, match=r"model\.phase"):
        export_weights(store, info, out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "x.safetensors"]


def test_a_file_that_reads_back_wrong_never_gets_its_name(
    store: CheckpointStore, info: CheckpointInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = weights_file._compare

    def rot(path: Path, *others: object) -> None:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        real(path, *others)

    monkeypatch.setattr(weights_file, "_compare", rot)
    with pytest.raises(ExportError, match="reads back wrong"):
        export_weights(store, info, tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_file_that_cannot_be_written_gives_one_sentence(
    store: CheckpointStore, info: CheckpointInfo, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        export_weights(store, info, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="were not exported"):
        export_weights(store, info, tmp_path / "file" / "x.safetensors")


def test_a_checkpoint_without_weights_says_so(store: CheckpointStore, tmp_path: Path) -> None:
    header, _ = make_snapshot(1)
    header.tensors[:] = [TensorSpec("optimizer.x", "U8", (1,), 1)]
    with pytest.raises(ExportError, match="no model weights"):
        export_weights(store, store.commit(header, [memoryview(b"x")]), tmp_path / "x.safetensors")


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC, errno.EMFILE], ids=errno.errorcode.get)
def test_a_fault_at_any_operation_of_an_export_leaves_the_earlier_file(
    store: CheckpointStore, info: CheckpointInfo, memory_path: Path, fault: int
) -> None:
    def export(operations: FaultAt) -> None:
        export_weights(CheckpointStore(store.layout.folder, operations=operations), info, out)

    out, kinds = memory_path / "exports" / "x.safetensors", CHANGING + READING
    operations = FaultAt(0, 0, kinds)
    export(operations)
    expected = out.read_bytes()
    assert operations.calls > 20
    for at in range(1, operations.calls + 1):
        out.write_bytes(b"old")
        failing = FaultAt(at, fault, kinds)
        try:
            export(failing)
        except (ExportError, DamagedCheckpoint):
            pass
        assert failing.failed is not None
        assert out.read_bytes() in (b"old", expected), f"half a file after {failing.failed}"
        if failing.failed != "remove":
            assert {path.name for path in out.parent.iterdir()} <= {out.name, f"{out.name}.json"}


@pytest.mark.processes
def test_a_pth_is_a_state_dict_that_loads_without_running_code(
    store: CheckpointStore, info: CheckpointInfo, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    exported = export_weights(store, info, tmp_path / "x.pth", format="pth")
    loaded = torch.load(exported.path, weights_only=True)
    buffers = make_snapshot(2)[1]
    assert loaded["head.weight"].numpy().tobytes() == buffers[0]
    assert loaded["head.bias"].dtype == torch.bfloat16
    assert loaded["phase"].dtype == torch.complex64
    assert exported.sha256 == hashlib.sha256(exported.path.read_bytes()).hexdigest()


@pytest.mark.processes
def test_a_pth_of_a_damaged_checkpoint_is_refused_with_the_reason(
    store: CheckpointStore, info: CheckpointInfo, tmp_path: Path
) -> None:
    pack = store.layout.packs / info.packs[1]
    data = bytearray(pack.read_bytes())
    data[4096] ^= 1
    pack.write_bytes(data)
    with pytest.raises(ExportError, match=r"model\.phase.*does not match its digest"):
        export_weights(store, info, tmp_path / "x.pth", format="pth")
    assert not os.path.lexists(tmp_path / "x.pth")


def test_a_type_that_safetensors_lacks_is_refused_and_says_what_to_do(store: CheckpointStore, tmp_path: Path) -> None:
    info = store.commit(*make_snapshot(1, extra=[make_tensor("model.phase", "C128", (2,), seed=1)]))
    with pytest.raises(ExportError, match=r"'phase' has the type C128.*Export as pth"):
        export_weights(store, info, tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_values_of_a_state_dict_that_are_not_tensors_are_left_out_and_named(
    store: CheckpointStore, tmp_path: Path
) -> None:
    entries = {
        "head.weight": TensorRef("model.head.weight"),
        "tied.weight": TensorRef("model.head.weight"),
        "_extra_state": {"scale": TensorRef("model._extra_state.scale"), "words": ["a"]},
    }
    state = {"parts": {"model": {"kind": "module", "tensors": entries}}}
    extra = [make_tensor("model._extra_state.scale", "F32", (2,), seed=1)]
    exported = export_weights(
        store, store.commit(*make_snapshot(1, extra=extra, state=state)), tmp_path / "x.safetensors"
    )
    with safe_open(exported.path, "np") as opened:
        assert set(opened.keys()) == {"head.weight", "tied.weight"}
    assert json.loads(exported.card.read_text())["left_out"] == ["_extra_state"]


@pytest.mark.processes
def test_the_best_model_stays_at_one_path_and_both_formats_are_of_one_checkpoint(
    store: CheckpointStore, layout: RunLayout
) -> None:
    first, second = store.commit(*make_snapshot(1)), store.commit(*make_snapshot(2))
    for format in ("pth", "safetensors"):
        export_best(store, first, layout.exports, format=format)
    asked, other = export_best(store, second, layout.exports)
    assert (asked.path.name, other.path.name) == ("best_model.safetensors", "best_model.pth")
    assert sorted(path.name for path in layout.exports.iterdir()) == [
        "best_model.pth", "best_model.pth.json", "best_model.safetensors", "best_model.safetensors.json",
    ]  # fmt: skip
    assert {json.loads(exported.card.read_text())["step"] for exported in (asked, other)} == {2}


def test_the_best_model_is_complete_whenever_it_is_read(store: CheckpointStore, layout: RunLayout) -> None:
    infos = [store.commit(*make_snapshot(step, frozen=5_000)) for step in (1, 2)]
    path = export_best(store, infos[0], layout.exports)[0].path
    done, seen = threading.Event(), set()

    def replace() -> None:
        for turn in range(20):
            export_best(store, infos[turn % 2], layout.exports)
        done.set()

    thread = threading.Thread(target=replace)
    thread.start()
    while not done.is_set():
        with safe_open(path, "np") as opened:
            seen.add(opened.get_tensor("head.weight").tobytes())
    thread.join()
    expected = {bytes(make_snapshot(step, frozen=5_000)[1][0]) for step in (1, 2)}
    assert seen <= expected
