"""Makes names under which a script logs values into names that files, checkpoints and pages can hold."""

from __future__ import annotations

import unicodedata
import zlib
from typing import Any

LONGEST_NAME = 200
_UNNAMED = "unnamed"


def clean_name(name: Any) -> str:
    """Return `name` as printable text of bounded length; an ordinary name is returned as it is.

    Control characters and lone surrogates become "�". A longer name is cut, and a checksum keeps it distinct.
    """
    if type(name) is str and len(name) <= LONGEST_NAME and name.isprintable() and name:
        return name
    try:
        text = str.__str__(name) if isinstance(name, str) else str(name)
    except Exception:  # a key with a broken __str__
        text = type(name).__name__
    shown = "".join("�" if unicodedata.category(each) in ("Cc", "Cs") else each for each in text[: LONGEST_NAME + 1])
    if len(text) > LONGEST_NAME:
        checksum = zlib.crc32(text.encode(errors="surrogatepass"))
        return f"{shown[: LONGEST_NAME - 9]}~{checksum:08x}"
    return shown or _UNNAMED
