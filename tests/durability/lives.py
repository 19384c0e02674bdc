"""Lives of a saver: start one, read what it was promised, end it, and check what it left behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from relight.checkpoints.deletion import sweep
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.recovery import find_newest_good
from relight.checkpoints.store import CheckpointStore
from tests.durability.saver import Life, snapshot_at

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


@dataclass
class Said:
    """What a life printed, by word, newest last."""

    numbers: dict[str, list[int]] = field(default_factory=dict)
    last_words: str = ""

    def newest(self, word: str) -> int:
        """Return the highest number printed with `word`; 0 if there is none."""
        return max(self.numbers.get(word, ()), default=0)

    def all(self, word: str) -> list[int]:
        """Return all numbers printed with `word`, in order."""
        return self.numbers.get(word, [])

    def hear(self, lines: Iterable[str]) -> None:
        """Read more lines."""
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "ended":
                self.last_words = rest
            else:
                self.numbers.setdefault(word, []).append(int(rest))


class LivingSaver:
    """A running saver. Its pipe ends when the last of its processes is gone."""

    def __init__(self, pipe: int) -> None:
        self.said = Said()
        self._pipe = pipe
        self._rest = b""
        self._open = True

    def wait_for(self, word: str, *, count: int = 1) -> None:
        """Wait until it has printed `word` that many times."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.said.all(word)) < count:
            assert self._open, f"it ended before it said '{word}': {self.said}"
            assert time.monotonic() < deadline, f"it did not say '{word}': {self.said}"
            self._read(0.2)

    def let_live(self, seconds: float) -> None:
        """Read for that many seconds."""
        until = time.monotonic() + seconds
        while self._open and (left := until - time.monotonic()) > 0:
            self._read(left)

    def kill(self, *words: str) -> None:
        """Send SIGKILL to its "trainer", "writer" (the newest one), "second" writer, or its "group" (the trainer's)."""
        for word in words:
            with contextlib.suppress(ProcessLookupError):
                if word == "group":
                    os.killpg(self.said.all("trainer")[-1], signal.SIGKILL)
                elif self.said.all(word):
                    os.kill(self.said.all(word)[-1], signal.SIGKILL)

    def wait_until_gone(self) -> Said:
        """Read until none of its processes is left."""
        deadline = time.monotonic() + PATIENCE_S
        while self._open:
            assert time.monotonic() < deadline, f"it does not end: {self.said}"
            self._read(0.2)
        return self.said

    def end(self) -> None:
        """Kill every process of it that is left."""
        while self._open:
            self.kill("trainer", "writer", "second")
            self._read(0.1)

    def _read(self, timeout_s: float) -> None:
        if not select.select([self._pipe], [], [], timeout_s)[0]:
            return
        data = os.read(self._pipe, 1 << 16)
        if not data:
            self._open = False
            os.close(self._pipe)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.said.hear(line.decode() for line in lines)


class SaverSeries:
    """Many lives with one engine, which is imported once."""

    def __init__(self, engine: str) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.durability.saver", engine, str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=(theirs.fileno(),),
                # After a power cut or a kill everything prints errors, as expected.
                stderr=None if os.environ.get("RELIGHT_SHOW_SAVERS") else subprocess.DEVNULL,
            )

    @contextlib.contextmanager
    def begin(self, folder: Path, *, first_step: int, keep_all: bool = False) -> Iterator[LivingSaver]:
        """Start a life. None of its processes outlives the block."""
        reading, writing = os.pipe()
        message = json.dumps(Life(str(folder), first_step, keep_all)).encode()
        socket.send_fds(self._ours, [message], [writing])
        os.close(writing)
        saver = LivingSaver(reading)
        try:
            yield saver
        finally:
            saver.end()

    def close(self) -> None:
        """Start no more lives."""
        self._ours.close()
        self._process.wait(PATIENCE_S)

    def __enter__(self) -> SaverSeries:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Promises:
    """What was reported as durable over all lives, and the check that it still exists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.next_step = 1
        self.checked = 0
        self.lost_submitted = 0
        """Steps that were handed to the writer and are missing. There must be none while the writer lives."""
        self.kept: set[int] = set()
        """Steps of the latest consecutive lives that removed no old checkpoint."""

    def check(self, said: Said, *, keep_all: bool) -> None:
        """Recover as a resume does, and compare every bit of every checkpoint with what was saved at that step."""
        store = CheckpointStore(self.folder)
        acknowledged = said.newest("durable")
        good, passed = find_newest_good(store)
        assert list(passed) == [], f"a committed checkpoint is damaged: {passed}"
        if good is None and self.next_step == 1 and not acknowledged:
            return  # it died before it was promised anything
        assert good is not None, f"nothing is left of {said}"
        assert good.step >= acknowledged, f"step {acknowledged} was acknowledged, step {good.step} is the newest"
        assert good.step <= max(said.newest("began"), self.next_step - 1), f"step {good.step} was never saved"
        self.lost_submitted = max(0, said.newest("submitted") - good.step)
        listing = store.list()
        assert listing.damaged == []
        there = {info.step: info for info in listing.checkpoints}
        if keep_all:
            self.kept.update(said.all("durable"))
        else:
            self.kept.clear()
        missing = sorted(self.kept - there.keys())
        assert not missing, f"acknowledged and missing: {missing}"
        for step in said.all("pinned")[-2:]:
            assert step in there, f"the pinned checkpoint of step {step} is gone"
            assert "pinned" in there[step].labels, f"step {step} has lost its pin"
        for info in there.values():
            assert_right(store, info)
        sweep(store)
        assert {info.step for info in store.list().checkpoints} == there.keys(), "sweeping up removed a checkpoint"
        assert_right(store, good)
        self.checked += len(there)
        self.next_step = good.step + 1


def assert_right(store: CheckpointStore, info: CheckpointInfo) -> None:
    """Assert that the state and every tensor are what was saved at that step."""
    header, buffers = snapshot_at(info.step)
    with store.open(info) as reader:
        assert reader.state == header.state, f"step {info.step} has another step's state"
        for spec, data in zip(header.tensors, buffers, strict=True):
            assert reader.read(spec.name) == data, f"{spec.name} of step {info.step} is wrong, and loaded in silence"
