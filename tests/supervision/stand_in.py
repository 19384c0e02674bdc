"""A training script without torch: it keeps the contract of a real one, and misbehaves on request.

Run as `python stand_in.py BEHAVIOR [ARGUMENT]`. If `behavior.json` exists in the run folder, it replaces the arguments.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from relight.runs.layout import RunLayout
from relight.runs.process_identity import identify_process
from relight.runs.progress import Progress, ProgressFile
from relight.runs.record_file import write_record
from relight.runs.records import ScriptRecord, TrainerOutcome
from relight.runs.stop_request import read_stop_request

STEPS = 40
STEP_S = 0.05

layout = RunLayout(Path(os.environ["RELIGHT_RUN_FOLDER"]))
attempt = layout.attempt(int(os.environ["RELIGHT_ATTEMPT"]))
lifeline = int(os.environ["RELIGHT_LIFELINE_FD"])
asked_to_end = threading.Event()


def say(outcome: str, step: int, **more: str) -> None:
    write_record(attempt.outcome, TrainerOutcome(outcome=outcome, step=step, **more))  # type: ignore[arg-type]


def note_signal(number: int, frame: object) -> None:
    asked_to_end.set()


def lost_supervisor() -> bool:
    return bool(select.select([lifeline], [], [], 0)[0])


def train(steps: int, *, heeds_stops: bool = True, crash_at: int | None = None) -> int:
    progress = ProgressFile(attempt.progress)
    for step in range(1, steps + 1):
        time.sleep(STEP_S)
        progress.write(Progress(step=step, steps_total=steps, phase="training", time_s=time.time()))
        print(f"step {step}", flush=True)
        if step == crash_at:
            say(
                "crashed",
                step,
                error="ValueError: no",
                reason="ValueError: no",
                traceback="Traceback ...\nValueError: no",
            )
            return 3
        if lost_supervisor():
            say("stopped", step, reason="Its supervisor died.")
            return 130
        if heeds_stops and (asked_to_end.is_set() or read_stop_request(layout, attempt=attempt.number)):
            say("stopped", step, reason="Stopped by request.")
            return 130
    progress.write(Progress(step=steps, steps_total=steps, phase="finished", time_s=time.time()))
    say("finished", steps)
    return 0


def main(behavior: str, argument: str = "") -> int:
    signal.signal(signal.SIGTERM, note_signal)
    if behavior == "daemon":  # forks one before it joins the run, in a session of its own
        if os.fork() == 0:
            os.setsid()
            os.execlp("sleep", "sleep", "600")
        behavior = "train"
    write_record(attempt.script, ScriptRecord(pid=os.getpid()))  # as relight.init does
    match behavior:
        case "train":
            return train(int(argument or STEPS))
        case "deaf":  # ignores stop requests and SIGTERM
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return train(10_000, heeds_stops=False)
        case "stubborn":  # never reaches a step edge, ends on SIGTERM by default, and ignores its lifeline
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(600)
        case "undead":  # ignores everything but SIGKILL, even the death of its supervisor
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Path(argument).touch()
            time.sleep(600)
        case "crash":
            return train(STEPS, crash_at=int(argument))
        case "crash-once":  # crashes in the first attempt only
            return train(STEPS, crash_at=3 if attempt.number == 1 else None)
        case "crash-on-stop":  # fails with an error while it stops
            while not read_stop_request(layout, attempt=attempt.number):
                time.sleep(0.01)
            say("crashed", 1, error="ValueError: no", reason="ValueError: no")
            return 3
        case "code":
            return int(argument)
        case "signal":
            signal.signal(signal.Signals[argument], signal.SIG_DFL) if argument != "SIGKILL" else None
            os.kill(os.getpid(), signal.Signals[argument])
            time.sleep(60)
        case "workers":  # starts a child in its process group that does not end by the lifeline
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=(lock_fd(),))
            Path(argument).write_text(str(child.pid))
            return train(10_000)
        case "writer":  # starts a writer that is still busy when the first attempt's trainer dies
            if attempt.number == 1:
                script = "import sys, time; time.sleep(1.5); open(sys.argv[1], 'w').close()"
                child = subprocess.Popen(
                    [sys.executable, "-c", script, argument], pass_fds=(lock_fd(),), start_new_session=True
                )
                write_record(attempt.writer, identify_process(child.pid))
                time.sleep(0.2)
                os.kill(os.getpid(), signal.SIGKILL)
            return train(3)
        case "environment":
            print(Path.cwd(), sys.argv, flush=True)
            print("to stderr", file=sys.stderr, flush=True)
            os.write(1, b"straight to the descriptor\n")
            return train(1)
    raise SystemExit(f"unknown behavior {behavior}")


def lock_fd() -> int:
    return int(os.environ["RELIGHT_LOCK_FD"])


if __name__ == "__main__":
    changed = layout.folder / "behavior.json"
    sys.exit(main(*(json.loads(changed.read_text()) if changed.exists() else sys.argv[1:])))
