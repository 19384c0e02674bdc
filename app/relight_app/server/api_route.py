"""`GET /api/runs…`: what the command line prints with `--json`, for scripts. docs/http-api.md describes it.

Errors are JSON too: `{"problem": "…"}` with the sentence of the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio.to_thread
import msgspec
from anyio import CapacityLimiter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relight.errors import RelightError, RunNotFound
from relight.metrics.metric_summary import summarize_metrics
from relight.overview.run_filter import select_runs
from relight_app.engine import Engine, current_engine
from relight_app.problems import explain

_AT_ONCE = 4

Read = Callable[[Engine, Request], Any]


def api_routes() -> list[Route]:
    """Return the routes."""
    limiter = CapacityLimiter(_AT_ONCE)

    def route(path: str, read: Read) -> Route:
        async def send(request: Request) -> Response:
            status, body = await anyio.to_thread.run_sync(_answer, read, request, limiter=limiter)
            return Response(
                body, status_code=status, media_type="application/json", headers={"Cache-Control": "no-store"}
            )

        return Route(path, send, methods=["GET"])

    return [
        route("/api/runs", _list_runs),
        route("/api/runs/{run}", _show_run),
        route("/api/runs/{run}/checkpoints", _list_checkpoints),
        route("/api/runs/{run}/metrics", _list_metrics),
        route("/api/runs/{run}/attempts", _list_attempts),
        route("/api/runs/{run}/exports", _list_exports),
        route("/api/runs/{run}/log", _read_log),
    ]


def _answer(read: Read, request: Request) -> tuple[int, bytes]:
    try:
        return 200, msgspec.json.encode(read(current_engine(), request), enc_hook=str)
    except RunNotFound as error:
        return 404, msgspec.json.encode({"problem": str(error)})
    except RelightError as error:
        return 409 if error.exit_code == 1 else 400, msgspec.json.encode({"problem": str(error)})
    except Exception as error:
        return 500, msgspec.json.encode({"problem": explain(error).sentence})


def _list_runs(engine: Engine, request: Request) -> Any:
    query = request.query_params
    listing = engine.list_runs()
    text = query.get("filter", "")
    chosen = select_runs(listing.runs, text=text, sort=query.get("sort", ""), archived="archived" in query)
    return [*chosen.runs, *(run.list_facts() for run in (() if text else listing.damaged))]


def _show_run(engine: Engine, request: Request) -> Any:
    run = _find(engine, request)
    summary = engine.read_run(run)
    proof = engine.read_proof(summary, engine.read_record(run))
    return msgspec.to_builtins(summary) | {
        "proof": proof.list_facts() if proof is not None else None,
        "death": engine.explain_death(run),
    }


def _list_checkpoints(engine: Engine, request: Request) -> Any:
    return [info.list_facts() for info in engine.list_checkpoints(_find(engine, request)).checkpoints]


def _list_metrics(engine: Engine, request: Request) -> Any:
    streams = request.query_params.getlist("stream")
    return summarize_metrics(engine.find_layout(_find(engine, request)).metrics, streams or None)


def _list_attempts(engine: Engine, request: Request) -> Any:
    return engine.list_attempts(engine.read_run(_find(engine, request)))


def _list_exports(engine: Engine, request: Request) -> Any:
    return engine.list_exports(_find(engine, request))


def _read_log(engine: Engine, request: Request) -> Any:
    run = _find(engine, request)
    asked = request.query_params.get("attempt", "")
    known = engine.list_attempt_numbers(run)
    number = int(asked) if asked.isdecimal() and len(asked) < 10 else engine.read_run(run).attempt
    if known and number not in known:
        raise RunNotFound(f"{run} has no attempt {number}: it has {', '.join(map(str, known))}.")
    text = engine.read_log(run, attempt=number)
    path = engine.find_layout(run).attempt(number).log
    return {"run": run, "attempt": number, "path": str(path), "lines": text.splitlines()}


def _find(engine: Engine, request: Request) -> str:
    return engine.find_layout(request.path_params["run"]).run_id
