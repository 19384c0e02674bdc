"""Files with which Ray or Kubernetes trains a run: ones that you could have written. Relight starts nothing there.

The command in them is the same each time, `relight run TASK --id ID`: it starts the run, or continues it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from relight.errors import UsageError
from relight.mirror.address import MirrorAddress

RAY, KUBERNETES = "ray", "kubernetes"
RUNS_THERE, DATA_THERE = "/runs", "/data"
"""The runs folder and the working folder in Relight's image."""
IMAGE = "relight:latest"
SAVE_WITHIN_S = 300
"""How long a pod that is taken away may take to save and to copy its last checkpoint."""
_KUBERNETES_NAME = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?")
_SECRET = "relight-s3"


@dataclass(frozen=True)
class JobFile:
    """What is written, and the two lines that say what to do with it."""

    text: str
    next_lines: tuple[str, str]


def write_ray_script(run_id: str, command: Sequence[str], *, folder: str, gpus: int, file: str) -> JobFile:
    """Write the script that submits the run as a job of Ray. `folder` is where the command runs, on every machine."""
    options = [f"--entrypoint-num-gpus {gpus}"] if gpus else ["--entrypoint-num-cpus 1"]
    options.append(f"--metadata-json {shlex.quote(json.dumps({'relight': run_id}))}")
    text = f"""\
#!/bin/bash
# Trains the run {run_id} as a job of Ray. If the job is lost, start this file again: the run goes on from
# its newest checkpoint, in the same run folder. All machines need Relight, and see the folders below at the same paths.
# RAY_ADDRESS is the cluster, such as http://head:8265. Credentials of a mirror come from the machines of the cluster.
exec ray job submit --no-wait \\
    {f" {chr(92)}{chr(10)}    ".join(options)} \\
    -- {shlex.join(["bash", "-c", f"cd {shlex.quote(folder)} && exec {shlex.join(command)}"])}
"""
    return JobFile(
        text,
        (f"Submit: RAY_ADDRESS=http://HEAD:8265 bash {shlex.quote(file)}", f"Stop: relight stop {run_id}"),
    )


def write_train_job(
    run_id: str, command: Sequence[str], *, image: str, gpus: int, mirror: MirrorAddress | None, file: str
) -> JobFile:
    """Write the manifest of the run as a TrainJob of Kubeflow, with the runtime that it needs.

    With a mirror in S3 the runs folder is a scratch volume, else a claim that outlives the pod. Raises `UsageError` for
    an id that Kubernetes does not take as a name.
    """
    if not _KUBERNETES_NAME.fullmatch(run_id):
        raise UsageError(
            f"The run's id {run_id!r} cannot be the name of a TrainJob: give it an --id of at most 50 small letters, "
            "digits and dashes that begins with a letter."
        )
    secret = f"""
                      # AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL
                      envFrom:
                        - secretRef:
                            name: {_SECRET}"""
    claim = """persistentVolumeClaim:
                        claimName: relight-runs"""
    cards = f"""
                      resources:
                        limits:
                          nvidia.com/gpu: {gpus}"""
    words = "\n".join(f"                        - {json.dumps(word)}" for word in command)
    text = f"""\
# Trains the run {run_id} with Kubeflow Trainer. When its pod is lost, the next one continues the run: the command
# starts the run, or goes on from its newest checkpoint.
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainingRuntime
metadata:
  name: {run_id}
  labels:
    trainer.kubeflow.org/framework: torch
spec:
  mlPolicy:
    numNodes: 1
  template:
    spec:
      replicatedJobs:
        - name: node
          template:
            metadata:
              labels:
                trainer.kubeflow.org/trainjob-ancestor-step: trainer
            spec:
              # A pod that is lost is replaced, this often. One whose training has crashed (exit code 3) is not:
              # `--restarts` is for that.
              backoffLimit: 20
              podFailurePolicy:
                rules:
                  - action: Ignore
                    onPodConditions:
                      - type: DisruptionTarget
                  - action: FailJob
                    onExitCodes:
                      containerName: node
                      operator: In
                      values: [2, 3]
              template:
                spec:
                  restartPolicy: Never
                  # After SIGTERM the run saves at its next step edge, and copies what waits.
                  terminationGracePeriodSeconds: {SAVE_WITHIN_S}
                  containers:
                    - name: node
                      image: {json.dumps(image)}
                      workingDir: {DATA_THERE}
                      command:
{words}{secret if mirror is not None else ""}{cards if gpus else ""}
                      volumeMounts:
                        - name: runs
                          mountPath: {RUNS_THERE}
                        - name: data
                          mountPath: {DATA_THERE}
                        - name: shm
                          mountPath: /dev/shm
                  volumes:
                    - name: runs
                      {"emptyDir: {}" if mirror is not None else claim}
                    - name: data
                      persistentVolumeClaim:
                        claimName: relight-data
                    # Data loaders with workers need more than the 64 MB that a container has.
                    - name: shm
                      emptyDir:
                        medium: Memory
---
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata:
  name: {run_id}
spec:
  runtimeRef:
    kind: TrainingRuntime
    name: {run_id}
"""
    needs = f"the claim relight-data{', and the secret ' + _SECRET if mirror is not None else ' and relight-runs'}"
    return JobFile(
        text, (f"Start: kubectl apply -f {shlex.quote(file)}   (it needs {needs})", f"Watch: kubectl logs -f -l "
               f"jobset.sigs.k8s.io/jobset-name={run_id}")
    )  # fmt: skip


def refuse_for_job_file(
    on: str,
    *,
    nodes: int | None,
    sbatch: Sequence[str] | None,
    gpus: str | None,
    detach: bool,
    mirror: MirrorAddress | None,
) -> None:
    """Raise `UsageError` for options that such a file cannot carry."""
    if (nodes or 1) > 1:
        raise UsageError(f"--on {on} writes a job for one machine. For several nodes, use --on slurm (docs/slurm.md).")
    if sbatch:
        raise UsageError("--sbatch is for --on slurm.")
    if gpus is not None:
        raise UsageError(f"--gpus chooses cards of this machine. With --on {on}, each of the --nproc ranks gets one.")
    if detach:
        raise UsageError(f"--on {on} only writes a file, so there is nothing to detach from.")
    if on == KUBERNETES and mirror is not None and mirror.bucket is None:
        raise UsageError(f"The mirror {mirror.url!r} is a folder of this machine. In a pod, use s3://bucket/prefix.")
