"""Runs every CUDA test and the GPU benchmarks on this machine's card, and prints one table: `make gpu`.

Each step is a process of its own with a time limit. A step that is late is ended with everything it started, and the
steps after it still run. The exit code is 0 if every row of the table is good.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from measuring.limited import adopt_orphans, run_limited  # noqa: E402
from measuring.numbers import pair, spread  # noqa: E402
from measuring.report import RESULTS, Report  # noqa: E402
from relight.machine.gpu import GpuReader  # noqa: E402

LIMIT_S = 480.0
TEST_LIMIT_S = 150.0
"""How long the tests of one file may take on a card. A rehearsal, on a busy machine perhaps, may take all the time."""
SAVE_LIMITS_S = {1_500: 90.0, 12_000: LIMIT_S}
"""How long the saves of a state of that size, in MB, may take."""
REHEARSED_SAVE_LIMITS_S = {2: LIMIT_S}
METHOD = """The tests of `tests/gpu`, then `checkpoint_save.py` with a state on the card. "Blocks" is how long the
training loop stands still for a save, "durable" how long until the state would survive a power cut. Both are medians,
next to `torch.save` of the same state in the same rounds; its time until durable includes a sync."""

_ENDING_S = 15.0
"""Time kept for ending a step that is late, and for the report."""
_LOG_LINES = 40


@dataclass(frozen=True)
class Row:
    """One line of the table. `is_good` is false if the whole must not count as passed."""

    check: str
    result: str
    figures: str
    seconds: float
    is_good: bool


class Session:
    """The steps that have run, and what is left of the time."""

    def __init__(self, folder: Path, *, limit_s: float, rehearse: bool) -> None:
        """`folder` takes the logs and everything that the steps write."""
        self.rows: list[Row] = []
        self.saves: dict[str, Any] = {}
        self._folder = folder
        self._rehearse = rehearse
        self._limit_s = limit_s
        self._end = time.monotonic() + limit_s - _ENDING_S
        self._environment = dict(os.environ)
        if rehearse:  # several threads for small tensors make a busy machine slow
            self._environment |= {"RELIGHT_GPU_REHEARSAL": "1", "OMP_NUM_THREADS": "1"}

    def run_tests(self, file: Path) -> None:
        """Run the tests of one file; each is a row."""
        name = file.stem
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=self._folder) as folder:
            found = Path(folder, "tests.xml")
            command = [
                sys.executable, "-m", "pytest", str(file.relative_to(ROOT)), "-p", "no:cacheprovider",
                "--basetemp", str(Path(folder, "tmp")), "-o", "junit_family=xunit1", f"--junitxml={found}",
            ]  # fmt: skip
            problem, seconds = self._run(name, command, self._left_s() if self._rehearse else TEST_LIMIT_S)
            rows = self._read_tests(found) if found.exists() else []
        if problem and all(row.is_good for row in rows):
            rows.append(Row(name, "failed", problem, seconds, is_good=False))
        self._add(rows)

    def measure_saves(self, size_mb: int, limit_s: float) -> None:
        """Measure saves of a state of that size, next to torch.save."""
        name = f"save-{size_mb}-mb"
        limit_s = min(limit_s, self._left_s())
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=self._folder) as folder:
            command = [
                sys.executable, "benchmarks/checkpoint_save.py", "--device", "cpu" if self._rehearse else "cuda",
                "--way", "writer", "--way", "torch.save", "--size-mb", str(size_mb), "--rounds", "5",
                # Making the state and taking the memory for it comes before the first round.
                "--limit-s", str(limit_s * 0.6), "--folder", folder, "--results", folder,
            ]  # fmt: skip
            problem, seconds = self._run(name, command, limit_s)
            found = sorted(Path(folder).glob("*.json"))
            saves = json.loads(found[0].read_text())["data"] if found else None
        check = f"save {size_mb / 1000:g} GB"
        if problem or saves is None:
            self._add([Row(check, "failed", problem or "it wrote no result", seconds, is_good=False)])
            return
        self.saves[check] = saves
        self._add([Row(check, "measured", _word_saves(saves["seconds"]), seconds, is_good=True)])

    def _add(self, rows: Sequence[Row]) -> None:
        self.rows += rows
        for row in rows:
            print(f"  {row.result}: {row.check}", flush=True)

    def _left_s(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def _run(self, name: str, command: Sequence[str], limit_s: float) -> tuple[str, float]:
        """Run a step to its end or its limit. Returns what went wrong, or "", and the seconds that it took."""
        limit_s = min(limit_s, self._left_s())
        if limit_s == 0:
            return f"not run: the {self._limit_s:.0f} s for everything were over", 0.0
        print(f"{name} (at most {limit_s:.0f} s)", flush=True)
        log = self._folder / f"{name}.log"
        outcome = run_limited(command, limit_s=limit_s, log=log, folder=ROOT, environment=self._environment)
        if outcome.code == 0 and not outcome.left:
            return "", outcome.seconds
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join([f"  The end of {log}:", *(f"  | {line}" for line in lines[-_LOG_LINES:])]), flush=True)
        if outcome.code is None:
            problem = f"ended after {outcome.seconds:.0f} s, its limit"
        elif outcome.code < 0:
            problem = f"killed by {signal.Signals(-outcome.code).name}"
        elif outcome.code:
            problem = next((line for line in reversed(lines) if line.strip()), f"exit code {outcome.code}")
        else:
            problem = f"processes outlived it and were killed: {', '.join(outcome.left)}"
        return problem, outcome.seconds

    def _read_tests(self, path: Path) -> list[Row]:
        rows = []
        for case in ElementTree.parse(path).iter("testcase"):
            failure = case.find("failure") if case.find("failure") is not None else case.find("error")
            skipped = case.find("skipped")
            result = "failed" if failure is not None else "skipped" if skipped is not None else "passed"
            reason = failure if failure is not None else skipped
            recorded = [each.get("value", "") for each in case.iter("property") if each.get("name") == "figures"]
            words = [reason.get("message", "")] if reason is not None else []
            rows.append(
                Row(
                    case.get("name", "").removeprefix("test_").replace("_", " "),
                    result,
                    "; ".join([*words, *recorded]),
                    float(case.get("time", "0")),
                    # Without a card some tests have nothing to rehearse; with one, each has to run.
                    is_good=result == "passed" or (result == "skipped" and self._rehearse),
                )
            )
        return rows


def main() -> int:
    """Run all steps, then print the table and write it under its date."""
    options = _read_arguments()
    adopt_orphans()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options.folder.mkdir(parents=True, exist_ok=True)
    report = _begin_report(rehearse=options.rehearse)
    session = Session(options.folder.resolve(), limit_s=options.limit_s, rehearse=options.rehearse)
    interrupted = False
    try:
        for file in sorted((ROOT / "tests" / "gpu").glob("test_*.py")):
            session.run_tests(file)
        for size_mb, limit_s in (REHEARSED_SAVE_LIMITS_S if options.rehearse else SAVE_LIMITS_S).items():
            session.measure_saves(size_mb, limit_s)
    except KeyboardInterrupt:
        interrupted = True
        print("Interrupted: no result is written.", flush=True)
    report.add_table(
        "Results",
        ["check", "result", "figures", "seconds"],
        [[row.check, row.result, _in_one_line(row.figures), f"{row.seconds:.1f}"] for row in session.rows],
    )
    report.data = {"rows": [asdict(row) for row in session.rows], "saves": session.saves}
    report.finish(None if interrupted else options.results or (None if options.rehearse else RESULTS))
    if interrupted:
        return 130
    return 0 if all(row.is_good for row in session.rows) else 1


def _begin_report(*, rehearse: bool) -> Report:
    if rehearse:
        return Report("gpu-rehearsal", "A rehearsal of make gpu, on the CPU with small states and a fake card", METHOD)
    report = Report("gpu", "Tests and benchmarks on an NVIDIA card", METHOD)
    gpu = GpuReader().read()
    report.machine |= {
        "gpu": ", ".join(f"{card.name} ({(card.memory_total_bytes or 0) / 2**30:.0f} GiB)" for card in gpu.cards),
        "driver": gpu.driver,
        "driver_cuda": gpu.cuda,
    }
    return report


def _word_saves(seconds: dict[str, list[list[float]]]) -> str:
    """Say how long the writer and torch.save block and take until durable."""
    ours, theirs = seconds["writer"], seconds["torch.save"]
    parts = []
    for index, what in enumerate(("blocks", "durable after")):
        own, other = [taken[index] for taken in ours], [taken[index] for taken in theirs]
        ratio = pair(other, own).median
        parts.append(f"{what} {spread(own).median:.2f} s (torch.save {spread(other).median:.2f} s, {ratio:.1f} times)")
    return f"{', '.join(parts)}; rounds: {len(ours)}"


def _in_one_line(text: str) -> str:
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= 300 else f"{line[:299]}…"


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--rehearse", action="store_true", help="run the same steps on the CPU, with small states and a fake card"
    )
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="end everything after this time (%(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".gpu-run", help="where the steps write; its disk is measured (.gpu-run)"
    )
    parser.add_argument(
        "--results", type=Path, help="folder for the dated result (benchmarks/results; for a rehearsal none)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
