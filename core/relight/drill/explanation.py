"""Explains why a resumed training differs from an uninterrupted one: the likely cause and its cure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relight.drill.differences import StateDifference
from relight.drill.suspects import Kind, Suspect

_PLACES_NAMED = 3
_CHANCE: tuple[Kind, ...] = ("entropy", "hash", "clock")
"""What differs from run to run even with the same seed. The clock is last: most scripts time themselves, harmlessly."""
_DRAWING: tuple[Kind, ...] = ("own generator", "numpy", "attribute", "hash", "entropy", "clock")
_KEEPING: tuple[Kind, ...] = ("attribute", "own generator", "numpy", "hash", "entropy", "clock")


@dataclass(frozen=True)
class Evidence:
    """Everything known about a difference except the difference itself."""

    step: int
    """Of the first checkpoint that differs."""
    resumed_from: int
    """The last resume before the difference."""
    first_step: int | None
    """First step whose witness or logged values differ."""
    saved_again: bool
    """Whether the checkpoint that differs was saved again after a resume from one of the same step that was equal."""
    steps_per_epoch: int
    """0 when unknown."""
    on_cpu: bool
    is_script: bool
    suspects: tuple[Suspect, ...]
    kernels: tuple[str, ...]
    """Operations without a deterministic kernel that PyTorch warned about."""
    changed_data: str | None
    """A file or folder named in the config that changed during the drill."""
    nothing_tracked: bool
    """The checkpoints hold no module and no optimizer."""


@dataclass(frozen=True)
class Explanation:
    """A likely cause and its cure, in sentences."""

    cause: str
    cure: str


def explain_difference(difference: StateDifference, evidence: Evidence) -> Explanation:
    """Return the likeliest cause of a difference, and what to do about it."""
    if evidence.changed_data is not None:
        return Explanation(
            f"The data changed during the drill: {evidence.changed_data}. So the two trainings saw different data.",
            "Train from a copy that nothing writes to, and run the drill again.",
        )
    if evidence.nothing_tracked:
        return Explanation(
            "The script tracks nothing, so its checkpoints hold no weights, and a resume starts with fresh ones.",
            "Add run.track(model=model, optimizer=optimizer) before the loops.",
        )
    first = evidence.step if evidence.first_step is None else min(evidence.step, evidence.first_step)
    if first <= evidence.resumed_from and not evidence.saved_again:  # nothing had been killed yet
        found = _explain_chance(difference, evidence)
        return Explanation(
            "Two uninterrupted runs differ as well, so the resume is not to blame: the training is not "
            f"deterministic. {found.cause}",
            found.cure,
        )
    found = _explain_forgetting(difference, evidence)
    where = "" if difference.part == "metric" else _say_where(evidence)
    return Explanation(f"{where}{found.cause}", found.cure)


def _explain_chance(difference: StateDifference, evidence: Evidence) -> Explanation:
    """Explain why two trainings with the same seed differ."""
    if evidence.kernels and difference.part not in ("data position", "generator"):
        names = ", ".join(evidence.kernels[:_PLACES_NAMED])
        return Explanation(
            f"Likely a non-deterministic kernel: PyTorch has no deterministic one for {names}.",
            "Replace that operation, or accept that the last bits differ from run to run.",
        )
    found = _accuse(_CHANCE, evidence)
    if found:
        return _combine(found)
    if not evidence.on_cpu:
        where = "at the top of your script" if evidence.is_script else "in build_model()"
        return Explanation(
            "Likely a non-deterministic GPU kernel, one that adds in varying order (atomics).",
            f"Call torch.use_deterministic_algorithms(True) {where}. PyTorch then uses deterministic kernels where "
            "they exist, and names the operations that have none.",
        )
    found = _accuse(("own generator", "numpy"), evidence)
    if found:
        return found[0]
    seeded = "relight.init(seed=…) seeds" if evidence.is_script else "are seeded from the config"
    return Explanation(
        "Likely a random number that does not come from the run's seed: from the clock, the operating system, the "
        "order of a set, a thread, or a generator of your own.",
        f"Draw every random number from the generators of Python, NumPy or PyTorch, which {seeded}.",
    )


def _explain_forgetting(difference: StateDifference, evidence: Evidence) -> Explanation:
    """Explain a difference that appears only after the resume: some state was not restored."""
    kinds = _DRAWING if difference.part in ("data position", "generator") else _KEEPING
    found = _accuse(kinds, evidence)
    unknown = _UNKNOWN | _UNKNOWN_IN_SCRIPT if evidence.is_script else _UNKNOWN
    return _combine(found) if found else unknown[difference.part]


def _accuse(kinds: Sequence[Kind], evidence: Evidence) -> list[Explanation]:
    """Return an explanation for each kind of suspect that was found, in the order of `kinds`."""
    suspected = _SUSPECTED | _SUSPECTED_IN_SCRIPT if evidence.is_script else _SUSPECTED
    explanations = []
    for kind in kinds:
        places = [suspect.place for suspect in evidence.suspects if suspect.kind == kind]
        if places:
            cause, cure = suspected[kind]
            more = f" and {len(places) - _PLACES_NAMED} more" if len(places) > _PLACES_NAMED else ""
            explanations.append(Explanation(f"{cause} {', '.join(places[:_PLACES_NAMED])}{more}.", cure))
    return explanations


def _combine(found: Sequence[Explanation]) -> Explanation:
    """Name the likeliest explanation and the next one: from outside it is impossible to tell which one is right."""
    return Explanation(
        " Or: ".join(explanation.cause for explanation in found[:2]),
        " Or: ".join(explanation.cure for explanation in found[:2]),
    )


def _say_where(evidence: Evidence) -> str:
    """Say when the difference shows first, where that is a clue."""
    at, size = evidence.first_step, evidence.steps_per_epoch
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
            f"Everything is equal until step {at}, after the epoch ended at step {edge}: what happens at the end or "
            "beginning of an epoch depends on something that was not restored. "
        )
    return ""


_SUSPECTED: dict[Kind, tuple[str, str]] = {
    "clock": (
        "Likely the clock, which no checkpoint can turn back:",
        "Count steps instead, or draw from a generator that is seeded from the config's seed.",
    ),
    "entropy": (
        "Likely random numbers from the operating system, which are new each time:",
        "Seed that generator from the config's seed, or draw from the generators of Python, NumPy or PyTorch.",
    ),
    "own generator": (
        "Likely a generator of the task's own, whose state no checkpoint holds:",
        "Seed it for each sample, from the config's seed and the sample's index, or draw from the generators of "
        "Python, NumPy or PyTorch, which every checkpoint holds.",
    ),
    "numpy": (
        "Likely NumPy's global generator, used in a worker where it is not seeded (in __iter__, a collate function, "
        "or a thread):",
        "Draw in __getitem__, where it is seeded for each sample, or give the data set sample(index, generator).",
    ),
    "hash": (
        "Likely an order or a number that depends on Python's hashes:",
        "Sort before you loop over a set, use hashlib instead of hash(), and leave PYTHONHASHSEED unset, so that "
        "strings hash alike in every attempt.",
    ),
    "attribute": (
        "Likely an untracked object: state that changes from step to step and is in no checkpoint:",
        "Make it a buffer of the model (register_buffer), or compute it from what is restored.",
    ),
}

_SUSPECTED_IN_SCRIPT: dict[Kind, tuple[str, str]] = {
    "clock": (
        "Likely the clock, which no checkpoint can turn back:",
        "Use run.steps_done instead, or draw from a generator that you seed.",
    ),
    "entropy": (
        "Likely random numbers from the operating system, which are new each time:",
        "Seed that generator, and track it: run.track(generator=generator). Or draw from the generators of Python, "
        "NumPy or PyTorch, which relight.init(seed=…) seeds.",
    ),
    "own generator": (
        "Likely a generator of your script that is not tracked:",
        "Track it: run.track(generator=generator). If only a loader uses it, let run.loader draw the order instead.",
    ),
    "attribute": (
        "Likely a value of your script that changes from step to step and that no checkpoint holds:",
        "Track it: run.track(name=…) accepts tensors, dictionaries of numbers, and anything with a state_dict. Or "
        "compute it from run.steps_done, or make it a buffer of the model.",
    ),
}

_BUFFER = (
    "Register it as a buffer of the model (register_buffer), or give its owner state_dict() and load_state_dict()."
)
_TRACK = (
    "Track it: run.track(name=…) accepts modules, optimizers, schedules, generators, tensors and dictionaries. A "
    "plain number in your loop can be an entry of a tracked dictionary, or be computed from run.steps_done."
)
_UNKNOWN: dict[str, Explanation] = {
    "data position": Explanation(
        "Likely the data did not continue where it had stopped: a data set or sampler has a position of its own that "
        "the checkpoint does not hold, or the data set changed.",
        "Use a data set with an index, let the loader keep the position, and leave the data files unchanged.",
    ),
    "generator": Explanation(
        "Likely random numbers are drawn where no checkpoint counts them: in __init__ of the model or the data set, in "
        "validation, or from a generator of the task's own.",
        "Draw in step() or __getitem__, from the generators of Python, NumPy or PyTorch.",
    ),
    "state": Explanation(
        "Likely a counter is kept outside the saved state, for example in a plain attribute of the task.", _BUFFER
    ),
    "schedule": Explanation(
        "Likely the schedule was built again instead of restored: its state_dict() leaves something out.",
        "Let its state_dict() return everything that its next step depends on.",
    ),
    "buffer": Explanation("Likely a module keeps a plain attribute that changes during training.", _BUFFER),
    "tensor": Explanation(
        "Likely an untracked object: something that training uses is in no state_dict(), such as a plain attribute of "
        "a module or of the task that changes from step to step, a cache, or a global. Or the data set changed.",
        _BUFFER,
    ),
    "optimizer": Explanation(
        "Likely the optimizer keeps something outside its state_dict(), such as a closure or a step count.",
        "Keep it in the optimizer's state, per parameter.",
    ),
    "metric": Explanation(
        "The state is equal and only what was logged differs: likely the metric depends on a running mean that is kept "
        "outside the checkpoint, or on the clock.",
        "Compute it from the batch alone, or keep the mean in a buffer.",
    ),
}
_UNKNOWN_IN_SCRIPT: dict[str, Explanation] = {
    "data position": Explanation(
        "Likely your loop did not continue with the batch where it had stopped: the batches do not come from "
        "run.loader, a batch is fetched ahead, or the data changed.",
        "Let run.loader make the batches, draw each batch in the step that uses it, and leave the data files "
        "unchanged.",
    ),
    "generator": Explanation(
        "Likely your script draws random numbers where a resume does not repeat them: after run.step() in your loop, "
        "between run.track() and the loop, or in a thread.",
        "Call run.step() last in the body of your loop, and draw before run.track() or inside the loop.",
    ),
    "state": Explanation("Likely something that your loop changes is not tracked.", _TRACK),
    "schedule": Explanation(
        "Likely the learning rate depends on something that is not tracked: a schedule, or a counter of your loop.",
        "Track the schedule: run.track(scheduler=scheduler). Compute a rate of your own from run.steps_done.",
    ),
    "buffer": Explanation("Likely something that your loop changes is not tracked.", _TRACK),
    "tensor": Explanation(
        "Likely your training uses something that is not tracked: a second model, averaged weights, an optimizer, a "
        "generator, a variable of your loop that changes from step to step. Or the data changed.",
        _TRACK,
    ),
    "optimizer": Explanation("Likely the optimizer, or a wrapper around it, is not tracked as a whole.", _TRACK),
    "metric": Explanation(
        "The state is equal and only what was measured differs: likely it depends on something that your loop keeps "
        "and that is not tracked, such as averaged weights or a running mean, or on the clock.",
        _TRACK,
    ),
}
