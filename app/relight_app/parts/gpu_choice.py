"""The choice of GPUs on the Launch form: the machine's cards, how much memory each has free, and who is on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from relight.machine.gpu import GpuCard
from relight.machine.report import GpuProcessRow, MachineReport
from relight.overview.ranks_report import list_rank_pids
from relight.runs.layout import RunLayout
from relight.wording import describe_bytes, name_some
from relight_app.engine import Engine
from relight_app.markup import Markup, tag
from relight_app.parts.place import ONLY_HERE

_MOST_NAMED = 3


def find_owners(engine: Engine) -> dict[int, str]:
    """Return the processes of the runs that train, each with the name of its run: "digits (rank 1)"."""
    owners: dict[int, str] = {}
    for run in engine.list_runs().runs:
        if run.status.is_live and run.pids.trainer is not None:
            owners[run.pids.trainer] = run.name
            ranks = list_rank_pids(RunLayout(engine.folder / run.run), run.attempt)
            owners.update({pid: f"{run.name} (rank {rank})" for rank, pid in ranks.items()})
    return owners


def build_gpu_choice(report: MachineReport, owners: Mapping[int, str]) -> Markup | None:
    """Build a box to tick for each card; None on a machine without one."""
    if not report.gpu.cards:
        return None
    boxes = [
        _build_card(card, [row for row in report.gpu_processes if row.gpu_index == card.index], owners)
        for card in report.gpu.cards
    ]
    return tag(
        "fieldset",
        tag("legend", "GPUs"),
        tag("p", "Tick the cards that this run may use. Without a choice it may use all of them.", class_="sub"),
        boxes,
        class_="choices stack",
        data_key="gpus",
        data_only=ONLY_HERE,
    )


def _build_card(card: GpuCard, rows: Iterable[GpuProcessRow], owners: Mapping[int, str]) -> Markup:
    return tag(
        "label",
        tag("input", type="checkbox", name_=f"gpus.{card.index}", data_default="false",
            disabled=card.error is not None or None),
        tag("span", f"GPU {card.index} ", tag("span", card.name or "", class_="muted")),
        tag("span", card.error or f"{_word_memory(card)}; {_word_owners(card, rows, owners)}", class_="sub"),
        class_="row",
        data_key=f"gpu-{card.index}",
    )  # fmt: skip


def _word_memory(card: GpuCard) -> str:
    used, total = card.memory_used_bytes, card.memory_total_bytes
    if used is None or total is None:
        return "free memory unknown"
    return f"{describe_bytes(total - used)} of {describe_bytes(total)} free"


def _word_owners(card: GpuCard, rows: Iterable[GpuProcessRow], owners: Mapping[int, str]) -> str:
    """Say who is on a card: runs by their names, other processes by name and pid."""
    names = [owners.get(row.pid) or f"{row.name or 'process'} {row.pid}" for row in rows]
    if not names:
        return "no processes on it" if card.processes_known else "processes unknown"
    return "on it: " + name_some(names, most=_MOST_NAMED)
