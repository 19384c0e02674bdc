"""What the command line prints: text and JSON on stdout, errors as one line on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer


def say(text: str = "") -> None:
    """Print `text` on stdout and flush, so that a pipe shows it at once."""
    typer.echo(text)


def say_error(text: str) -> None:
    """Print `text` on stderr as exactly one line, after the program's name."""
    typer.echo("relight: " + " ".join(text.split()), err=True)


def say_json(value: Any) -> None:
    """Print `value` as indented JSON. Structs become objects; NaN and infinity become null."""
    import msgspec

    encoded = msgspec.json.encode(value, enc_hook=str)
    typer.echo(msgspec.json.format(encoded, indent=2).decode())


def say_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print `head` and `rows` as aligned columns, with one write. Columns named in `right` are right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    right_aligned = [name in right for name in head]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right_aligned, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    say("\n".join(lines))


def is_terminal() -> bool:
    """Return whether stdout is a terminal that can move its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
