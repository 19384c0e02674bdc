"""The URL of a mirror: what is accepted, and that a password is neither accepted nor repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.errors import UsageError
from relight.mirror.address import check_place, choose_mirror, is_run_url, parse_mirror, split_run_url


@pytest.mark.parametrize(
    ("text", "url", "bucket", "path"),
    [
        ("s3://bucket/prefix/", "s3://bucket/prefix", "bucket", "prefix"),
        ("s3://my.bucket-1", "s3://my.bucket-1", "my.bucket-1", ""),
        ("s3://bucket/a/b=1", "s3://bucket/a/b=1", "bucket", "a/b=1"),
        ("file:///other/disk/a%20b", "file:///other/disk/a%20b", None, "/other/disk/a b"),
        (" /other/disk/ ", "/other/disk", None, "/other/disk"),
        ("/a/../b", "/a/../b", None, "/b"),
    ],
)
def test_a_place_is_parsed(text: str, url: str, bucket: str | None, path: str) -> None:
    address = parse_mirror(text)
    assert (address.url, address.bucket, address.path) == (url, bucket, path)


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:s3cr3t@bucket/prefix", "s3://s3cr3t@bucket", "https://me:s3cr3t@host/bucket", "s3://bucket/?key=s3cr3t",
        "s3://bucket/x#s3cr3t",
    ],
)  # fmt: skip
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="credentials from the environment only") as caught:
        parse_mirror(text)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("copies", "is not a place for a mirror"),
        ("", "is not a place for a mirror"),
        ("gs://bucket", "gs:// is not supported"),
        ("s3://Bad_Bucket/x", "is not the name of an S3 bucket"),
        ("s3://bucket/a/../b", "has a part that Relight does not use: '..'"),
        ("s3://bucket/a//b", "has a part that Relight does not use: ''"),
        ("file://host/folder", "names the host 'host'"),
        ("/a\0b", "is not a place for a mirror"),
    ],
)
def test_other_places_are_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_mirror(text)


def test_a_relative_folder_begins_in_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert parse_mirror("./copies").url == str(tmp_path / "here" / "copies")
    assert parse_mirror("../copies").url == str(tmp_path / "copies")


def test_the_default_comes_from_the_environment_and_can_be_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_mirror(None) is None
    monkeypatch.setenv("RELIGHT_MIRROR", "s3://bucket/runs")
    for given, url in ((None, "s3://bucket/runs"), ("/disk", "/disk")):
        address = choose_mirror(given)
        assert address is not None
        assert address.url == url
    assert choose_mirror("") is None


def test_the_url_of_a_run_is_the_mirror_and_its_id() -> None:
    for text, url in (("s3://bucket/runs/digits-k3f9", "s3://bucket/runs"), ("s3://bucket/digits-k3f9/", "s3://bucket"),
                      ("/disk/digits-k3f9", "/disk"), ("file:///disk/digits-k3f9", "file:///disk")):  # fmt: skip
        address, run_id = split_run_url(text)
        assert (address.url, run_id) == (url, "digits-k3f9")
    for text in ("s3://bucket", "/digits", "s3://bucket/..", "/disk/.hidden", "s3://bucket/a b"):
        with pytest.raises(UsageError):
            split_run_url(text)
    assert [is_run_url(text) for text in ("digits-k3f9", "s3://b/r", "/disk/r")] == [False, True, True]


def test_a_folder_must_exist_and_be_outside_the_runs_folder(tmp_path: Path) -> None:
    runs, other = tmp_path / "runs", tmp_path / "other"
    (runs / "x").mkdir(parents=True)
    other.mkdir()
    (tmp_path / "link").symlink_to(runs)
    check_place(parse_mirror(str(other)), runs)
    check_place(parse_mirror("s3://bucket"), runs)
    for path in (runs, runs / "x", tmp_path / "link"):
        with pytest.raises(UsageError, match="is inside the runs folder"):
            check_place(parse_mirror(str(path)), runs)
    with pytest.raises(UsageError, match="Create that folder, or mount its disk"):
        check_place(parse_mirror(str(tmp_path / "gone")), runs)
