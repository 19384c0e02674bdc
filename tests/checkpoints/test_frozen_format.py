"""The format is frozen: today's writer makes these bytes, and every later version reads them.

The first release wrote `data/format-1/store`. When the format changes, add a folder `format-2`, and keep the old one
and its tests.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.recovery import verify_store
from relight.checkpoints.snapshot_header import SnapshotHeader, TensorRef, TensorSpec
from relight.checkpoints.store import CheckpointStore

FROZEN = Path(__file__).parent / "data" / "format-1" / "store"
DIGESTS = {100: "77b7cd90771325f02b833cef5a31a86e", 200: "479a59aca439b99f45cd4db0abe00209"}


def make_frozen_snapshot(step: int) -> tuple[SnapshotHeader, list[memoryview]]:
    """Return a snapshot of the frozen store, with every kind of value and tensor in the format."""
    tensors = [
        (TensorSpec("model.backbone", "F32", (20, 10), 800), bytes(range(200)) * 4),
        (TensorSpec("model.head", "BF16", (3,), 6), step.to_bytes(2, "little") * 3),
        (TensorSpec("model.tied", "BF16", (3,), 6), step.to_bytes(2, "little") * 3),
        (TensorSpec("model.mask", "BOOL", (2,), 2), b"\1\0"),
        (TensorSpec("model.phase", "C128", (), 16), b"\0\0\0\0\0\0\xf0\x3f" + bytes(8)),
        (TensorSpec("buffer.empty", "F32", (0, 3), 0), b""),
        (TensorSpec("optimizer.head.exp_avg", "F64", (1,), 8), step.to_bytes(8, "little")),
    ]
    state = {
        "step": step,
        "scheduler": {"milestones": Counter({30: 1}), "gamma": 0.1, "best": float("-inf"), "lrs": (0.1, -0.0)},
        "rng": {"python": (3, (1, 2, 3), None), "key": b"\0\xff", "big": 2**127},
        "head": TensorRef("model.head"),
        "odd": [{1, 2}, frozenset({"a"}), complex(1, -2), float("nan"), True, None, "☃"],
    }
    header = SnapshotHeader(
        step=step,
        epoch=step // 100,
        reason="periodic",
        time_s=1_700_000_000.25 + step,
        tensors=[spec for spec, _ in tensors],
        state=state,
        metrics={"train/loss": 1 / step, "validation/accuracy": float("nan")},
        score=0.5,
        environment={"torch": "2.13.0+cpu", "threads": 2},
        token=f"{step:08x}",
    )
    return header, [memoryview(data) for _, data in tensors]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture
def frozen(tmp_path: Path) -> CheckpointStore:
    shutil.copytree(FROZEN, tmp_path / "checkpoints")
    return CheckpointStore(tmp_path / "checkpoints")


def test_the_writer_still_makes_exactly_the_frozen_bytes(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    infos: list[CheckpointInfo] = []
    for step in (100, 200):
        infos.append(store.commit(*make_frozen_snapshot(step)))
        store.mark_verified(infos[-1])
    store.pin(infos[0])
    assert files_of(tmp_path) == files_of(FROZEN)


def test_the_frozen_store_can_be_read_completely(frozen: CheckpointStore) -> None:
    assert verify_store(frozen).damaged == []
    assert [(info.sequence, info.step, info.labels, info.verified) for info in frozen.list().checkpoints] == [
        (1, 100, ("pinned",), True),
        (2, 200, (), True),
    ]
    for info in frozen.list().checkpoints:
        header, buffers = make_frozen_snapshot(info.step)
        with frozen.open(info) as reader:
            assert repr(reader.state) == repr(header.state)
            assert reader.environment == header.environment
            assert [reader.spec(name) for name in reader.tensor_names] == header.tensors
            assert [reader.read(spec.name) for spec in header.tensors] == buffers


def test_the_state_digests_of_the_frozen_store_stay_the_same(frozen: CheckpointStore) -> None:
    assert {info.step: frozen.digest(info) for info in frozen.list().checkpoints} == DIGESTS


def test_a_run_continues_from_the_frozen_store(frozen: CheckpointStore) -> None:
    info = frozen.commit(*make_frozen_snapshot(300))
    assert info.sequence == 3
    assert "00000001-s100-00000064.safetensors" in info.packs, "the backbone is shared with what was there"
    assert frozen.check(info) == []
