"""A script's place in its loops (`run.epochs`, `run.steps`, passes over loaders), and how a resume returns to it.

A script's code cannot be entered in the middle, so a resume runs it from its beginning and steers its loops:

* a loop in which it trained, and which had ended, yields nothing;
* one in which nothing was trained (a validation, a look at the data) runs again as it did;
* one that was running continues where it was.

The place is the way to the last step edge: for each loop under way its kind, its name, which loops had ended before it
in the same body ("t": trained in it, "e": not), and where it was. A pass counts what it has consumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from relight.errors import RelightError, UsageError
from relight.training.script.loop_source import Consumer, Doubt

Kind = Literal["epochs", "steps", "batches"]
Judge = Callable[[Consumer | None, Sequence[Consumer | None]], tuple[Doubt | None, bool]]
TRAINED, PASSED = "t", "e"
_IN_WORDS = {"epochs": "run.epochs", "steps": "run.steps", "batches": "a loader"}


class Level(msgspec.Struct, frozen=True, gc=False):
    """One running loop, as a checkpoint stores it."""

    kind: str
    name: str
    before: str
    number: int


class Place(msgspec.Struct, frozen=True, gc=False):
    """A place between two iterations: the running loops, outermost first, and the loops that ended in the last body."""

    levels: tuple[Level, ...]
    done: str = ""

    def to_state(self) -> tuple[Any, ...]:
        """Return it as plain tuples."""
        return (tuple(map(msgspec.structs.astuple, self.levels)), self.done)

    @classmethod
    def from_state(cls, state: Any) -> Place:
        """Reverse `to_state`."""
        levels, done = state
        return cls(tuple(Level(*level) for level in levels), str(done))


@dataclass(eq=False)
class Loop:
    """A running loop. `index` is the iteration, counted from 0; for a pass, what has been consumed."""

    kind: Kind
    name: str
    index: int
    before: str
    trained: bool = False
    strayed: bool = False
    """Whether a kept iterator runs across its iterations, so that places inside it are unknown."""
    stepped: int = -1
    """The iteration of the last step."""
    steps: int = 0
    """Steps taken in this iteration."""
    parallel: bool = False
    """Whether this pass runs in parallel to another one, as in `zip`."""
    passed: bool = False
    """Whether it advanced once while a resume was replaying."""
    consumer: Consumer | None = None
    """The `for` statement that it feeds."""
    outlived: bool = False
    """Whether this pass goes on although the loop in which it began has ended: the script keeps its iterator."""
    judged: bool = False
    leaves: bool = False
    """Whether the script may leave this pass early, behind `run.step`."""
    doubt: Doubt | None = None
    """Why no resume can continue in the middle of this pass; None if it can, or if it is not `judged` yet."""


class LoopStack:
    """The running loops.

    `on_arrival` is called when a resume has got to its place, with the loops of that place that were left before they
    began: a `zip` stops with its first loader and never asks the second one.
    """

    def __init__(self, *, on_arrival: Callable[[Sequence[Level]], None]) -> None:
        self.place = Place(())
        self.has_arrived = False
        """Whether a resume has reached its place in this process."""
        self.inner: Loop | None = None
        """The innermost loop of `run.epochs` or `run.steps`."""
        self.epochs: Loop | None = None
        """The innermost loop of `run.epochs`."""
        self.under_way: Loop | None = None
        """The innermost pass over a loader."""
        self._passes: list[Loop] = []
        self._on_arrival = on_arrival
        self._active: list[Loop] = []
        self._done = [""]
        self._saved: Place | None = None
        self._matched = 0

    @property
    def replaying(self) -> bool:
        """Whether a resume has not reached its place yet."""
        return self._saved is not None

    @property
    def depth(self) -> int:
        """The number of running loops."""
        return len(self._active)

    def outermost(self) -> Loop | None:
        """Return the outermost running loop."""
        return self._active[0] if self._active else None

    @property
    def advanced(self) -> list[str]:
        """The loaders whose passes have advanced while a resume was replaying, as in a `zip`."""
        return [loop.name for loop in self._active if loop.kind == "batches" and loop.passed]

    @property
    def may_be_left(self) -> bool:
        """Whether the script may leave a running pass early, behind `run.step`."""
        for loop in self._active:  # noqa: SIM110  at every step, so no generator
            if loop.leaves:
                return True
        return False

    def is_on_the_way(self, loop: Loop) -> bool:
        """Tell whether `loop` continues from a saved place while a loop inside it has not reached its own yet."""
        return self._saved is not None and loop in self._active[: self._matched]

    def seek(self, place: Place) -> None:
        """Start replaying: from now on, loops are steered to `place`."""
        self._saved = place
        self._arrive_if_there()

    def enter(self, kind: Kind, name: str = "", *, consumer: Consumer | None = None) -> Loop | None:
        """Begin a loop; return None if it must yield nothing. Raise `RelightError` if another loop was saved here."""
        depth = len(self._active)
        ended = self._done[depth]
        saved = self._saved
        if saved is not None and depth == self._matched:
            level = saved.levels[depth] if depth < len(saved.levels) else None
            before = saved.done if level is None else level.before
            if len(ended) < len(before):
                if before[len(ended)] == TRAINED:
                    self._done[depth] += TRAINED
                    self._arrive_if_there()
                    return None
            elif level is not None:
                if (level.kind, level.name) != (kind, name):
                    raise _other_loop(level, kind, name)
                beside = depth > 0 and saved.levels[depth - 1].kind == kind == "batches"
                loop = Loop(kind, name, level.number, ended, trained=True, parallel=beside, consumer=consumer)
                self._push(loop)
                self._matched += 1
                self._arrive_if_there()
                return loop
        loop = Loop(kind, name, 0, ended, consumer=consumer)
        self._push(loop)
        return loop

    def advance(self, loop: Loop, index: int) -> None:
        """End an iteration of `loop`; `index` is the next one."""
        if self._saved is None and self._active and self._active[-1] is loop:  # the usual case
            loop.index, loop.steps, loop.passed = index, 0, False
            self._done[-1] = ""
            return
        if loop.outlived:
            return
        if loop not in self._active:
            raise UsageError(
                "One loader's pass ended while another pass that started inside it was still running. With zip, put "
                "the loader with the most batches first, as in zip(long, repeated(short))."
            )
        at = self._active.index(loop)
        on_the_way = self._saved is not None and at < self._matched
        # In a `zip`, a pass must advance before the next one can begin.
        if on_the_way and (loop.passed or loop.kind != "batches"):
            raise RelightError(
                f"The body of {_IN_WORDS[loop.kind]} ended before the loop in which the checkpoint was made. "
                "Resume with the script that saved it, or start a new run."
            )
        loop.passed = on_the_way
        loop.index = index
        loop.steps = 0
        if at == len(self._active) - 1:
            self._done[at + 1] = ""
        elif loop.kind == "epochs":
            loop.strayed = True
        elif loop.kind == "batches":
            for inner in self._active[at + 1 :]:
                inner.parallel = True

    def leave(self, loop: Loop) -> bool:
        """End `loop`, at its end or earlier; return False if it had already ended."""
        if loop not in self._active:
            return False
        at = self._active.index(loop)
        for inner in self._active[at + 1 :]:
            inner.outlived = loop.kind != "batches"
        del self._active[at:]
        del self._done[at + 1 :]
        self._find_inner()
        self._done[at] += TRAINED if loop.trained or loop.kind != "batches" else PASSED
        if self._saved is not None:
            if at < self._matched:  # it has fewer iterations than the saved place needs
                self._arrive(self._saved.levels[self._matched :])
            else:
                self._arrive_if_there()
        return True

    def take_step(self, judge: Judge | None = None) -> bool:
        """Take a step; return whether its edge has a place that a resume can find again.

        `judge` is asked once for each pass, with the consumers of `run.epochs` and of the passes inside it. It answers
        with its doubt, and whether the pass may be left behind the step.
        """
        if self._saved is not None:
            raise RelightError(
                "The script called run.step() before it reached the point where the checkpoint was saved, so its loops "
                "have changed. Resume with the script that saved it, or start a new run."
            )
        inner = self.inner
        if inner is None:
            raise UsageError(
                "run.step() was called outside of `for epoch in run.epochs(n)` and `for step in run.steps(n)`, so a "
                "resume would not know where to continue. Replace the loop over the epochs by run.epochs(n); if the "
                "script counts steps, replace the loop over them by run.steps(n), with `next(batches)` inside."
            )
        for loop in self._active:
            loop.trained = True
            loop.steps += 1
        if inner.kind == "steps":
            if inner.stepped == inner.index:
                raise UsageError(
                    "run.step() was called twice in one iteration of run.steps(): take one step in each, or put "
                    "run.epochs() around a loop over batches."
                )
            inner.stepped = inner.index
            after = Level(inner.kind, inner.name, inner.before, inner.index + 1)
            around = () if inner is self._active[0] else map(_describe, self._active[: self._active.index(inner)])
            self.place = Place((*around, after))
            return True
        passes = self._passes
        if not passes or inner.strayed or (len(passes) > 1 and not all(each.parallel for each in passes[1:])):
            return False
        if judge is not None and not passes[0].judged:
            passes[0].judged = True
            passes[0].doubt, passes[0].leaves = judge(inner.consumer, [each.consumer for each in passes])
        if passes[0].doubt is not None:
            return False
        self.place = Place(tuple(map(_describe, self._active)))
        return True

    def take_place(self) -> None:
        """Set the place to the point between what has ended and what comes next.

        Passes that the script's own iterators carry on, across the end of a body or in `run.steps`, are left out.
        """
        levels = self._active
        while levels and levels[-1].kind == "batches" and any(one.strayed or one.kind == "steps" for one in levels):
            levels = levels[:-1]
        self.place = Place(tuple(map(_describe, levels)), self._done[-1] if levels is self._active else "")

    def _push(self, loop: Loop) -> None:
        self._active.append(loop)
        self._done.append("")
        self._find_inner()

    def _find_inner(self) -> None:
        """Find, after a loop has begun or ended, what every step asks for."""
        self.inner = self.epochs = self.under_way = None
        for place, loop in enumerate(self._active):
            if loop.kind == "batches":
                self.under_way = loop
                continue
            self.inner, self._passes = loop, self._active[place + 1 :]
            if loop.kind == "epochs":
                self.epochs = loop

    def _arrive_if_there(self) -> None:
        saved = self._saved
        if (
            saved is not None
            and self._matched == len(saved.levels)
            and len(self._done[self._matched]) == len(saved.done)
        ):
            self._arrive()

    def _arrive(self, left: Sequence[Level] = ()) -> None:
        self._saved = None
        self._matched = 0
        self.has_arrived = True
        self._on_arrival(left)


def _describe(loop: Loop) -> Level:
    return Level(loop.kind, loop.name, loop.before, loop.index)


def _other_loop(level: Level, kind: str, name: str) -> RelightError:
    def word(kind: str, name: str) -> str:
        return _IN_WORDS[kind] + (f" ('{name}')" if name else "")

    return RelightError(
        f"The script's loops differ from those that saved the checkpoint: where {word(level.kind, level.name)} was, "
        f"{word(kind, name)} is now. Resume with the script that saved it, or start a new run."
    )
