"""What is there at each moment of a copy, and that two lines of a run are never mixed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from relight.checkpoints.deletion import apply_retention
from relight.checkpoints.manifest import decode_manifest
from relight.checkpoints.retention import RetentionPolicy, plan_retention
from relight.mirror.mirrored_files import LOG_BYTES
from relight.mirror.remote import MirrorError, MirrorRefused
from relight.runs.layout import RunLayout
from tests.mirror.conftest import Place, Trained
from tests.runs.run_builder import RunBuilder


def _assert_whole(place: Place, run_id: str) -> None:
    """Every manifest there names only packs that are there with their size, and the curves reach its step."""
    remote = place.remote(run_id)
    sizes = {path: file.bytes for path, file in remote.list_files().items()}
    for name in place.manifests(run_id):
        manifest = decode_manifest(remote.read(f"checkpoints/manifests/{name}", most_bytes=1 << 30), file_name=name)
        for pack in manifest.packs:
            assert sizes[f"checkpoints/packs/{pack.file}"] == pack.bytes
        assert {"run.json", "attempts/0001/start.json", "metrics/0001-train.rlm"} <= sizes.keys()


def test_a_copy_has_the_same_files_under_the_same_names(place: Place, trained: Trained) -> None:
    trained.save(1)
    trained.copy(place)
    run = trained.layout
    for path in place.files(run.run_id):
        assert place.remote(run.run_id).read(path, most_bytes=1 << 20) == (run.folder / path).read_bytes()
    assert {path.rpartition("/")[2] for path in place.files(run.run_id)} >= {
        "run.json", "start.json", "processes.json", "progress.bin", "log.txt", "0001-train.rlm", "format.json",
    }  # fmt: skip
    assert not [path for path in place.files(run.run_id) if path.endswith(("lock", "verified", "mirror.json"))]
    _assert_whole(place, run.run_id)


def test_the_manifest_comes_last_and_a_shared_pack_is_sent_once(s3: Place, trained: Trained) -> None:
    assert s3.server is not None
    first = trained.save(1, frozen=5_000)
    copier = trained.copy(s3)
    second = trained.save(2, frozen=5_000)
    assert set(first.packs) & set(second.packs), "the second one must refer to the pack of the first"
    s3.server.bucket.requests.clear()
    trained.copy(s3, copier)
    puts = [key.rpartition("/")[2] for method, key in s3.server.bucket.requests if method == "PUT"]
    assert puts[0] == second.name.pack
    assert puts[-1] == second.name.manifest
    assert {"progress.bin", "rlm"} <= {name if name.endswith("bin") else name.rpartition(".")[2] for name in puts[1:-1]}
    assert first.name.pack not in puts


def test_only_verified_checkpoints_are_copied_until_the_run_has_ended(place: Place, trained: Trained) -> None:
    verified, other = trained.save(1), trained.save(2, verified=False)
    copier = trained.copy(place)
    assert place.manifests(trained.layout.run_id) == [verified.name.manifest]
    trained.copy(place, copier, ended=True)
    assert place.manifests(trained.layout.run_id) == [verified.name.manifest, other.name.manifest]


def test_a_checkpoint_that_is_damaged_here_is_not_copied(place: Place, trained: Trained) -> None:
    good, bad = trained.save(1), trained.save(2)
    pack = trained.store.layout.packs / bad.name.pack
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    copier = trained.copy(place)
    assert place.manifests(trained.layout.run_id) == [good.name.manifest]
    assert bad.name.pack not in place.packs(trained.layout.run_id)
    assert "The checkpoint at step 2 was not copied: Tensor 'model.head" in (copier.damage or "")


def test_what_the_retention_removes_meanwhile_is_left_out(place: Place, trained: Trained) -> None:
    gone, kept = trained.save(1), trained.save(2)
    copier = trained.copier(place)
    waiting = copier.find_waiting(ended=False).checkpoints
    assert [info.name for info in waiting] == [kept.name, gone.name]
    gone.path.unlink()
    (trained.store.layout.packs / gone.name.pack).unlink()
    copier.claim()
    for info in waiting:
        copier.copy(info)
    assert place.manifests(trained.layout.run_id) == [kept.name.manifest]
    assert copier.damage is None


def test_the_newest_two_the_best_and_the_pinned_ones_are_kept_there(place: Place, trained: Trained) -> None:
    infos = {}
    copier = trained.copier(place)
    for step, score in enumerate((0.1, 0.9, 0.2, 0.3, 0.4, 0.5), 1):
        infos[step] = trained.save(step, score=score)
        if step == 3:
            trained.store.pin(infos[3])
        trained.copy(place, copier)
        _assert_whole(place, trained.layout.run_id)
    kept = [infos[step] for step in (2, 3, 5, 6)]
    assert place.manifests(trained.layout.run_id) == [info.name.manifest for info in kept]
    assert place.packs(trained.layout.run_id) == [info.name.pack for info in kept]
    trained.store.pin(infos[3], on=False)
    trained.copy(place, copier)
    assert infos[3].name.manifest not in place.manifests(trained.layout.run_id)
    assert not [path for path in place.files(trained.layout.run_id) if path.endswith(".pinned")]


def test_a_pack_stays_as_long_as_a_manifest_there_names_it(place: Place, trained: Trained) -> None:
    copier = trained.copier(place)
    shared = trained.save(1, frozen=5_000)
    trained.copy(place, copier)
    for step in range(2, 6):
        trained.save(step, frozen=5_000)
        apply_retention(trained.store, plan_retention(trained.store.list().checkpoints, RetentionPolicy(best=())))
        trained.copy(place, copier)
        _assert_whole(place, trained.layout.run_id)
    assert shared.name.manifest not in place.manifests(trained.layout.run_id)
    assert shared.name.pack in place.packs(trained.layout.run_id)
    for step in range(6, 9):
        trained.save(step)
        trained.copy(place, copier)
    assert shared.name.pack not in place.packs(trained.layout.run_id), "nothing there needs it any more"


def test_what_a_broken_attempt_left_there_goes_and_a_newer_pack_stays(place: Place, trained: Trained) -> None:
    remote = place.remote(trained.layout.run_id)
    trained.save(1)
    for name in ("00000001-s1-ffffffff", "00000099-s1-ffffffff"):
        remote.put(f"checkpoints/packs/{name}.safetensors", (b"half",), 4)
    trained.copy(place)
    assert "00000001-s1-ffffffff.safetensors" not in place.packs(trained.layout.run_id)
    assert "00000099-s1-ffffffff.safetensors" in place.packs(trained.layout.run_id)


@pytest.mark.parametrize("requests", [[1, 4, 10], pytest.param(range(24), marks=pytest.mark.thorough)])
def test_a_server_that_breaks_off_at_any_request_leaves_whole_checkpoints(
    s3: Place, trained: Trained, requests: Sequence[int]
) -> None:
    assert s3.server is not None
    bucket = s3.server.bucket
    trained.save(1)
    for fails_at in requests:
        trained.save(fails_at + 2, trained=3_000 if fails_at % 4 else 2_500_000)  # in parts
        bucket.break_after = fails_at
        try:
            trained.copy(s3)
        except MirrorError:
            bucket.break_after = None
            _assert_whole(s3, trained.layout.run_id)
        bucket.break_after = None
        trained.copy(s3)
        _assert_whole(s3, trained.layout.run_id)
    assert len(s3.manifests(trained.layout.run_id)) == 2


def test_an_answer_that_got_lost_is_no_conflict(place: Place, trained: Trained) -> None:
    info = trained.save(1)
    copier = trained.copier(place)
    copier.claim()
    place.remote(trained.layout.run_id).create(
        f"checkpoints/manifests/{info.name.manifest}", info.path.read_bytes()
    )  # fmt: skip
    with pytest.raises(MirrorRefused):  # it came from nowhere, and is not known to be ours …
        copier.copy(trained.save(2))
    trained.copy(place)  # … but it has the same bytes
    assert len(place.manifests(trained.layout.run_id)) == 2


def test_a_manifest_with_other_content_is_never_overwritten(place: Place, trained: Trained) -> None:
    info = trained.save(1)
    trained.copy(place)
    path = f"checkpoints/manifests/{info.name.manifest}"
    place.damage(trained.layout.run_id, path, lambda data: data.replace(b'"epoch":0', b'"epoch":7'))
    before = place.remote(trained.layout.run_id).read(path, most_bytes=1 << 20)
    with pytest.raises(MirrorRefused, match="has a damaged manifest"):
        trained.copy(place)
    assert place.remote(trained.layout.run_id).read(path, most_bytes=1 << 20) == before


def test_another_run_with_the_same_id_is_refused(place: Place, trained: Trained, tmp_path: Path) -> None:
    trained.save(1)
    trained.copy(place)
    other = RunBuilder.create(tmp_path / "others").layout
    other.folder.rename(tmp_path / "others" / trained.layout.run_id)
    there = place.files(trained.layout.run_id)
    stranger = Trained(RunBuilder(RunLayout(tmp_path / "others" / trained.layout.run_id)).start())
    with pytest.raises(MirrorRefused, match="has another run with the same id"):
        stranger.copy(place)
    assert place.files(trained.layout.run_id) == there


def _twin(trained: Trained, folder: Path) -> Trained:
    """The same run on another machine."""
    folder.mkdir()
    shutil.copytree(trained.layout.folder, folder / trained.layout.run_id)
    return Trained(RunBuilder(RunLayout(folder / trained.layout.run_id), trained.builder.attempt))


def test_a_run_that_was_continued_elsewhere_is_refused_at_connect_and_at_each_commit(
    place: Place, trained: Trained, tmp_path: Path
) -> None:
    trained.save(1)
    here = trained.copy(place)
    elsewhere = _twin(trained, tmp_path / "elsewhere")
    elsewhere.builder.start()
    elsewhere.copier(place).claim()
    trained.save(2)
    with pytest.raises(MirrorRefused, match=r"has another attempt 2: the run was continued elsewhere"):
        trained.copy(place, here)
    elsewhere.save(2)
    elsewhere.copy(place)
    there = {
        path: place.remote(trained.layout.run_id).read(path, most_bytes=1 << 20)
        for path in place.files(trained.layout.run_id)
    }
    with pytest.raises(MirrorRefused, match=r"relight mirror \S+ URL"):
        trained.copier(place)
    trained.builder.start()  # both have an attempt 2 now
    with pytest.raises(MirrorRefused, match="has another attempt 2"):
        trained.copier(place)
    assert {
        path: place.remote(trained.layout.run_id).read(path, most_bytes=1 << 20)
        for path in place.files(trained.layout.run_id)
    } == there


def test_an_older_copy_of_the_folder_is_not_mixed_with_what_is_there(
    place: Place, trained: Trained, tmp_path: Path
) -> None:
    trained.save(1)
    backup = _twin(trained, tmp_path / "backup")
    for step in (2, 3):
        trained.save(step)
        trained.copy(place)
    before = place.manifests(trained.layout.run_id)
    backup.builder.start()  # resumed from the backup: sequence numbers 2 and 3 are used there already
    for step in (4, 5, 6, 7):
        backup.save(step)
    with pytest.raises(MirrorRefused, match="it was continued elsewhere"):
        copier = backup.copier(place)
        for info in backup.store.list().checkpoints[1:]:
            copier.copy(info)
    assert place.manifests(trained.layout.run_id) == before


def test_a_resume_of_the_same_folder_goes_on(place: Place, trained: Trained) -> None:
    trained.save(1)
    trained.copy(place)
    trained.builder.start()
    trained.save(2)
    trained.copy(place)
    assert len(place.manifests(trained.layout.run_id)) == 2
    assert "attempts/0002/start.json" in place.files(trained.layout.run_id)


def test_of_a_long_log_the_end_is_copied(place: Place, trained: Trained) -> None:
    with trained.builder.files.log.open("ab") as log:
        log.write(b"x" * LOG_BYTES + b"the end\n")
    trained.save(1)
    trained.copy(place)
    copied = place.remote(trained.layout.run_id).read("attempts/0001/log.txt", most_bytes=1 << 30)
    assert copied.startswith(b"[The first 16 bytes of this log were not copied.]\n")
    assert copied.endswith(b"x" * 100 + b"the end\n")


def test_unchanged_files_are_not_sent_again(s3: Place, trained: Trained) -> None:
    assert s3.server is not None
    trained.save(1)
    copier = trained.copy(s3)
    s3.server.bucket.requests.clear()
    trained.copy(s3, copier)
    assert [key for method, key in s3.server.bucket.requests if method != "GET"] == []
