"""Kills a real S3 server in the middle of uploads while a training is copied there, and checks what it holds.

    python -m tests.mirror.server_kills --kills 50

The server is SeaweedFS (`pip install -r requirements-soak.txt`). After each kill it is started again, and every
manifest there must be whole: all its packs are there, and every digest matches. At the end everything is killed, the
run's folder is deleted, the run is fetched into an empty folder and resumed, and its last state must be bit for bit
that of a twin that ran without any of this.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

from relight.checkpoints.manifest import decode_manifest
from relight.mirror.address import MirrorAddress, parse_mirror
from relight.mirror.connection import connect
from relight.mirror.fetching import fetch_run
from relight.mirror.pack_check import PackCheck
from relight.mirror.remote import MirrorError, NotThere, Remote
from relight.overview.summary import summarize_run
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record_or_none
from relight.runs.records import MirrorState
from relight.supervision.launch import launch_run
from relight.supervision.resume import resume_run
from relight.tasks.reference import resolve_task, validate_config
from tests.compiler import leave_out_compiler
from tests.integration import soak

TASK = f"{Path(__file__).with_name('paced_task.py')}:Paced"
STEPS_A_KILL = 15
CONFIG = {
    "samples": 8 * STEPS_A_KILL,
    "batch_size": 8,
    "width": 95_000,  # checkpoints of 9 MB, which go in parts
    "threads": 1,
    "device": "cpu",
    "checkpoint_every_s": 1.0,
    "nap_s": 0.0,
}
PACE_S = "2.0"  # a kill takes 10 s on a quiet machine, and half a minute on a busy one: the run must not end before
_KEYS = {
    "identities": [
        {"name": "t", "credentials": [{"accessKey": "key", "secretKey": "secret"}], "actions": ["Admin"]},
    ]
}
_CHUNK_BYTES = 8 << 20


class SeaweedFS:
    """The server, on ports that are free."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, *others = _find_ports(9)
        (folder / "data").mkdir(parents=True)
        (folder / "keys.json").write_text(json.dumps(_KEYS))
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
        self._command = [
            find_server() or "weed", "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=30",
            # A killed master waits until the election of the only candidate; by default that takes 10 to 20 s.
            "-master.electionTimeout=1s", "-master.heartbeatInterval=100ms",
            "-s3", f"-s3.config={folder / 'keys.json'}", f"-s3.port={self.port}", f"-s3.port.grpc={others[-1]}",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
            *(f"-{name}={port}" for name, port in zip(names, others, strict=False)),
        ]  # fmt: skip
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self.folder)
        soak.wait_for(self._answers, why="the server to start")

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.folder / "log").read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False


def find_server() -> str | None:
    """Return the path of the server; None if it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def check_copy(remote: Remote) -> int:
    """Assert that every manifest there is whole, byte for byte; return how many there are."""
    checked = 0
    for path in remote.list_files("checkpoints/manifests"):
        try:
            data = remote.read(path, most_bytes=1 << 30)
            manifest = decode_manifest(data, file_name=path.rpartition("/")[2])
            for pack in manifest.packs:
                check = PackCheck(manifest, pack)
                for begin in range(0, pack.bytes, _CHUNK_BYTES):
                    length = min(_CHUNK_BYTES, pack.bytes - begin)
                    check.add(remote.read_range(f"checkpoints/packs/{pack.file}", begin, length))
                check.finish()
            checked += 1
        except NotThere:
            assert path not in remote.list_files("checkpoints/manifests"), f"{path} names a pack that is not there"
    return checked


def kill_server(folder: Path, *, kills: int, seed: int) -> None:
    """Do everything that this module says."""
    chance = random.Random(seed)
    leave_out_compiler(os.environ)
    server = SeaweedFS(folder / "server")
    server.start()
    config = CONFIG | {"epochs": kills + 2}
    address = parse_mirror("s3://checkpoints/some/prefix")
    begun = time.monotonic()
    twin = _launch(folder / "twin", config, pace_s="0")
    soak.wait_for(twin.attempt(1).exit.exists, timeout_s=1_000, why="the twin to end")
    expected, steps = soak.digest(twin), summarize_run(twin).step
    print(f"The twin ended at step {steps} after {time.monotonic() - begun:.0f} s, digest {expected}.", flush=True)
    layout = _launch(folder / "lost", config, pace_s=PACE_S, mirror=address)
    remote = connect(address, layout.run_id)
    try:
        soak.wait_for(lambda: _state(layout).copied_step, why="the first copy")
        inside = checked = 0
        for kill in range(1, kills + 1):
            begun = time.monotonic()
            copied = _state(layout).copied_sequence or 0
            soak.wait_for(lambda: _state(layout).waiting_checkpoints, why="an upload")
            time.sleep(chance.uniform(0.0, 0.3))
            server.kill()
            before = _state(layout)
            soak.wait_for(lambda: _state(layout).failure, why="the failure to be told")
            inside += before.waiting_checkpoints > 0
            server.start()
            checked += soak.wait_for(partial(_check_if_up, remote), why="the server to answer for its files")
            soak.wait_for(partial(_copied_since, layout, copied), why="the next copy")
            summary = summarize_run(layout)
            assert summary.status.is_live, summary.reason
            took_s = time.monotonic() - begun
            print(f"kill {kill}: step {summary.step}, copied {_state(layout).copied_step}, {took_s:.0f} s", flush=True)
        check_copy(remote)
        _end(layout)
        shutil.rmtree(folder / "lost")
        fetched = fetch_run(address, layout.run_id, folder / "fresh").layout
        at = summarize_run(fetched).durable_step
        os.environ["PACE_S"] = "0"
        resume_run(fetched, trust=True)
        soak.wait_for(fetched.attempt(2).exit.exists, timeout_s=1_000, why="the run to end")
        assert soak.digest(fetched) == expected, "the final state differs from the twin's"
        soak.wait_for(lambda: _state(fetched).copied_step == steps, why="the last copy")
        print(
            f"{kills} kills, {inside} of them while a checkpoint was waiting; {checked} manifests read, all whole. "
            f"Fetched at step {at} of {steps} and resumed: the same digest."
        )
    finally:
        for runs in ("twin", "lost", "fresh"):
            soak.end_everything(folder / runs)
        server.kill()


def _check_if_up(remote: Remote) -> int:
    """Check the copy; return 0 while the server, which has just started, cannot read its own files yet."""
    try:
        return check_copy(remote)
    except NotThere:
        raise
    except MirrorError:
        return 0


def _launch(folder: Path, config: dict[str, object], *, pace_s: str, mirror: MirrorAddress | None = None) -> RunLayout:
    os.environ["PACE_S"] = pace_s
    return launch_run(folder, validate_config(resolve_task(TASK), config), name="killed", mirror=mirror).layout


def _state(layout: RunLayout) -> MirrorState:
    return read_record_or_none(layout.mirror_state, MirrorState) or MirrorState(url="", time_s=0.0)


def _copied_since(layout: RunLayout, sequence: int) -> bool:
    state = _state(layout)
    return state.failure is None and (state.copied_sequence or 0) > sequence


def _end(layout: RunLayout) -> None:
    """Kill everything that works on the run."""
    mirror = _state(layout).process
    soak.end_everything(layout.folder.parent)
    if mirror is not None:
        os.kill(mirror.pid, signal.SIGKILL)


def _find_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def main() -> int:
    """Kill from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--if-possible", action="store_true", help="do not fail if the server is not installed")
    given = parser.parse_args()
    if find_server() is None:
        print("SeaweedFS is not installed: pip install -r requirements-soak.txt", file=sys.stderr)
        return 0 if given.if_possible else 1
    with tempfile.TemporaryDirectory(prefix="relight-mirror-") as folder:
        kill_server(Path(folder), kills=given.kills, seed=given.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
