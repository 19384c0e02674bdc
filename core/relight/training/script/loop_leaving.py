"""Finds out why a generator is closed: `break` or `return` left its loop, or an exception passes through it.

Python tells a generator only that it is closed, right in the instruction that let go of it. A `break` lets go of the
loop's iterator by an instruction of its own, and nothing else that can be interrupted does; an exception lets go in the
midst of whatever raised it.
"""

from __future__ import annotations

import dis
import inspect
import sys
from types import FrameType

_LETTING_GO = frozenset(
    dis.opmap[name] for name in ("POP_TOP", "END_FOR", "POP_ITER", "POP_BLOCK") if name in dis.opmap
)


def is_left_by_choice() -> bool:
    """Tell whether the loop left the calling generator by `break` or `return`.

    Generators in between, such as a progress bar's, are looked through. An exception that passes says no.
    """
    frame: FrameType | None = sys._getframe(1).f_back
    while frame is not None:
        if frame.f_code.co_code[frame.f_lasti] in _LETTING_GO:
            return True
        if not frame.f_code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
            return False
        frame = frame.f_back
    return False
