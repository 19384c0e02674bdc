"""The files for Ray and Kubernetes: what runs there is the command, word for word."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from relight.errors import UsageError
from relight.mirror.address import parse_mirror
from relight.supervision.job_files import KUBERNETES, refuse_for_job_file, write_ray_script, write_train_job

COMMAND = ("relight", "run", "a 'b'.py", "--id", "x-a2b3", "--set", "note=yes: #1 ünï", "--", "--lr", '"3"')


def _write(**more: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    settings = {"image": "me/relight:1", "gpus": 4, "mirror": None, "file": "x.yaml"} | more
    runtime, job = yaml.safe_load_all(write_train_job("x-a2b3", COMMAND, **settings).text)
    return runtime, job, runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]


def test_the_pod_runs_the_command_with_its_cards_and_volumes() -> None:
    runtime, job, node = _write()
    assert job["spec"]["runtimeRef"] == {"kind": "TrainingRuntime", "name": runtime["metadata"]["name"]}
    (container,) = node["template"]["spec"]["containers"]
    assert tuple(container["command"]) == COMMAND
    assert (container["image"], container["resources"]) == ("me/relight:1", {"limits": {"nvidia.com/gpu": 4}})
    volumes = {each["name"]: each for each in node["template"]["spec"]["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == set(volumes)
    assert volumes["runs"]["persistentVolumeClaim"] == {"claimName": "relight-runs"}


def test_with_a_mirror_the_pod_needs_its_secret_and_no_volume_that_outlives_it() -> None:
    _, _, node = _write(gpus=0, mirror=parse_mirror("s3://bucket/runs"))
    (container,) = node["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "relight-s3"}}]
    assert "resources" not in container
    assert node["template"]["spec"]["volumes"][0] == {"name": "runs", "emptyDir": {}}


def test_a_lost_pod_is_replaced_and_a_crashed_training_is_not() -> None:
    _, _, node = _write()
    ignored, failed = node["podFailurePolicy"]["rules"]
    assert (ignored["action"], ignored["onPodConditions"]) == ("Ignore", [{"type": "DisruptionTarget"}])
    assert (failed["action"], failed["onExitCodes"]["values"]) == ("FailJob", [2, 3])
    assert node["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy needs that"


def test_the_script_for_ray_runs_the_command_in_its_folder(tmp_path: Path) -> None:
    there = tmp_path / "it's here"
    there.mkdir()
    for name in ("ray", "relight"):  # Ray hands everything after -- to a shell
        (tmp_path / name).write_text(
            '#!/bin/bash\nwhile [ "$1" != -- ]; do shift; done; shift\nexec bash -c "$(printf "%q " "$@")"\n'
            if name == "ray"
            else '#!/bin/bash\npwd\nprintf "%s\\n" relight "$@"\n'
        )
        (tmp_path / name).chmod(0o755)
    script = tmp_path / "job.sh"
    script.write_text(write_ray_script("x-a2b3", COMMAND, folder=str(there), gpus=2, file="job.sh").text)
    assert "--entrypoint-num-gpus 2" in script.read_text()
    done = subprocess.run(
        ["bash", str(script)], env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [str(there), *COMMAND]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"nodes": 2}, "a job for one machine"),
        ({"sbatch": ["--time=9"]}, "--sbatch is for --on slurm"),
        ({"gpus": "0,1"}, "each of the --nproc ranks gets one"),
        ({"detach": True}, "nothing to detach from"),
        ({"mirror": parse_mirror("/mnt/disk")}, "is a folder of this machine"),
    ],
)
def test_what_the_file_cannot_carry_is_refused(asked: dict[str, Any], said: str) -> None:
    usual = {"nodes": None, "sbatch": None, "gpus": None, "detach": False, "mirror": None}
    with pytest.raises(UsageError, match=said):
        refuse_for_job_file(KUBERNETES, **usual | asked)


@pytest.mark.parametrize("run_id", ["My_run", "3d-a2b3", "x-", "x" * 60])
def test_an_id_that_kubernetes_does_not_take_is_refused(run_id: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a TrainJob"):
        write_train_job(run_id, COMMAND, image="x", gpus=0, mirror=None, file="x.yaml")
