"""Training loops that take turns, each in its own process: a few steps of one, then as many of the next.

Whatever else the machine does then affects all of them alike, and their times can be compared in pairs.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class Turns:
    """The loop's side: call `edge` at the beginning of each step. It times blocks of steps, and waits between them."""

    def __init__(self, block: int) -> None:
        self._block = block
        self._steps = 0
        self._processor_s = 0.0
        self._edges: list[float] = []
        self._answer = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what the loop itself prints goes to stderr

    def edge(self) -> None:
        """Note the beginning of a step."""
        self._edges.append(time.perf_counter())
        if self._steps % self._block == 0:
            self._answer.write(f"{self._sum_up()}\n")
            if not sys.stdin.readline():
                os._exit(1)  # the process that measures is gone
            self._processor_s = time.process_time()
            self._edges = [time.perf_counter()]
        self._steps += 1

    def _sum_up(self) -> str:
        edges, processor_s = self._edges, time.process_time() - self._processor_s
        steps_s = [after - before for before, after in itertools.pairwise(edges)]
        return f"{edges[-1] - edges[0]} {processor_s} {statistics.median(steps_s) if steps_s else 0.0}"


@dataclass(frozen=True)
class Block:
    """The seconds that a block of steps took.

    `wall_s` is the wall-clock time of the block, and `processor_s` its processor time over all threads. `typical_s` is
    the median wall-clock time of its steps: an interruption of single steps, or a rare chore of the loop, does not show
    in it.
    """

    wall_s: float
    processor_s: float
    typical_s: float


class Racer:
    """The measuring side: one loop in one process."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=dict(environment)
            )
        self._read()  # the loop is ready for its first block

    def run_block(self) -> Block:
        """Let the loop run its next block, and return how long that took."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return Block(*map(float, self._read().split()))

    def close(self) -> None:
        """End the loop."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise SystemExit(f"A loop ended before all its blocks were measured:\n{self._log.read_text()[-4000:]}")
        return line


def race(racers: Mapping[str, Racer], *, rounds: int, warm_up: int) -> dict[str, list[Block]]:
    """Let the loops take turns, `warm_up` rounds and then `rounds` measured ones. Returns the blocks by loop.

    Each round starts with the next loop, so that no loop always runs in the same place.
    """
    names = list(racers)
    times: dict[str, list[Block]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            block = racers[name].run_block()
            if number >= warm_up:
                times[name].append(block)
    return times
