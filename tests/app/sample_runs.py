"""Writes realistic run folders for tests of the dashboard with the engine's own writers, without any training."""

from __future__ import annotations

import math
import os
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from relight.checkpoints.snapshot_header import SnapshotHeader, TensorRef, TensorSpec
from relight.checkpoints.store import CheckpointStore
from relight.metrics.writer import MetricWriter
from relight.runs.catalog import create_run
from relight.runs.layout import RunLayout
from relight.runs.process_identity import current_process
from relight.runs.progress import Progress, ProgressFile
from relight.runs.record_file import read_record, write_record
from relight.runs.records import (
    AttemptExit,
    AttemptProcesses,
    AttemptStart,
    Parent,
    PreparedTask,
    ProcessIdentity,
    RunRecord,
    SavingState,
    StartReason,
    TaskReference,
)
from relight.tasks.built_in import BUILTIN_TASKS

TRACEBACK = """Traceback (most recent call last):
  File "/home/ada/project/train.py", line 118, in step
    loss = criterion(model(batch["pixels"]), batch["label"])
  File "/home/ada/.venv/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1775, in _call_impl
    return forward_call(*args, **kwargs)
  File "/home/ada/project/model.py", line 42, in forward
    features = self.trunk(x).flatten(1)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of
which 1.19 GiB is free. Process 48213 has 77.90 GiB memory in use.
"""
GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class SampleRun:
    """A sample run. With the status "running", this process counts as its trainer."""

    name: str
    task: str = "digits"
    status: str = "finished"
    step: int = 1_200
    steps_total: int = 1_200
    epochs: int = 12
    age_s: float = 3_600.0
    """How long ago it was created."""
    duration_s: float = 80.0
    attempts: int = 1
    checkpoints: int = 3
    durable_lag: int = 40
    """How many of the last steps are not saved."""
    reason: str = ""
    error: str | None = None
    traceback: str | None = None
    signal: str | None = None
    saving_failure: str | None = None
    parent: Parent | None = None
    gpus: int = 0
    seed: int = 0
    notes: tuple[str, ...] = ()


def make_run(folder: Path, sample: SampleRun) -> RunLayout:
    """Write the complete run folder."""
    task = BUILTIN_TASKS[sample.task]
    config = task.config_class(**({"data": "/data/pictures"} if sample.task == "images" else {})).model_dump(
        mode="json"
    )
    layout = create_run(
        folder,
        PreparedTask(
            TaskReference(kind="builtin", name=sample.task), config | {"lr": 0.002, "batch_size": 128}, task.objective
        ),
        name=sample.name,
        parent=sample.parent,
    ).layout
    created_s = time.time() - sample.age_s
    record = read_record(layout.record, RunRecord)
    write_record(layout.record, msgspec.structs.replace(record, created_s=created_s))
    per_attempt = max(1, sample.step // sample.attempts)
    for number in range(1, sample.attempts + 1):
        last = number == sample.attempts
        first = max(0, (number - 1) * per_attempt - (sample.durable_lag if number > 1 else 0))
        until = sample.step if last else number * per_attempt
        _write_attempt(layout, sample, number=number, first=first, until=until, last=last, created_s=created_s)
    _write_checkpoints(layout, sample, created_s)
    return layout


def loss_at(step: int, *, total: int, noise: random.Random) -> float:
    """Return a plausible training loss."""
    return 2.2 * math.exp(-step / (0.18 * total)) + 0.08 + noise.gauss(0, 0.05) * math.exp(-step / (0.9 * total))


def accuracy_at(step: int, *, total: int, noise: random.Random) -> float:
    """Return a matching validation accuracy."""
    return min(0.9999, 1 - 0.9 * math.exp(-step / (0.16 * total)) - 0.012 + noise.gauss(0, 0.003))


def feed(layout: RunLayout, sample: SampleRun, *, step: int, attempt: int, writer: MetricWriter) -> None:
    """Write the data of one more step, as a running run does."""
    noise = random.Random(step)
    writer.log(step, {"loss": loss_at(step, total=sample.steps_total, noise=noise), "lr": _rate(step, sample)})
    path = layout.attempt(attempt).progress
    progress = ProgressFile(path)
    progress.write(_progress(sample, step=step, first=0, started_s=time.time() - step * 0.07, time_s=time.time()))
    progress.close()


def _write_attempt(
    layout: RunLayout, sample: SampleRun, *, number: int, first: int, until: int, last: bool, created_s: float
) -> None:
    attempt = layout.attempt(number)
    attempt.folder.mkdir(parents=True)
    per_step = sample.duration_s / max(1, sample.step)
    began_s = created_s + first * per_step + (number - 1) * 30
    ended_s = began_s + (until - first) * per_step
    live = last and sample.status == "running"
    if live:
        ended_s = time.time() - 0.2
        began_s = ended_s - (until - first) * per_step
    reason: StartReason = "launch" if number == 1 else "resume"
    write_record(
        attempt.start,
        AttemptStart(
            attempt=number, time_s=began_s - 2, reason=reason, from_step=first, from_sequence=number - 1 or None,
            notes=sample.notes if last else (),
        ),
    )  # fmt: skip
    me = current_process()
    gone = ProcessIdentity(pid=me.pid, start_ticks=me.start_ticks + 999, boot_id=me.boot_id, host=me.host)
    who = me if live else gone
    if not (last and sample.status == "queued"):
        write_record(attempt.processes, AttemptProcesses(supervisor=who, trainer=who))
    _write_metrics(layout, sample, number=number, first=first, until=until, began_s=began_s, per_step=per_step)
    progress = ProgressFile(attempt.progress)
    progress.write(_progress(sample, step=until, first=first, started_s=began_s, time_s=ended_s))
    progress.close()
    _write_log(attempt.log, sample, first=first, until=until, crashed=last and sample.status == "crashed")
    durable = max(0, until - sample.durable_lag) if last and sample.status != "finished" else until
    write_record(
        attempt.saving,
        SavingState(
            time_s=ended_s, durable_step=durable, durable_time_s=ended_s - (until - durable) * per_step,
            failure=sample.saving_failure if live else None, saves=sample.checkpoints,
            failing_since_s=ended_s - 20 if sample.saving_failure else None,
        ),
    )  # fmt: skip
    if live or (last and sample.status in ("interrupted", "queued")):
        return
    crashed = last and sample.status == "crashed"
    write_record(
        attempt.exit,
        AttemptExit(
            attempt=number,
            time_s=ended_s,
            outcome=sample.status if last else "crashed",  # type: ignore[arg-type]
            exit_code=3 if crashed else 0,
            signal=sample.signal if last else "SIGKILL",
            step=until,
            reason=sample.reason if last else "Its trainer was killed (SIGKILL).",
            error=sample.error if last else None,
            traceback=sample.traceback if last else None,
        ),
    )


def _write_metrics(
    layout: RunLayout, sample: SampleRun, *, number: int, first: int, until: int, began_s: float, per_step: float
) -> None:
    noise = random.Random(sample.seed * 100 + number)
    train = MetricWriter(layout.metrics, stream="train", attempt=number)
    validation = MetricWriter(layout.metrics, stream="validation", attempt=number)
    system = MetricWriter(layout.metrics, stream="system", attempt=number)
    every = max(1, sample.steps_total // sample.epochs)
    for step in range(first + 1, until + 1):
        at = began_s + (step - first) * per_step
        loss = loss_at(step, total=sample.steps_total, noise=noise)
        train.log(step, {"loss": loss, "accuracy": max(0.05, 1 - loss / 2.4), "lr": _rate(step, sample)}, time_s=at)
        if step % every == 0:
            accuracy = accuracy_at(step, total=sample.steps_total, noise=noise)
            validation.log(step, {"loss": 0.06 + 1.1 * (1 - accuracy), "accuracy": accuracy}, time_s=at)
    for second in range(int(max(4, (until - first) * per_step))):
        system.log(first, _system(second, sample, noise), time_s=began_s + second)
    for writer in (train, validation, system):
        writer.close()


def _system(second: int, sample: SampleRun, noise: random.Random) -> dict[str, float]:
    values = {
        "cpu_share_percent": 77 + 9 * math.sin(second / 9) + noise.gauss(0, 3),
        "cpu_percent": 155 + 18 * math.sin(second / 9) + noise.gauss(0, 6),
        "memory_bytes": 0.62 * GIGABYTE + min(second, 30) * 4e6,
        "processes": 3.0,
        "machine_cpu_percent": 84 + noise.gauss(0, 3),
        "machine_memory_bytes": 3.4 * GIGABYTE + noise.gauss(0, 2e7),
        "machine_memory_total_bytes": 8.3 * GIGABYTE,
        "disk_free_bytes": 212.0 * GIGABYTE,
        "disk_read_bytes_s": abs(noise.gauss(0, 2e5)),
        "disk_write_bytes_s": abs(noise.gauss(0, 4e6)),
    }
    for card in range(sample.gpus):
        values |= {
            f"gpu{card}_utilization_percent": min(100.0, 93 + noise.gauss(0, 4)),
            f"gpu{card}_memory_bytes": 61.0 * GIGABYTE,
            f"gpu{card}_memory_total_bytes": 85.0 * GIGABYTE,
            f"gpu{card}_process_memory_bytes": 58.5 * GIGABYTE,
            f"gpu{card}_power_w": 610 + noise.gauss(0, 20),
            f"gpu{card}_power_limit_w": 700.0,
            f"gpu{card}_temperature_c": 68.0,
            f"gpu{card}_throttle_alarm": 0.0,
        }
    return values


def _rate(step: int, sample: SampleRun) -> float:
    warm = min(1.0, step / 20)
    return 0.002 * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / sample.steps_total)))


def _progress(sample: SampleRun, *, step: int, first: int, started_s: float, time_s: float) -> Progress:
    every = max(1, sample.steps_total // sample.epochs)
    best = step // every * every
    higher = BUILTIN_TASKS[sample.task].objective.higher_is_better
    return Progress(
        step=step,
        steps_total=sample.steps_total,
        epoch=min(step // every, sample.epochs - 1),
        epochs=sample.epochs,
        batch=step % every,
        batches=every,
        time_s=time_s,
        started_s=started_s,
        first_step=first,
        steps_per_s=0.0,
        phase="finished" if sample.status == "finished" else "training",
        best_step=best or -1,
        best_value=(0.985 if higher else 1.42) if best else math.nan,
        work_s=step * sample.duration_s / max(1, sample.step),
    )


def _write_log(path: Path, sample: SampleRun, *, first: int, until: int, crashed: bool) -> None:
    noise = random.Random(3)
    every = max(1, sample.steps_total // sample.epochs)
    lines = ["relight: device cpu (no CUDA device, no MPS); 2 threads; deterministic algorithms on"]
    if first:
        lines.append(f"relight: resumed at step {first}, epoch {first // every}, batch {first % every}")
    for step in range((first // every + 1) * every, until + 1, every):
        accuracy = accuracy_at(step, total=sample.steps_total, noise=noise)
        lines.append(f"epoch {step // every:2d}  step {step:5d}  validation accuracy {accuracy:.4f}  <b>not markup</b>")
    text = "\n".join(lines) + "\n"
    if crashed and sample.traceback:
        text += sample.traceback
    path.write_text(text, encoding="utf-8")


def _write_checkpoints(layout: RunLayout, sample: SampleRun, created_s: float) -> None:
    if not sample.checkpoints:
        return
    store = CheckpointStore(layout.checkpoints)
    noise = random.Random(sample.seed)
    end = sample.step if sample.status in ("finished", "stopped") else max(1, sample.step - sample.durable_lag)
    higher = BUILTIN_TASKS[sample.task].objective.higher_is_better
    for index in range(sample.checkpoints):
        step = max(1, round(end * (index + 1) / sample.checkpoints))
        accuracy = accuracy_at(step, total=sample.steps_total, noise=noise)
        if index == max(0, sample.checkpoints - 2):
            accuracy = 0.985
        weights = os.urandom(4 * 4096)
        last = index == sample.checkpoints - 1
        info = store.commit(
            SnapshotHeader(
                step=step,
                epoch=step * sample.epochs // sample.steps_total,
                reason="final" if last and sample.status == "finished" else "periodic",
                time_s=created_s + sample.duration_s * step / max(1, sample.step),
                tensors=[TensorSpec("model.head.weight", "F32", (64, 64), len(weights))],
                state={"model": {"head.weight": TensorRef("model.head.weight")}, "step": step},
                metrics={"validation/accuracy": accuracy, "validation/loss": 1.2 * (1 - accuracy), "train/loss": 0.2},
                score=accuracy if higher else 1.2 * (1 - accuracy),
                attempt=sample.attempts,
            ),
            [memoryview(weights)],
        )
        if not last or sample.status != "running":
            store.mark_verified(info)
        if index == 0 and sample.checkpoints > 3:
            store.pin(info)


def make_gallery(folder: Path, *, count: int = 30) -> dict[str, RunLayout]:
    """Make a runs folder as after weeks of use: every status, long or odd names, damage. Return the runs by name."""
    samples = [
        SampleRun("digits baseline", status="running", step=812, age_s=70, durable_lag=38, attempts=2, checkpoints=6),
        SampleRun(
            "gpt-124M bf16", "stdlib-gpt", "running", step=18_240, steps_total=60_000, epochs=20, age_s=26_000,
            duration_s=25_800, checkpoints=4, durable_lag=610, gpus=2, seed=4,
        ),
        SampleRun(
            "full disk", "stdlib-gpt", "running", step=900, steps_total=4_000, epochs=10, age_s=700, duration_s=640,
            checkpoints=1, durable_lag=300, seed=6,
            saving_failure="The disk is full (No space left on device): 1.4 GB are needed in /runs. Training goes on.",
        ),
        SampleRun(
            "resnet pets", "images", "crashed", step=4_310, steps_total=9_000, epochs=30, age_s=9_400,
            duration_s=5_200, attempts=2, checkpoints=5, durable_lag=210, seed=2, traceback=TRACEBACK,
            error="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB.",
            reason="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB.",
        ),
        SampleRun(
            "overnight", "stdlib-gpt", "interrupted", step=7_020, steps_total=12_000, epochs=10, age_s=64_000,
            duration_s=30_000, checkpoints=4, durable_lag=95, seed=3,
        ),
        SampleRun(
            "warm-up study", status="stopped", step=430, age_s=90_000, reason="Stopped by a person.", durable_lag=0,
            seed=8,
        ),
        SampleRun(
            "a very long name that somebody chose because names are free and descriptive is better than short",
            age_s=180_000, seed=9,
        ),
        SampleRun("<script>alert(1)</script>", age_s=260_000, seed=10),
    ]  # fmt: skip
    for index in range(max(0, count - len(samples))):
        status = ("finished", "finished", "stopped", "crashed", "finished", "interrupted")[index % 6]
        total = (1_200, 2_400, 800)[index % 3]
        samples.append(
            SampleRun(
                f"sweep-{index:02d}",
                status=status,
                step=total if status == "finished" else int(total * (0.3 + index % 5 / 9)),
                steps_total=total,
                age_s=300_000 + 40_000 * index,
                seed=20 + index,
                checkpoints=2,
                signal="SIGKILL" if status == "crashed" else None,
                reason="Its trainer was killed (SIGKILL)." if status == "crashed" else "",
            )
        )
    layouts = {sample.name: make_run(folder, sample) for sample in samples}
    damaged = make_run(folder, replace(samples[-1], name="cut short", age_s=5_000_000))
    damaged.record.write_bytes(b'{"format": "relight-run", "ver')
    return layouts


if __name__ == "__main__":
    import sys

    target = Path(sys.argv[1])
    gallery = make_gallery(target)
    sample = SampleRun("digits baseline", status="running", step=812)
    layout = gallery["digits baseline"]
    train = MetricWriter(layout.metrics, stream="train", attempt=3)
    print("ready", flush=True)
    for step in range(813, 1_200):
        time.sleep(0.25)
        feed(layout, sample, step=step, attempt=2, writer=train)
    time.sleep(36_000)
