"""Restores a script: each object when it is tracked, and the rest when the script reaches the checkpoint's place."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from relight.checkpoints.checkpoint_reader import CheckpointReader
from relight.checkpoints.store import CheckpointStore
from relight.runs.layout import RunLayout
from relight.runs.records import AttemptStart
from relight.training.ranks.group import RankGroup
from relight.training.ranks.rank_state import note_world_size, take_rank_state
from relight.training.script.branching import Branch, MadeOptions
from relight.training.script.loops import Place
from relight.training.script.state import BUILT, EPOCH_START, POSITION, ScriptState
from relight.training.state.state_errors import StateMismatch
from relight.training.state.state_tree import decode_tree
from relight.training.state.stored_tensors import StoredTensors


class Restoration:
    """The checkpoint that an attempt of a script continues from; open until the script has reached its place."""

    def __init__(
        self, layout: RunLayout, start: AttemptStart, state: ScriptState, *, group: RankGroup | None = None
    ) -> None:
        self.branch = start.reason == "branch"
        self._state = state
        self._opened = ExitStack()
        assert start.from_sequence is not None
        store = CheckpointStore(layout.checkpoints)
        self.info = store.find_sequence(start.from_sequence)
        self._reader: CheckpointReader = self._opened.enter_context(store.open(self.info))
        self._read = StoredTensors(self._reader)
        self._group = group
        self._tree = tree = take_rank_state(self._reader.state, group)
        self._parts: dict[str, Any] = tree["parts"]
        self._rng: dict[str, Any] = tree.get("rng") or {}
        self.counters: dict[str, Any] = tree.get("counters") or {}
        self.weights_only = start.weights_only or bool(tree.get("weights_only"))
        built = self._parts.get(BUILT)
        self._made: dict[str, Any] = decode_tree(built["state"], self._read) if built is not None else {}
        self._branch = Branch(MadeOptions(self._made)) if self.branch else None
        self._restored: set[str] = set()
        self._waiting: list[str] = []

    @property
    def position(self) -> dict[str, Any]:
        """The saved position of the script; empty if something else made the checkpoint."""
        saved = self._parts.get(POSITION)
        state = decode_tree(saved["state"], self._read) if saved else {}
        return state if "place" in state else {}

    @property
    def place(self) -> Place | None:
        """The place that the script must reach; None when it starts from the beginning with only the weights."""
        position = self.position
        return Place.from_state(position["place"]) if position and not self.weights_only else None

    @property
    def environment(self) -> dict[str, Any]:
        """The environment that made the checkpoint."""
        return self._reader.environment

    def restore(self, names: Sequence[str]) -> None:
        """Restore a newly tracked object: the first name, and what belongs to it. An optimizer waits for its module."""
        for name in (*self._waiting, *names):
            if name not in self._parts:
                if not self.branch and not self.weights_only and name == names[0]:
                    raise StateMismatch(
                        f"The checkpoint has no '{name}', only {_list(self._own_parts())}. Track what was tracked when "
                        "it was saved, by the same names."
                    )
                continue
            part = self._parts[name]
            if self.weights_only:
                if part.get("kind") == "module":
                    self._state.restore_weights(name, part, self._read)
            elif self._state.wants(name, part):
                self._restore(name)
            elif name not in self._waiting:
                self._waiting.append(name)

    def arrive(self, *, again: bool) -> None:
        """The script has reached the place: restore all except the generators. `again`: part of a body ran again.

        Raises `StateMismatch` when the checkpoint has something that the script does not track.
        """
        self._state.note_loops(self._branch)
        for name in tuple(self._waiting):
            self._restore(name)
        missing = [name for name in self._own_parts() if name not in self._restored]
        if missing and not self.branch and not self.weights_only:
            raise StateMismatch(
                f"The checkpoint has {_list(missing)}, which the script no longer tracks. Track what was "
                "tracked when it was saved, by the same names, before its loops."
            )
        if not self.weights_only:
            if self._branch is None:
                self._state.warn_of_changes(MadeOptions(self._made))
                self._state.built.load_state_dict(self._made)
            parts = {name: self._parts[name] for name in self._restored}
            self._state.restore_again(parts, self._read, branch=self._branch, again=again)
            if self.branch and self.counters.get("step"):  # a warm-up may begin with 0
                self._state.warn_of_zero_rates()

    def load_epoch_start(self) -> None:
        """Load the state that the generators had when the body of the epoch began."""
        self._state.note_loops(self._branch)
        saved = self._parts.get(EPOCH_START)
        if saved is not None:
            self._state.epoch_start.load_state_dict(decode_tree(saved["state"], self._read))

    def put_back_epoch_start(self) -> None:
        """Before the body of the epoch runs again, put its generators back and, in a branch, its options."""
        self._state.put_back_epoch_start(self._branch)

    def restore_generators(self) -> None:
        """Restore the generators; the last thing before the first batch."""
        if self._rng:
            self._state.restore_rng({"rng": self._rng}, self._read)
            note_world_size(self._tree, self._group)

    def close(self) -> None:
        """Close the checkpoint."""
        self._opened.close()

    def _restore(self, name: str) -> None:
        self._state.restore_part(name, self._parts[name], self._read, branch=self._branch)
        self._restored.add(name)
        if name in self._waiting:
            self._waiting.remove(name)

    def _own_parts(self) -> list[str]:
        return [name for name in self._parts if name not in (POSITION, EPOCH_START, BUILT)]


def _list(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"
