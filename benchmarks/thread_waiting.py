"""How PyTorch's CPU threads should wait for each other: what each way costs on a quiet and on a busy machine.

Relight trains `stdlib-gpt` tiny with as many threads as PyTorch chooses, once for each way, in turns. To make the
machine busy, the script starts twice as many endless programs as it has cores. *Spin* is OpenMP's default, *sleep* is
OMP_WAIT_POLICY=PASSIVE, and *look, then sleep* adds GOMP_SPINCOUNT=10000, as Relight's trainer does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import astuple
from pathlib import Path

from loop_overhead import WAITING, WARM_UP, WORKLOADS
from measuring.numbers import pair, spread
from measuring.report import Report, add_report_options, results_folder
from measuring.turns import Block, Racer, race

WORKLOAD = "stdlib-gpt"
WAYS = {"spin": {}, "sleep": {"OMP_WAIT_POLICY": "PASSIVE"}, "look, then sleep": WAITING}


def main() -> None:
    """Measure and report."""
    options = _read_arguments()
    report = Report("thread_waiting", "How threads wait for each other", (__doc__ or "").partition("\n\n")[2].rstrip())
    for state, rounds, others in (
        ("quiet", options.rounds, 0),
        ("busy", options.busy_rounds, 2 * (os.cpu_count() or 1)),
    ):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        try:
            times = _race(rounds)
        finally:
            for process in busy:
                process.kill()
                process.wait()
        own = {
            way: [block.wall_s * 1e3 / WORKLOADS[WORKLOAD].block for block in blocks] for way, blocks in times.items()
        }
        report.add_table(
            f"{state.capitalize()}: {rounds} rounds of {WORKLOADS[WORKLOAD].block} steps, {others} other programs",
            ["way", "ms a step", "times spin"],
            [
                [way, spread(own[way]).show(1), "1" if way == "spin" else pair(own[way], own["spin"]).show(2)]
                for way in WAYS
            ],
        )
        report.data[state] = {way: [astuple(block) for block in blocks] for way, blocks in times.items()}
    report.finish(results_folder(options))


def _race(rounds: int) -> dict[str, list[Block]]:
    script = str(Path(__file__).with_name("loop_overhead.py"))
    racers: dict[str, Racer] = {}
    with tempfile.TemporaryDirectory(prefix="relight-waiting-") as folder:
        try:
            for number, (way, settings) in enumerate(WAYS.items()):
                runs = Path(folder, str(number))
                runs.mkdir()
                command = [sys.executable, script, "--loop", "relight", "--workload", WORKLOAD]
                command += ["--rounds", str(rounds), "--folder", str(runs)]
                kept = {key: value for key, value in os.environ.items() if key not in WAITING}
                racers[way] = Racer(command, environment=kept | settings, log=runs / "log.txt")
            return race(racers, rounds=rounds, warm_up=WARM_UP)
        finally:
            for racer in racers.values():
                racer.close()


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="rounds on the quiet machine (%(default)s)")
    parser.add_argument("--busy-rounds", type=int, default=5, help="rounds on the busy machine (%(default)s)")
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
