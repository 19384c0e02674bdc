"""What the script of a branch makes differently from its parent: applied to restored optimizers and schedules."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiplicativeLR, ReduceLROnPlateau

from relight.training.script.trackable import TrackedScheduler
from relight.training.state.optimizer_state import OptimizerPart
from relight.training.state.state_errors import StateMismatch
from relight.training.state.state_tree import TensorSource

Options = list[dict[str, Any]]
"""The options of an optimizer's groups, without their parameters."""

_PROGRESS = frozenset({"last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step", "class"})
"""Entries of a schedule's state that say where it is, not which curve it follows."""
_SET = "script:set"
_HOLD_NO_TENSOR = frozenset((int, float, bool, str, tuple, type(None)))
"""Types of options that need no look at each value, at every step edge."""
_log = logging.getLogger("relight")


class MadeOptions:
    """With which options optimizers and schedules were made, by name, and which the script set before its loops."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._made: dict[str, Any] = dict(state or {})

    def add(self, name: str, options: Any) -> None:
        """Remember how `name` was made."""
        self._made = {**self._made, name: copy.deepcopy(options)}

    def of(self, name: str) -> Any:
        """Return how `name` was made; None if that is unknown."""
        return self._made.get(name)

    def note_set(self, name: str, options: Options) -> None:
        """Remember the `options` that the script set between `run.track` and its loops."""
        if any(options):
            self._made = {**self._made, _SET: {**self._made.get(_SET, {}), name: copy.deepcopy(options)}}

    def set_of(self, name: str) -> Options:
        """Return the options that the script set between `run.track` and its loops."""
        found: Options = self._made.get(_SET, {}).get(name, [])
        return found

    def in_loops(self, name: str) -> Any:
        """Return the options of an optimizer with which the loops began; None if they are unknown."""
        made, later = self.of(name), self.set_of(name)
        if made is None:
            return None
        return [{**own, **(later[place] if place < len(later) else {})} for place, own in enumerate(made)]

    def edge_state(self) -> dict[str, Any]:
        """Return the state: a dictionary that is replaced, never changed."""
        return self._made

    state_dict = edge_state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what was set before the loops: a resume cannot see it, because the options are restored by then.

        For the same reason, take over how a schedule was made, unless the script makes it with other settings now.
        """
        taken = {
            key: value
            for key, value in state.items()
            if key == _SET
            or (isinstance(value, dict) and key in self._made and not list_changes(self._made[key], value))
        }
        self._made = {**self._made, **taken}


class Branch:
    """What one branch takes over from its parent. `parent` says how the parent's objects were made, by name."""

    def __init__(self, parent: MadeOptions) -> None:
        self.parent = parent
        self._fresh: set[str] = set()
        self._body: dict[str, Options] = {}
        self._told: set[str] = set()

    def restore_optimizer(
        self, part: OptimizerPart, tree: dict[str, Any], read: TensorSource, *, made: Options
    ) -> None:
        """Restore an optimizer; options that this script `made` differently stay different."""
        name = part.name
        if tree.get("class") != type(part.optimizer).__name__:
            self._start_fresh(name, tree.get("class"))
            return
        parent = self.parent.of(name)
        if parent is None or len(parent) > len(made):
            part.restore(tree, read, keep_options=True)
            return
        part.restore(tree, read)
        merge_options(part.optimizer.param_groups, made, parent)

    def start_body(self, optimizer: Optimizer, options: Options, *, made: Options, name: str) -> None:
        """Give an optimizer the parent's options at the start of the body, with the changes of this script."""
        parent = self.parent.in_loops(name)
        if name in self._fresh or parent is None:
            return
        for group, saved in zip(optimizer.param_groups, options, strict=False):
            set_options(group, saved)
        merge_options(optimizer.param_groups, made, parent)
        self._body[name] = copy_options(optimizer)

    def restore_optimizer_again(
        self,
        part: OptimizerPart,
        tree: dict[str, Any],
        read: TensorSource,
        *,
        made: Options,
        head: Options | None,
        before: Options | None,
        scheduled: bool,
    ) -> None:
        """Restore an optimizer again at the checkpoint's place, after the head of the body has run again.

        `head` is what the parent's options were after its first step, if they have changed until then; `before` is what
        they were here after the first restore. A head that sets other options than the parent's counts, unless a
        schedule sets them anyway.
        """
        if part.name in self._fresh:
            return
        live = copy_options(part.optimizer)
        parent = self.parent.in_loops(part.name)
        if parent is None or len(parent) > len(made):
            part.restore(tree, read, keep_options=True)
            return
        part.restore_again(tree, read)
        groups = part.optimizer.param_groups
        saved = copy_options(part.optimizer)
        merge_options(groups, made, parent)
        if scheduled:
            return
        begun = self._body.get(part.name, before) or live
        for group, own, start, old, then in zip(groups, live, begun, head or begun, saved, strict=False):
            for key in own.keys() & start.keys() & old.keys():
                value = own[key]
                if same(value, start[key]) or same(value, old[key]) or same(value, group.get(key)):
                    continue
                if head is None:
                    self._tell_of_setting(part.name, key, value, group.get(key))
                elif key == "lr":
                    set_options(group, {"lr": scale_rate(then["lr"], before=old["lr"], now=value)})
                else:
                    set_options(group, {key: value})

    def restore_schedule(
        self,
        name: str,
        tracked: TrackedScheduler,
        saved: Any,
        *,
        made: dict[str, Any],
        optimizer: str | None,
        late: bool,
        alone: bool,
    ) -> None:
        """Put a schedule where the parent's is; if it follows another curve now, to the point of that curve.

        `saved` is None if the parent had none. `optimizer` is the name of its optimizer. `late` says that the schedule
        was made after that was restored, `alone` that no other schedule sets the rate.
        """
        schedule = tracked.scheduler
        if saved is None or saved.get("class", tracked.class_name) != tracked.class_name:
            self._start_fresh(name, None if saved is None else saved.get("class"))
            if not late:
                start_schedule(schedule, made)
            return
        before = self.parent.of(name)
        saved = {key: value for key, value in saved.items() if key != "class"}
        if before is None:
            tracked.load_state_dict(saved)
            return
        differs = follows_another_curve(made, before) or optimizer in self._fresh
        if steps_itself(schedule) and alone and not late and (differs or has_functions(schedule)):
            rates = copy_options(schedule.optimizer)
            replay_schedule(name, schedule, made=made, saved=saved)
            if differs or not same(schedule.state_dict().get("_last_lr"), saved.get("_last_lr")):
                tracked.load_state_dict(schedule.state_dict())  # forget the copy
                return
            for group, options in zip(schedule.optimizer.param_groups, rates, strict=True):
                set_options(group, options)
        elif differs and steps_itself(schedule) and not same(_shape(made, rates=False), _shape(before, rates=False)):
            reason = (
                "it is made after run.track(…) of its optimizer. Make it before, and branch again."
                if late
                else "another schedule changes the same rate. Start a new run from the weights (--weights-only)."
            )
            raise StateMismatch(
                f"The schedule '{name}' differs from the parent's. Its rate at this step is unknown, because {reason}"
            )
        merged = merge_state(saved, made, before)
        if "_last_lr" in merged:
            merged["_last_lr"] = [group["lr"] for group in schedule.optimizer.param_groups]
        tracked.load_state_dict(merged)

    def _start_fresh(self, name: str, before: str | None) -> None:
        self._fresh.add(name)
        if name in self._told:
            return
        self._told.add(name)
        if before is None:
            _log.info("The parent has no '%s', so it starts fresh.", name)
        else:
            _log.info("The %s differs from the parent's %s, so it starts fresh.", name, before)

    def _tell_of_setting(self, name: str, key: str, value: Any, kept: Any) -> None:
        if (label := f"{name}.{key}") in self._told:
            return
        self._told.add(label)
        _log.warning(
            "The script set %s of '%s' to %s in its loops before the checkpoint's place. The branch continues with the "
            "parent's %s. To change it, set it where the optimizer is made.", key, name, value, kept,
        )  # fmt: skip


def copy_options(optimizer: Optimizer) -> Options:
    """Copy the options of the groups of `optimizer`."""
    copied = []
    for group in optimizer.param_groups:
        options = group.copy()
        del options["params"]
        if not _HOLD_NO_TENSOR.issuperset(map(type, options.values())):
            options = {
                key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in options.items()
            }
        copied.append(options)
    return copied


def set_options(group: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Set options of a group; a tensor rate keeps its tensor, because a compiled step may refer to it."""
    for key, value in options.items():
        if isinstance(group.get(key), Tensor):
            with torch.no_grad():
                group[key].copy_(value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu"))
        else:
            group[key] = value


def merge_options(groups: Iterable[dict[str, Any]], made: Options, parent: Options) -> None:
    """Change restored groups where this script `made` them differently from the parent. A rate keeps its course."""
    for group, own, before in zip(groups, made, parent, strict=False):
        for key, value in own.items():
            if key in group and (key in ("lr", "initial_lr") or same(before.get(key), value)):
                continue
            set_options(group, {key: value})
        base = "initial_lr" if "initial_lr" in own and "initial_lr" in before else "lr"
        if base not in before or same(before[base], own[base]):
            continue
        set_options(group, {"lr": scale_rate(group["lr"], before=before[base], now=own[base])})
        if "initial_lr" in own:
            set_options(group, {"initial_lr": own["initial_lr"]})


def scale_rate(rate: Any, *, before: Any, now: Any) -> Any:
    """Return `rate`, a point of a course that began at `before`, on the same course if it begins at `now`."""
    share = float(rate) / float(before) if float(before) else 1.0
    return now * share


def same(one: Any, other: Any) -> bool:
    """Tell whether two options are equal."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        try:
            one, other = torch.as_tensor(one, device="cpu"), torch.as_tensor(other, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            return False
        return one.shape == other.shape and bool((one.cpu() == other.cpu()).all())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    try:
        return bool(one == other)
    except (TypeError, ValueError):  # arrays
        return False


def merge_state(saved: Any, own: Any, before: Any) -> Any:
    """Return the parent's `saved` state with the entries that this script makes differently."""
    if not (isinstance(saved, dict) and isinstance(own, dict) and isinstance(before, dict)):
        return saved
    return {key: saved[key] if same(before.get(key), own.get(key)) else own.get(key, saved[key]) for key in saved}


def follows_another_curve(own: dict[str, Any], before: Any) -> bool:
    """Tell whether a schedule was made differently from the parent's, given what both were when they were made."""
    return not same(_shape(own), _shape(before)) if isinstance(before, dict) else True


def list_changes(own: Any, before: Any) -> list[str]:
    """List what a script makes differently now: an optimizer's options for each group, or what decides a schedule."""
    if isinstance(own, list) and isinstance(before, list):
        pairs = [pair for pair in zip(own, before, strict=False) if all(isinstance(each, dict) for each in pair)]
        return list(dict.fromkeys(change for one, other in pairs for change in list_changes(one, other)))
    if not (isinstance(own, dict) and isinstance(before, dict)):
        return []
    changes = []
    for key in own.keys() & before.keys() - _PROGRESS:
        if isinstance(own[key], list) and any(isinstance(each, dict) for each in own[key]):
            changes += list_changes(own[key], before[key])
        elif not same(own[key], before[key]):
            changes.append(f"{key} {own[key]} instead of {before[key]}")
    return sorted(changes)


def has_functions(schedule: LRScheduler) -> bool:
    """Tell whether functions of the script decide the rate, which no state shows."""
    inner = getattr(schedule, "_schedulers", ())
    return isinstance(schedule, (LambdaLR, MultiplicativeLR)) or any(map(has_functions, inner))


def replay_schedule(name: str, schedule: LRScheduler, *, made: dict[str, Any], saved: dict[str, Any]) -> None:
    """Put `schedule` where the parent's is, on its own curve, and give the groups the rates that it has there.

    The schedule is stepped from its beginning, as in a training that had it from the start: closed forms exist only for
    some schedules, and the others compute each rate from the one before. `made` is its state when it was made. Raise
    `StateMismatch` if it cannot be stepped that far.
    """
    start_schedule(schedule, made)
    steps = _progress(saved) - _progress(made)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch wants an optimizer's step before each of these
            fraction = float(saved.get("T_cur", 0.0)) % 1.0
            if fraction and hasattr(schedule, "T_i"):  # warm restarts that the script steps by fractions of an epoch
                schedule.step(_progress(saved) + fraction)  # type: ignore[arg-type]
                return
            for _ in range(steps):
                schedule.step()
    except (ValueError, TypeError) as error:
        raise StateMismatch(
            f"The schedule '{name}' differs from the parent's and cannot continue from there: {error} Make it long "
            "enough, branch from an earlier checkpoint, or start a new run from the weights (--weights-only)."
        ) from None


def start_schedule(schedule: LRScheduler, made: dict[str, Any]) -> None:
    """Put `schedule` and the rates of its optimizer back to what they were when it was made."""
    schedule.load_state_dict({key: value for key, value in copy.deepcopy(made).items() if key != "class"})
    for group, rate in zip(schedule.optimizer.param_groups, made.get("_last_lr", ()), strict=False):
        set_options(group, {"lr": rate})


def steps_itself(schedule: LRScheduler) -> bool:
    """Tell whether the rate depends only on the number of steps; at a plateau it depends on what is measured."""
    return not isinstance(schedule, ReduceLROnPlateau)


def _shape(state: Any, *, rates: bool = True) -> Any:
    """Return what decides a schedule's curve; without `rates`, apart from the rates that it begins with."""
    if isinstance(state, dict):
        left_out = _PROGRESS if rates else _PROGRESS | {"base_lrs"}
        return {key: _shape(value, rates=rates) for key, value in state.items() if key not in left_out}
    if isinstance(state, list):
        return [_shape(value, rates=rates) for value in state]
    return state


def _progress(state: Mapping[str, Any]) -> int:
    """Return how often a schedule has been stepped; a chained one counts only in its parts."""
    if "last_epoch" in state:
        return int(state["last_epoch"])
    return max((_progress(inner) for inner in state.get("_schedulers", ())), default=0)
