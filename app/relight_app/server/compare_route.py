"""The route for the comparison of runs: their facts, and their curves of some metrics, in one binary body.

`GET /api/compare?ids=A,B,…&name=METRIC&…&smoothing=&log=&from=&to=` takes 1 to 50 runs and up to 8 metrics; without
`name`, the two that say most. Lines have most of their points between the steps `from` and `to`. The body is a
little-endian uint32 (the length of the header), the header as JSON (`Comparison`, padded with spaces until both are a
multiple of 8 bytes long), and for each of its lines the x as float64 and the y as float32, padded to a multiple of 8
bytes. Ghosts are left out: only what counts is compared.
"""

from __future__ import annotations

import functools
import math
import struct
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relight.errors import RelightError
from relight.metrics.file_format import split_name
from relight.metrics.metric_direction import guess_direction
from relight.metrics.metric_records import MetricRecords
from relight.metrics.metric_scan import list_file_names
from relight.metrics.series import Series, read_samples, split_series
from relight.overview.run_columns import find_differing_config, flatten_config
from relight.overview.summary import RunSummary
from relight.runs.records import RunRecord
from relight_app.engine import Engine, current_engine
from relight_app.formats import is_share
from relight_app.memo import Memo
from relight_app.server.browser_work import work_for
from relight_app.server.column_cache import ColumnCache
from relight_app.server.curve_history import Line, make_curve

_MOST_RUNS = 50
_MOST_METRICS = 8
_POINTS = 480
"""Of each line: 20 runs with two metrics stay below 300 kB."""
_MOST_SMOOTHING = 0.999
_AT_ONCE = 2
_CACHED_BYTES = 64 << 20


class LineFacts(msgspec.Struct, frozen=True):
    """One metric of one run."""

    run: str
    metric: str
    points: int
    smoothed: bool
    last: float | None
    last_step: int | None
    best: float | None
    best_step: int | None


class ComparedRun(msgspec.Struct, frozen=True):
    """One run of the comparison."""

    run: str
    name: str
    status: str
    step: int
    config: dict[str, Any]
    """Only the options that differ between the runs, with dotted names."""


class ComparedMetric(msgspec.Struct, frozen=True):
    """A metric that is drawn."""

    name: str
    higher_is_better: bool
    unit: str | None


class Comparison(msgspec.Struct, frozen=True):
    """Everything on the page but the points of the lines."""

    runs: tuple[ComparedRun, ...]
    missing: tuple[str, ...]
    """Asked for, but not there or not readable."""
    differing: tuple[str, ...]
    """The options that differ, most telling first."""
    equal: int
    """How many options are the same in all runs."""
    available: tuple[str, ...]
    """All metrics, those that most runs have first."""
    metrics: tuple[ComparedMetric, ...]
    lines: tuple[LineFacts, ...]


class _Asked(msgspec.Struct, frozen=True):
    ids: tuple[str, ...]
    names: tuple[str, ...]
    smoothing: float
    log_x: bool
    window: tuple[float, float] | None


@dataclass(frozen=True)
class _Reader:
    """What is kept between two answers: columns of metric files, and lines until these files change."""

    columns: ColumnCache
    drawn: Memo


class _Drawn(msgspec.Struct, frozen=True):
    facts: LineFacts
    line: Line


def compare_routes() -> list[Route]:
    """Return the route `/api/compare?ids=&name=&smoothing=&log=&from=&to=`."""
    limiter, reader = anyio.CapacityLimiter(_AT_ONCE), _Reader(ColumnCache(most_bytes=_CACHED_BYTES), Memo())

    async def send_comparison(request: Request) -> Response:
        asked = _parse(request)
        body = await work_for(request, lambda go_on: compare(current_engine(), asked, reader, go_on), limiter=limiter)
        return Response(
            body,
            media_type="application/octet-stream",
            headers={"Cache-Control": "no-store", "Content-Encoding": "identity"},
        )

    return [Route("/api/compare", send_comparison, methods=["GET"])]


def compare(engine: Engine, asked: _Asked, reader: _Reader, go_on: Callable[[], None]) -> bytes:
    """Read the runs and return the body that this module's docstring describes."""
    runs: list[tuple[RunSummary, RunRecord]] = []
    missing: list[str] = []
    for name in asked.ids:
        go_on()
        try:
            runs.append((engine.read_run(name), engine.read_record(name)))
        except RelightError:
            missing.append(name)
    logged = {run.run: engine.list_metrics(run.run) for run, _ in runs}
    available = _rank_metrics(logged, runs)
    names = [name for name in asked.names if name in available] or available[:2]
    metrics = [ComparedMetric(name, _find_direction(name, runs), "ratio" if is_share(name) else None) for name in names]
    drawn: list[_Drawn] = []
    for run, _ in runs:
        go_on()
        drawn += reader.drawn.unchanged(
            (run.run, tuple(metrics), asked.smoothing, asked.log_x, asked.window),
            _sizes(Path(run.path) / "metrics"),
            functools.partial(
                _draw_run, run, metrics, asked, functools.partial(reader.columns.read, names=names, go_on=go_on)
            ),
        )
    differing = find_differing_config([run for run, _ in runs])
    configs = {run.run: flatten_config(run.config) for run, _ in runs}
    header = Comparison(
        runs=tuple(
            ComparedRun(
                run.run, run.name, str(run.status), run.step,
                {key: configs[run.run][key] for key in differing if key in configs[run.run]},
            )
            for run, _ in runs
        ),
        missing=tuple(missing),
        differing=tuple(differing),
        equal=len({key for config in configs.values() for key in config} - set(differing)),
        available=tuple(available),
        metrics=tuple(metrics),
        lines=tuple(one.facts for one in drawn),
    )  # fmt: skip
    return _encode(header, [one.line for one in drawn])


def _draw_run(
    run: RunSummary, metrics: list[ComparedMetric], asked: _Asked, read: Callable[[Path], MetricRecords]
) -> list[_Drawn]:
    samples = read_samples(Path(run.path) / "metrics", [metric.name for metric in metrics], read=read)
    return [_draw(run.run, metric, samples[metric.name], asked) for metric in metrics if len(samples[metric.name])]


def _draw(run: str, metric: ComparedMetric, samples: Series, asked: _Asked) -> _Drawn:
    main = split_series(samples).main
    finite = np.flatnonzero(np.isfinite(main.values))
    best = None
    if len(finite):
        values = main.values[finite]
        best = int(finite[np.argmax(values) if metric.higher_is_better else np.argmin(values)])
    smoothing = asked.smoothing if not metric.name.startswith("validation/") else 0.0
    curve = make_curve(main, points=_POINTS, smoothing=smoothing, log_x=asked.log_x, window=asked.window)
    line = curve.smoothing.line if curve.smoothing is not None else curve.main
    last = float(main.values[-1])
    return _Drawn(
        LineFacts(
            run=run,
            metric=metric.name,
            points=len(line.x),
            smoothed=curve.smoothing is not None,
            last=last if math.isfinite(last) else None,
            last_step=int(main.steps[-1]),
            best=float(main.values[best]) if best is not None else None,
            best_step=int(main.steps[best]) if best is not None else None,
        ),
        line,
    )


def _rank_metrics(logged: dict[str, list[str]], runs: list[tuple[RunSummary, RunRecord]]) -> list[str]:
    """Order the metrics: what the runs are judged by, losses, then what most runs have; the machine last."""
    counts = Counter(name for names in logged.values() for name in names)
    judged = {record.best_metric for _, record in runs}

    def rank(name: str) -> tuple[object, ...]:
        stream, column = split_name(name)
        # Of the losses, that of the training says most; of all others, that of the validation.
        other = column != "loss"
        place = (stream == "system", name not in judged, column == "lr", other, (stream == "train") == other)
        return *place, -counts[name], name

    return sorted(counts, key=rank)


def _find_direction(name: str, runs: list[tuple[RunSummary, RunRecord]]) -> bool:
    for _, record in runs:
        if record.best_metric == name:
            return record.higher_is_better
    return guess_direction(name) or False


def _sizes(folder: Path) -> Hashable:
    sizes = []
    for _, name in list_file_names(folder):
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        sizes.append((name, status.st_ino, status.st_size))
    return tuple(sizes)


def _encode(header: Comparison, lines: list[Line]) -> bytes:
    head = msgspec.json.encode(header)
    head += b" " * (-(len(head) + 4) % 8)
    parts = [struct.pack("<I", len(head)), head]
    for line in lines:
        values = line.y.astype("<f4").tobytes()
        parts += [line.x.astype("<f8").tobytes(), values, b"\0" * (-len(values) % 8)]
    return b"".join(parts)


def _parse(request: Request) -> _Asked:
    query = request.query_params
    ids = tuple(dict.fromkeys(filter(None, (part.strip() for part in query.get("ids", "").split(",")))))
    names = tuple(dict.fromkeys(query.getlist("name")))
    if not 1 <= len(ids) <= _MOST_RUNS:
        raise HTTPException(400, f"Name 1 to {_MOST_RUNS} runs in `ids`, with commas between them.")
    if len(names) > _MOST_METRICS:
        raise HTTPException(400, f"Name at most {_MOST_METRICS} metrics with `name`.")
    try:
        smoothing = min(max(float(query.get("smoothing", "0")), 0.0), _MOST_SMOOTHING)
        window = (float(query["from"]), float(query["to"])) if "from" in query and "to" in query else None
    except ValueError:
        raise HTTPException(400, "`smoothing`, `from` and `to` must be numbers.") from None
    return _Asked(ids, names, 0.0 if math.isnan(smoothing) else smoothing, "log" in query, window)
