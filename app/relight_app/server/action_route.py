"""`POST /actions/NAME`: what a person or a script asks for, as JSON. The guard has checked who asks.

The header `Idempotency-Key` (up to 200 characters) makes a request safe to repeat: it is done once, and answered the
same each time, also by a restarted server. Work that takes long is answered with 202; the same request then waits on.
"""

from __future__ import annotations

import secrets

import anyio.to_thread
import msgspec
from anyio import CapacityLimiter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from relight_app.actions import ACTIONS
from relight_app.answers import ActionAnswer, Answers
from relight_app.engine import current_engine
from relight_app.settings import current_settings

_PATIENCE_S = 10.0
_LONGEST_KEY = 200
_LARGEST_BODY = 1 << 20
_AT_ONCE = 64
"""Requests that may wait for their work; each takes a sleeping thread."""


def action_routes() -> list[Route]:
    """Return the route of the actions."""
    limiter = CapacityLimiter(_AT_ONCE)
    answers: dict[int, Answers] = {}

    async def act(request: Request) -> Response:
        name = request.path_params["name"]
        if current_settings().read_only:
            return _refuse(403, "This dashboard only shows runs: it was started with --read-only.")
        if name not in ACTIONS:
            return _refuse(404, f"There is no action {name!r}. The actions are: {', '.join(ACTIONS)}.")
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
        if kind != "application/json":
            return _refuse(415, "The body of an action must be application/json.")
        key = request.headers.get("idempotency-key") or secrets.token_hex(16)
        if len(key) > _LONGEST_KEY:
            return _refuse(400, f"An idempotency key has at most {_LONGEST_KEY} characters.")
        body = b""
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > _LARGEST_BODY:
                    return _refuse(413, "The body of an action has at most 1 MiB.")
        except ClientDisconnect:
            return _refuse(400, "The connection ended in the middle of the request, so nothing was done.")
        engine = current_engine()
        known = answers.setdefault(id(engine), Answers(engine))
        answer = await anyio.to_thread.run_sync(
            lambda: known.answer(name, body, key=key, patience_s=_PATIENCE_S), limiter=limiter, abandon_on_cancel=True
        )
        return _send(answer)

    return [Route("/actions/{name}", act, methods=["POST"])]


def _send(answer: ActionAnswer) -> Response:
    return Response(
        msgspec.json.encode(answer.body),
        status_code=answer.status,
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _refuse(status: int, sentence: str) -> Response:
    return _send(ActionAnswer(status=status, body={"problem": sentence, "traceback": None}))
