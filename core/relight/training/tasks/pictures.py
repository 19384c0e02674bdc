"""Decodes any picture file to the same 8-bit RGB pixels every time, and caches those pixels within a limit."""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relight.tasks.picture_folder import printable

# Formats whose readers are Pillow's own or plain libraries: no PostScript, which would start a program.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
PIXELS_AT_MOST = 100_000_000  # a file that claims more is refused as a decompression bomb
LARGE_PIXELS = 20_000_000  # larger pictures are decoded one at a time: decoding takes ten bytes per pixel for a moment
MARGIN = 1.25  # pictures are kept this much larger than the model's square, which leaves room for random crops
LONGEST_ASPECT = 2.0
INSPECTED_WHOLE = 20_000  # above this many files only the file headers are inspected before training
THREADS_AT_MOST = 16
_ORIENTATION = 0x0112  # EXIF tag
_large_one_at_a_time = threading.Lock()


class BrokenPicture(Exception):
    """A file is not a picture, is truncated, or is refused; the message says why in a few words."""


class PictureStore:
    """Decodes the pictures below `root`, and keeps as many of them as fit `cache_bytes`.

    A copy in a data-loading process starts with an empty cache: sending the pixels would cost more than decoding them.
    """

    def __init__(self, root: Path, *, image_size: int, cache_bytes: int) -> None:
        self.root = root
        self.short_side = math.ceil(image_size * MARGIN)
        self.cache_bytes = cache_bytes
        self.inspected_whole = False
        self._cache: dict[str, Tensor] = {}
        self._cached_bytes = 0

    def read(self, path: str) -> Tensor:
        """Return the pixels of one picture, uint8 [3, H, W], its short side scaled to `short_side`."""
        cached = self._cache.get(path)
        if cached is not None:
            return cached
        pixels = decode_picture(self.root / path, short_side=self.short_side)
        if self._cached_bytes + pixels.nbytes <= self.cache_bytes:
            self._cache[path] = pixels
            self._cached_bytes += pixels.nbytes
        return pixels

    def inspect(self, paths: list[str]) -> dict[str, str]:
        """Tell which of `paths` are broken, and why.

        Up to `INSPECTED_WHOLE` files are decoded whole, which fills the cache; of more, only the headers are read.
        """
        from PIL import Image

        # Our own limit decides; Pillow warns about smaller sizes, which would only be noise in the log.
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        self.inspected_whole = len(paths) <= INSPECTED_WHOLE
        look = self._decode_whole if self.inspected_whole else self._read_header
        with ThreadPoolExecutor(max_workers=min(THREADS_AT_MOST, _count_cores())) as pool:
            reasons = list(pool.map(look, paths))
        return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason is not None}

    def _decode_whole(self, path: str) -> str | None:
        try:
            self.read(path)
        except BrokenPicture as error:
            return str(error)
        return None

    def _read_header(self, path: str) -> str | None:
        try:
            _open(self.root / path).close()
        except Exception as error:  # see decode_picture
            return _reason(error)
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}, "_cached_bytes": 0}


def decode_picture(path: Path, *, short_side: int) -> Tensor:
    """Decode the first frame of a picture to uint8 [3, H, W], upright, its short side scaled to `short_side`.

    Of a panorama only the middle is kept, twice as long as wide. Transparent parts become white, 16-bit grays are
    scaled to 8 bits. Raises `BrokenPicture`.
    """
    try:
        with _open(path) as image:
            if image.width * image.height <= LARGE_PIXELS:
                return _decode(image, short_side=short_side)
            with _large_one_at_a_time:
                return _decode(image, short_side=short_side)
    except Exception as error:  # Pillow raises almost anything on damaged files: SyntaxError, struct.error, …
        raise BrokenPicture(_reason(error)) from error


def _open(path: Path) -> Any:
    from PIL import Image

    image = Image.open(path, formats=FORMATS)
    if image.width * image.height > PIXELS_AT_MOST:
        image.close()
        raise BrokenPicture(f"{image.width} x {image.height} pixels are too many")
    return image


def _decode(image: Any, *, short_side: int) -> Tensor:
    from PIL import Image

    # JPEG decodes straight to a half, quarter or eighth of its size if that is still large enough.
    image.draft("RGB", (short_side, short_side))
    image.load()
    orientation = _read_orientation(
        image
    )  # only now, because Pillow.s TIFF reader turns the picture itself and then updates the tag
    scale = short_side / min(image.size)
    width, height = (min(round(side * scale), round(short_side * LONGEST_ASPECT)) for side in image.size)
    box = _middle(image.size, (width / scale, height / scale))
    scaled = _to_rgb(image).resize((width, height), Image.Resampling.BILINEAR, box=box)
    if orientation is not None:
        scaled = scaled.transpose(orientation)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1).contiguous()


def _read_orientation(image: Any) -> Any:
    """Return how to turn the picture upright; None if it is upright or its metadata is damaged."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        return turns.get(image.getexif().get(_ORIENTATION))
    except Exception:  # damaged metadata must not cost the picture
        return None


def _to_rgb(image: Any) -> Any:
    """Convert any mode to RGB, on white if it is transparent."""
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        gray = np.asarray(image).clip(0, 65535).astype(np.uint32)
        return Image.fromarray(((gray * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        light = np.nan_to_num(np.asarray(image), nan=0.0, posinf=255.0, neginf=0.0)
        light = light * 255 if light.max() <= 1 else light
        return Image.fromarray(light.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _middle(size: Iterable[int], wanted: Iterable[float]) -> tuple[float, float, float, float]:
    (width, kept_width), (height, kept_height) = (
        (have, min(have, want)) for have, want in zip(size, wanted, strict=True)
    )
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return left, top, left + kept_width, top + kept_height


def _reason(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, BrokenPicture):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow can open"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(f"{error}".split("\n", 1)[0]) or type(error).__name__


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
