"""Copies of checkpoints to which several ranks have written packs: all of them there, or no manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.store import CheckpointStore
from relight.mirror.fetching import fetch_run
from relight.mirror.remote import MirrorError
from tests.checkpoints.test_shared_checkpoints import make_part, save
from tests.mirror.conftest import Place, Trained

RANKS = 3


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "a fresh machine" / "runs"


def _save(trained: Trained, step: int) -> CheckpointInfo:
    trained.builder.log("train", {step: {"loss": 1 / step}})
    trained.builder.progress(step)
    info = save(trained.layout.checkpoints, step, RANKS)
    trained.store.mark_verified(info)
    return info


def _packs(*infos: CheckpointInfo) -> list[str]:
    return sorted({pack for info in infos for pack in info.packs})


def test_the_packs_of_all_ranks_are_there_before_the_manifest(s3: Place, trained: Trained) -> None:
    assert s3.server is not None
    info = _save(trained, 1)
    trained.copy(s3)
    assert len(info.packs) == RANKS
    puts = [key.rpartition("/")[2] for method, key in s3.server.bucket.requests if method == "PUT"]
    assert puts[-1] == info.name.manifest
    assert set(info.packs) < set(puts[:-1])
    assert not [path for path in s3.files(trained.layout.run_id) if path.endswith(".receipt")]


def test_what_the_ranks_still_write_is_not_copied(place: Place, trained: Trained) -> None:
    info = _save(trained, 1)
    store = CheckpointStore(trained.layout.checkpoints)
    for rank in range(1, RANKS):  # rank 0 has died before it could commit
        store.contribute(*make_part(2, rank, RANKS, sequence=2))
    trained.copy(place, ended=True)
    assert place.manifests(trained.layout.run_id) == [info.name.manifest]
    assert place.packs(trained.layout.run_id) == _packs(info)


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_server_that_breaks_off_at_the_pack_of_a_rank_leaves_whole_checkpoints(
    s3: Place, trained: Trained, runs: Path, rank: int
) -> None:
    assert s3.server is not None
    bucket, run_id = s3.server.bucket, trained.layout.run_id
    first = _save(trained, 1)
    copier = trained.copy(s3)
    second = _save(trained, 2)
    bucket.break_after = rank
    with pytest.raises(MirrorError):
        trained.copy(s3, copier)
    bucket.break_after = None
    assert s3.manifests(run_id) == [first.name.manifest]
    trained.copy(s3)
    assert s3.manifests(run_id) == [first.name.manifest, second.name.manifest]
    fetched = CheckpointStore(fetch_run(s3.address, run_id, runs).layout.checkpoints)
    assert [fetched.digest(info) for info in fetched.list().checkpoints] == [
        trained.store.digest(info) for info in (first, second)
    ]


def test_the_retention_there_removes_the_packs_of_all_ranks(place: Place, trained: Trained) -> None:
    copier = trained.copier(place)
    infos = []
    for step in range(1, 5):
        infos.append(_save(trained, step))
        trained.copy(place, copier)
    assert place.manifests(trained.layout.run_id) == [info.name.manifest for info in infos[-2:]]
    assert place.packs(trained.layout.run_id) == _packs(*infos[-2:])


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_damaged_pack_of_any_rank_is_found(place: Place, trained: Trained, runs: Path, rank: int) -> None:
    first, second = _save(trained, 1), _save(trained, 2)
    run_id = trained.layout.run_id
    trained.copy(place)
    pack = second.name.pack_of(rank)
    place.damage(run_id, f"checkpoints/packs/{pack}", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    fetched = fetch_run(place.address, run_id, runs)
    assert [info.name for info in CheckpointStore(fetched.layout.checkpoints).list().checkpoints] == [first.name]
    assert fetched.notes[0].startswith("The checkpoint at step 2 was left out: Tensor ")
    assert pack in fetched.notes[0]


def test_a_damaged_pack_of_a_rank_here_is_not_copied(place: Place, trained: Trained) -> None:
    first, second = _save(trained, 1), _save(trained, 2)
    path = trained.store.layout.packs / second.name.pack_of(1)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    copier = trained.copy(place)
    assert place.manifests(trained.layout.run_id) == [first.name.manifest]
    assert copier.damage is not None and path.name in copier.damage
