"""Finds the line of code that an error came from: the innermost frame of a traceback in the user's own code."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

import msgspec

_FRAME = re.compile(r'^ +File "(?P<file>[^"\n]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$', re.MULTILINE)
_NEXT_ERROR = re.compile(
    r"^(?:During handling of the above exception, another exception occurred"
    r"|The above exception was the direct cause of the following exception):$",
    re.MULTILINE,
)
_FOREIGN = re.compile(r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib(?:64)?[/\\]python3[.\d]*[/\\]|python3\d+\.zip|^<")
_OURS = f"{Path(__file__).parents[1]}/"


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the code. `code` is the line itself, "" when the traceback does not have it."""

    file: str
    line: int
    function: str
    code: str
    own: bool
    """Whether it is the user's code: not Python, not an installed package, not Relight."""

    @property
    def place(self) -> str:
        """Where it is, in short: "train.py:42, in step"."""
        where = f"{PurePath(self.file).name}:{self.line}"
        return f"{where}, in {self.function}" if self.function else where


def find_culprit(traceback: str | None) -> Frame | None:
    """Return the innermost frame in the user's own code; without one, the innermost of all; None for no traceback.

    Of several chained errors the last one counts first. Frames of a data-loading process, which PyTorch quotes in the
    message of the error, count like all others.
    """
    if not traceback:
        return None
    errors = [list(_read_frames(part)) for part in _NEXT_ERROR.split(traceback)]
    for frames in reversed(errors):
        for frame in reversed(frames):
            if frame.own:
                return frame
    return next((frames[-1] for frames in reversed(errors) if frames), None)


def _read_frames(text: str) -> list[Frame]:
    frames = []
    for match in _FRAME.finditer(text):
        rest = text[match.end() + 1 :].split("\n", 1)[0]
        code = rest.strip() if rest.startswith("    ") and not _FRAME.match(rest) else ""
        file = match["file"]
        frames.append(
            Frame(
                file=file,
                line=int(match["line"][:9]),
                function=match["function"] or "",
                code=code,
                own=_FOREIGN.search(file) is None and not file.startswith(_OURS),
            )
        )
    return frames
