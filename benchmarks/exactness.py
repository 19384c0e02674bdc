"""How a training ends that was killed in the middle of an epoch, with Relight and with the ways that others offer.

Each way trains the same network (two layers, dropout) on the same 320 samples in batches of 8 for two epochs, as its
guide shows, and saves every 10 steps. It trains once without a break. It trains again, is killed with SIGKILL in the
middle of step 57, and a new process resumes it from step 50, in the second epoch. The script compares the samples of
the second epoch (the first life's up to step 50, then the second life's) and the weights at the end. Every training
runs on one thread, in its own process. The training without a break runs twice, to check that it is repeatable.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from measuring.report import Report, add_report_options, results_folder

BENCHMARKS = Path(__file__).resolve().parent
SAMPLES, BATCH_SIZE, SAVED_AT, DIES_AT = 320, 8, 50, 57
STEPS_OF_EPOCH = SAMPLES // BATCH_SIZE


@dataclass(frozen=True)
class Way:
    """A framework with one of its ways to resume, and the packages that it needs."""

    title: str
    packages: tuple[str, ...] = ()


WAYS = {
    "recipe": Way("the usual recipe: model, optimizer, epoch and step in one file"),
    "lightning": Way("Lightning: `ModelCheckpoint`, `fit(ckpt_path=…)`", ("lightning",)),
    "lightning-stateful": Way("Lightning with torchdata's `StatefulDataLoader`", ("lightning", "torchdata")),
    "huggingface": Way("HF Trainer: `resume_from_checkpoint`", ("transformers", "accelerate")),
    "accelerate": Way("Accelerate: `save_state`, `load_state`", ("accelerate",)),
    "accelerate-skip": Way("Accelerate with a seedable sampler and `skip_first_batches`", ("accelerate",)),
    "accelerate-stateful": Way("Accelerate with `use_stateful_dataloader`", ("accelerate", "torchdata")),
    "relight": Way("Relight"),
}


@dataclass(frozen=True)
class Outcome:
    """What one way did with the killed training."""

    repeatable: bool
    repeated: int
    skipped: int
    same_samples: bool
    difference: float
    """The largest difference between a weight and that of the uninterrupted training; 0 if all bits are equal."""
    steps: int
    """Steps that the resumed training did; 30 were left."""

    def describe(self) -> str:
        """Return the words for the table."""
        if not self.repeatable:
            return "not even two uninterrupted trainings agree"
        if self.difference == 0 and self.same_samples:
            return "**bit-exact**"
        samples = "the same samples"
        if self.repeated or self.skipped:
            samples = f"{self.repeated} samples repeated, {self.skipped} skipped"
        elif not self.same_samples:
            samples = "the same samples in another order"
        extra = "" if self.steps == 2 * STEPS_OF_EPOCH - SAVED_AT else f" in {self.steps} steps instead of 30"
        return f"{samples}{extra}; weights differ by up to {self.difference:.2g}"


def main() -> None:
    """Run every way that is installed, and report."""
    options = _read_arguments()
    sys.path[1:1] = options.peers.split(os.pathsep) if options.peers else []
    report = Report("exactness", "Resumed in the middle of an epoch", (__doc__ or "").partition("\n\n")[2])
    rows: list[list[str]] = []
    for name in options.way or WAYS:
        way = WAYS[name]
        absent = [package for package in way.packages if importlib.util.find_spec(package) is None]
        if absent:
            rows.append([way.title, f"not installed: {', '.join(absent)}", ""])
            continue
        outcomes = _interrupt(name, options)
        rows.append([way.title, *(outcome.describe() for outcome in outcomes)])
        report.data[name] = [vars(outcome) for outcome in outcomes]
    report.add_table(
        "Against the same training without a break",
        ["way", "samples as they are", "samples with random augmentation (Python, NumPy, torch)"],
        rows,
    )
    report.finish(results_folder(options))


def _interrupt(name: str, options: argparse.Namespace) -> list[Outcome]:
    """Return the outcomes without and with augmentation."""
    lives = ["twin", "second", f"killed!{DIES_AT}", "killed"]
    lives += [f"augmented-{life}+augment" for life in lives]
    with tempfile.TemporaryDirectory(prefix="relight-exactness-") as folder:
        _live(name, Path(folder), lives, options)
        return [_compare(Path(folder), prefix) for prefix in ("", "augmented-")]


def _compare(folder: Path, prefix: str) -> Outcome:
    twin, second, killed = (folder / f"{prefix}{name}" for name in ("twin", "second", "killed"))
    samples = _read_samples(killed)
    assert len(_read_samples(twin)) == 2 * STEPS_OF_EPOCH
    before, after = samples[:SAVED_AT], samples[DIES_AT:]
    epoch = Counter(index for step in (before + after)[STEPS_OF_EPOCH:] for index in step)
    return Outcome(
        repeatable=_find_difference(twin, second) == 0,
        repeated=sum(count - 1 for count in epoch.values()),
        skipped=SAMPLES - len(epoch),
        same_samples=before + after == _read_samples(twin),
        difference=_find_difference(twin, killed),
        steps=len(after),
    )


def _live(name: str, folder: Path, lives: list[str], options: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "measuring.interrupted", name, str(folder), *lives]
    path = os.pathsep.join(filter(None, (str(BENCHMARKS), options.peers, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stdout}{done.stderr}")


def _read_samples(folder: Path) -> list[list[int]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def _read_weights(folder: Path) -> dict[str, Any]:
    with np.load(folder / "weights.npz") as saved:
        return {name: saved[name] for name in saved.files}


def _find_difference(one: Path, other: Path) -> float:
    ours, theirs = _read_weights(one), _read_weights(other)
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--way", action="append", choices=list(WAYS), help="run this way only; repeat for several")
    parser.add_argument(
        "--peers", default="", help="folders with packages of benchmarks/requirements.txt, as in a PATH"
    )
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
