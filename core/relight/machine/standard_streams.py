"""Standard streams that the caller closed."""

from __future__ import annotations

import os
import sys


def replace_closed_streams() -> None:
    """Send streams that the caller closed (`>&-`) to the null device, so that no file of ours gets their numbers.

    A child that is started with such a file as its lock, say, would lose it to its own standard output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number: normally this one
            os.set_inheritable(null, null == number)
            setattr(sys, name, open(null, "w" if number else "r"))  # noqa: PTH123, SIM115  open until the end
