"""`python -m relight.training.ranks.agent RUN_FOLDER ATTEMPT NPROC NODES MEETING COMMAND…`: torchrun for a supervisor.

With several NODES, `srun` starts one such process on each of them, and they find each other at MEETING, a HOST:PORT.
torchrun starts the ranks and ends all of them when one fails. It never restarts them: the restart policy starts the
whole attempt again, from the newest checkpoint. How the training ended is in the ranks' own records; this process only
adds which rank failed first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.record_file import read_record_or_none, write_record
from relight.runs.records import RankEnd, RanksFailure, TrainerOutcome
from relight.supervision.local_launcher import LIFELINE_VARIABLE, LOCK_VARIABLE, name_signal

_EXIT_CODES = {"finished": 0, "stopped": 130, "crashed": 3}
_STANDALONE = ["--standalone", "--local-addr", "127.0.0.1"]
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def main(arguments: list[str]) -> int:
    """Run the ranks to their end and return the exit code that one trainer would have had."""
    folder, number, nproc, nodes, meeting, *command = arguments
    layout = RunLayout(Path(folder))
    alone = int(nodes) == 1
    node = 0 if alone else int(os.environ["SLURM_NODEID"])
    _hand_down_descriptors(layout)
    _set_environment(int(nproc), alone=alone)
    place = _STANDALONE if alone else _place_node(node, nodes=nodes, meeting=meeting)
    failed = _run_ranks([*place, "--nproc-per-node", nproc], [folder, number, *command])
    if failed or not alone:  # a node without such a record was lost
        own = layout.of_rank(node * int(nproc)).attempt(int(number))
        with contextlib.suppress(OSError):
            write_record(own.ranks_failure, RanksFailure(failed=failed), durable=False)
    if not alone:
        return int(bool(failed))
    return _find_exit_code(layout.attempt(int(number)), failed)


def _place_node(node: int, *, nodes: str, meeting: str) -> list[str]:
    host, _, port = meeting.rpartition(":")
    return ["--nnodes", nodes, "--node-rank", str(node), "--master-addr", host, "--master-port", port]


def _hand_down_descriptors(layout: RunLayout) -> None:
    """Let every rank inherit the run's lock and a lifeline of this process.

    When the supervisor dies, the lifeline of the ranks ends too, and when they have ended, so does this process.
    torchrun alone hands down no descriptors. On several nodes this process has inherited none itself: its supervisor
    holds the lock, and Slurm ends the job with it. There the open file only shows that its holders are not done.
    """
    reading, writing = os.pipe()
    os.set_inheritable(writing, False)
    if LOCK_VARIABLE not in os.environ:
        os.environ[LOCK_VARIABLE] = str(os.open(layout.lock, os.O_RDWR | os.O_CLOEXEC))
    handed = [reading, int(os.environ[LOCK_VARIABLE])]
    if LIFELINE_VARIABLE in os.environ:
        lifeline = int(os.environ[LIFELINE_VARIABLE])
        threading.Thread(target=_close_with, args=(lifeline, writing), daemon=True, name="relight-lifeline").start()
    os.environ[LIFELINE_VARIABLE] = str(reading)

    class Inheriting(subprocess.Popen[Any]):
        """A process that inherits these descriptors. torchrun imports the name `Popen` when it is loaded."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "pass_fds": handed})

    subprocess.Popen = Inheriting  # type: ignore[misc]


def _close_with(lifeline: int, writing: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(lifeline, 1):
            pass
    os.close(writing)


def _set_environment(nproc: int, *, alone: bool) -> None:
    """Set what torchrun and gloo would otherwise guess from the host's name, or leave at values that hurt."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // nproc)))
    if alone:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", _LOOPBACK)
    # Else torch's default group reads addresses of dead processes after torchrun has restarted its ranks.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")


def _run_ranks(place: list[str], command: list[str]) -> tuple[RankEnd, ...]:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main([
            *place, "--max-restarts", "0",
            "--no-python", sys.executable, "-P", "-m", "relight.supervision.rank_process", *command,
        ])  # fmt: skip
    except ChildFailedError as error:
        return _order_failures({rank: (each.exitcode, each.timestamp) for rank, each in error.failures.items()})
    except SignalException:
        return ()  # the ranks received the signal too, and say so themselves
    return ()


def _order_failures(failures: dict[int, tuple[int, float]]) -> tuple[RankEnd, ...]:
    """Order the exit codes and times of ranks, as torchrun reports them, by which failure caused the others.

    The other ranks lose their connection to a killed one, and may have ended with an error in the same second.
    """
    first_s = min(time_s for _, time_s in failures.values())

    def place(rank: int) -> tuple[bool, float]:
        code, time_s = failures[rank]
        return not (code < 0 and code != -signal.SIGTERM and time_s - first_s <= 1), time_s

    return tuple(
        RankEnd(rank, signal=name_signal(-code)) if (code := failures[rank][0]) < 0 else RankEnd(rank, exit_code=code)
        for rank in sorted(failures, key=place)
    )


def _find_exit_code(attempt: AttemptLayout, failed: tuple[RankEnd, ...]) -> int:
    outcome = read_record_or_none(attempt.outcome, TrainerOutcome)
    code = _EXIT_CODES[outcome.outcome] if outcome is not None else 0
    return (failed[0].exit_code or 1) if failed and code == 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
