"""From a picture file of any kind to 8-bit RGB pixels, always the same ones, and the bounded cache of those pixels."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Formats whose readers are Pillow's own or plain libraries: no PostScript, which would start a program.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
PIXELS_AT_MOST = 100_000_000  # a file that claims more is refused as a decompression bomb
MARGIN = 1.25  # pictures are kept this much larger than the model's square, which leaves room for random crops
LONGEST_ASPECT = 2.0
INSPECTED_WHOLE = 20_000  # above this many files only the file headers are inspected before training


class BrokenPicture(Exception):
    """A file that is no picture, is cut off, or is refused; says why in a few words."""


class PictureStore:
    """Decodes the pictures below `root`, and keeps as many of them as fit `cache_bytes`.

    A copy in a data-loading process starts with an empty cache: sending the pixels would cost more than decoding them.
    """

    def __init__(self, root: Path, *, image_size: int, cache_bytes: int) -> None:
        self.root = root
        self.short_side = math.ceil(image_size * MARGIN)
        self.cache_bytes = cache_bytes
        self._cache: dict[str, Tensor] = {}
        self._cached_bytes = 0

    def read(self, path: str) -> Tensor:
        """Return the pixels of one picture, uint8 [3, H, W], its short side scaled to `short_side`."""
        if path in self._cache:
            return self._cache[path]
        pixels = decode_picture(self.root / path, short_side=self.short_side)
        if self._cached_bytes + pixels.nbytes <= self.cache_bytes:
            self._cache[path] = pixels
            self._cached_bytes += pixels.nbytes
        return pixels

    def inspect(self, paths: list[str]) -> dict[str, str]:
        """Tell which of `paths` are broken, and why. Up to `INSPECTED_WHOLE` files are decoded whole, which fills the cache."""
        look = self._decode_whole if len(paths) <= INSPECTED_WHOLE else self._verify
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            reasons = list(pool.map(look, paths))
        return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason is not None}

    def _decode_whole(self, path: str) -> str | None:
        try:
            self.read(path)
        except BrokenPicture as error:
            return str(error)
        return None

    def _verify(self, path: str) -> str | None:
        try:
            with _open(self.root / path) as image:
                image.verify()
        except Exception as error:  # see decode_picture
            return _reason(error)
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}, "_cached_bytes": 0}


def decode_picture(path: Path, *, short_side: int) -> Tensor:
    """Decode the first frame of a picture to uint8 [3, H, W], upright, its short side scaled to `short_side`.

    Transparent parts become white, 16-bit greys are scaled to 8 bits. Raises `BrokenPicture`.
    """
    from PIL import Image, ImageOps

    try:
        with _open(path) as image:
            # JPEG decodes straight to a half, quarter or eighth of its size where that is still large enough.
            image.draft("RGB", (short_side, short_side))
            image.load()
            upright = ImageOps.exif_transpose(_to_rgb(image))
            scale = short_side / min(upright.size)
            size = tuple(min(round(side * scale), round(short_side * LONGEST_ASPECT)) for side in upright.size)
            box = _middle(upright.size, (size[0] / scale, size[1] / scale))
            scaled = upright.resize((size[0], size[1]), Image.Resampling.BILINEAR, box=box)
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files: SyntaxError, struct.error, …
        raise BrokenPicture(_reason(error)) from error
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1).contiguous()


def _open(path: Path) -> Any:
    from PIL import Image

    image = Image.open(path, formats=FORMATS)
    if image.width * image.height > PIXELS_AT_MOST:
        image.close()
        raise BrokenPicture(f"{image.width} x {image.height} pixels are too many")
    return image


def _to_rgb(image: Any) -> Any:
    """Convert any mode to RGB, on white where it is transparent; orientation in the metadata is kept."""
    from PIL import Image

    orientation = image.getexif()
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float64).clip(0, 65535) / 257
        rgb = Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    elif image.mode == "F":
        grey = np.nan_to_num(np.asarray(image).astype(np.float64))
        grey = grey * 255 if grey.max() <= 1 else grey
        rgb = Image.fromarray(grey.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    elif "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        rgb = Image.alpha_composite(white, opaque).convert("RGB")
    else:
        rgb = image.convert("RGB")
    if rgb is not image:
        rgb.info["exif"] = orientation.tobytes() if orientation else b""
    return rgb


def _middle(size: tuple[int, int], wanted: tuple[float, float]) -> tuple[float, float, float, float]:
    width, height = (min(have, want) for have, want in zip(size, wanted, strict=True))
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


def _reason(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, BrokenPicture):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow can open"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    return f"{error}".split("\n", 1)[0] or type(error).__name__
