"""Finds out why a generator is closed: `break` or `return` left its loop, or an exception passes through it.

Python tells a generator only that it is closed, right in the instruction that let go of it. A `break` lets go of the
loop's iterator by an instruction of its own, and nothing else that can be interrupted does; an exception lets go in the
midst of whatever raised it.
"""

from __future__ import annotations

import ast
import dis
import inspect
import linecache
import sys
from types import FrameType

_LETTING_GO = frozenset(
    dis.opmap[name] for name in ("POP_TOP", "END_FOR", "POP_ITER", "POP_BLOCK") if name in dis.opmap
)


def is_left_by_choice() -> bool:
    """Tell whether the loop left the calling generator by `break` or `return`.

    Generators in between, such as a progress bar's, are looked through. An exception that passes says no.
    """
    return _find_loop(sys._getframe(1)) is not None


def is_left_at_end() -> bool:
    """Tell whether the loop left the calling generator by a `break` with which its body ends anyway.

    Everything in the body is done then. The source decides; without it, the answer is no.
    """
    frame = _find_loop(sys._getframe(1))
    if frame is None:
        return False
    try:
        tree = ast.parse("".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    loops = (node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While))
    return any(_ends_with_break(loop.body, line=frame.f_lineno) for loop in loops)


def _find_loop(generator: FrameType) -> FrameType | None:
    """Return the frame whose loop has let go of the generator with that frame; None if an exception has."""
    frame = generator.f_back
    while frame is not None:
        if frame.f_code.co_code[frame.f_lasti] in _LETTING_GO:
            return frame
        if not frame.f_code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
            return None
        frame = frame.f_back
    return None


def _ends_with_break(body: list[ast.stmt], *, line: int) -> bool:
    last = body[-1] if body else None
    if isinstance(last, ast.If):
        return _ends_with_break(last.body, line=line) or _ends_with_break(last.orelse, line=line)
    return isinstance(last, ast.Break) and last.lineno == line
