"""What Slurm says about a job, and what becomes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relight.errors import RelightError
from relight.runs.evidence import read_job
from relight.runs.layout import RunLayout
from relight.runs.record_file import write_record
from relight.runs.records import SlurmJob
from relight.slurm.job import Queue, submit
from relight.slurm.script import write_job_script

QUEUE = """\
7|PENDING||Resources
8|RUNNING|n[1-2]|None
9|NODE_FAIL|n1|None
10_3|RUNNING|n1|None
11|PENDING||QOSGrpGRES
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands, which is searched first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def _make(folder: Path, name: str, text: str) -> None:
    command = folder / name
    command.write_text(f"#!/bin/sh\n{text}\n")
    command.chmod(0o755)


def test_the_queue_is_asked_once_for_all_jobs(commands: Path) -> None:
    _make(commands, "squeue", f"echo asked >> {commands}/asked\ncat <<'E'\n{QUEUE}E")
    queue, owner = Queue(), os.getuid()
    found = {job: queue.find(job, owner=owner) for job in (7, 8, 9, 10, 11)}
    assert {job: (each.waiting, each.working, each.ended) for job, each in found.items()} == {
        7: (True, False, False),
        8: (False, True, False),
        9: (False, False, True),
        10: (False, False, True),
        11: (True, False, False),
    }
    assert [each.sentence for each in found.values()] == [
        "Slurm job 7 is waiting (Resources: waiting for free nodes).",
        "Slurm job 8 runs on n[1-2].",
        "Slurm job 9 has ended: NODE_FAIL.",
        "Slurm no longer knows job 10.",
        "Slurm job 11 is waiting (QOSGrpGRES).",
    ]
    assert (commands / "asked").read_text() == "asked\n"
    queue.find(7, owner=owner, fresh=True)
    assert (commands / "asked").read_text() == "asked\nasked\n"


def test_a_job_that_was_submitted_since_slurm_was_asked_is_not_given_up(commands: Path) -> None:
    _make(commands, "squeue", f"echo asked >> {commands}/asked\necho '8|RUNNING|n1|None'")
    queue, owner = Queue(), os.getuid()
    assert queue.find(8, owner=owner).working
    _make(commands, "squeue", f"echo asked >> {commands}/asked\necho '9|PENDING||Resources'")
    assert queue.find(9, owner=owner).waiting
    assert queue.find(10, owner=owner).gone
    assert queue.find(10, owner=owner).gone
    assert queue.find(3, owner=owner).gone
    assert (commands / "asked").read_text() == "asked\n" * 3


def test_a_copied_run_folder_has_not_the_job_of_its_original(commands: Path, tmp_path: Path) -> None:
    original, copy = RunLayout(tmp_path / "a run|1"), RunLayout(tmp_path / "copy")
    for layout in (original, copy):
        layout.folder.mkdir()
        write_record(layout.slurm, SlurmJob(job=7))
    _make(commands, "squeue", f"echo '7|PENDING||Resources|{original.folder}'")
    report = read_job(original, fresh=True)
    assert report is not None
    assert report.waiting
    assert read_job(copy) is None


def test_a_job_is_not_given_up_when_slurm_cannot_be_asked(commands: Path) -> None:
    _make(commands, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    report = Queue().find(7, owner=os.getuid())
    assert not report.ended
    assert "cannot be asked here" in report.sentence


def test_a_job_of_another_user_that_the_cluster_hides_is_not_gone(commands: Path) -> None:
    _make(commands, "squeue", "exit 0")
    assert Queue().find(7, owner=os.getuid()).gone
    assert not Queue().find(7, owner=os.getuid() + 1).gone


def test_a_refused_job_says_why_in_slurms_words(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "job.sbatch"
    _make(commands, "sbatch", "echo 'sbatch: error: invalid partition specified: nosuch' >&2; exit 1")
    with pytest.raises(RelightError, match="Slurm did not take the job: invalid partition specified: nosuch"):
        submit(script)
    _make(commands, "sbatch", 'echo "12;cluster"; test "$1 $2" = "--parsable job.sbatch"')
    assert submit(script) == 12
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RelightError, match="sbatch was not found"):
        submit(script)


def test_the_users_options_come_last_and_odd_paths_are_quoted() -> None:
    text = write_job_script(
        run="digits-k3f9", folder="/runs/it's; here/digits-k3f9", python="/usr/bin/python3", nodes=2,
        options=("--partition=gpu", "--comment=two words"), log="slurm.txt",
    )  # fmt: skip
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    settings = [line for line in lines if line.startswith("#SBATCH")]
    assert settings[-2:] == ["#SBATCH --partition=gpu", "#SBATCH '--comment=two words'"]
    assert "#SBATCH --nodes=2" in settings
    quoted = "'/runs/it'\"'\"'s; here/digits-k3f9'"
    assert lines[-1] == f"exec /usr/bin/python3 -P -m relight.supervision.slurm {quoted}"
