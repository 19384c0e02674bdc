"""Why a resumed training differs from an uninterrupted one, and what helps: a likely cause and its cure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relight.drill.comparison import StateDifference
from relight.drill.suspects import Kind, Suspect

_PLACES_NAMED = 3
_CHANCE: tuple[Kind, ...] = ("entropy", "hash", "clock")
"""What decides by itself, likeliest first."""


@dataclass(frozen=True)
class Evidence:
    """What is known beside the difference itself.

    `metric_step` is where a logged value differs first. At or before `resumed_from` nothing had been killed yet.
    """

    step: int
    """Of the first checkpoint that differs."""
    resumed_from: int
    metric_step: int | None = None
    steps_per_epoch: int = 0
    on_cpu: bool = True
    suspects: tuple[Suspect, ...] = ()
    kernels: tuple[str, ...] = ()
    """Operations that PyTorch warned of: they have no deterministic kernel."""
    changed_data: str | None = None
    """A file or folder of the config that changed while the drill was held."""
    nothing_tracked: bool = False
    """The checkpoints hold no module and no optimizer."""


@dataclass(frozen=True)
class Explanation:
    """A likely cause, and its cure, in sentences."""

    cause: str
    cure: str


def explain_difference(difference: StateDifference, evidence: Evidence) -> Explanation:
    """Name the likeliest cause of a difference, and what to do about it."""
    if evidence.changed_data is not None:
        return Explanation(
            f"The data changed while the drill was held: {evidence.changed_data}. So the two trainings "
            "saw different data.",
            "Train from a copy that nobody writes to, and hold the drill again.",
        )
    if evidence.nothing_tracked:
        return Explanation(
            "The script tracks nothing, so its checkpoints hold no weights, and a resume begins with fresh ones.",
            "Add run.track(model=model, optimizer=optimizer) before the loops.",
        )
    first = evidence.step if evidence.metric_step is None else min(evidence.step, evidence.metric_step)
    if first <= evidence.resumed_from:
        found = _explain_chance(difference, evidence)
        return Explanation(
            "Two uninterrupted runs differ as well, so this is no matter of resuming: the training is not "
            f"deterministic. {found.cause}",
            found.cure,
        )
    found = _explain_forgetting(difference, evidence)
    return Explanation(f"{_say_where(evidence)}{found.cause}", found.cure)


def _explain_chance(difference: StateDifference, evidence: Evidence) -> Explanation:
    """Two trainings from one seed differ: something is not decided by the seed."""
    if evidence.kernels and difference.part not in ("data position", "generator"):
        names = _join(evidence.kernels)
        return Explanation(
            f"Likely a non-deterministic kernel: PyTorch has no deterministic one for {names}.",
            "Replace that operation, or accept that its last bits differ from run to run.",
        )
    # The clock last: most scripts time themselves, and train no worse for it.
    found = [told for kind in _CHANCE if (told := _tell(kind, evidence.suspects)) is not None]
    if found:
        return _either(found)
    if not evidence.on_cpu:
        return Explanation(
            "Likely a non-deterministic GPU kernel, one that adds in any order (atomics).",
            "Call torch.use_deterministic_algorithms(True) in build_model(): it takes deterministic kernels where "
            "there are some, and names those that have none.",
        )
    told = _tell("own generator", evidence.suspects) or _tell("numpy", evidence.suspects)
    return told or Explanation(
        "Likely a random number that does not come from the run's seed: the clock, the operating system, the order of "
        "a set, a thread, or a generator of one's own.",
        "Draw every random number from the generators of Python, NumPy or PyTorch, which are seeded from the config.",
    )


def _explain_forgetting(difference: StateDifference, evidence: Evidence) -> Explanation:
    """Equal until the resume: something was not brought back."""
    drawing: tuple[Kind, ...] = ("own generator", "numpy", "attribute", "hash", "entropy", "clock")
    keeping: tuple[Kind, ...] = ("attribute", "own generator", "numpy", "hash", "entropy", "clock")
    kinds = drawing if difference.part in ("data position", "generator") else keeping
    told = [found for kind in kinds if (found := _tell(kind, evidence.suspects)) is not None]
    return _either(told) if told else _UNKNOWN[difference.part]


def _either(found: Sequence[Explanation]) -> Explanation:
    """The likeliest, and the next: which of them it is nobody can tell from outside."""
    if len(found) == 1:
        return found[0]
    return Explanation(f"{found[0].cause} Or: {found[1].cause}", f"{found[0].cure} Or: {found[1].cure}")


def _say_where(evidence: Evidence) -> str:
    """Say when it shows, where that tells something."""
    at, size = evidence.metric_step, evidence.steps_per_epoch
    if at is None:
        return ""
    if at == evidence.resumed_from + 1:
        return (
            f"The very first step after the resume (step {at}) already differs: it saw another batch, other random "
            "numbers, or state that no checkpoint holds. "
        )
    edge = (evidence.resumed_from // size + 1) * size if size > 0 else None
    if edge is not None and at > edge:
        return (
            f"All is equal until step {at}, after the epoch ended at step {edge}: what happens at an epoch's end or "
            "beginning depends on something that was not restored. "
        )
    return ""


def _tell(kind: Kind, suspects: Sequence[Suspect]) -> Explanation | None:
    places = [suspect.place for suspect in suspects if suspect.kind == kind]
    if not places:
        return None
    cause, cure = _SUSPECTED[kind]
    more = f" and {len(places) - _PLACES_NAMED} more" if len(places) > _PLACES_NAMED else ""
    return Explanation(f"{cause} {', '.join(places[:_PLACES_NAMED])}{more}.", cure)


def _join(names: Sequence[str]) -> str:
    return ", ".join(names[:_PLACES_NAMED])


_SUSPECTED: dict[Kind, tuple[str, str]] = {
    "clock": (
        "Likely the clock, which no checkpoint can turn back:",
        "Count steps instead, or draw from a generator that is seeded from the config's seed.",
    ),
    "entropy": (
        "Likely random numbers that the operating system gives, new ones each time:",
        "Seed that generator from the config's seed, or draw from the generators of Python, NumPy or PyTorch.",
    ),
    "own generator": (
        "Likely a generator of the task's own, whose state no checkpoint holds:",
        "Seed it anew for each sample, from the config's seed and the sample's index, or draw from the generators of "
        "Python, NumPy or PyTorch, which every checkpoint holds.",
    ),
    "numpy": (
        "Likely NumPy's global generator, used inside a worker where nobody seeds it (an __iter__, a collate function, "
        "a thread):",
        "Draw in __getitem__, where it is seeded for each sample, or give the data set sample(index, generator).",
    ),
    "hash": (
        "Likely an order or a number that Python's hashes decide:",
        "Sort before you loop over a set, use hashlib instead of hash(), and leave PYTHONHASHSEED unset, so that "
        "strings hash alike in every attempt.",
    ),
    "attribute": (
        "Likely an untracked object: state that changes from step to step and is in no checkpoint:",
        "Make it a buffer of the model (register_buffer), or work it out from what is restored.",
    ),
}

_BUFFER = (
    "Register it as a buffer of the model (register_buffer), or give its owner state_dict() and load_state_dict()."
)
_UNKNOWN: dict[str, Explanation] = {
    "data position": Explanation(
        "Likely the data was not continued where it had stopped: a data set or sampler with a position of its own, "
        "which the checkpoint does not know, or a data set that changed.",
        "Use a data set with an index, and let the loader keep the position; keep its files as they are.",
    ),
    "generator": Explanation(
        "Likely random numbers are drawn where no checkpoint counts them: in __init__ of the model or the data set, in "
        "validation, or from a generator of the task's own.",
        "Draw in step() or __getitem__, from the generators of Python, NumPy or PyTorch.",
    ),
    "state": Explanation(
        "Likely a counter is kept outside of the state that is saved, such as a plain attribute of the task.", _BUFFER
    ),
    "schedule": Explanation(
        "Likely the schedule was built anew instead of restored: its state_dict() leaves something out.",
        "Let its state_dict() return everything that its next step depends on.",
    ),
    "buffer": Explanation("Likely a module keeps a plain attribute that changes in training.", _BUFFER),
    "tensor": Explanation(
        "Likely an untracked object: something that training uses is in no state_dict(), such as a plain attribute of "
        "a module or of the task that changes from step to step, a cache, or a global; or a data set that changed.",
        _BUFFER,
    ),
    "optimizer": Explanation(
        "Likely the optimizer keeps something outside of its state_dict(), such as a closure or a step count.",
        "Keep it in the optimizer's state, by parameter.",
    ),
    "metric": Explanation(
        "The state is equal and only what was logged differs: likely the metric depends on a running mean that is kept "
        "outside of the checkpoint, or on the clock.",
        "Work it out from the batch alone, or keep the mean in a buffer.",
    ),
}
