"""Pictures of every kind become the same upright RGB pixels, and the error for any other file says what is wrong."""

from __future__ import annotations

import pickle
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from relight.training.tasks import pictures
from relight.training.tasks.pictures import BrokenPicture, PictureStore, decode_picture

RED, GREEN, BLUE, WHITE = (250, 5, 5), (5, 250, 5), (5, 5, 250), (255, 255, 255)


def quarters(size: int = 80) -> Image.Image:
    """Return a picture with red and green above blue and white, which reveals any rotation or mirroring."""
    half = size // 2
    image = Image.new("RGB", (size, size), WHITE)
    for box, colour in {(0, 0): RED, (half, 0): GREEN, (0, half): BLUE}.items():
        image.paste(colour, (*box, box[0] + half, box[1] + half))
    return image


def corners(path: Path, *, short_side: int = 20) -> list[tuple[int, ...]]:
    """Return the colors in the middle of the four quarters, row by row."""
    pixels = decode_picture(path, short_side=short_side).permute(1, 2, 0).numpy()
    height, width = pixels.shape[:2]
    return [
        tuple(int(value) for value in pixels[height * y // 4, width * x // 4])
        for y, x in [(1, 1), (1, 3), (3, 1), (3, 3)]
    ]


def is_near(found: list[tuple[int, ...]], expected: list[tuple[int, ...]], *, tolerance: int = 12) -> bool:
    return bool(np.abs(np.array(found) - np.array(expected)).max() <= tolerance)


def broken(path: Path) -> str:
    with pytest.raises(BrokenPicture) as caught:
        decode_picture(path, short_side=20)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tif", "ppm"])
def test_every_format_shows_the_same_colours(tmp_path: Path, suffix: str) -> None:
    quarters().save(tmp_path / f"x.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert is_near(corners(tmp_path / f"x.{suffix}"), [RED, GREEN, BLUE, WHITE])


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    quarters().save(tmp_path / "x.jpg", format="PNG")
    assert is_near(corners(tmp_path / "x.jpg"), [RED, GREEN, BLUE, WHITE])


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    Image.new("L", (30, 30), 77).save(tmp_path / "gray.png")
    assert corners(tmp_path / "gray.png") == [(77, 77, 77)] * 4


def test_black_and_white_bits_become_black_and_white(tmp_path: Path) -> None:
    Image.new("1", (30, 30), 1).save(tmp_path / "bits.png")
    assert corners(tmp_path / "bits.png") == [WHITE] * 4


@pytest.mark.parametrize(("value", "shown"), [(65535, 255), (0, 0), (32896, 128), (257 * 77, 77)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight_and_not_cut(tmp_path: Path, value: int, shown: int, suffix: str) -> None:
    Image.fromarray(np.full((30, 30), value, dtype=np.uint16)).save(tmp_path / f"deep.{suffix}")
    assert corners(tmp_path / f"deep.{suffix}") == [(shown, shown, shown)] * 4


@pytest.mark.parametrize(("value", "shown"), [(0.5, 128), (1.0, 255), (200.0, 200), (float("nan"), 0), (1e9, 255)])
def test_floating_point_pictures_are_scaled_or_clipped(tmp_path: Path, value: float, shown: int) -> None:
    Image.fromarray(np.full((30, 30), value, dtype=np.float32)).save(tmp_path / "float.tif")
    assert corners(tmp_path / "float.tif") == [(shown, shown, shown)] * 4


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    image = quarters().convert("RGBA")
    image.putalpha(Image.new("L", (80, 80), 0))
    image.save(tmp_path / "clear.png")
    assert corners(tmp_path / "clear.png") == [WHITE] * 4
    image.putalpha(Image.new("L", (80, 80), 128))
    image.save(tmp_path / "half.png")
    assert is_near(corners(tmp_path / "half.png")[:1], [(252, 130, 130)])
    Image.new("LA", (30, 30), (0, 0)).save(tmp_path / "gray.png")
    assert corners(tmp_path / "gray.png") == [WHITE] * 4


def test_a_palette_with_a_transparent_colour_is_read(tmp_path: Path) -> None:
    image = quarters().convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "palette.png", transparency=image.getpixel((0, 0)))
    assert is_near(corners(tmp_path / "palette.png"), [WHITE, GREEN, BLUE, WHITE])


def test_printing_inks_become_rgb(tmp_path: Path) -> None:
    quarters().convert("CMYK").save(tmp_path / "inks.jpg", quality=95)
    assert is_near(corners(tmp_path / "inks.jpg"), [RED, GREEN, BLUE, WHITE], tolerance=20)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, suffix: str) -> None:
    others = [Image.new("RGB", (80, 80), colour) for colour in (GREEN, BLUE)]
    Image.new("RGB", (80, 80), RED).save(tmp_path / f"film.{suffix}", save_all=True, append_images=others, duration=40)
    assert is_near(corners(tmp_path / f"film.{suffix}"), [RED] * 4)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_from_a_turned_camera_stand_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)  # fmt: skip
    upright = quarters()
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"x.{suffix}", exif=exif)
    assert is_near(corners(tmp_path / f"x.{suffix}"), [RED, GREEN, BLUE, WHITE])


def test_damaged_metadata_does_not_cost_the_picture(tmp_path: Path) -> None:
    quarters().save(tmp_path / "x.jpg", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xffgarbage")
    assert is_near(corners(tmp_path / "x.jpg"), [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize(
    ("size", "shape"),
    [((400, 100), (20, 40)), ((100, 400), (40, 20)), ((1, 5000), (40, 20)), ((30, 40), (27, 20)), ((3, 3), (20, 20))],
)
def test_the_short_side_is_scaled_and_of_panoramas_the_middle_kept(
    tmp_path: Path, size: tuple[int, int], shape: tuple[int, int]
) -> None:
    Image.new("RGB", size, RED).save(tmp_path / "x.png")
    assert decode_picture(tmp_path / "x.png", short_side=20).shape == (3, *shape)


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(tmp_path: Path) -> None:
    quarters(2000).save(tmp_path / "large.jpg")
    assert is_near(corners(tmp_path / "large.jpg"), [RED, GREEN, BLUE, WHITE])


def test_decoding_twice_gives_the_same_pixels_from_file_and_cache(tmp_path: Path) -> None:
    Image.effect_noise((64, 48), 90).save(tmp_path / "x.jpg")
    store = PictureStore(tmp_path, image_size=16, cache_bytes=10_000)
    first = store.read("x.jpg")
    assert store.read("x.jpg") is first
    assert decode_picture(tmp_path / "x.jpg", short_side=20).equal(first)


def png_with_size(width: int, height: int) -> bytes:
    """Return a PNG that claims a size in its header and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((11_000, 10_000), "11000 x 10000 pixels are too many"),
        ((50_000, 50_000), "too many pixels"),
        ((2**31 - 1, 2**31 - 1), ""),
    ],
)
def test_a_decompression_bomb_is_refused_without_decoding(tmp_path: Path, size: tuple[int, int], reason: str) -> None:
    (tmp_path / "bomb.png").write_bytes(png_with_size(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert reason in broken(tmp_path / "bomb.png")


def test_a_large_picture_is_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "LARGE_PIXELS", 100)
    quarters().save(tmp_path / "x.png")
    held: list[bool] = []
    decode = pictures._decode

    def watch(image: Any, *, short_side: int) -> Any:
        held.append(pictures._large_one_at_a_time.locked())
        return decode(image, short_side=short_side)

    monkeypatch.setattr(pictures, "_decode", watch)
    assert is_near(corners(tmp_path / "x.png"), [RED, GREEN, BLUE, WHITE])
    assert held == [True]
    assert not pictures._large_one_at_a_time.locked()


def write_truncated(path: Path, suffix: str) -> None:
    Image.effect_noise((200, 200), 90).convert("RGB").save(path.with_suffix(f".{suffix}"))
    whole = path.with_suffix(f".{suffix}").read_bytes()
    path.with_suffix(f".{suffix}").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tif", "ppm"])
def test_a_picture_that_is_cut_off_is_broken(tmp_path: Path, suffix: str) -> None:
    write_truncated(tmp_path / "x", suffix)
    assert broken(tmp_path / f"x.{suffix}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a picture that Pillow can open"),
        (b"hello", "not a picture that Pillow can open"),
        (b"\xff\xd8\xff\xe0", ""),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture that Pillow can open"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture that Pillow can open"),
    ],
)
def test_what_is_no_picture_is_broken(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    assert reason in broken(tmp_path / "x.jpg")


def test_a_file_that_is_gone_says_so(tmp_path: Path) -> None:
    assert broken(tmp_path / "gone.jpg") == "No such file or directory"


def test_any_damage_to_any_format_is_a_picture_or_broken_and_nothing_else(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for suffix in ("png", "jpg", "gif", "bmp", "webp", "tif", "ppm"):
        path = tmp_path / f"x.{suffix}"
        quarters(24).save(path)
        whole = bytearray(path.read_bytes())
        for _ in range(60):
            damaged = bytearray(whole)
            for place in random.integers(0, len(whole), size=3):
                damaged[place] = random.integers(256)
            path.write_bytes(damaged)
            try:
                assert decode_picture(path, short_side=20).shape[0] == 3
            except BrokenPicture as error:
                assert str(error)


def test_inspecting_names_every_broken_file_and_keeps_the_others(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        quarters().save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no")
    store = PictureStore(tmp_path, image_size=16, cache_bytes=1_000_000)
    assert store.inspect(["a.png", "b.png", "c.png"]) == {"b.png": "not a picture that Pillow can open"}
    assert store.inspected_whole
    (tmp_path / "a.png").unlink()
    assert store.read("a.png").shape == (3, 20, 20)  # from the cache


def test_of_very_many_files_only_the_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "INSPECTED_WHOLE", 1)
    write_truncated(tmp_path / "cut", "png")
    (tmp_path / "no.png").write_bytes(b"no")
    store = PictureStore(tmp_path, image_size=16, cache_bytes=1_000_000)
    assert list(store.inspect(["cut.png", "no.png"])) == ["no.png"]
    assert not store.inspected_whole


def test_the_cache_keeps_to_its_size_and_stays_behind_when_copied(tmp_path: Path) -> None:
    for place in range(10):
        quarters().save(tmp_path / f"{place}.png")
    store = PictureStore(tmp_path, image_size=16, cache_bytes=3 * 20 * 20 * 4)
    store.inspect([f"{place}.png" for place in range(10)])
    assert len(store._cache) == 4
    copy = pickle.loads(pickle.dumps(store))
    assert not copy._cache and copy.read("0.png").equal(store.read("0.png"))


@pytest.fixture(autouse=True)
def pillow_as_it_was() -> Iterator[None]:
    """Restore the warning filters, and keep Pillow's warnings about damaged metadata out of the report."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        yield
