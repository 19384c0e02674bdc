"""The addresses of the dashboard's own routes, relative to the site, for links and for the browser side."""

from __future__ import annotations

from urllib.parse import quote, urlencode


def download_url(run: str, file_name: str) -> str:
    """Address of a file in the run's `exports/`, sent as an attachment with ranges."""
    return f"/files/{quote(run, safe='')}/exports/{quote(file_name, safe='')}"


def log_url(run: str, *, attempt: int | None = None, download: bool = False) -> str:
    """Address of an attempt's whole log as text; the newest attempt's when none is given."""
    query = {} if attempt is None else {"attempt": str(attempt)}
    if download:
        query["download"] = "1"
    return f"/files/{quote(run, safe='')}/log.txt" + (f"?{urlencode(query)}" if query else "")


def csv_url(run: str, *, stream: str | None = None, ghosts: bool = False) -> str:
    """Address of the run's metrics as CSV: all streams, or one of them; with what was trained twice, if asked for."""
    query = {} if stream is None else {"stream": stream}
    if ghosts:
        query["ghosts"] = "1"
    return f"/files/{quote(run, safe='')}/metrics.csv" + (f"?{urlencode(query)}" if query else "")
