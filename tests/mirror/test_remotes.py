"""Both kinds of place behave the same, and explain what goes wrong in one sentence without a URL."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relight.mirror.address import parse_mirror
from relight.mirror.connection import connect
from relight.mirror.remote import AlreadyThere, MirrorError, MirrorRefused, NotThere, probe
from tests.mirror.conftest import Place


def test_what_is_put_is_listed_and_read_back(place: Place) -> None:
    remote = place.remote("run-1")
    large = os.urandom(20_000_000)
    remote.put("metrics/0001-a%2Fb.rlm", (b"one ", b"two"), 7)
    remote.put(
        "checkpoints/packs/x",
        (large[begin : begin + 3_000_000] for begin in range(0, len(large), 3_000_000)),
        len(large),
    )
    remote.put("checkpoints/labels/x.pinned", (), 0)
    files = remote.list_files()
    assert {path: file.bytes for path, file in files.items()} == {
        "metrics/0001-a%2Fb.rlm": 7,
        "checkpoints/packs/x": len(large),
        "checkpoints/labels/x.pinned": 0,
    }
    assert all(abs(file.modified_s - time.time()) < 100 for file in files.values())
    assert list(remote.list_files("metrics")) == ["metrics/0001-a%2Fb.rlm"]
    assert remote.read("metrics/0001-a%2Fb.rlm", most_bytes=7) == b"one two"
    assert remote.read_range("checkpoints/packs/x", 19_999_990, 100) == large[-10:]
    assert place.remote().list_folders() == ["run-1"]
    remote.delete("checkpoints/packs/x")
    remote.delete("checkpoints/packs/x")
    assert list(remote.list_files("checkpoints/packs")) == []


def test_one_of_several_creators_wins(place: Place) -> None:
    remote, results = place.remote("run-1"), []

    def create(number: int) -> None:
        try:
            remote.create("run.json", b"%d" % number)
            results.append(number)
        except AlreadyThere:
            pass

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = results
    assert remote.read("run.json", most_bytes=9) == b"%d" % winner


def test_an_upload_that_fails_in_the_middle_leaves_no_file(place: Place) -> None:
    def chunks() -> Iterator[bytes]:
        yield os.urandom(9_000_000)
        yield os.urandom(9_000_000)
        raise ValueError("damaged here")

    remote = place.remote("run-1")
    with pytest.raises(ValueError, match="damaged here"):
        remote.put("checkpoints/packs/x", chunks(), 30_000_000)
    assert remote.list_files() == {}


def test_missing_and_large_files_are_errors(place: Place) -> None:
    remote = place.remote("run-1")
    for read in (lambda: remote.read("run.json", most_bytes=9), lambda: remote.read_range("run.json", 0, 9)):
        with pytest.raises(NotThere):
            read()
    remote.put("run.json", (b"x" * 10,), 10)
    with pytest.raises(MirrorError, match=r"run.json is larger than 9 bytes"):
        remote.read("run.json", most_bytes=9)


def test_a_place_that_keeps_its_word_passes_the_probe_and_nothing_is_left(place: Place) -> None:
    remote = place.remote("run-1")
    probe(remote)
    assert remote.list_files() == {}


def test_a_bucket_that_lies_about_conditional_writes_is_refused(s3: Place) -> None:
    assert s3.server is not None
    s3.server.bucket.lies = True
    with pytest.raises(MirrorRefused, match="does not honor conditional writes"):
        probe(s3.remote("run-1"))
    assert s3.server.bucket.objects == {}


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (403, "AccessDenied", r"Access denied \(AccessDenied\). Check the credentials in the environment"),
        (404, "NoSuchBucket", "There is no bucket 'bucket'"),
        (507, "InsufficientStorage", "The server answered InsufficientStorage"),
        (400, "EntityTooLarge", "The server answered EntityTooLarge"),
    ],
)
def test_a_refusing_server_is_explained_in_one_sentence(s3: Place, status: int, code: str, sentence: str) -> None:
    assert s3.server is not None
    s3.server.bucket.failure = (status, code)
    with pytest.raises(MirrorError, match=sentence) as caught:
        s3.remote("run-1").list_files()
    assert "http" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_down_is_explained(s3: Place) -> None:
    assert s3.server is not None
    s3.server.stop()
    with pytest.raises(MirrorError, match=r"^Connection refused\.$"):
        s3.remote("run-1").list_files()
    s3.server.start()


def test_a_folder_whose_disk_is_not_mounted_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match="does not exist, or its disk is not mounted"):
        connect(parse_mirror(str(tmp_path / "gone")), "run-1").create("run.json", b"x")
    assert list(tmp_path.iterdir()) == []


def test_links_in_a_folder_are_not_followed(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "copies"
    secret.write_text("secret")
    (folder / "run-1" / "attempts").mkdir(parents=True)
    (folder / "run-1" / "run.json").symlink_to(secret)
    (folder / "run-1" / "metrics").symlink_to(tmp_path)
    remote = connect(parse_mirror(str(folder)), "run-1")
    assert remote.list_files() == {}
    for path in ("run.json", "metrics/secret"):
        with pytest.raises(MirrorError):
            remote.read(path, most_bytes=100)


def test_what_a_killed_process_left_in_a_folder_goes_after_an_hour(tmp_path: Path) -> None:
    folder = tmp_path / "run-1"
    folder.mkdir()
    for name, age_s in (("old", 4_000), ("young", 10)):
        path = folder / f".partial-{name}"
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
    connect(parse_mirror(str(tmp_path)), "run-1").put("run.json", (b"x",), 1)
    assert sorted(path.name for path in folder.iterdir()) == [".partial-young", "run.json"]
