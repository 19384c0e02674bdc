"""Stands in for a trainer in the tests of the writer process: stages snapshots and prints what happens to them.

    python trainer_stand_in.py FOLDER FIRST_STEP SCENARIO

Prints one line per event, immediately: `submitted STEP`, `durable STEP`, `writer PID`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from relight.checkpoints import writer_client
from relight.checkpoints.pack import order_for_pack
from relight.checkpoints.retention import RetentionPolicy
from relight.checkpoints.writer_channel import Durable, WriterDied
from relight.checkpoints.writer_client import WriterClient
from tests.checkpoints.snapshots import make_snapshot, stage_snapshot

TRAINED = 200_000


def say(line: str) -> None:
    """Print a line and flush it, so that it arrives even if this process is killed right after."""
    os.write(1, line.encode() + b"\n")


def stage(client: WriterClient, step: int) -> None:
    """Stage one snapshot."""
    stage_snapshot(client, *make_snapshot(step, trained=TRAINED, frozen=1000))


def tell(client: WriterClient) -> None:
    """Print what the writer has reported."""
    for event in client.poll():
        if isinstance(event, Durable):
            say(f"durable {event.step}")
        elif isinstance(event, WriterDied):
            say(f"writer {client.pid}")


def main() -> None:
    """Run the scenario until killed."""
    folder, first, scenario = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    lock = os.open(folder.parent / "lock", os.O_RDWR | os.O_CREAT)
    import fcntl

    fcntl.flock(lock, fcntl.LOCK_EX)
    if first % 2:  # only every second process announces its snapshots
        writer_client.ANNOUNCED_BYTES = 0
    client = WriterClient(
        folder,
        policy=RetentionPolicy(best=()),
        inherit_fds=(lock,),
    )
    say(f"writer {client.pid}")
    if scenario == "submit, then hang":
        stage(client, first)
        client.submit()
        say(f"submitted {first}")
    elif scenario == "stage half of the second, then hang":
        stage(client, first)
        client.submit()
        client.drain(60)
        tell(client)
        header, buffers = make_snapshot(first + 1, trained=TRAINED, frozen=1000)
        order = order_for_pack(header.tensors)
        memory = client.stage(header)
        for i in order[:-1]:
            memory[i][:] = buffers[i]
        client.note_copied(len(order) - 1)
        say("staged")
    elif scenario == "fork, then hang":
        stage(client, first)
        client.submit()
        if os.fork() == 0:
            say(f"child {os.getpid()}")
            time.sleep(600)
        say(f"submitted {first}")
    elif scenario == "save at every step":
        for step in range(first, first + 100_000):
            stage(client, step)
            client.submit()
            say(f"submitted {step}")
            while client.pending >= 2:
                tell(client)
                time.sleep(0.0005)
            tell(client)
    time.sleep(600)


if __name__ == "__main__":
    main()
