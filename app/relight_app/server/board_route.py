"""The route for a run's chart board: which charts it has, and the run's story that is marked on them.

`GET /api/board?run=ID` answers with the JSON of `Board` and an ETag. The browser asks again when the live stream says
that the run has new metrics, attempts or checkpoints.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import anyio.to_thread
import msgspec
from anyio import CapacityLimiter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relight.errors import DamagedFile, RelightError
from relight.overview.summary import RunSummary
from relight.runs.layout import RunLayout
from relight.runs.progress import Progress, read_progress
from relight.runs.record_file import read_record_if_there
from relight.runs.records import AttemptExit, AttemptStart
from relight.runs.status import RunStatus
from relight_app.charts import ChartGroup, plan_board
from relight_app.engine import Engine, current_engine
from relight_app.server.files import find_layout

EdgeKind = Literal["crash", "interruption", "stop", "resume"]
_ATTEMPTS = 100
_AT_ONCE = 4
_SHARED_S = 0.1
"""Browsers that ask for the same board within this time share one."""
_REASON_CHARACTERS = 200
_ENDS: dict[str, EdgeKind] = {"crashed": "crash", "stopped": "stop", "interrupted": "interruption"}
_REFUSALS = {RunStatus.FINISHED: "The run has finished."}


class Edge(msgspec.Struct, frozen=True):
    """The end or the beginning of an attempt, where training did not simply go on."""

    kind: EdgeKind
    attempt: int
    step: int
    time_s: float | None
    text: str


class Dot(msgspec.Struct, frozen=True):
    """A checkpoint on the curves."""

    step: int
    time_s: float
    best: bool = False
    pinned: bool = False


class Origin(msgspec.Struct, frozen=True):
    """The run that a branch came from, whose curves are drawn behind its own."""

    run: str
    name: str
    step: int


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on the chart board of one run but the values."""

    run: str
    name: str
    live: bool
    attempt: int
    began_s: float | None
    """When the first attempt began."""
    ended_s: float | None
    """When the newest one ended; None while it is live."""
    steps_per_epoch: float | None
    groups: tuple[ChartGroup, ...]
    edges: tuple[Edge, ...]
    checkpoints: tuple[Dot, ...]
    durable_step: int | None
    resume_refusal: str | None
    """Why the run cannot be resumed from a checkpoint now."""
    origin: Origin | None


def board_routes() -> list[Route]:
    """Return the route `/api/board?run=`."""
    limiter = CapacityLimiter(_AT_ONCE)

    async def send_board(request: Request) -> Response:
        layout = find_layout(request.query_params.get("run", ""))
        body, etag = await anyio.to_thread.run_sync(build_board, layout, limiter=limiter)
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    return [Route("/api/board", send_board, methods=["GET"])]


def read_board(engine: Engine, layout: RunLayout) -> Board:
    """Read what the run's board shows. Raises `RelightError` for a run that cannot be read."""
    run = engine.read_run(layout.run_id)
    record = engine.read_record(layout.run_id)
    edges, began_s, ended_s = _read_edges(layout, run)
    return Board(
        run=layout.run_id,
        name=run.name,
        live=run.status.is_live,
        attempt=run.attempt,
        began_s=began_s,
        ended_s=None if run.status.is_live else ended_s,
        steps_per_epoch=_count_epoch_steps(read_progress(layout.attempt(run.attempt).progress)),
        groups=plan_board(engine.list_metrics(layout.run_id), best_metric=record.best_metric, cards=_find_cards(run)),
        edges=edges,
        checkpoints=tuple(
            Dot(info.step, info.time_s, "best" in info.labels, "pinned" in info.labels)
            for info in engine.list_checkpoints(layout.run_id).checkpoints
        ),
        durable_step=run.durable_step,
        resume_refusal="Stop the run first." if run.status.is_live else _REFUSALS.get(run.status),
        origin=_find_origin(engine, run),
    )


def _find_cards(run: RunSummary) -> dict[int, str]:
    """Return the cards that the run uses, as far as they are known, with the rank on each."""
    ranks = {each.gpu: f"rank {each.rank}" for each in run.ranks or () if each.gpu is not None}
    return {**dict.fromkeys(run.gpus or (), ""), **ranks}


def build_board(layout: RunLayout) -> tuple[bytes, str]:
    """Return the JSON of the run's board with its ETag. Raises `HTTPException` for a run that cannot be read."""
    engine = current_engine()

    def build() -> tuple[bytes, str]:
        try:
            body = msgspec.json.encode(read_board(engine, layout))
        except DamagedFile as error:
            raise HTTPException(409, str(error)) from error
        except RelightError as error:
            raise HTTPException(404, str(error)) from error
        return body, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'

    return engine.memo.recent(("board", layout.run_id), build, max_age_s=_SHARED_S)


def _read_edges(layout: RunLayout, run: RunSummary) -> tuple[tuple[Edge, ...], float | None, float | None]:
    """Return the edges of the newest attempts, and when the first of these began and the last one ended."""
    edges: list[Edge] = []
    began_s = ended_s = None
    numbers = layout.list_attempts()[-_ATTEMPTS:]
    for number in numbers:
        attempt = layout.attempt(number)
        progress = read_progress(attempt.progress)
        try:
            start = read_record_if_there(attempt.start, AttemptStart)
            exit = read_record_if_there(attempt.exit, AttemptExit)
        except DamagedFile:
            continue  # the list of attempts says so
        if start is not None:
            began_s = began_s or start.time_s
            if number > 1:
                text = f"Attempt {number} continued from step {start.from_step:,}"
                edges.append(Edge("resume", number, start.from_step, start.time_s, text))
        last = number == numbers[-1]
        if last and run.status.is_live:
            continue
        outcome = str(run.status) if last else (exit.outcome if exit is not None else "interrupted")
        ended_s = exit.time_s if exit is not None else (progress.time_s if progress is not None else None)
        step = progress.step if progress is not None else (exit.step if exit is not None else 0)
        kind = _ENDS.get(outcome)
        if kind is not None:
            reason = run.reason if last else (exit.reason or exit.error or "" if exit is not None else "")
            edges.append(Edge(kind, number, step, ended_s, _word_end(number, outcome, step, reason)))
    return tuple(edges), began_s, ended_s


def _word_end(number: int, outcome: str, step: int, reason: str) -> str:
    said = f"Attempt {number} {'was ' if outcome != 'crashed' else ''}{outcome} at step {step:,}"
    return f"{said}: {reason[:_REASON_CHARACTERS]}" if reason else said


def _count_epoch_steps(progress: Progress | None) -> float | None:
    """Return how many steps an epoch has; None when unknown."""
    if progress is None:
        return None
    if progress.steps_total > 0 and progress.epochs > 0:
        return progress.steps_total / progress.epochs
    return float(progress.batches) or None


def _find_origin(engine: Engine, run: RunSummary) -> Origin | None:
    """Return the parent whose curves the branch continues; None without one in this folder."""
    parent = run.parent
    if parent is None or parent.weights_only:
        return None
    try:
        return Origin(parent.run, engine.read_run(engine.find_layout(parent.run).run_id).name, parent.step)
    except RelightError:
        return None
