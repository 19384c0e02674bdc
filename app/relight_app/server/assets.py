"""Routes for Plotly.js, our browser modules, fonts and icons: the browser loads nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from relight_app.urls import MODULES, PLOTLY

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = {"fonts": _PACKAGE / "theme" / "fonts", "images": _PACKAGE / "assets"}
_MEDIA_TYPES = {".js": "text/javascript", ".svg": "image/svg+xml", ".woff2": "font/woff2", ".png": "image/png"}
_FOREVER = "private, max-age=31536000, immutable"
_A_DAY = "private, max-age=86400"


def asset_routes() -> list[Route]:
    """Return the routes under /assets. Addresses with a version or digest are cached for a year."""
    return [
        Route("/assets/plotly/{digest}/{name}", _send_plotly, methods=["GET", "HEAD"]),
        Route("/assets/live/{digest}/{name}", _send_module, methods=["GET", "HEAD"]),
        Route("/assets/{folder}/{name}", _send_from_folder, methods=["GET", "HEAD"]),
        Route("/assets/{name}", _send_image, methods=["GET", "HEAD"]),
    ]


async def _send_plotly(request: Request) -> Response:
    return _send(_named(PLOTLY.parent, request.path_params["name"]), cache_control=_FOREVER)


async def _send_module(request: Request) -> Response:
    return _send(_named(MODULES, request.path_params["name"]), cache_control=_FOREVER)


async def _send_from_folder(request: Request) -> Response:
    folder = _FOLDERS.get(request.path_params["folder"])
    if folder is None:
        raise HTTPException(404)
    return _send(_named(folder, request.path_params["name"]), cache_control=_A_DAY)


async def _send_image(request: Request) -> Response:
    return _send(_named(_FOLDERS["images"], request.path_params["name"]), cache_control=_A_DAY)


def _named(folder: Path, name: str) -> Path:
    """Find a file in `folder` by listing the folder, so that no name can lead outside; respond 404 without one."""
    for path in folder.iterdir():
        if path.name == name and path.suffix in _MEDIA_TYPES and path.is_file():
            return path
    raise HTTPException(404)


def _send(path: Path, *, cache_control: str) -> Response:
    headers = {"Cache-Control": cache_control, "Content-Encoding": "identity"}
    return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix], headers=headers)
