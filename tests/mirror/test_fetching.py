"""A fetched run is verified, complete or absent, and nothing in a hostile copy gets out of its folder."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from relight.checkpoints.store import CheckpointStore
from relight.errors import RelightError, RunBusy
from relight.mirror import fetching
from relight.mirror.fetching import FetchedRun, fetch_run, find_or_fetch
from relight.mirror.remote import MirrorError
from relight.mirror.report import read_mirror, read_mirror_report
from relight.overview.verification import check_run
from relight.runs.evidence import gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.status import RunStatus, derive_status
from tests.mirror.conftest import Place, Trained


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "a fresh machine" / "runs"


def _copied(trained: Trained, place: Place, *steps: int) -> str:
    for step in steps or (1, 2):
        trained.save(step)
    trained.copy(place)
    return trained.layout.run_id


def test_a_fetched_run_is_intact_and_has_the_same_state(place: Place, trained: Trained, runs: Path) -> None:
    run_id = _copied(trained, place)
    trained.store.pin(trained.store.find(1))
    trained.copy(place)
    told: list[tuple[int, int]] = []
    fetched = fetch_run(place.address, run_id, runs, on_progress=lambda *done: told.append(done))
    assert (fetched.checkpoints, fetched.notes) == (2, ())
    assert told[-1][0] == told[-1][1] > 0
    assert check_run(fetched.layout).damaged == []
    here, there = CheckpointStore(fetched.layout.checkpoints), trained.store
    assert [here.digest(info) for info in here.list().checkpoints] == [
        there.digest(info) for info in there.list().checkpoints
    ]
    assert [(info.verified, info.labels) for info in here.list().checkpoints] == [(True, ("pinned",)), (True, ())]
    for folder in ("metrics", "attempts/0001"):
        for path in (trained.layout.folder / folder).iterdir():
            assert (fetched.layout.folder / folder / path.name).read_bytes() == path.read_bytes()
    assert [path.name for path in runs.iterdir()] == [run_id]


def test_a_fetched_run_goes_on_to_the_same_place(place: Place, trained: Trained, runs: Path) -> None:
    run_id = _copied(trained, place)
    layout = fetch_run(place.address, run_id, runs).layout
    assert read_mirror(layout) == place.address
    report = read_mirror_report(layout)
    assert report is not None
    assert (report.copied_step, report.checkpoints, report.waiting_checkpoints) == (2, 2, 0)


def test_a_broken_connection_costs_only_the_piece_that_was_on_the_way(
    s3: Place, trained: Trained, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3.server is not None
    monkeypatch.setattr(fetching, "RANGE_BYTES", 10_000)
    trained.save(1, trained=10_000)  # 40 kB: some pieces
    run_id = _copied(trained, s3, 2)
    broken = fetching.MirrorError("Connection refused.")
    remote = fetching.connect(s3.address, run_id)
    read_range, left = type(remote).read_range, [2]

    def break_off(self: object, path: str, start: int, length: int) -> bytes:
        left[0] -= 1
        if left[0] < 0:
            raise broken
        return read_range(self, path, start, length)  # type: ignore[arg-type]

    monkeypatch.setattr(type(remote), "read_range", break_off)
    with pytest.raises(MirrorError, match=rf"s3://bucket/runs/{run_id} cannot be read: Connection refused"):
        fetch_run(s3.address, run_id, runs)
    assert not (runs / run_id).exists()
    monkeypatch.setattr(type(remote), "read_range", read_range)
    s3.server.bucket.requests.clear()
    assert fetch_run(s3.address, run_id, runs).checkpoints == 2
    packs = [key for method, key in s3.server.bucket.requests if key.endswith(".safetensors")]
    total = sum(-(-info.new_bytes // 10_000) for info in trained.store.list().checkpoints)
    assert 0 < len(packs) < total, "what was complete must not be downloaded again"


def test_a_damaged_checkpoint_is_left_out_and_named(place: Place, trained: Trained, runs: Path) -> None:
    run_id = _copied(trained, place)
    newest = trained.store.find("latest")
    place.damage(run_id, f"checkpoints/packs/{newest.name.pack}", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    fetched = fetch_run(place.address, run_id, runs)
    assert fetched.checkpoints == 1
    assert fetched.notes[0].startswith("The checkpoint at step 2 was left out: Tensor ")


def test_a_copy_without_an_intact_checkpoint_is_refused(place: Place, trained: Trained, runs: Path) -> None:
    run_id = _copied(trained, place, 1)
    pack = trained.store.find("latest").name.pack
    place.damage(run_id, f"checkpoints/packs/{pack}", lambda data: bytes(len(data)))
    with pytest.raises(RelightError, match="No checkpoint of this copy is intact"):
        fetch_run(place.address, run_id, runs)
    assert not (runs / run_id).exists()


@pytest.mark.parametrize("change", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"[" * 10_000])
def test_a_damaged_run_record_is_refused(place: Place, trained: Trained, runs: Path, change: object) -> None:
    run_id = _copied(trained, place)
    place.damage(run_id, "run.json", change)
    with pytest.raises(RelightError, match="is damaged"):
        fetch_run(place.address, run_id, runs)
    assert not (runs / run_id).exists()


def test_the_files_of_every_rank_are_fetched(place: Place, trained: Trained, runs: Path) -> None:
    for rank in (1, 12):
        own = trained.layout.of_rank(rank)
        own.attempt(1).folder.mkdir(parents=True)
        own.attempt(1).log.write_text(f"I am rank {rank}.")
        own.attempt(1).start.write_bytes(trained.layout.attempt(1).start.read_bytes())
        own.metrics.mkdir()
        (own.metrics / "0001-train.rlm").write_bytes(b"curve")
    layout = fetch_run(place.address, _copied(trained, place), runs).layout
    assert layout.list_ranks(1) == [0, 1, 12]
    assert layout.of_rank(12).attempt(1).log.read_text() == "I am rank 12."
    assert (layout.of_rank(1).metrics / "0001-train.rlm").read_bytes() == b"curve"


OUTSIDE = ["../evil", "attempts/../../evil", "attempts/0001/../../../evil"]
HOSTILE = [
    "attempts/0001/evil.sh", "attempts/0000/log.txt", "ranks/0/attempts/0001/log.txt", "ranks/1/evil",
    "ranks/1/run.json", "ranks/1/ranks/2/attempts/0001/log.txt", "ranks/1/checkpoints/format.json",
    "attempts/0001/sub/log.txt", "metrics/evil", "metrics/sub/0001-train.rlm", "checkpoints/evil", "evil", ".bashrc",
    "checkpoints/labels/00000001-s1-0123abcd.evil", "lock", "mirror.json", "trust.json", "stop.json", "drill.json",
    "exports/best.pth", "checkpoints/manifests/evil.json", "checkpoints/manifests/sub/00000001-s1-0123abcd.json",
]  # fmt: skip


@pytest.mark.parametrize("names", [HOSTILE, OUTSIDE])
def test_names_that_no_run_has_are_never_written(s3: Place, trained: Trained, runs: Path, names: Sequence[str]) -> None:
    assert s3.server is not None
    run_id = _copied(trained, s3)
    whole = {path.relative_to(trained.layout.folder) for path in trained.layout.folder.rglob("*")}
    bucket = s3.server.bucket
    for name in names:
        bucket.objects[f"runs/{run_id}/{name}"] = b"evil"
        bucket.modified[f"runs/{run_id}/{name}"] = time.time()
    try:
        layout = fetch_run(s3.address, run_id, runs).layout
    except RelightError:
        assert names == OUTSIDE  # the client refuses to list such names at all
        assert not (runs / run_id).exists()
    else:
        own = {"mirror.json", "mirror_state.json"}
        assert {str(path) for path in _below(layout.folder) - whole} <= own
        assert [path.name for path in runs.iterdir()] == [run_id]
    assert not [path for path in runs.parent.parent.rglob("*") if path.is_file() and path.read_bytes() == b"evil"]


def _below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


def test_files_that_are_too_large_are_refused(s3: Place, trained: Trained, runs: Path) -> None:
    assert s3.server is not None
    run_id = _copied(trained, s3)
    s3.server.bucket.objects[f"runs/{run_id}/about.json"] = b"x" * (17 << 20)
    s3.server.bucket.modified[f"runs/{run_id}/about.json"] = time.time()
    with pytest.raises(MirrorError, match=r"about.json is larger than 16.8 MB"):
        fetch_run(s3.address, run_id, runs)
    assert not (runs / run_id).exists()


def test_links_in_a_copy_are_not_fetched(trained: Trained, tmp_path: Path, runs: Path) -> None:
    from relight.mirror.address import parse_mirror

    folder = tmp_path / "copies"
    folder.mkdir()
    place = Place(parse_mirror(str(folder)), folder=folder)
    run_id = _copied(trained, place)
    log = folder / run_id / "attempts" / "0001" / "log.txt"
    log.unlink()
    log.symlink_to("/etc/passwd")
    layout = fetch_run(place.address, run_id, runs).layout
    assert not os.path.lexists(layout.attempt(1).log)


def test_a_run_that_is_not_there_names_those_that_are(place: Place, trained: Trained, runs: Path) -> None:
    run_id = _copied(trained, place)
    with pytest.raises(RelightError, match=rf"There is no run 'digits-none' at .*There are: {run_id}\."):
        fetch_run(place.address, "digits-none", runs)
    assert not runs.exists()


def test_the_id_may_be_shortened_as_long_as_it_is_clear(place: Place, trained: Trained, runs: Path) -> None:
    run_id = _copied(trained, place)
    place.remote("digits-zzzz").put("run.json", (b"{}",), 2)
    with pytest.raises(RelightError, match=r"'digits' could be several runs at .*: .*digits-zzzz.* Give the full id"):
        fetch_run(place.address, "digits", runs)
    assert fetch_run(place.address, run_id[:-1], runs).layout.run_id == run_id


def test_a_run_that_is_here_is_not_replaced(place: Place, trained: Trained) -> None:
    run_id = _copied(trained, place)
    with pytest.raises(RelightError, match=r"is already in .*. Delete it there to fetch it again"):
        fetch_run(place.address, run_id, trained.layout.folder.parent)


def test_two_fetches_of_one_run_do_not_mix(place: Place, trained: Trained, runs: Path) -> None:
    run_id = _copied(trained, place)

    def fetch_again(*_: int) -> None:
        with pytest.raises(RunBusy, match="is being fetched by another process"):
            fetch_run(place.address, run_id, runs)

    fetch_run(place.address, run_id, runs, on_progress=fetch_again)


def test_a_checkpoint_that_its_training_replaces_meanwhile_is_no_problem(
    s3: Place, trained: Trained, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = _copied(trained, s3)
    copier = trained.copier(s3)
    real, moved = fetching._Fetch._fetch_pack, []

    def fetch_pack(self: object, *arguments: object) -> None:
        if not moved:
            moved.append(True)
            for step in (3, 4):
                trained.save(step)
            trained.copy(s3, copier)
            assert len(s3.manifests(run_id)) == 2
        real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fetching._Fetch, "_fetch_pack", fetch_pack)
    fetched = fetch_run(s3.address, run_id, runs)
    assert [info.step for info in CheckpointStore(fetched.layout.checkpoints).list().checkpoints] == [3, 4]


def test_resuming_from_a_copy_uses_the_run_that_is_here_unless_the_copy_is_ahead(
    place: Place, trained: Trained, runs: Path
) -> None:
    run_id = _copied(trained, place)
    fetched = find_or_fetch(place.address, run_id, runs)
    assert isinstance(fetched, FetchedRun)
    assert find_or_fetch(place.address, run_id, runs) == RunLayout(runs / run_id)
    trained.save(3)
    trained.copy(place)
    with pytest.raises(RelightError, match=r"is ahead of the run in .*: attempt 1, step 3. Delete the run here"):
        find_or_fetch(place.address, run_id, runs)


def test_a_run_that_still_trains_elsewhere_counts_as_running(
    place: Place, trained: Trained, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = _copied(trained, place)
    layout = fetch_run(place.address, run_id, runs).layout
    monkeypatch.setattr("relight.runs.evidence.boot_id", lambda: "another boot")
    monkeypatch.setattr("relight.runs.evidence.host_name", lambda: "fresh-machine")
    assert derive_status(gather_evidence(layout)).status is RunStatus.RUNNING
    for path in layout.folder.rglob("*"):
        os.utime(path, (time.time() - 60,) * 2)
    assert derive_status(gather_evidence(layout)).status is RunStatus.INTERRUPTED
