"""The hub of the live streams: one thread follows the watched runs and passes new events to all watchers.

Beside rows and figures it says which topics have changed, so that the browser asks for the parts that show them again.

The thread reads files ten times a second, only while there are watchers. It encodes every event once and passes the
bytes to all watchers. A slow watcher loses events without notice: rows carry their positions, so the browser sees the
gap and reads the history again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from relight.metrics.tail import MetricTail
from relight.runs.layout import RunLayout
from relight_app.engine import Engine
from relight_app.machine_reader import latest_machine_report
from relight_app.server.events import (
    KEEP_ALIVE,
    encode_changed,
    encode_gone,
    encode_hello,
    encode_machine,
    encode_reset,
    encode_rows,
    encode_state,
)
from relight_app.server.live_state import LiveState, read_live_state
from relight_app.server.pace import Pace
from relight_app.server.topics import GONE, ListingTopic, Topics, read_topics

_log = logging.getLogger(__name__)

INTERVAL_S = 0.1
_SEND_S = 0.005
"""There is a round at most every so many seconds for each watcher: 50 browsers get news four times a second."""
_KEEP_ALIVE_S = 5.0
_STATE_INTERVAL_S = 0.25
_STATE_SHARE = 0.1
"""Reading the state of a run takes at most this share of a processor."""
_MACHINE_INTERVAL_S = 1.0
_EVENTS_WAITING = 500
_MOST_ROWS = 5_000
"""If one file has more new rows, only the last ones are sent: the browser sees the gap and reads the history."""


@dataclass(frozen=True)
class Watch:
    """The subscription of one stream: runs with their metric streams, the list of runs, and the machine."""

    runs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    machine: bool = False
    listing: bool = False


class Watcher:
    """The receiving end of one stream, on the event loop."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.welcomed: set[str] = set()
        """The runs whose state and positions this watcher has got; only the hub's thread uses it."""
        self.machine_time = 0.0
        self.topics: dict[str, Topics] = {}
        """What this watcher was told last, by run; "" for what belongs to no run."""
        self._events: list[bytes] = []
        self._ready = asyncio.Event()
        self._ended = False
        self._idle = False

    async def events(self) -> list[bytes] | None:
        """Wait for events and return them; return None when the server shuts down."""
        if not self._events and not self._ended:
            await self._ready.wait()
        events, self._events = self._events, []
        self._ready.clear()
        return None if self._ended and not events else events

    def offer(self, events: list[bytes]) -> None:
        """Add events; only on the event loop."""
        if len(self._events) + len(events) > _EVENTS_WAITING:
            self._events.clear()
        self._events.extend(events)
        self._idle = False
        self._ready.set()

    def keep_alive(self) -> None:
        """Add a comment if there were no events since the last call; only on the event loop."""
        if self._idle:
            self.offer([KEEP_ALIVE])
        self._idle = True

    def end(self) -> None:
        """End the stream; only on the event loop."""
        self._ended = True
        self._ready.set()


class _WatchedRun:
    """The hub's state of one run."""

    def __init__(self, layout: RunLayout) -> None:
        self.layout = layout
        self.tail = MetricTail(layout.metrics, from_start=False)
        self.state: LiveState | None = None
        self.topics: Topics = {}
        self.pace = Pace(_STATE_INTERVAL_S, share=_STATE_SHARE)


class Hub:
    """Owns the thread. Call `start`, `watch` and `leave` on the event loop; `stop` also from a signal handler."""

    def __init__(self, engine: Engine, *, interval_s: float = INTERVAL_S) -> None:
        self._engine = engine
        self._folder = engine.folder
        self._interval_s = interval_s
        self._listing = ListingTopic(engine)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: list[Watcher] = []
        self._failing: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relight-hub", daemon=True)

    def start(self) -> None:
        """Start the thread; it sleeps until there is a watcher."""
        self._loop = asyncio.get_running_loop()
        self._keep_alive()
        self._thread.start()

    def watch(self, watch: Watch) -> Watcher:
        """Add a watcher; it immediately gets the positions and states of its runs."""
        watcher = Watcher(watch)
        with self._lock:
            self._watchers = [*self._watchers, watcher]
        self._wake.set()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Remove a watcher."""
        with self._lock:
            self._watchers = [other for other in self._watchers if other is not watcher]

    def stop(self) -> None:
        """End all streams and the thread; return immediately."""
        self._stopping.set()
        self._wake.set()
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._end_watchers)

    def _keep_alive(self) -> None:
        for watcher in self._watchers:
            watcher.keep_alive()
        if self._loop is not None and not self._stopping.is_set():
            self._loop.call_later(_KEEP_ALIVE_S, self._keep_alive)

    def _end_watchers(self) -> None:
        for watcher in self._watchers:
            watcher.end()

    def _run(self) -> None:
        runs: dict[str, _WatchedRun | None] = {}
        while not self._stopping.is_set():
            watchers = self._watchers
            if not watchers:
                runs.clear()
                self._wake.wait()
                self._wake.clear()
                continue
            began = time.monotonic()
            try:
                self._deliver(self._follow(runs, watchers))
            except Exception:
                _log.exception("The live stream had an unexpected error; it continues.")
            interval_s = max(self._interval_s, _SEND_S * len(watchers))
            self._wake.wait(max(0.01, interval_s - (time.monotonic() - began)))
            self._wake.clear()

    def _follow(
        self, runs: dict[str, _WatchedRun | None], watchers: list[Watcher]
    ) -> list[tuple[Watcher, list[bytes]]]:
        """Do one round; return the new events of each watcher."""
        wanted = {run for watcher in watchers for run in watcher.watch.runs}
        for run in list(runs):
            if run not in wanted:
                del runs[run]
                self._failing.discard(run)
        mail: dict[Watcher, list[bytes]] = {watcher: [] for watcher in watchers}
        for run in wanted:
            try:
                self._follow_run(runs, run, [watcher for watcher in watchers if run in watcher.watch.runs], mail)
                self._failing.discard(run)
            except Exception:  # one run must not silence the others, nor fill the disk with tracebacks
                if run not in self._failing:
                    self._failing.add(run)
                    _log.exception("The live stream of %s had an unexpected error; it continues.", run)
        self._follow_machine([watcher for watcher in watchers if watcher.watch.machine], mail)
        self._follow_site(watchers, mail)
        return [(watcher, events) for watcher, events in mail.items() if events]

    def _follow_run(
        self,
        runs: dict[str, _WatchedRun | None],
        run: str,
        watchers: list[Watcher],
        mail: dict[Watcher, list[bytes]],
    ) -> None:
        known = [watcher for watcher in watchers if run in watcher.welcomed]
        layout = RunLayout(self._folder / run)
        watched = runs.get(run)
        if not layout.is_run():
            if watched is not None or run not in runs or len(known) < len(watchers):
                _send(watchers, mail, [encode_gone(run)])
            runs[run] = None
            for watcher in watchers:
                watcher.welcomed.add(run)
            self._tell_topics(run, GONE, watchers, mail)
            return
        if watched is None:  # a new run, or one that has reappeared
            watched = runs[run] = _WatchedRun(layout)
            known = []
        blocks = watched.tail.poll()
        if watched.tail.replaced:
            _send(known, mail, [encode_reset(run)])
        for block in blocks:
            interested = [watcher for watcher in known if block.header.stream in watcher.watch.runs[run]]
            if interested:
                _send(interested, mail, [encode_rows(run, block.keep_last(_MOST_ROWS))])
        self._follow_state(run, watched, known, mail)
        fresh = [watcher for watcher in watchers if watcher not in known]
        if fresh:
            events = [encode_hello(run, watched.tail.positions())]
            if watched.state is not None:
                events.append(encode_state(run, watched.state))
            _send(fresh, mail, events)
            for watcher in fresh:
                watcher.welcomed.add(run)
        self._tell_topics(run, watched.topics, watchers, mail)

    def _follow_site(self, watchers: list[Watcher], mail: dict[Watcher, list[bytes]]) -> None:
        """Say what has changed beside the runs that are watched: the work of this server, and the list of runs."""
        jobs = str(self._engine.jobs.version)
        self._tell_topics("", {"jobs": jobs}, [watcher for watcher in watchers if not watcher.watch.listing], mail)
        listed = [watcher for watcher in watchers if watcher.watch.listing]
        if listed:
            self._tell_topics("", {"jobs": jobs, "runs": self._listing.read()}, listed, mail)

    def _tell_topics(self, run: str, topics: Topics, watchers: list[Watcher], mail: dict[Watcher, list[bytes]]) -> None:
        behind = [watcher for watcher in watchers if watcher.topics.get(run) != topics]
        if behind:
            self._engine.memo.forget()  # first: browsers that are told must not get what was read before
            _send(behind, mail, [encode_changed(run, topics)])
            for watcher in behind:
                watcher.topics[run] = topics

    def _follow_state(
        self, run: str, watched: _WatchedRun, known: list[Watcher], mail: dict[Watcher, list[bytes]]
    ) -> None:
        if not watched.pace.is_due:
            return
        with watched.pace.reading():  # in one go, so that browsers ask for each part once
            state = read_live_state(watched.layout)
            watched.topics = read_topics(watched.layout, state)
        if state != watched.state:
            watched.state = state
            _send(known, mail, [encode_state(run, state)])

    def _follow_machine(self, watchers: list[Watcher], mail: dict[Watcher, list[bytes]]) -> None:
        if not watchers:
            return
        report = latest_machine_report()
        late = [watcher for watcher in watchers if abs(report.time - watcher.machine_time) >= _MACHINE_INTERVAL_S * 0.5]
        if report.host is not None and late:
            _send(late, mail, [encode_machine(report)])
            for watcher in late:
                watcher.machine_time = report.time

    def _deliver(self, mail: list[tuple[Watcher, list[bytes]]]) -> None:
        loop = self._loop
        if not mail or loop is None or loop.is_closed():
            return

        def hand_out() -> None:
            for watcher, events in mail:
                watcher.offer(events)

        try:
            loop.call_soon_threadsafe(hand_out)
        except RuntimeError:  # the loop has closed in the meantime
            self._stopping.set()


def _send(watchers: Iterable[Watcher], mail: dict[Watcher, list[bytes]], events: list[bytes]) -> None:
    for watcher in watchers:
        mail[watcher].extend(events)
