"""Requests that a run stops, as a file in its folder: no signal and no socket, so it works from another machine."""

from __future__ import annotations

import contextlib
import os
import time

from relight.runs.layout import RunLayout
from relight.runs.record_file import encode_record, read_record_or_none
from relight.runs.records import StopRequest
from relight.runs.reserved_file import ReservedFile


def request_stop(layout: RunLayout, *, now: bool = False, grace_s: float = 60.0) -> StopRequest:
    """Ask the newest attempt to stop at its next step edge with a checkpoint, or `now` without one.

    A second request can only speed up the stop: it takes back no `now`, and the first request's grace still counts.
    """
    attempt = layout.latest_attempt()
    earlier = read_stop_request(layout, attempt=attempt)
    if earlier is not None and (earlier.now or not now):
        return earlier
    request = StopRequest(attempt=attempt, time_s=time.time(), now=now, grace_s=grace_s)
    ReservedFile(layout.stop_request).write(encode_record(request))
    return request


def read_stop_request(layout: RunLayout, *, attempt: int | None = None) -> StopRequest | None:
    """Return the current request; with `attempt`, only if it means that attempt. Takes about 1 us when there is none.

    A damaged request is ignored: it cannot say which attempt it means, and must not stop all later ones.
    """
    path = layout.stop_request
    try:
        os.stat(path)  # noqa: PTH116  called at each step edge
    except OSError:
        return None
    request = read_record_or_none(path, StopRequest)
    return request if request is None or attempt is None or request.attempt == attempt else None


def reserve_stop_request(layout: RunLayout) -> ReservedFile:
    """Reserve space for a request, so that a run can be stopped on a full disk. The caller releases it."""
    reserved = ReservedFile(layout.stop_request)
    reserved.reserve()
    return reserved


def clear_stop_request(layout: RunLayout) -> None:
    """Remove the request, if there is one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        layout.stop_request.unlink()
