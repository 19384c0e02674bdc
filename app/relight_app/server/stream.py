"""The live stream: one endless response per open tab, with everything that its page shows.

`/api/stream?watch=RUN/stream,stream&watch=RUN2/&listing=1&machine=1` sends rows of the named metric streams, the state
of every named run and what has changed in its folder, with `listing` whether the list of runs has changed, and with
`machine` the figures of the machine. There is no `since` parameter: each stream begins with the
number of records in each file, and the browser compares these with what it has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relight_app.server.browser_work import ClosingResponse
from relight_app.server.events import BYE
from relight_app.server.hub import Hub, Watch

_RECONNECT_MS = 500
_MOST_RUNS = 100


def stream_routes(hub: Hub) -> list[Route]:
    """Return the route of the live stream."""

    async def send_stream(request: Request) -> Response:
        asked = request.query_params
        watch = parse_watch(asked.getlist("watch"), machine="machine" in asked, listing="listing" in asked)
        return ClosingResponse(
            _send_events(hub, watch),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return [Route("/api/stream", send_stream, methods=["GET"])]


def parse_watch(texts: list[str], *, machine: bool, listing: bool = False) -> Watch:
    """Parse the `watch` values of an address, "RUN/stream,stream"; respond 400 if one is malformed."""
    runs: dict[str, frozenset[str]] = {}
    for text in texts:
        run, slash, streams = text.partition("/")
        if not slash or not run or run.startswith(".") or "\0" in run or "\\" in run:
            raise HTTPException(400, "Each `watch` must have the form RUN/stream,stream.")
        runs[run] = runs.get(run, frozenset()) | frozenset(filter(None, streams.split(",")))
    if len(runs) > _MOST_RUNS:
        raise HTTPException(400, f"One tab can watch at most {_MOST_RUNS} runs.")
    return Watch(runs, machine, listing)


async def _send_events(hub: Hub, watch: Watch) -> AsyncGenerator[bytes, None]:
    watcher = hub.watch(watch)
    try:
        yield b"retry: %d\n\n" % _RECONNECT_MS
        while (events := await watcher.events()) is not None:
            yield b"".join(events)
        yield BYE
    finally:
        hub.leave(watcher)
