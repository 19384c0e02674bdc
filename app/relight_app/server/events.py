"""The events of the live stream, encoded as server-sent events: one JSON object each.

hello    run, positions: records by stream and metric file, as of now; rows go on from there
rows     run, stream, file, first, attempt, steps, times, columns: name -> values (null where not finite)
reset    run: its metric files were cut or replaced; read the history again
state    run and the fields of `LiveState`
gone     run: it is not in the runs folder
machine  the fields of `relight.machine.report.MachineReport`
bye      the server ends
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from relight.machine.report import MachineReport
from relight_app.server.live_state import LiveState
from relight_app.server.run_tail import Positions, RowBlock

BYE = b"event: bye\ndata: {}\n\n"
KEEP_ALIVE = b": here\n\n"
_encoder = msgspec.json.Encoder()


def encode_hello(run: str, positions: Positions) -> bytes:
    """Where the run's metric files stand."""
    return _encode("hello", {"run": run, "positions": positions})


def encode_rows(run: str, block: RowBlock) -> bytes:
    """New records of one metric file."""
    return _encode(
        "rows",
        {
            "run": run,
            "stream": block.header.stream,
            "file": block.file,
            "first": block.first,
            "attempt": block.header.attempt,
            "steps": block.steps.tolist(),
            "times": block.times.tolist(),
            "columns": {
                name: np.ascontiguousarray(block.values[:, index]).tolist()
                for index, name in enumerate(block.header.columns)
            },
        },
    )


def encode_reset(run: str) -> bytes:
    """What was told of the run's metric files is void."""
    return _encode("reset", {"run": run})


def encode_state(run: str, state: LiveState) -> bytes:
    """Where the run stands."""
    return _encode("state", {"run": run, **msgspec.to_builtins(state)})


def encode_gone(run: str) -> bytes:
    """The run is not there."""
    return _encode("gone", {"run": run})


def encode_machine(report: MachineReport) -> bytes:
    """The machine's newest figures."""
    return _encode("machine", report)


def _encode(name: str, data: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _encoder.encode(data) + b"\n\n"
