"""The addresses of the dashboard: its pages, downloads, browser modules. The only place that knows where they begin."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from urllib.parse import quote

from relight_app.settings import current_settings

MODULES = Path(__file__).parent / "live" / "browser"
"""The folder of the browser modules."""
PLOTLY = Path(__file__).parent / "live" / "plotly" / "plotly-scatter.min.js"
"""Plotly.js without the traces that the dashboard does not draw; `scripts/build-plotly` makes it."""
_IMPORTED = re.compile(r"from '\./([a-z_]+\.js)'")


def site_path(path: str) -> str:
    """Return the address of a page or route of this site, which may be served below another path than "/"."""
    return current_settings().base_path + path


def download_url(run: str, file_name: str) -> str:
    """Return the address of a file in the run's `exports/`."""
    return site_path(f"/files/{quote(run, safe='')}/exports/{quote(file_name, safe='')}")


def log_url(run: str, *, attempt: int, rank: int = 0) -> str:
    """Return the address of the full log of an attempt, or of one of its ranks, as text."""
    of_rank = f"&rank={rank}" if rank else ""
    return site_path(f"/files/{quote(run, safe='')}/log.txt?attempt={attempt}{of_rank}")


def csv_url(run: str) -> str:
    """Return the address of all the run's metrics as CSV."""
    return site_path(f"/files/{quote(run, safe='')}/metrics.csv")


def plotly_url() -> str:
    """Return the address of Plotly.js; it changes when the file does."""
    return site_path(f"/assets/plotly/{_digest_plotly()}/{PLOTLY.name}")


def module_url(name: str) -> str:
    """Return the address of a browser module of `relight_app.live`; it changes when any of these modules changes."""
    return site_path(f"/assets/live/{_digest_modules()}/{name}")


def list_modules(names: Collection[str]) -> list[str]:
    """Return these browser modules and all that they import."""
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= _read_imports(name) - found
    return sorted(found)


@cache
def _read_imports(name: str) -> frozenset[str]:
    return frozenset(_IMPORTED.findall((MODULES / name).read_text(encoding="utf-8")))


@cache
def _digest_plotly() -> str:
    return hashlib.sha256(PLOTLY.read_bytes()).hexdigest()[:16]


@cache
def _digest_modules() -> str:
    digest = hashlib.sha256()
    for path in sorted(MODULES.glob("*.js")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
