"""Listing the pictures of a folder: layouts, links, weird names, and the sentence for each refused folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relight.errors import TaskError
from relight.tasks.picture_folder import Picture, printable, scan_pictures, split_pictures


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"looks like a picture, by its name")
    return root


def paths(root: Path) -> list[str]:
    return [picture.path for picture in scan_pictures(root).pictures]


def explain(root: Path) -> str:
    with pytest.raises(TaskError) as caught:
        scan_pictures(root)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_class_folders_become_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = scan_pictures(fill(tmp_path, "dog/2.PNG", "dog/1.jpg", "cat/1.gif", "cat/deep/er/2.webp"))
    assert folder.classes == ("cat", "dog")
    assert [(p.path, p.label, p.held_out) for p in folder.pictures] == [
        ("cat/1.gif", 0, None), ("cat/deep/er/2.webp", 0, None), ("dog/1.jpg", 1, None), ("dog/2.PNG", 1, None),
    ]  # fmt: skip


@pytest.mark.parametrize("train", ["train", "Train", "training"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation", "VAL"])
def test_train_and_val_folders_decide_the_split(tmp_path: Path, train: str, validation: str) -> None:
    fill(tmp_path, f"{train}/cat/1.jpg", f"{train}/dog/1.jpg", f"{validation}/dog/2.jpg")
    folder = scan_pictures(tmp_path)
    assert folder.classes == ("cat", "dog")
    training, held_out = split_pictures(folder.pictures, share=0.5)
    assert [picture.path for picture in training] == [f"{train}/cat/1.jpg", f"{train}/dog/1.jpg"]
    assert [picture.path for picture in held_out] == [f"{validation}/dog/2.jpg"]


def test_classes_may_be_called_train_and_val(tmp_path: Path) -> None:
    fill(tmp_path, "train/1.jpg", "train/2.jpg", "val/1.jpg", "val/2.jpg", "bus/1.jpg", "bus/2.jpg")
    assert scan_pictures(tmp_path).classes == ("bus", "train", "val")


def test_train_without_val_is_not_mistaken_for_a_class(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg", "test/dog/1.jpg")
    assert explain(tmp_path) == (
        f"{tmp_path} has train/ but no val/. Add val/, or set data={tmp_path}/train to split it automatically."
    )


def test_a_class_that_exists_only_in_val_is_refused_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/cow/1.jpg")
    assert "has the class 'cow'" in explain(tmp_path)


def test_hidden_files_are_skipped_and_other_files_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "a/notes.txt", "a/noext", "b/Thumbs.db")
    fill(tmp_path, "a/.hidden.jpg", ".git/x/1.jpg", "a/.cache/1.jpg", "__MACOSX/a/1.jpg", "top-level.jpg")
    folder = scan_pictures(tmp_path)
    assert [picture.path for picture in folder.pictures] == ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"]
    assert folder.ignored == 3


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "has no class folders, but it needs at least two"),
        (["1.jpg", "2.jpg"], "has no class folders"),
        (["cat/1.jpg", "cat/2.jpg"], "has only one class folder, 'cat'"),
        (["cat/1.jpg", "cat/2.jpg", "dog/notes.txt"], "dog has no pictures. Add some, or remove it."),
        (["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"], "dog has only one picture, but it needs two"),
        (["train/cat/1.jpg", "train/dog/x.txt", "val/cat/1.jpg"], "train/dog has no pictures"),
        (["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/x.txt"], "val has no pictures"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_gets_one_sentence(tmp_path: Path, names: list[str], sentence: str) -> None:
    assert sentence in explain(fill(tmp_path, *names))


def test_a_class_without_validation_pictures_is_allowed(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "train/eel/1.jpg", "val/cat/2.jpg")
    (tmp_path / "val/dog").mkdir()
    assert len(paths(tmp_path)) == 4


def test_a_missing_folder_and_a_file_get_different_sentences(tmp_path: Path) -> None:
    assert "does not exist. It should look like FOLDER/cat/1.jpg" in explain(tmp_path / "nope")
    (tmp_path / "file").touch()
    assert "is a file, not a folder" in explain(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")
    (tmp_path / "dog").chmod(0)
    try:
        assert f"cannot be read: Permission denied ({tmp_path}/dog)" in explain(tmp_path)
    finally:
        (tmp_path / "dog").chmod(0o700)


def test_links_to_pictures_folders_and_the_root_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "real", "cats/1.jpg", "cats/2.jpg", "dogs/1.jpg", "dogs/2.jpg")
    (tmp_path / "data/dog").mkdir(parents=True)
    (tmp_path / "data/cat").symlink_to(tmp_path / "real/cats")
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "data/dog" / name).symlink_to(tmp_path / "real/dogs" / name)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert paths(tmp_path / "link") == ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"]


def test_link_loops_end_and_nothing_is_listed_twice(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.jpg", "cat/2.jpg", "cat/more/3.jpg", "dog/1.jpg", "dog/2.jpg")
    (tmp_path / "cat/loop").symlink_to(tmp_path)
    (tmp_path / "cat/more/up").symlink_to("..")
    (tmp_path / "cat/more/again").symlink_to(tmp_path / "cat/more")
    (tmp_path / "everything").symlink_to(".")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "dog/self.jpg").symlink_to(tmp_path / "dog/self.jpg")
    assert scan_pictures(tmp_path).classes == ("cat", "dog")
    assert paths(tmp_path) == ["cat/1.jpg", "cat/2.jpg", "cat/more/3.jpg", "dog/1.jpg", "dog/2.jpg"]


def test_loops_between_train_and_val_are_not_classes(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg", "val/dog/2.jpg")
    (tmp_path / "train/loop").symlink_to(tmp_path)
    (tmp_path / "val/loop").symlink_to(tmp_path / "val")
    assert scan_pictures(tmp_path).classes == ("cat", "dog")


def test_broken_links_and_pipes_are_counted_and_not_opened(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")
    (tmp_path / "cat/gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    folder = scan_pictures(tmp_path)
    assert len(folder.pictures) == 4
    assert folder.ignored == 2


def test_pictures_with_weird_names_are_listed(tmp_path: Path) -> None:
    weird = ["a 0/x.jpg", "a'; echo x/ü=ü.png", "line\nbreak/é\t.jpg", "-rf/x..jpg.png", "日本/%s{}.bmp"]
    for name in weird:
        fill(tmp_path, name, f"{name}.jpg")
    raw = tmp_path / os.fsdecode(b"bytes-\xff")
    fill(raw, os.fsdecode(b"1-\xfe.jpg"), "2.jpg")
    folder = scan_pictures(tmp_path)
    assert len(folder.classes) == 6
    assert len(folder.pictures) == 12
    assert all((tmp_path / picture.path).exists() for picture in folder.pictures)
    split_pictures(folder.pictures, share=0.5)
    (raw / "2.jpg").unlink()
    assert "bytes-\\udcff has only one picture" in explain(tmp_path)


def test_printable_keeps_text_and_escapes_everything_else() -> None:
    assert printable("naïve 日本") == "naïve 日本"
    assert printable("a\nb\x1b\udcff") == "a\\nb\\x1b\\udcff"


pictures = st.lists(
    st.builds(Picture, path=st.text(min_size=1, max_size=8), label=st.integers(0, 3)),
    unique_by=lambda picture: picture.path,
    max_size=60,
)


@settings(deadline=None)  # a busy machine is slow
@given(pictures, st.floats(0.01, 0.99))
def test_a_split_loses_no_picture_and_puts_some_of_each_class_on_each_side(
    given_pictures: list[Picture], share: float
) -> None:
    training, validation = split_pictures(given_pictures, share=share)
    assert sorted(map(id, training + validation)) == sorted(map(id, given_pictures))
    for label in {picture.label for picture in given_pictures}:
        total = sum(picture.label == label for picture in given_pictures)
        assert any(picture.label == label for picture in training)
        assert total < 2 or any(picture.label == label for picture in validation)


@settings(deadline=None)  # a busy machine is slow
@given(pictures, st.randoms(use_true_random=False))
def test_a_split_does_not_depend_on_the_order_of_the_files(given_pictures: list[Picture], random: object) -> None:
    shuffled = list(given_pictures)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert split_pictures(shuffled, share=0.3) == split_pictures(given_pictures, share=0.3)


def test_adding_a_picture_moves_no_other_and_keeps_the_share() -> None:
    before = [Picture(path=f"cat/{n}.jpg", label=0) for n in range(2000)]
    training, validation = split_pictures(before, share=0.2)
    assert 0.17 < len(validation) / 2000 < 0.23
    added = Picture(path="cat/new.jpg", label=0)
    training_after, validation_after = split_pictures([*before, added], share=0.2)
    assert set(training_after) - {added} == set(training)
    assert set(validation_after) - {added} == set(validation)
