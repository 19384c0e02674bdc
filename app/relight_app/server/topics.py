"""What the parts depend on, as tokens: a token that differs means that the topic has changed.

life   what a run does: its status, attempt, phase, and what is durable
files  what is in its folder: checkpoints, labels, exports, attempts, notes
log    the log of its newest attempt
names  its metrics: a new stream or column has begun
runs   the list of runs
jobs   the work of this server

Progress is not a topic: the figures of a run tick with its `state` events.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import xxhash

from relight.checkpoints.file_names import StoreLayout
from relight.errors import RelightError
from relight.runs.layout import RunLayout
from relight_app.engine import Engine
from relight_app.server.live_state import LiveState
from relight_app.server.pace import Pace

Topics = dict[str, str]

GONE: Topics = dict.fromkeys(("life", "files", "log", "names"), "gone")
_LISTING_INTERVAL_S = 0.5
_LISTING_SHARE = 0.06
"""Reading the list takes at most this share of a processor: 1,000 runs that do nothing are read once a second."""


def read_topics(layout: RunLayout, state: LiveState) -> Topics:
    """Return the tokens of a run's topics; a few `stat` calls."""
    life = (state.status, state.reason, state.attempt, state.phase, state.durable_step, state.best_step,
            state.saving_failure)  # fmt: skip
    attempt = layout.attempt(state.attempt)
    store = StoreLayout(layout.checkpoints)
    folders = (layout.folder, store.manifests, store.labels, layout.exports, layout.attempts, attempt.folder)
    return {
        "life": _digest(repr(life)),
        "files": _digest(repr([_mark(path) for path in folders])),
        "log": _digest(repr((state.attempt, _mark(attempt.log)))),
        "names": _digest(repr((_mark(layout.metrics), sorted(state.metrics)))),
    }


class ListingTopic:
    """The token of the list of runs, read at most twice a second for all watchers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._token = ""
        self._pace = Pace(_LISTING_INTERVAL_S, share=_LISTING_SHARE)

    def read(self) -> str:
        """Return the token."""
        if self._pace.is_due:
            with self._pace.reading():
                try:
                    self._token = _digest(msgspec.json.encode(self._engine.list_runs()))
                except RelightError as error:
                    self._token = _digest(str(error))
        return self._token


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _digest(content: str | bytes) -> str:
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    return xxhash.xxh3_64_hexdigest(data)
