"""The digest at the end of a small JSON file: it exposes a flipped bit that leaves the JSON valid.

    {
      "version": 1,
      "step": 46,
      "digest": "9d5e7d98d5d0643d0426c547c0d7c5f7"
    }

The digest is the xxh3-128 of all bytes before the `,` and the line with the digest. A file without that line is
accepted as it is: it may have been edited by hand, or be older than the digests.
"""

from __future__ import annotations

import xxhash

_BEFORE = b',\n  "digest": "'
_AFTER = b'"\n}\n'


def add_digest(data: bytes) -> bytes:
    """Return an indented JSON object with its digest as the last key."""
    body = data.rstrip().removesuffix(b"}").rstrip()
    assert body.startswith(b"{\n"), "needs an indented object with at least one key"
    return body + _BEFORE + xxhash.xxh3_128_hexdigest(body).encode() + _AFTER


def has_wrong_digest(data: bytes) -> bool:
    """Return whether the file states a digest that does not match its content."""
    place = data.rfind(_BEFORE)
    if place < 0:
        return False
    stated = data[place + len(_BEFORE) :]
    return stated != xxhash.xxh3_128_hexdigest(data[:place]).encode() + _AFTER
