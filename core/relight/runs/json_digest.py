"""The digest that ends a small JSON file: a flipped bit is seen, although what is left is still good JSON.

    {
      "version": 1,
      "step": 46,
      "digest": "9d5e7d98d5d0643d0426c547c0d7c5f7"
    }

It is the xxh3-128 of all bytes before `,` and the line of the digest. A file without that line is taken as it is: those
of people who edit one by hand, and those that are older than the digests.
"""

from __future__ import annotations

import xxhash

_BEFORE = b',\n  "digest": "'
_AFTER = b'"\n}\n'


def add_digest(data: bytes) -> bytes:
    """An indented JSON object with its digest as the last key."""
    body = data.rstrip().removesuffix(b"}").rstrip()
    assert body.startswith(b"{\n"), "an object, indented, with at least one key"
    return body + _BEFORE + xxhash.xxh3_128_hexdigest(body).encode() + _AFTER


def has_wrong_digest(data: bytes) -> bool:
    """Whether the file says a digest, and another one than it has."""
    place = data.rfind(_BEFORE)
    if place < 0:
        return False
    said = data[place + len(_BEFORE) :]
    return said != xxhash.xxh3_128_hexdigest(data[:place]).encode() + _AFTER
