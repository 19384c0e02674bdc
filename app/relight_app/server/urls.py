"""The addresses of the dashboard's download routes, relative to the site."""

from __future__ import annotations

from urllib.parse import quote


def download_url(run: str, file_name: str) -> str:
    """Return the address of a file in the run's `exports/`."""
    return f"/files/{quote(run, safe='')}/exports/{quote(file_name, safe='')}"


def log_url(run: str, *, attempt: int) -> str:
    """Return the address of an attempt's full log as text."""
    return f"/files/{quote(run, safe='')}/log.txt?attempt={attempt}"


def csv_url(run: str) -> str:
    """Return the address of all the run's metrics as CSV."""
    return f"/files/{quote(run, safe='')}/metrics.csv"
