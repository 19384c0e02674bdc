"""Asking a run to stop, through its folder: no signal, no socket, and it works from another machine."""

from __future__ import annotations

import contextlib
import os
import time

from relight.runs.layout import RunLayout
from relight.runs.record_file import encode_record, read_record_or_none
from relight.runs.records import StopRequest
from relight.runs.reserved_file import ReservedFile


def request_stop(layout: RunLayout, *, now: bool = False, grace_s: float = 60.0) -> StopRequest:
    """Ask the newest attempt to stop at its next step edge, with a checkpoint; `now`: without waiting for either.

    Asking again only ever hastens it: a `now` is not taken back, and the first request's grace keeps running.
    """
    attempt = layout.latest_attempt()
    earlier = read_stop_request(layout, attempt=attempt)
    if earlier is not None and (earlier.now or not now):
        return earlier
    request = StopRequest(attempt=attempt, time_s=time.time(), now=now, grace_s=grace_s)
    ReservedFile(layout.stop_request).write(encode_record(request))
    return request


def read_stop_request(layout: RunLayout, *, attempt: int | None = None) -> StopRequest | None:
    """The request that is there, about a microsecond when there is none. With `attempt`, only one that means it.

    A damaged request is none: it cannot say which attempt it meant, and must not stop every later one.
    """
    path = layout.stop_request
    try:
        os.stat(path)  # noqa: PTH116  this runs at step edges
    except OSError:
        return None
    request = read_record_or_none(path, StopRequest)
    return request if request is None or attempt is None or request.attempt == attempt else None


def reserve_stop_request(layout: RunLayout) -> ReservedFile:
    """Take room for a request while there is some: a run on a full disk must be stoppable. Released by the caller."""
    reserved = ReservedFile(layout.stop_request)
    reserved.reserve()
    return reserved


def clear_stop_request(layout: RunLayout) -> None:
    """Take the request away; nothing happens when there is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        layout.stop_request.unlink()
