"""What a person has written about a run: its shown name, a note, tags, a star, and whether it is archived.

It is a file of its own, `about.json`, because `run.json` is written once. A run that nobody has described has none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from relight.errors import DamagedFile, RelightError, UsageError
from relight.runs.layout import RunLayout
from relight.runs.record_file import LaterVersion, read_record_if_there, write_record
from relight.runs.records import Record

NAME_CHARACTERS = 200
NOTE_CHARACTERS = 20_000
TAG_CHARACTERS = 50
MOST_TAGS = 50
_NOT_IN_TAGS = set(",\"'<>=:")
"""Characters with a meaning in a search."""


class About(Record, frozen=True, kw_only=True):
    """What a person has written about a run."""

    name: str | None = None
    """The shown name; None for the name from the launch."""
    note: str = ""
    tags: tuple[str, ...] = ()
    """Sorted, without repetitions."""
    starred: bool = False
    archived: bool = False
    """Whether lists leave it out."""


class KnownAbout(NamedTuple):
    """What can be read about a run, and a sentence when its file is damaged; it is then treated as missing."""

    about: About
    damage: str | None = None


def read_about(layout: RunLayout) -> KnownAbout:
    """Read what a person has written about the run. Never raises."""
    try:
        return KnownAbout(read_record_if_there(layout.about, About) or About())
    except DamagedFile as error:
        return KnownAbout(About(), str(error))


def change_about(
    layout: RunLayout,
    *,
    name: str | None = None,
    note: str | None = None,
    add_tags: Iterable[str] = (),
    remove_tags: Iterable[str] = (),
    starred: bool | None = None,
    archived: bool | None = None,
) -> About:
    """Change what is given and keep the rest; return what is now on the disk.

    Changes by several processes at the same moment all count. A damaged file is kept as `about.damaged.json`. Raises
    `UsageError` for a name, note or tag that is not allowed, and `RelightError` when the folder cannot be written or a
    later version of Relight wrote the file.
    """
    added, removed = [clean_tag(tag) for tag in add_tags], {tag.casefold() for tag in remove_tags}
    changes: dict[str, object] = {
        "name": None if name is None else _require_name(name),
        "note": None if note is None else _clean_note(note),
        "starred": starred,
        "archived": archived,
    }
    try:
        with _one_at_a_time(layout):
            before = _read_for_change(layout)
            tags = _join_tags(before.tags, added, removed)
            given = {key: value for key, value in changes.items() if value is not None}
            after = msgspec.structs.replace(before, tags=tags, **given)
            if after != before:
                write_record(layout.about, after)
            return after
    except OSError as error:
        raise RelightError(
            f"Run {layout.run_id!r} could not be changed: {error.strerror or error} ({str(layout.about)!r}). Check "
            "that you can write to this folder and that the disk is not full."
        ) from error


def clean_name(name: str | None) -> str:
    """Return a run's name on one line, without unprintable characters. Raises `UsageError` when it is too long."""
    cleaned = " ".join("".join(character if character.isprintable() else " " for character in name or "").split())
    if len(cleaned) > NAME_CHARACTERS:
        raise UsageError(
            f"The name {cleaned[:40] + '…'!r} has {len(cleaned)} characters. Use at most {NAME_CHARACTERS}."
        )
    return cleaned


def clean_tag(tag: str) -> str:
    """Return the tag without spaces around it. Raises `UsageError` for what a search could not find."""
    tag = tag.strip()
    if not tag or tag[0] == "-" or any(letter.isspace() or not letter.isprintable() for letter in tag):
        raise UsageError(f"{tag!r} is not a tag: a tag is one word that does not begin with a dash.")
    if wrong := sorted(_NOT_IN_TAGS.intersection(tag)):
        raise UsageError(
            f"{tag!r} is not a tag, because it contains {wrong[0]}. Use letters, digits, '-', '_' and '.'."
        )
    if len(tag) > TAG_CHARACTERS:
        raise UsageError(f"The tag {tag[:40] + '…'!r} has {len(tag)} characters. Use at most {TAG_CHARACTERS}.")
    return tag


def _require_name(name: str) -> str:
    cleaned = clean_name(name)
    if not cleaned:
        raise UsageError("The new name is empty. Give the run a name.")
    return cleaned


def _clean_note(note: str) -> str:
    """Return the note without control characters and without blank ends. It may have several lines."""
    lines = note.replace("\r\n", "\n").replace("\t", "    ").split("\n")
    cleaned = "\n".join("".join(filter(str.isprintable, line)).rstrip() for line in lines).strip()
    if len(cleaned) > NOTE_CHARACTERS:
        raise UsageError(f"The note has {len(cleaned):,} characters. Use at most {NOTE_CHARACTERS:,}.")
    return cleaned


def _join_tags(before: Iterable[str], added: Iterable[str], removed: set[str]) -> tuple[str, ...]:
    known = {tag.casefold(): tag for tag in [*added, *before]}  # the spelling that is there stays
    tags = tuple(sorted(tag for key, tag in known.items() if key not in removed))
    if len(tags) > MOST_TAGS:
        raise UsageError(f"A run can have at most {MOST_TAGS} tags, and this would make {len(tags)}. Remove some.")
    return tags


def _read_for_change(layout: RunLayout) -> About:
    try:
        return read_record_if_there(layout.about, About) or About()
    except LaterVersion:
        raise
    except DamagedFile:
        layout.about.replace(layout.damaged_about)
        return About()


@contextlib.contextmanager
def _one_at_a_time(layout: RunLayout) -> Iterator[None]:
    """Hold a lock on the folder itself, so that no change overwrites another. Some network shares lack such locks."""
    descriptor = os.open(layout.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
