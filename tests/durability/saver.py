"""A process that saves at every step until it is killed, and reports over a pipe what it was promised.

    python -m tests.durability.saver ENGINE SOCKET_FD

It imports what the engine needs once, and forks a child for each life that the socket requests: a life has a folder, a
first step, and the pipe for its lines. Lines: `trainer PID`, `writer PID`, `second PID`, `began STEP`, `durable STEP`,
`pinned STEP`. The pipe ends when the last process of that life is gone.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from relight.checkpoints import writer_client
from relight.checkpoints.deletion import apply_retention, sweep
from relight.checkpoints.file_operations import SYSTEM, FileOperations
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.retention import BestRule, RetentionPolicy, plan_retention
from relight.checkpoints.snapshot_header import RankShare, Slice, SnapshotHeader, TensorSpec, new_token
from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.writer_channel import Durable, WriterDied
from relight.checkpoints.writer_client import WriterClient
from tests.checkpoints.snapshots import make_snapshot, stage_snapshot
from tests.durability.peers import PEERS, Peer

STORE, WRITER, RANKS = "relight", "relight writer", "relight ranks"
"""The store, its writer process, and the writers of two ranks that split each tensor between them."""
UNSYNCED = "relight without fsync"
"""The store without its syncs, to show that the tests notice it."""
RELIGHT = (STORE, WRITER, RANKS)
KEEP_ALL = RetentionPolicy(newest=1_000_000)
KEEP_FEW = RetentionPolicy(best=(BestRule(count=1),))
PIN_EVERY = 10
_SPLIT_BYTES = 1000

Say = Callable[[str, int], None]


class Unsynced(FileOperations):
    """The real file system, without any sync."""

    def sync(self, file: int) -> None:
        """Do nothing, as if it had synced."""

    def sync_folder(self, path: Path) -> None:
        """Do nothing, as if it had synced."""


class Life(NamedTuple):
    """The request for one life of the saver."""

    folder: str
    first_step: int
    keep_all: bool
    """Remove no old checkpoint."""


def snapshot_at(step: int) -> tuple[SnapshotHeader, list[memoryview]]:
    """Return the state at `step`: 0.4 MB that change at every step, and 1.2 MB that never do."""
    score = float(-abs(step % 50 - 25)) if step % 5 == 0 else None
    return make_snapshot(step, trained=100_000, frozen=300_000, score=score)


def save_with_store(life: Life, say: Say, operations: FileOperations) -> None:
    """Commit, verify, pin and remove as the writer process does, but in this process."""
    store = CheckpointStore(Path(life.folder), operations=operations)
    sweep(store)
    for step in itertools.count(life.first_step):
        say("began", step)
        info = store.commit(*snapshot_at(step))
        say("durable", step)
        if not store.check(info, from_disk=True):
            store.mark_verified(info)
        if step % PIN_EVERY == 0:
            _pin(store, info, say)
        if not life.keep_all:
            apply_retention(store, plan_retention(store.list().checkpoints, KEEP_FEW))


def save_with_writer(life: Life, say: Say, pipe: int) -> None:
    """Hand each step's snapshot to a writer process, as a trainer does."""
    if life.first_step % 2:  # some lives write while they copy, others do not
        writer_client.ANNOUNCED_BYTES = 0
    client = WriterClient(
        Path(life.folder),
        policy=KEEP_ALL if life.keep_all else KEEP_FEW,
        inherit_fds=(pipe,),
    )
    say("writer", client.pid)
    for step in itertools.count(life.first_step):
        say("began", step)
        stage_snapshot(client, *snapshot_at(step))
        client.submit()
        say("submitted", step)
        _tell(client, say)
        while client.pending >= 2:
            time.sleep(0.0005)
            _tell(client, say)


def save_with_ranks(life: Life, say: Say, pipe: int) -> None:
    """Hand each step's snapshot to the writers of two ranks, half of each large tensor to each."""
    folder = Path(life.folder)
    policy = KEEP_ALL if life.keep_all else KEEP_FEW
    clients = [WriterClient(folder, policy=policy, inherit_fds=(pipe,), rank=rank) for rank in range(2)]
    say("writer", clients[0].pid)
    say("second", clients[1].pid)
    store = CheckpointStore(folder)
    sweep(store)
    first_sequence = store.reserve_sequence(step=life.first_step)
    for step in itertools.count(life.first_step):
        say("began", step)
        token = new_token()
        for rank, client in enumerate(clients):
            share = RankShare(rank, len(clients), first_sequence + step - life.first_step)
            stage_snapshot(client, *_take_part(*snapshot_at(step), share=share, token=token))
            client.submit()
        _tell(clients[0], say)
        while any(client.pending >= 2 for client in clients):
            time.sleep(0.0005)
            _tell(clients[0], say)
            clients[1].poll()


def _take_part(
    header: SnapshotHeader, buffers: list[memoryview], *, share: RankShare, token: str
) -> tuple[SnapshotHeader, list[memoryview]]:
    """Return what one rank saves: its rows of each large tensor, and as rank 0 also the rest."""
    specs: list[TensorSpec] = []
    parts: list[memoryview] = []
    for spec, data in zip(header.tensors, buffers, strict=True):
        if spec.nbytes < _SPLIT_BYTES:
            if share.rank == 0:
                specs.append(spec)
                parts.append(data)
            continue
        rows = spec.shape[0] // share.world_size
        width = spec.nbytes // spec.shape[0]
        row = share.rank * rows
        place = Slice(spec.name, spec.shape, row)
        specs.append(TensorSpec(f"{spec.name}[{row}:{row + rows}]", spec.dtype, (rows,), rows * width, place))
        parts.append(data[row * width : (row + rows) * width])
    state = header.state if share.rank == 0 else None
    return msgspec.structs.replace(header, tensors=specs, state=state, share=share, token=token), parts


def save_with_peer(peer: Peer, life: Life, say: Say) -> None:
    """Save as the library is normally used, and keep the newest three."""
    folder = Path(life.folder)
    folder.mkdir(exist_ok=True)
    for step in itertools.count(life.first_step):
        state = peer.build_state(snapshot_at(step))
        say("began", step)
        peer.save(folder, step, state)
        say("durable", step)
        peer.remove(folder, step - 3)


def _pin(store: CheckpointStore, info: CheckpointInfo, say: Say) -> None:
    for other in store.list().checkpoints:
        if "pinned" in other.labels and other.step < info.step - 2 * PIN_EVERY:
            store.pin(other, on=False)
    store.pin(info)
    say("pinned", info.step)


def _tell(client: WriterClient, say: Say) -> None:
    for event in client.poll():
        if isinstance(event, Durable):
            say("durable", event.step)
        elif isinstance(event, WriterDied):
            say("writer", client.pid)


def _live(engine: str, life: Life, pipe: int) -> None:
    def say(word: str, number: int) -> None:
        os.write(pipe, f"{word} {number}\n".encode())

    say("trainer", os.getpid())
    if engine in (STORE, UNSYNCED):
        save_with_store(life, say, SYSTEM if engine == STORE else Unsynced())
    elif engine == WRITER:
        save_with_writer(life, say, pipe)
    elif engine == RANKS:
        save_with_ranks(life, say, pipe)
    else:
        save_with_peer(PEERS[engine], life, say)


def main() -> None:
    """Fork a life for each message, until the socket ends."""
    engine = sys.argv[1]
    if engine in PEERS:
        PEERS[engine].load_library()
    asked = socket.socket(fileno=int(sys.argv[2]))
    live = partial(_live, engine)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, pipes, _, _ = socket.recv_fds(asked, 65536, 1)
        if not message:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            asked.close()
            try:
                live(Life(*json.loads(message)), pipes[0])
            except BaseException as error:  # after a power cut every call fails: end here
                words = " ".join(f"{type(error).__name__}: {error}".split())
                os.write(pipes[0], f"ended {words}\n".encode())
            os._exit(1)
        os.close(pipes[0])


if __name__ == "__main__":
    main()
