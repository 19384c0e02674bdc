"""The route for a chart's history: all its curves in one binary body.

The body is a little-endian uint32 (the length of the header), the header as JSON, padded with spaces until both are a
multiple of 8 bytes long, and float64 arrays in the header's order: for each series, x and y of the main line, of the
smoothed line and of the ghosts. `positions` in the header counts the records of each metric file that are included;
rows of the live stream continue from there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relight.metrics.series import read_samples
from relight.metrics.tail import MetricTail
from relight_app.server.curve_history import Axis, Curve, make_curve
from relight_app.server.files import find_layout

_MOST_POINTS = 20_000
_MOST_SERIES = 64


class _Asked(msgspec.Struct, frozen=True):
    names: tuple[str, ...]
    smooth: frozenset[str]
    axis: Axis
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
    """Return the route `/api/history?run=&name=&name=&smooth=&x=step|time&points=&from=&to=`."""
    return [Route("/api/history", _send_history, methods=["GET"])]


def _send_history(request: Request) -> Response:
    layout = find_layout(request.query_params.get("run", ""))
    asked = _parse(request)
    # Before the rows: a row logged in between is sent twice, which the browser notices, rather than not at all.
    positions = MetricTail(layout.metrics, from_start=False).positions()
    samples = read_samples(layout.metrics, asked.names)
    curves = [
        make_curve(
            samples[name],
            axis=asked.axis,
            points=asked.points,
            window=asked.window,
            smooth=name in asked.smooth,
        )
        for name in asked.names
    ]
    return Response(
        encode_history(positions, curves),
        media_type="application/octet-stream",
        headers={"Cache-Control": "no-store", "Content-Encoding": "identity"},
    )


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
        window = (float(query["from"]), float(query["to"])) if "from" in query and "to" in query else None
    except ValueError:
        raise HTTPException(400, "`points`, `from` and `to` must be numbers.") from None
    axis: Literal["step", "time"] = "time" if query.get("x") == "time" else "step"
    points = min(max(points, 16), _MOST_POINTS)
    return _Asked(tuple(dict.fromkeys(names)), frozenset(query.getlist("smooth")), axis, points, window)
