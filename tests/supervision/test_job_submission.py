"""Where a run trains, as a person asks for it in the terminal, in a form or by HTTP."""

from __future__ import annotations

import pytest

from relight.errors import UsageError
from relight.runs.records import SlurmJob
from relight.supervision import job_submission
from relight.supervision.job_submission import plan_job

PARENT = SlurmJob(nodes=2, options=("--partition=gpu", "--time=8:00"))


@pytest.fixture(autouse=True)
def slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_submission, "is_installed", lambda: True)


def test_a_run_trains_here_unless_slurm_is_asked_for() -> None:
    assert plan_job(None) is plan_job("here") is plan_job(None, nodes=1, nproc="auto") is None
    assert plan_job("slurm") == SlurmJob()
    assert plan_job("slurm", nodes=3, options=["--a=1 --b", "--c='x y'"]) == SlurmJob(
        nodes=3, options=("--a=1", "--b", "--c=x y")
    )


def test_a_branch_is_planned_like_its_parent_except_for_what_is_given() -> None:
    assert plan_job(None, before=PARENT) == PARENT
    assert plan_job(None, nodes=4, before=PARENT) == SlurmJob(nodes=4, options=PARENT.options)
    assert plan_job(None, options=[""], before=PARENT) == SlurmJob(nodes=2)
    assert plan_job("here", before=PARENT) is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"on": "moon"}, "--on moon is not known"),
        ({"on": "slurm", "nodes": 0}, "--nodes 0 is not a number of nodes"),
        ({"on": "slurm", "nproc": "auto"}, "on each node"),
        ({"on": "slurm", "gpus": "0,2"}, "Ask Slurm for them"),
        ({"on": "slurm", "options": ["'--time"]}, "cannot be read"),
        ({"on": "slurm", "options": ["--partition gpu"]}, "--partition=gpu, not --partition gpu"),
        ({"on": "here", "nodes": 2}, "add --on slurm"),
        ({"on": None, "options": ["--time=8"]}, "add --on slurm"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_what_to_do(asked: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan_job(**asked)  # type: ignore[arg-type]


def test_without_sbatch_the_run_is_refused_before_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_submission, "is_installed", lambda: False)
    with pytest.raises(UsageError, match="sbatch was not found"):
        plan_job("slurm")
