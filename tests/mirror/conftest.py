"""Places for copies, and runs that are copied there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.store import CheckpointStore
from relight.mirror.address import MirrorAddress, parse_mirror
from relight.mirror.connection import connect
from relight.mirror.copier import Copier
from relight.mirror.remote import Remote
from relight.runs.layout import RunLayout
from tests.checkpoints.snapshots import make_snapshot
from tests.mirror.s3_stand_in import StandIn
from tests.runs.run_builder import RunBuilder, dead_process


@dataclass
class Place:
    """Where copies are kept, and a way to break what is there."""

    address: MirrorAddress
    folder: Path | None = None
    server: StandIn | None = None

    def remote(self, run_id: str | None = None) -> Remote:
        return connect(self.address, run_id)

    def files(self, run_id: str) -> list[str]:
        return sorted(self.remote(run_id).list_files())

    def manifests(self, run_id: str) -> list[str]:
        return [path.rpartition("/")[2] for path in self.files(run_id) if "/manifests/" in path]

    def packs(self, run_id: str) -> list[str]:
        return [path.rpartition("/")[2] for path in self.files(run_id) if "/packs/" in path]

    def damage(self, run_id: str, path: str, change: Any) -> None:
        """Replace a file there by `change(its bytes)`."""
        remote = self.remote(run_id)
        data = change(remote.read(path, most_bytes=1 << 30))
        remote.put(path, (data,), len(data))


@dataclass
class Trained:
    """A run with checkpoints."""

    builder: RunBuilder

    @property
    def layout(self) -> RunLayout:
        return self.builder.layout

    @property
    def store(self) -> CheckpointStore:
        return CheckpointStore(self.layout.checkpoints)

    def save(self, step: int, *, verified: bool = True, **more: Any) -> CheckpointInfo:
        """Log until `step` and save a checkpoint there."""
        self.builder.log("train", {step: {"loss": 1 / step}})
        self.builder.progress(step)
        header, buffers = make_snapshot(step, attempt=self.builder.attempt, **more)
        info = self.store.commit(header, buffers)
        if verified:
            self.store.mark_verified(info)
        return info

    def copier(self, place: Place) -> Copier:
        copier = Copier(
            self.layout, place.remote(self.layout.run_id), on_sent=lambda _: None,
            url=place.address.of_run(self.layout.run_id),
        )  # fmt: skip
        copier.connect()
        return copier

    def copy(self, place: Place, copier: Copier | None = None, *, ended: bool = False) -> Copier:
        """Copy what is missing, as the process does."""
        copier = copier or self.copier(place)
        copier.claim()
        while (waiting := copier.find_waiting(ended=ended)).checkpoints:
            copier.copy(waiting.checkpoints[0])
        copier.copy_files()
        copier.retain(waiting)
        return copier


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """An S3 server that the environment names."""
    for name in ("AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    started = StandIn()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{started.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    yield started
    started.stop()


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind of place in turn."""
    if request.param == "folder":
        folder = tmp_path / "other disk"
        folder.mkdir()
        return Place(parse_mirror(str(folder)), folder=folder)
    return Place(parse_mirror("s3://bucket/some/prefix"), server=request.getfixturevalue("server"))


@pytest.fixture
def s3(server: StandIn) -> Place:
    return Place(parse_mirror("s3://bucket/runs"), server=server)


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    """A run in its first attempt, whose processes have died."""
    builder = RunBuilder.create(tmp_path / "runs")
    builder.start(age_s=100).processes(dead_process(), dead_process()).progress(1)
    builder.files.log.write_text("epoch 1\n")
    return Trained(builder)
