"""Acts as a trainer without torch, in its own process: takes steps, logs, saves, and stops or crashes on request.

python fake_trainer.py STEPS [--crash-at STEP] [--deaf] [--step-s SECONDS]    (environment: folder and attempt)
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from relight.checkpoints.snapshot_header import SnapshotHeader, TensorRef, TensorSpec
from relight.checkpoints.store import CheckpointStore
from relight.metrics.writer import MetricWriter
from relight.runs.layout import RunLayout
from relight.runs.progress import Progress, ProgressFile
from relight.runs.record_file import read_record, write_record
from relight.runs.records import AttemptStart, SavingState, ScriptRecord, TrainerOutcome
from relight.runs.stop_request import read_stop_request

STEPS_PER_EPOCH = 10


def main() -> int:
    """Train, and return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("steps", type=int)
    parser.add_argument("--crash-at", type=int, default=-1)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--step-s", type=float, default=0.02)
    options = parser.parse_args()
    layout = RunLayout(Path(os.environ["RELIGHT_RUN_FOLDER"]))
    number = int(os.environ["RELIGHT_ATTEMPT"])
    attempt = layout.attempt(number)
    write_record(attempt.script, ScriptRecord(best_metric="validation/accuracy"))
    if options.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    train = MetricWriter(layout.metrics, stream="train", attempt=number)
    validation = MetricWriter(layout.metrics, stream="validation", attempt=number)
    progress = ProgressFile(attempt.progress)
    started_s = time.time()
    first_step = read_record(attempt.start, AttemptStart).from_step
    for step in range(first_step + 1, options.steps + 1):
        time.sleep(options.step_s)
        train.log(step, {"loss": 1 / step})
        progress.write(
            Progress(
                step=step,
                steps_total=options.steps,
                epoch=(step - 1) // STEPS_PER_EPOCH,
                epochs=-(-options.steps // STEPS_PER_EPOCH),
                batch=(step - 1) % STEPS_PER_EPOCH + 1,
                batches=STEPS_PER_EPOCH,
                time_s=time.time(),
                started_s=started_s,
                first_step=first_step,
                phase="finished" if step == options.steps else "training",
                best_step=step // STEPS_PER_EPOCH * STEPS_PER_EPOCH or -1,
                best_value=step / 1000,
            )
        )
        if step == options.crash_at and number == 1:
            try:
                raise ValueError(f"no good at step {step}")
            except ValueError as error:
                said = f"ValueError: {error}"
                write_record(
                    attempt.outcome,
                    TrainerOutcome(
                        outcome="crashed", step=step, reason=said, error=said, traceback=traceback.format_exc()
                    ),
                )
                return 3
        if step % STEPS_PER_EPOCH == 0:
            validation.log(step, {"accuracy": step / 1000})
            save(layout, step, attempt=number)
        if not options.deaf and read_stop_request(layout, attempt=number) is not None:
            save(layout, step, attempt=number)
            write_record(attempt.outcome, TrainerOutcome(outcome="stopped", step=step, reason="Stopped by request."))
            return 130
    write_record(attempt.outcome, TrainerOutcome(outcome="finished", step=options.steps))
    return 0


def save(layout: RunLayout, step: int, *, attempt: int) -> None:
    """Commit a checkpoint with one weight."""
    header = SnapshotHeader(
        step=step,
        epoch=step // STEPS_PER_EPOCH,
        reason="periodic",
        time_s=time.time(),
        tensors=[TensorSpec("model.weight", "F32", (1,), 4)],
        state={"weight": TensorRef("model.weight")},
        score=step / 1000,
        attempt=attempt,
    )
    CheckpointStore(layout.checkpoints).commit(header, [memoryview(step.to_bytes(4, "little"))])
    write_record(
        layout.attempt(attempt).saving, SavingState(time_s=time.time(), durable_step=step, durable_time_s=time.time())
    )


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
