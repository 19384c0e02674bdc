"""The events of the live stream, encoded as server-sent events: one JSON object each.

hello    run, positions: number of records now, by stream and metric file; rows continue from there
rows     run, stream, file, first, attempt, steps, times, columns: name -> values (null where not finite)
reset    run: its metric files were truncated or replaced; read the history again
state    run and the fields of `LiveState`
gone     run: it is not in the runs folder
changed  run ("" for what belongs to no run), topics: a token for each, which differs when the topic has changed
machine  the fields of `relight.machine.report.MachineReport`
bye      the server is shutting down
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from relight.machine.report import MachineReport
from relight.metrics.tail import Positions, RecordBlock
from relight_app.server.live_state import LiveState

BYE = b"event: bye\ndata: {}\n\n"
KEEP_ALIVE = b": here\n\n"
_encoder = msgspec.json.Encoder()


def encode_hello(run: str, positions: Positions) -> bytes:
    """Encode how many records the run's metric files have."""
    return _encode("hello", {"run": run, "positions": positions})


def encode_rows(run: str, block: RecordBlock) -> bytes:
    """Encode new records of one metric file."""
    steps, times, *columns = block.read_columns()
    return _encode(
        "rows",
        {
            "run": run,
            "stream": block.header.stream,
            "file": block.file,
            "first": block.first,
            "attempt": block.header.attempt,
            "steps": steps,
            "times": times,
            "columns": dict(zip(block.header.columns, columns, strict=True)),
        },
    )


def encode_reset(run: str) -> bytes:
    """Encode that the run's metric files were truncated or replaced."""
    return _encode("reset", {"run": run})


def encode_state(run: str, state: LiveState) -> bytes:
    """Encode the run's live state."""
    return _encode("state", {"run": run, **msgspec.to_builtins(state)})


def encode_gone(run: str) -> bytes:
    """Encode that the run does not exist."""
    return _encode("gone", {"run": run})


def encode_changed(run: str, topics: Mapping[str, str]) -> bytes:
    """Encode the current tokens of a run's topics."""
    return _encode("changed", {"run": run, "topics": topics})


def encode_machine(report: MachineReport) -> bytes:
    """Encode the newest figures of the machine."""
    return _encode("machine", report)


def _encode(name: str, data: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _encoder.encode(data) + b"\n\n"
