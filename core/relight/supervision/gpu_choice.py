"""Which of the machine's GPUs a run may use, as a person asks for it."""

from __future__ import annotations

from relight.errors import UsageError

ALL = "all"


def choose_gpus(asked: str | None) -> tuple[int, ...] | None:
    """Return the cards that `--gpus` names, by the number that `nvidia-smi` shows; () for "all", None for None.

    Raises `UsageError` for anything else, and for a card that this machine does not have.
    """
    if asked is None:
        return None
    if asked == ALL:
        return ()
    words = [word.strip() for word in asked.split(",")]
    if not all(word.isdecimal() and len(word) < 5 for word in words):
        raise UsageError(f"--gpus {asked} is not a list of GPUs: use their numbers, such as 0,2, or {ALL}.")
    chosen = tuple(int(word) for word in words)
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"--gpus {asked} names a GPU twice.")
    there, absent = _count_gpus()
    if there == 0:
        raise UsageError(f"--gpus {asked}: this machine has no GPU that Relight can find. {absent or ''}".strip())
    if missing := [number for number in chosen if number >= there]:
        has = "only GPU 0" if there == 1 else f"GPUs 0 to {there - 1}"
        raise UsageError(f"--gpus {asked}: there is no GPU {missing[0]}. This machine has {has}.")
    return chosen


def count_usable_gpus(gpus: tuple[int, ...] | None) -> int:
    """Return how many cards a run with this choice can use."""
    return len(gpus) if gpus else _count_gpus()[0]


def name_visible(gpus: tuple[int, ...]) -> dict[str, str]:
    """Return the environment variables that show a process only these cards; none for all cards."""
    if not gpus:
        return {}
    # By default CUDA calls the fastest card number 0, and nvidia-smi the first one on the bus.
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}


def word_gpus(gpus: tuple[int, ...]) -> str:
    """Return "GPU 0" or "GPUs 0, 2"; "" for all."""
    if not gpus:
        return ""
    return f"GPU{'s' if len(gpus) > 1 else ''} {', '.join(map(str, gpus))}"


def _count_gpus() -> tuple[int, str | None]:
    from relight.machine.gpu import GpuReader

    reader = GpuReader()
    absent = reader.open()
    return (0, absent) if absent is not None else (reader.count() or 0, None)
