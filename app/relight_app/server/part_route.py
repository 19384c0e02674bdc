"""`GET /parts/NAME?…`: the markup of one live area. A browser that has it already gets 304 and no body."""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

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
_MEDIA_TYPE = "text/html; charset=utf-8"
_SHARED_S = 0.1
"""Browsers that ask for the same part within this time share one."""


@dataclass(frozen=True)
class BuiltPart:
    """The markup of a part, also compressed."""

    body: bytes
    zipped: bytes
    etag: str
    failed: bool
    """Whether the part could not be built, so that the markup says why. The browser asks again soon."""


def part_routes() -> list[Route]:
    """Return the route of the parts."""
    limiter = CapacityLimiter(_AT_ONCE)

    async def send_part(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in PARTS:
            raise HTTPException(404, "There is no such part.")
        query = request.query_params
        # When something changes, all browsers ask at the same time: for most of them the part is there.
        part = find_part(name, query)
        if part is None:
            part = await anyio.to_thread.run_sync(build_part, name, query, limiter=limiter)
        headers = {"ETag": part.etag, "Cache-Control": "private, no-cache", "Vary": "Accept-Encoding"}
        if part.failed:
            headers["Relight-Failed"] = "1"
        if request.headers.get("if-none-match") == part.etag:
            return Response(status_code=304, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(part.body, media_type=_MEDIA_TYPE, headers=headers)
        return Response(part.zipped, media_type=_MEDIA_TYPE, headers=headers | {"Content-Encoding": "gzip"})

    return [Route("/parts/{name}", send_part, methods=["GET"])]


def find_part(name: str, query: Mapping[str, str]) -> BuiltPart | None:
    """Return the part if another browser has just asked for it."""
    part: BuiltPart | None = current_engine().memo.known(_key(name, query), max_age_s=_SHARED_S)
    return part


def build_part(name: str, query: Mapping[str, str]) -> BuiltPart:
    """Build a part for the query of a page's address."""
    engine = current_engine()

    def build() -> BuiltPart:
        failed = False
        try:
            markup = PARTS[name].build(engine, _choose_query(name, query))
        except Exception as error:  # the page says what is wrong, in the place of the part
            markup, failed = build_problem(explain(error), key=f"{name}-problem"), True
        body = markup.encode("utf-8", "replace")
        return BuiltPart(body, _compress(body), f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"', failed)

    return engine.memo.recent(_key(name, query), build, max_age_s=_SHARED_S)


def _choose_query(name: str, query: Mapping[str, str]) -> dict[str, str]:
    """Return what the part reads of the query."""
    return {key: value for key, value in query.items() if key in PARTS[name].query}


def _key(name: str, query: Mapping[str, str]) -> Hashable:
    return "part", name, tuple(sorted(_choose_query(name, query).items()))


@functools.lru_cache(maxsize=32)
def _compress(body: bytes) -> bytes:
    """Compress the markup, once for as long as it stays the same."""
    return gzip.compress(body, compresslevel=4)
