"""Where a run is to train, on the Launch and Branch forms: on this machine, or on a cluster with Slurm."""

from __future__ import annotations

import shlex

from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record_or_none
from relight.runs.records import AttemptStart, SlurmJob
from relight.slurm.job import is_installed
from relight.supervision.job_submission import HERE, SLURM, count_nodes
from relight_app.markup import Markup, tag
from relight_app.parts.forms import build_text_field

ONLY_HERE = f"on={HERE}"
"""`data-only` of what counts only for a run on this machine."""
_ONLY_SLURM = f"on={SLURM}"


def count_processes(layout: RunLayout) -> int:
    """Return in how many processes a run trains on each machine."""
    start = read_record_or_none(layout.attempt(layout.latest_attempt()).start, AttemptStart)
    return 1 if start is None else max(1, start.world_size // count_nodes(layout))


def build_place_fields(shown: SlurmJob | None, *, implied: SlurmJob | None) -> list[Markup]:
    """Build the choice between this machine and Slurm; nothing to choose where jobs cannot be submitted.

    The fields start with `shown`, and `implied` is what the action takes for a field that is left out; None is this
    machine.
    """
    if not is_installed():
        return [tag("input", type="hidden", name_="on", value=HERE)] if implied is not None else []
    place, usual = shown or SlurmJob(), implied or SlurmJob()
    options = [
        tag("option", words, value=value, selected=value == _name(shown))
        for value, words in ((HERE, "This machine"), (SLURM, "Slurm"))
    ]
    hidden = shown is None
    return [
        tag(
            "label", tag("span", "Train on"),
            tag("select", options, name_="on", data_default=_name(implied),
                title="Slurm starts the run when it has nodes for it, and again after a preemption or a time limit."),
            class_="field", data_key="on",
        ),
        build_text_field(
            "Nodes", "nodes", value=str(place.nodes), data_default=str(usual.nodes), inputmode="numeric",
            hint="On how many nodes Slurm trains the run, with this number of processes on each.",
            only=_ONLY_SLURM, hidden=hidden,
        ),
        build_text_field(
            "sbatch options", "sbatch", value=shlex.join(place.options), data_default=shlex.join(usual.options),
            placeholder="--partition=gpu --time=8:00:00 --gpus-per-node=4", data_send_empty=bool(usual.options) or None,
            hint="Any options of sbatch, each in one word. They go into the job's script.",
            only=_ONLY_SLURM, hidden=hidden, wide=True,
        ),
    ]  # fmt: skip


def build_processes_field(shown: int, *, implied: int) -> Markup:
    """Build the field for the number of processes."""
    more = " With Slurm: a number, on each node." if is_installed() else ""
    return build_text_field(
        "Processes", "nproc", value="" if shown == implied else str(shown), placeholder=str(implied),
        hint=f"How many processes train this run together: a number, or auto for one on each GPU.{more}",
    )  # fmt: skip


def _name(place: SlurmJob | None) -> str:
    return HERE if place is None else SLURM
