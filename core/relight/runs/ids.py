"""Makes the ids of runs: a word that users recognize, and a few characters that make it unique."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import unicodedata
from collections.abc import Iterator

_SLUG_CHARACTERS = 40
_SUFFIX_CHARACTERS = (4, 4, 4, 6, 6, 6)
_OTHER = re.compile(r"[^a-z0-9]+")


def slug_of(text: str) -> str:
    """Reduce `text` to at most 40 lower-case ASCII letters, digits and dashes: safe in paths, URLs and shells."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return _OTHER.sub("-", plain)[:_SLUG_CHARACTERS].strip("-") or "run"


def new_run_ids(title: str, *, token: str | None = None) -> Iterator[str]:
    """Yield ids such as `digits-k3f9`, to be tried in turn until one is free.

    The same token always yields the same ids, so that a repeated launch finds the run that the first one created.
    """
    slug = slug_of(title)
    for attempt, characters in enumerate(_SUFFIX_CHARACTERS):
        seed = secrets.token_bytes(8) if token is None else hashlib.sha256(f"{attempt}:{token}".encode()).digest()
        yield f"{slug}-{base64.b32encode(seed).decode().lower()[:characters]}"
