"""Kills parts of trainings of two ranks at random moments, many times, and checks that nothing is lost or different.

    python -m tests.integration.rank_soak --kills 25                 every task and every victim
    python -m tests.integration.rank_soak --tasks digits --victims "rank 1" agent --seconds 180 --folder /tmp/soak

After each kill the status must be right in time and no rank may be left; the resume must start from the newest durable
checkpoint. Each finished run is compared with its uninterrupted twin: the digest of its state, and each logged step
once. With `--folder` the twin is kept for the next call. `--seconds` begins no new kill after that time.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from relight.metrics.series import read_series
from relight.overview.summary import summarize_run
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, read_record_or_none
from relight.runs.records import AttemptProcesses, AttemptStart, PreparedTask, ResumeCheck
from relight.runs.status import RunStatus
from relight.supervision.launch import launch_run
from relight.supervision.ranks import LiveRanks
from relight.supervision.resume import resume_run
from relight.tasks.reference import resolve_task, validate_config
from tests.integration.soak import digest, end_everything, wait_for
from tests.patience import stretch

NPROC = 2
VICTIMS = ("rank 0", "rank 1", "ranks", "agent", "supervisor")
TASKS = ("digits", "script", "sharded")
"""`digits` and a script with `DistributedDataParallel`, and the same script with `fully_shard`."""
STATUS_WITHIN_S = 2.0
_SCRIPT = """\
import time
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
import relight

run = relight.init(seed=1, checkpoint_every_s=0.3)
dist.init_process_group("gloo")
points = torch.randn(403, 3, generator=torch.Generator().manual_seed(2))
data = TensorDataset(points, points.sum(1, keepdim=True))
loader = run.loader(DataLoader(data, batch_size=4, sampler=DistributedSampler(data)))
model = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.1), nn.Linear(16, 1))
model = {wrapped}
optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
run.track(model=model, optimizer=optimizer)
for epoch in run.epochs(10):
    for x, y in loader:
        loss = (model(x) - y).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(0.005)
        run.step(loss=loss)
    run.evaluated(error=loss.item())
"""
_WRAPPED = {"script": "DistributedDataParallel(model)", "sharded": "fully_shard(model)"}


@dataclass
class Figures:
    """What the kills of one victim showed. Times are in seconds."""

    kills: int = 0
    runs: int = 0
    """Runs that ended like their twin."""
    status_s: list[float] = field(default_factory=list)
    compared_steps: int = 0
    """Steps that were trained again, and were the same bit for bit."""


def main() -> None:
    """Soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="kills of each victim, for each task")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no new kill after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs are, and the twins from the last call")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="relight-rank-soak-"))
    until = time.monotonic() + given.seconds
    try:
        for task in given.tasks:
            runs = folder / task
            runs.mkdir(parents=True, exist_ok=True)
            prepared = prepare(task, folder)
            twin = find_twin(runs, prepared)
            for victim in given.victims:
                chance = random.Random(f"{task} {victim} {given.seed}")
                found = soak(runs, prepared, twin, victim=victim, kills=given.kills, until=until, chance=chance)
                print(_row(task, victim, found), flush=True)
    finally:
        for task in given.tasks:
            end_everything(folder / task)


def prepare(task: str, folder: Path) -> PreparedTask:
    """Return the task, with a checkpoint every 0.3 s."""
    if task == "digits":
        return validate_config(resolve_task("digits"), {"epochs": 20, "device": "cpu", "checkpoint_every_s": 0.3})
    script = folder / f"{task}.py"
    script.write_text(_SCRIPT.format(wrapped=_WRAPPED[task]))
    return validate_config(resolve_task(str(script)))


def find_twin(runs: Path, prepared: PreparedTask) -> RunLayout:
    """Return the uninterrupted run of the folder; train it if it is not there."""
    layout = launch_run(runs, prepared, name="twin", token="twin", nproc=NPROC).layout
    _wait_for_the_end(layout)
    return layout


def soak(
    runs: Path,
    prepared: PreparedTask,
    twin: RunLayout,
    *,
    victim: str,
    kills: int,
    until: float,
    chance: random.Random,
) -> Figures:
    """Kill `victim` up to `kills` times at random moments, resume each time, and compare each finished run."""
    found = Figures()
    layout: RunLayout | None = None
    while found.kills < kills and time.monotonic() < until:
        if layout is None:
            layout = launch_run(runs, prepared, name=victim, nproc=NPROC).layout
        if _live_and_kill(layout, victim, chance, found):
            print(f"{victim}: kill {found.kills}, the right status after {found.status_s[-1]:.2f} s", flush=True)
            _resume(layout)
        else:
            _compare(layout, twin, found)
            layout = None
    if layout is not None:
        _wait_for_the_end(layout)
        _compare(layout, twin, found)
    return found


def _live_and_kill(layout: RunLayout, victim: str, chance: random.Random, found: Figures) -> bool:
    """Kill after a random time in the training; return False if the run ended before."""
    number = layout.latest_attempt()
    ranks = LiveRanks(layout, number, NPROC)

    def trains() -> bool:
        summary = summarize_run(layout)
        return not summary.status.is_live or (summary.phase == "training" and len(ranks.find()) == NPROC)

    wait_for(trains, why=f"training: {layout.folder}")
    time.sleep(chance.uniform(0.0, 1.5))
    processes = read_record(layout.attempt(number).processes, AttemptProcesses)
    alive = [each.pid for each in ranks.find()]
    if not summarize_run(layout).status.is_live or len(alive) < NPROC or processes.trainer is None:
        _wait_for_the_end(layout)
        return False
    targets = {
        "rank 0": alive[:1],
        "rank 1": alive[1:],
        "ranks": alive,
        "agent": [processes.trainer.pid],
        "supervisor": [processes.supervisor.pid],
    }[victim]
    killed_at = time.monotonic()
    try:
        for pid in targets:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended just before the kill
        _wait_for_the_end(layout)
        return False
    expected = RunStatus.INTERRUPTED if victim == "supervisor" else RunStatus.CRASHED
    wait_for(
        lambda: summarize_run(layout).status in (expected, RunStatus.FINISHED),
        timeout_s=stretch(60.0), why=f"the status {expected}: {layout.folder}",
    )  # fmt: skip
    found.status_s.append(time.monotonic() - killed_at)
    found.kills += 1
    wait_for(lambda: not ranks.find(), why=f"the end of every rank: {layout.folder}")
    return summarize_run(layout).status is not RunStatus.FINISHED


def _resume(layout: RunLayout) -> None:
    before = summarize_run(layout)
    launched = resume_run(layout)
    assert launched.created and not launched.notes, launched.notes
    start = read_record(layout.attempt(launched.attempt).start, AttemptStart)
    assert start.world_size == NPROC
    assert start.from_step >= (before.durable_step or 0), (start, before)


def _wait_for_the_end(layout: RunLayout) -> None:
    wait_for(lambda: not summarize_run(layout).status.is_live, why=f"the end of {layout.folder}")
    summary = summarize_run(layout)
    assert summary.status is RunStatus.FINISHED, (layout.folder, summary.reason, summary.traceback)


def _compare(layout: RunLayout, twin: RunLayout, found: Figures) -> None:
    """Assert that the run ended in the state of its twin, and that its curve has each step once."""
    assert digest(layout) == digest(twin), f"{layout.folder}: the final state differs"
    ours, theirs = (read_series(each.metrics, "train/loss") for each in (layout, twin))
    assert ours.steps.tolist() == list(range(1, len(theirs.steps) + 1)), f"{layout.folder}: other steps"
    assert ours.values.tolist() == theirs.values.tolist(), f"{layout.folder}: other losses"
    for number in layout.list_attempts():
        for rank in range(NPROC):
            check = read_record_or_none(layout.of_rank(rank).attempt(number).resume_check, ResumeCheck)
            assert check is None or check.verdict == "exact", f"{layout.folder}, rank {rank}: {check.sentence}"
            found.compared_steps += 0 if check is None else check.equal_steps
    found.runs += 1


def _row(task: str, victim: str, found: Figures) -> str:
    late = sum(each > STATUS_WITHIN_S for each in found.status_s)
    times = f"{statistics.median(found.status_s):.2f} / {max(found.status_s):.2f}" if found.status_s else "-"
    return (
        f"{task:<8}{victim:<12}{found.kills:>4} kills in {found.runs} runs, all like the twin; right status after "
        f"{times} s (median / max), {late} later than {STATUS_WITHIN_S:g} s; {found.compared_steps} steps compared"
    )


if __name__ == "__main__":
    sys.exit(main())
