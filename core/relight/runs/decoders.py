"""Prepares msgspec for threads.

msgspec (0.22) inspects a type when it first decodes it, and runs Python code meanwhile. A second thread that decodes
the same type at that moment reads the half-finished result, and the process ends with SIGSEGV.
"""

from __future__ import annotations

import contextlib

import msgspec


def prepare_decoders() -> None:
    """Let msgspec inspect every record type that is imported by now. Call it while no other thread decodes these."""
    waiting: list[type[msgspec.Struct]] = [msgspec.Struct]
    while waiting:
        for kind in type.__subclasses__(waiting.pop()):
            waiting.append(kind)
            with contextlib.suppress(TypeError, NameError):  # a type that nothing can decode
                msgspec.json.Decoder(kind)
