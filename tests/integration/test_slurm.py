"""Runs in a real Slurm: finished, preempted, out of time, on a lost node, stopped and resumed; untouched by hand."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import soak
from integration.conftest import QUICK, Workshop
from integration.slurm import Cluster, find_obstacle, running_cluster
from relight.overview.summary import summarize_run
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import AttemptExit, AttemptProcesses, AttemptStart, SlurmJob
from relight.runs.status import RunStatus
from relight.supervision.resume import resume_run
from relight.supervision.stop import stop_run

pytestmark = [
    pytest.mark.processes,
    pytest.mark.thorough,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(find_obstacle()), reason=find_obstacle()),
]

CONFIG = {**QUICK, "epochs": 3, "samples": 157, "nap_s": 0.02, "checkpoint_every_s": None, "checkpoint_every_steps": 3}
SLOW = {**CONFIG, "nap_s": 0.5}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "slurm") as running:
        yield running


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[soak.Reference]:
    """The uninterrupted run in one process."""
    folder = tmp_path_factory.mktemp("reference")
    yield soak.Reference(folder, CONFIG)
    soak.end_everything(folder)


@pytest.fixture(scope="module")
def reference_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[soak.Reference]:
    """The uninterrupted run of two ranks, on this machine."""
    folder = tmp_path_factory.mktemp("reference_of_two")
    yield soak.Reference(folder, CONFIG, nproc=2)
    soak.end_everything(folder)


def _job(layout: RunLayout) -> int:
    return read_record(layout.slurm, SlurmJob).job


def _wait_for_finish(layout: RunLayout) -> None:
    soak.wait_for(
        lambda: summarize_run(layout).status is RunStatus.FINISHED,
        why=f"the end of {layout.folder}",
        timeout_s=300,
    )


def _preempt(cluster: Cluster) -> None:
    cluster.run("sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")


def test_a_run_waits_in_the_queue_is_stopped_there_and_resumed(cluster: Cluster, workshop: Workshop) -> None:
    layout = workshop.launch({**CONFIG, "epochs": 1}, slurm=SlurmJob(options=("--begin=now+1hour",)))
    waiting = summarize_run(layout)
    assert waiting.status is RunStatus.QUEUED
    assert f"Slurm job {_job(layout)} is waiting (BeginTime" in waiting.reason
    ended = stop_run(layout, wait_s=10)
    assert ended is not None
    assert ended.outcome == "stopped"
    assert cluster.state(_job(layout)) == "CANCELLED"
    resume_run(layout)
    cluster.run("scontrol", "update", f"JobId={_job(layout)}", "StartTime=now")
    _wait_for_finish(layout)
    assert read_record(layout.attempt(2).start, AttemptStart).reason == "resume"


def test_a_job_that_slurm_refuses_is_a_crash_with_its_words(cluster: Cluster, workshop: Workshop) -> None:
    done = workshop.relight("run", "digits", "--on", "slurm", "--sbatch", "--partition=nosuch")
    assert done.returncode == 1
    assert "Slurm did not take the job: " in done.stderr
    assert "nvalid partition" in done.stderr


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_preempted_run_comes_back_by_itself(
    cluster: Cluster, workshop: Workshop, reference: soak.Reference, reference_of_two: soak.Reference, nodes: int
) -> None:
    layout = workshop.launch(SLOW, slurm=SlurmJob(nodes=nodes, options=("--exclusive",)))
    workshop.wait_for_step(layout, 5)
    _preempt(cluster)
    cluster.start_now(_job(layout))
    ended = read_record(layout.attempt(1).exit, AttemptExit)
    assert (ended.outcome, ended.stop_signal) == ("stopped", "SIGUSR1")
    _wait_for_finish(layout)
    start = read_record(layout.attempt(2).start, AttemptStart)
    assert start.from_step == ended.step  # nothing was trained again
    (reference if nodes == 1 else reference_of_two).compare(layout)


def test_a_run_whose_time_is_up_goes_on_in_the_next_job(
    cluster: Cluster, workshop: Workshop, reference: soak.Reference
) -> None:
    layout = workshop.launch({**CONFIG, "nap_s": 1.2}, slurm=SlurmJob(options=("--time=1", "--signal=B:USR1@45")))
    workshop.wait_for_step(layout, 2)
    cluster.start_now(_job(layout))
    assert read_record(layout.attempt(1).exit, AttemptExit).stop_signal == "SIGUSR1"
    soak.wait_for(lambda: layout.latest_attempt() == 2, why="the next attempt")
    while summarize_run(layout).status is not RunStatus.FINISHED:
        soak.wait_for(
            lambda: summarize_run(layout).status is RunStatus.FINISHED or cluster.state(_job(layout)) == "PENDING",
            why="the end, or the next time limit", timeout_s=200,
        )  # fmt: skip
        if summarize_run(layout).status is not RunStatus.FINISHED:
            cluster.start_now(_job(layout))
            soak.wait_for(lambda: cluster.state(_job(layout)) != "PENDING", why="the start")
    reference.compare(layout)


def test_a_lost_node_brings_the_run_back_on_two_nodes(
    cluster: Cluster, workshop: Workshop, reference_of_two: soak.Reference
) -> None:
    layout = workshop.launch(SLOW, slurm=SlurmJob(nodes=2, options=("--exclusive",)))
    workshop.wait_for_step(layout, 5)
    cluster.kill_node("n2")
    soak.wait_for(lambda: cluster.state(_job(layout)) == "PENDING", why="the requeue", timeout_s=120)
    cluster.start_node("n2")
    cluster.start_now(_job(layout))
    _wait_for_finish(layout)
    assert layout.latest_attempt() >= 2
    reference_of_two.compare(layout)


def test_a_run_is_stopped_and_resumed_and_a_killed_supervisor_ends_the_job(
    cluster: Cluster, workshop: Workshop, reference_of_two: soak.Reference
) -> None:
    layout = workshop.launch(SLOW, slurm=SlurmJob(nodes=2))
    workshop.wait_for_step(layout, 4)
    assert "runs on n[1-2]" in summarize_run(layout).reason
    ended = stop_run(layout, wait_s=60)
    assert ended is not None
    assert (ended.outcome, ended.stop_signal) == ("stopped", None)
    soak.wait_for(lambda: cluster.state(_job(layout)) == "COMPLETED", why="the end of the job")
    resume_run(layout)
    workshop.wait_for_step(layout, ended.step + 3)
    os.kill(read_record(layout.attempt(2).processes, AttemptProcesses).supervisor.pid, signal.SIGKILL)
    soak.wait_for(lambda: summarize_run(layout).status is RunStatus.INTERRUPTED, why="the right status")
    soak.wait_for(lambda: cluster.state(_job(layout)) in ("FAILED", "CANCELLED"), why="the end of the job")
    subprocess.run(["sbatch", "--parsable", "job.sbatch"], cwd=layout.folder, check=True, capture_output=True)
    _wait_for_finish(layout)
    assert "submitted by hand" in summarize_run(layout).notes[0]
    reference_of_two.compare(layout)


def test_scancel_ends_a_run_for_good_with_a_checkpoint(cluster: Cluster, workshop: Workshop) -> None:
    layout = workshop.launch(SLOW, slurm=SlurmJob())
    workshop.wait_for_step(layout, 4)
    cluster.run("scancel", str(_job(layout)))
    ended = workshop.wait_for_end(layout)
    soak.wait_for(lambda: cluster.state(_job(layout)) == "CANCELLED", why="the end of the job")
    summary = summarize_run(layout)
    assert (summary.status, summary.durable_step) == (RunStatus.STOPPED, ended.step)
