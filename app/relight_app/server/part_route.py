"""`GET /parts/NAME?…`: the markup of one live area. A browser that has it already gets 304 and no body."""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Mapping

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relight_app.engine import current_engine
from relight_app.parts.notice import build_problem
from relight_app.parts.registry import PARTS
from relight_app.problems import explain

_AT_ONCE = 4
"""Parts that are built at the same time: more threads would only wait for each other."""
_SHARED_S = 0.1
"""Browsers that ask for the same part within this time share one."""


def part_routes() -> list[Route]:
    """Return the route of the parts."""
    limiter = CapacityLimiter(_AT_ONCE)

    async def send_part(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in PARTS:
            raise HTTPException(404, "There is no such part.")
        known, zipped = request.headers.get("if-none-match"), "gzip" in request.headers.get("accept-encoding", "")

        def answer() -> Response:
            body, etag = build_part(name, request.query_params)
            headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Vary": "Accept-Encoding"}
            if known == etag:
                return Response(status_code=304, headers=headers)
            if zipped:
                body, headers["Content-Encoding"] = _compress(body), "gzip"
            return Response(body, media_type="text/html; charset=utf-8", headers=headers)

        return await anyio.to_thread.run_sync(answer, limiter=limiter)

    return [Route("/parts/{name}", send_part, methods=["GET"])]


@functools.lru_cache(maxsize=32)
def _compress(body: bytes) -> bytes:
    """Compress the markup once for all browsers that get it."""
    return gzip.compress(body, compresslevel=4)


def build_part(name: str, query: Mapping[str, str]) -> tuple[bytes, str]:
    """Build the markup of a part for the query of a page's address; return it with its ETag."""
    query = {key: value for key, value in query.items() if key in PARTS[name].query}
    engine = current_engine()

    def build() -> tuple[bytes, str]:
        try:
            markup = PARTS[name].build(engine, query)
        except Exception as error:  # the page says what is wrong, in the place of the part
            markup = build_problem(explain(error), key=f"{name}-problem")
        body = markup.encode("utf-8", "replace")
        return body, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'

    return engine.memo.recent(("part", name, tuple(sorted(query.items()))), build, max_age_s=_SHARED_S)
