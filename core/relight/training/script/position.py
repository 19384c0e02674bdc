"""A script's position as a part of its training state: its place in its loops, and the position of each loader."""

from __future__ import annotations

from typing import Any

from relight.training.data.adopted_loader import ResumableLoader
from relight.training.script.loops import LoopStack, Place
from relight.training.state.edge_copy import BuiltLater, open_copy


class ScriptPosition:
    """The data position of a script. `epoch` and `batch` are for the displayed progress."""

    def __init__(self) -> None:
        self.epoch = 0
        self.steps_per_epoch = 0
        """0 while unknown."""
        self.loaders: dict[str, ResumableLoader] = {}
        """By name, in the order of their creation."""
        self.in_step = True
        """Whether the steps themselves draw the batches; False once another thread has begun a pass."""
        self.at_pass_end = False
        """Whether the place is right after the last batch of a pass, as far as the data reveals it."""
        self._place = Place(())
        self._epoch_steps = 0
        self._under_way: ResumableLoader | None = None
        self._saved: dict[str, Any] = {}
        self._there: set[str] = set()

    def add(self, name: str, loader: ResumableLoader) -> None:
        """Add a loader. If a checkpoint has been loaded that knows it, send it to its saved position."""
        self.loaders[name] = loader
        if name in self._saved:
            loader.load_state_dict(self._saved.pop(name))

    def refresh(self, loops: LoopStack) -> None:
        """Copy the place of the loops: at a step edge, and at the end of a body or a loop."""
        self._place = loops.place
        inner = loops.epochs
        if inner is not None:
            self.epoch, self._epoch_steps = inner.index, inner.steps
        under_way = loops.under_way
        self._under_way = None if under_way is None else self.loaders[under_way.name]
        levels = self._place.levels
        self.at_pass_end = (
            bool(levels) and levels[-1].kind == "batches" and self.loaders[levels[-1].name].has_ended_epoch
        )

    @property
    def batch(self) -> int:
        """Batches of the pass under way that have been yielded."""
        return 0 if self._under_way is None else self._under_way.batch

    def state_dict(self) -> dict[str, Any]:
        """Return the state as a new object, so that nothing changes it later."""
        built: dict[str, Any] = open_copy(self.edge_state())
        return built

    def edge_state(self) -> BuiltLater:
        """Return the state of now, to be built when it is needed."""
        loaders = {name: loader.edge_state() for name, loader in self.loaders.items()} if self.loaders else {}
        return BuiltLater(
            _build_state,
            (self._place, self.epoch, self._epoch_steps, self.steps_per_epoch, self.at_pass_end, loaders),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Send every loader to its saved position. Raise `TaskError` if the length of the data has changed."""
        self.steps_per_epoch = int(state["steps_per_epoch"])
        self._saved = {name: saved for name, saved in state["loaders"].items() if name not in self._there}
        for name, loader in self.loaders.items():
            if name in self._saved:
                loader.load_state_dict(self._saved.pop(name))

    def load_loader(self, name: str, state: dict[str, Any]) -> None:
        """Send one loader to its saved position; `load_state_dict` then skips it."""
        self.loaders[name].load_state_dict(state["loaders"][name])
        self._there.add(name)

    def take_seen(self) -> int:
        """Return a digest of the batches that all loaders have yielded since the last call; 0 for none."""
        digest = 0
        for loader in self.loaders.values():
            if seen := loader.take_seen():
                digest = hash((digest, seen))
        return digest

    def open(self) -> None:
        """Start the data-loading processes of every interrupted pass."""
        for loader in self.loaders.values():
            if loader.consumed:
                loader.open()

    def close(self) -> None:
        """End all data-loading processes."""
        for loader in self.loaders.values():
            loader.close()


def _build_state(  # noqa: PLR0917  positions, because they are kept at each step edge
    place: Place, epoch: int, epoch_steps: int, steps_per_epoch: int, at_pass_end: bool, loaders: dict[str, Any]
) -> dict[str, Any]:
    """Build a saved state. An epoch counts as done when its body is finished, or all its batches are consumed."""
    running = next((level.number for level in place.levels if level.kind == "epochs"), 0)
    return {
        "place": place.to_state(),
        "epoch": epoch,
        "epochs_done": running + at_pass_end if place.levels else epoch,
        "epoch_steps": epoch_steps,
        "steps_per_epoch": steps_per_epoch,
        "loaders": loaders,
    }
