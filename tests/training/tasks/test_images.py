"""images: trains on any folder of class folders, names the files that it skips, and refuses unusable folders."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from relight.errors import ConfigError, TaskError
from relight.tasks.images_config import ImagesConfig
from relight.training.tasks import pictures
from relight.training.tasks.images import AugmentedPictures, Images
from tests.training.tasks.bare_loop import train


def draw_stripes(path: Path, *, upright: bool, seed: int, size: tuple[int, int] = (40, 36)) -> None:
    """Draw a noisy picture with vertical or horizontal stripes. The classes differ in direction, not in color."""
    random = np.random.default_rng(seed)
    wave = np.sin(np.arange(size[0 if upright else 1]) * 0.9 + random.uniform(0, 6))
    stripes = np.broadcast_to(wave if upright else wave[:, None], (size[1], size[0]))
    pixels = 128 + 70 * stripes[..., None] + random.normal(0, 25, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two classes of 24 pictures each."""
    for seed in range(24):
        for upright in (True, False):
            draw_stripes(tmp_path / ("upright" if upright else "lying") / f"{seed}.png", upright=upright, seed=seed)
    return tmp_path


def config(folder: Path, **changes: Any) -> ImagesConfig:
    small = {
        "image_size": 24,
        "width": 8,
        "batch_size": 8,
        "epochs": 6,
        "lr": 3e-3,
        "flip": False,
        "smallest_crop": 0.7,
    }
    return ImagesConfig(data=str(folder), **{**small, **changes})


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_it_learns_to_tell_classes_apart(folder: Path, norm: str) -> None:
    outcome = train(Images(config(folder, norm=norm)))
    assert outcome.validation["accuracy"] >= 0.9


def test_train_and_val_folders_are_used_as_they_are(tmp_path: Path) -> None:
    for seed in range(8):
        for name, upright in (("upright", True), ("lying", False)):
            draw_stripes(tmp_path / ("train" if seed < 6 else "val") / name / f"{seed}.png", upright=upright, seed=seed)
    data = Images(config(tmp_path)).build_data()
    assert len(data.train) == 12 and data.validation is not None and len(data.validation) == 4  # type: ignore[arg-type]


def test_broken_pictures_are_counted_named_and_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = (folder / "lying/3.png").read_bytes()
    (folder / "lying/3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "upright/no\npicture.jpg").write_bytes(b"hello")
    (folder / "upright/notes.txt").write_text("hello")
    with caplog.at_level(logging.INFO, logger="relight"):
        data = Images(config(folder)).build_data()
    assert data.validation is not None
    assert len(data.train) + len(data.validation) == 47  # type: ignore[arg-type]
    assert "49 in 2 classes" in caplog.text
    assert "2 of 49 pictures cannot be decoded and are left out: lying/3.png (" in caplog.text
    assert "upright/no\\npicture.jpg (not a picture that Pillow can open)" in caplog.text
    assert "1 files below" in caplog.text


def test_of_many_broken_pictures_five_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(8):
        (folder / f"lying/{seed}.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="relight"):
        Images(config(folder)).build_data()
    assert "8 of 48 pictures" in caplog.text and "and 3 more." in caplog.text


@pytest.mark.parametrize("usable", [0, 1])
def test_a_class_that_broken_pictures_leave_too_small_is_refused(folder: Path, usable: int) -> None:
    for seed in range(usable, 24):
        (folder / f"lying/{seed}.png").write_bytes(b"")
    with pytest.raises(TaskError, match=f"In class 'lying' only {usable} of 24 pictures can be decoded, and 2 are"):
        Images(config(folder)).build_data()


def test_a_val_folder_of_broken_pictures_is_refused(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "val/a/2.png"):
        draw_stripes(tmp_path / name, upright=True, seed=0)
    (tmp_path / "val/a/2.png").write_bytes(b"")
    with pytest.raises(TaskError, match=r"No validation picture below .* can be decoded"):
        Images(config(tmp_path)).build_data()


def test_a_missing_folder_is_refused_by_the_model_too(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="does not exist"):
        Images(config(tmp_path / "nope")).build_model()


def test_no_folder_at_all_says_which_key_to_set() -> None:
    with pytest.raises(ConfigError, match="set data=FOLDER"):
        Images(ImagesConfig()).build_data()


def test_a_relative_folder_becomes_absolute_so_that_a_resume_from_anywhere_finds_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder))
    assert ImagesConfig(data=folder.name).data == str(folder)
    assert ImagesConfig(data="~/x").data == str(folder / "x")


def test_samples_are_exact_from_their_generator(folder: Path) -> None:
    one, other = (Images(config(folder, cache_mb=cache)).build_data().train for cache in (0, 512))
    assert isinstance(one, AugmentedPictures) and isinstance(other, AugmentedPictures)
    for index in (0, 5):
        (first, label), (again, label_again) = (
            data.sample(index, torch.Generator().manual_seed(index)) for data in (one, other)
        )
        assert torch.equal(first, again) and label == label_again
        assert first.shape == (3, 24, 24) and first.dtype == torch.float32


def test_a_picture_that_breaks_during_training_stops_it_with_a_sentence(folder: Path) -> None:
    data = Images(config(folder, cache_mb=0, augment=False)).build_data()
    for file in folder.rglob("*.png"):
        file.unlink()
    with pytest.raises(TaskError, match=r"can no longer be decoded: No such file or directory\. Restore it"):
        data.train[0]


def test_in_a_folder_too_large_to_inspect_the_next_picture_takes_the_place_of_a_broken_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pictures, "INSPECTED_WHOLE", 10)
    data = Images(config(folder, cache_mb=0, augment=False)).build_data().train
    broken = folder / data.pictures[3].path  # type: ignore[attr-defined]
    broken.write_bytes(broken.read_bytes()[:400])
    with caplog.at_level(logging.WARNING, logger="relight"):
        (replaced, label), (following, following_label) = data[3], data[4]
        data[3]
    assert torch.equal(replaced, following) and label == following_label
    assert caplog.text.count("cannot be decoded, so it is left out") == 1
    for file in folder.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(TaskError, match="No picture below"):
        data[3]


def test_a_last_batch_of_one_picture_is_dropped_for_batch_norm_only(folder: Path) -> None:
    data = Images(config(folder)).build_data()
    batch_size = len(data.train) - 1  # type: ignore[arg-type]
    assert Images(config(folder, batch_size=batch_size)).build_data().drop_last
    assert not Images(config(folder, batch_size=batch_size, norm="group")).build_data().drop_last
    assert not Images(config(folder, batch_size=batch_size - 1)).build_data().drop_last


def test_pictures_of_every_kind_make_one_batch(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        Image.new("L", (30, 50), 9).save(tmp_path / label / "gray.png")
        Image.new("RGBA", (50, 30), (9, 9, 9, 9)).save(tmp_path / label / "clear.png")
        Image.new("CMYK", (300, 30), (9, 9, 9, 9)).save(tmp_path / label / "inks.jpg")
        Image.fromarray(np.full((3, 3), 999, dtype=np.uint16)).save(tmp_path / label / "deep.png")
        frames = [Image.new("P", (20, 20), n) for n in range(3)]
        frames[0].save(tmp_path / label / "film.gif", save_all=True, append_images=frames[1:])
    outcome = train(Images(config(tmp_path, batch_size=8, epochs=1)))
    assert set(outcome.validation) == {"loss", "accuracy"}
