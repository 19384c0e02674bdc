"""The route for a chart's history: all its curves in one binary body.

The body is a little-endian uint32 (the length of the header), the header as JSON, padded with spaces until both are a
multiple of 8 bytes long, and float64 arrays in the header's order: for each series, x and y of the main line, of the
smoothed line and of the ghosts. `positions` in the header counts the records of each metric file that are included;
rows of the live stream continue from there.

A run may have millions of records and many browsers may ask at once, so only a few histories are made at a time, from a
small cache of columns, and one whose browser has gone is given up.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relight.metrics.metric_records import MetricRecords
from relight.metrics.series import Series, read_samples
from relight.metrics.tail import MetricTail
from relight_app.server.browser_work import work_for
from relight_app.server.column_cache import ColumnCache
from relight_app.server.curve_history import Axis, Curve, make_curve
from relight_app.server.files import find_layout

_MOST_POINTS = 20_000
_MOST_POINTS_TOGETHER = 200_000
"""Of all series of a request: each point may take 48 bytes of the body."""
_MOST_SERIES = 64
_SERIES_AT_ONCE = 8
"""How many columns are in memory at the same time, besides the cached ones."""
_AT_ONCE = 2
_CACHED_BYTES = 128 << 20
_MOST_SMOOTHING = 0.999


class _Asked(msgspec.Struct, frozen=True):
    names: tuple[str, ...]
    smooth: frozenset[str]
    smoothing: float
    axis: Axis
    log_x: bool
    points: int
    window: tuple[float, float] | None


@dataclass(frozen=True)
class _Part:
    name: str
    total: int
    thinned: bool
    points: int
    smoothed: int
    ghosts: int
    decay: float | None
    sum: float | None
    weight: float | None


def history_routes() -> list[Route]:
    """Return the route `/api/history?run=&name=&name=&smooth=&smoothing=&x=step|time&log=&points=&from=&to=`."""
    limiter, cache = anyio.CapacityLimiter(_AT_ONCE), ColumnCache(most_bytes=_CACHED_BYTES)

    async def send_history(request: Request) -> Response:
        run, asked = request.query_params.get("run", ""), _parse(request)
        body = await work_for(
            request, lambda go_on: _read_history(find_layout(run).metrics, asked, cache, go_on), limiter=limiter
        )
        return Response(
            body,
            media_type="application/octet-stream",
            headers={"Cache-Control": "no-store", "Content-Encoding": "identity"},
        )

    return [Route("/api/history", send_history, methods=["GET"])]


def _read_history(folder: Path, asked: _Asked, cache: ColumnCache, go_on: Callable[[], None]) -> bytes:
    # Before the rows: a row logged in between is sent twice, which the browser notices, rather than not at all.
    positions = MetricTail(folder, from_start=False).positions()
    curves: list[Curve] = []
    for samples in _read_series(folder, asked.names, cache, go_on):
        go_on()
        curves.append(
            make_curve(
                samples,
                axis=asked.axis,
                points=asked.points,
                window=asked.window,
                smoothing=asked.smoothing if samples.name in asked.smooth else 0.0,
                log_x=asked.log_x,
            )
        )
    return encode_history(positions, curves)


def _read_series(
    folder: Path, names: tuple[str, ...], cache: ColumnCache, go_on: Callable[[], None]
) -> Iterator[Series]:
    """Yield the series with these names, reading a few at a time."""
    for first in range(0, len(names), _SERIES_AT_ONCE):
        some = names[first : first + _SERIES_AT_ONCE]
        read: Callable[[Path], MetricRecords] = functools.partial(cache.read, names=some, go_on=go_on)
        yield from read_samples(folder, some, read=read).values()


def encode_history(positions: dict[str, dict[str, int]], curves: list[Curve]) -> bytes:
    """Encode the body that this module's docstring describes."""
    parts: list[_Part] = []
    arrays: list[bytes] = []
    for curve in curves:
        smoothing = curve.smoothing
        parts.append(
            _Part(
                name=curve.name,
                total=curve.total,
                thinned=curve.thinned,
                points=len(curve.main.x),
                smoothed=len(smoothing.line.x) if smoothing else 0,
                ghosts=len(curve.ghosts.x),
                decay=smoothing.decay if smoothing else None,
                sum=smoothing.sum if smoothing else None,
                weight=smoothing.weight if smoothing else None,
            )
        )
        for line in (curve.main, smoothing.line if smoothing else None, curve.ghosts):
            if line is not None:
                arrays += [line.x.astype("<f8").tobytes(), line.y.astype("<f8").tobytes()]
    header = msgspec.json.encode({"positions": positions, "series": parts})
    header += b" " * (-(len(header) + 4) % 8)
    return struct.pack("<I", len(header)) + header + b"".join(arrays)


def _parse(request: Request) -> _Asked:
    query = request.query_params
    names = query.getlist("name")
    if not 1 <= len(names) <= _MOST_SERIES:
        raise HTTPException(400, f"Request 1 to {_MOST_SERIES} metrics with `name`.")
    try:
        points = int(query.get("points", "1500"))
        smoothing = min(max(float(query.get("smoothing", "0")), 0.0), _MOST_SMOOTHING)
        window = (float(query["from"]), float(query["to"])) if "from" in query and "to" in query else None
    except ValueError:
        raise HTTPException(400, "`points`, `smoothing`, `from` and `to` must be numbers.") from None
    axis: Literal["step", "time"] = "time" if query.get("x") == "time" else "step"
    points = min(max(points, 16), _MOST_POINTS, _MOST_POINTS_TOGETHER // len(names))
    return _Asked(
        tuple(dict.fromkeys(names)),
        frozenset(query.getlist("smooth")),
        smoothing,
        axis,
        axis == "step" and "log" in query,
        points,
        window,
    )
