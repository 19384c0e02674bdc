"""The JSON records of a run folder as typed structs. Each one states its version."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Outcome = Literal["finished", "stopped", "crashed"]
StartReason = Literal["launch", "resume", "restart", "branch"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all records. Readers ignore keys they do not know, and refuse a record of a later version."""

    version: int = 1


class ProcessIdentity(Record, frozen=True, kw_only=True):
    """A process, identified so that a later process with the same pid is not mistaken for it."""

    pid: int
    start_ticks: float
    """Start time in the kernel's own unit (clock ticks since boot on Linux)."""
    boot_id: str
    """Identifies this boot of the machine."""
    host: str = ""


class TaskReference(Record, frozen=True, kw_only=True):
    """What is trained: a built-in task, a class in a file, or a training script."""

    kind: Literal["builtin", "file", "script"]
    name: str
    """What users call it: "digits", "spiral.py:Spiral", "train.py"."""
    path: str | None = None
    """Absolute path of the file or script."""
    class_name: str | None = None
    arguments: tuple[str, ...] = ()
    python: str | None = None
    """Interpreter for a script; None means the one that runs Relight."""
    working_folder: str | None = None
    code_digest: str | None = None
    """xxh3-128 of the file's bytes when the run was created."""
    module: str | None = None
    """Dotted module name, for a script that was started with `python -m`."""


class Objective(msgspec.Struct, frozen=True):
    """What `best` means: the full name of a metric ("validation/accuracy"), and which of two values is better."""

    metric: str | None = None
    """None until a script has named or measured one."""
    higher_is_better: bool = True
    guessed: bool = False
    """Whether neither the code nor the metric's name says which of two values is better."""


class PreparedTask(msgspec.Struct, frozen=True):
    """A task that can be launched: its config is complete, valid and JSON.

    For a script, `config` holds only what the launch sets; the script states its objective when it runs.
    """

    reference: TaskReference
    config: dict[str, Any] = {}
    objective: Objective = Objective()


class Parent(Record, frozen=True, kw_only=True):
    """The checkpoint that a branch started from."""

    run: str
    step: int
    sequence: int
    changes: dict[str, tuple[Any, Any]] = {}
    """Config keys that differ: (parent's value, this run's value)."""
    weights_only: bool = False
    config: dict[str, Any] | None = None
    """The parent's complete config, for a script: the branch's own config is known only once the script runs."""


class ImportedFile(Record, frozen=True, kw_only=True):
    """One file that weights were imported from."""

    name: str
    bytes: int
    sha256: str


class ImportedFrom(Record, frozen=True, kw_only=True):
    """The source of the weights in a run's first checkpoint, for a run that began with an import."""

    name: str
    """Name of the file or folder."""
    path: str
    """Absolute path on the machine that imported it."""
    kind: str
    """For display: "PyTorch checkpoint", "Lightning checkpoint", "safetensors file", "Hugging Face folder"."""
    sha256: str
    """Digest of the file; of several files, the digest of the lines that `sha256sum` prints for them."""
    files: tuple[ImportedFile, ...] = ()
    part: str = ""
    """Entry of the checkpoint's dictionary that held the weights."""
    not_taken: tuple[str, ...] = ()
    """What the import recognized and left out: "optimizer (optimizer state)", "epoch 12"."""


class Home(Record, frozen=True, kw_only=True):
    """The runs folder in which a run was made, or in which the user trusts it: nobody elsewhere can know its inode."""

    path: str
    """Without links."""
    inode: int


class RunRecord(Record, frozen=True, kw_only=True):
    """The identity of a run, written once, together with its folder."""

    format: Literal["relight-run"] = "relight-run"
    run: str
    name: str
    created_s: float
    task: TaskReference
    config: dict[str, Any] = {}
    best_metric: str | None = None
    """Full name of the metric that `best` means: "validation/accuracy"."""
    higher_is_better: bool = True
    direction_guessed: bool = False
    """Whether `higher_is_better` is a guess: neither the task nor the metric's name says it."""
    parent: Parent | None = None
    imported_from: ImportedFrom | None = None
    home: Home | None = None
    """Where it was made; None for a run of an older version."""
    token: str | None = None
    relight: str = ""
    """Version of Relight that created the run."""

    @property
    def objective(self) -> Objective:
        """What `best` means for this run."""
        return Objective(self.best_metric, self.higher_is_better, self.direction_guessed)


class AttemptStart(Record, frozen=True, kw_only=True):
    """Why an attempt began, and from which checkpoint (`from_sequence` None: from the beginning)."""

    attempt: int
    time_s: float
    reason: StartReason
    from_sequence: int | None = None
    from_step: int = 0
    weights_only: bool = False
    notes: tuple[str, ...] = ()
    """Sentences for the user: which damaged checkpoints were skipped, and how many steps that costs."""
    max_restarts: int = 0
    token: str | None = None
    nproc: int | msgspec.UnsetType = msgspec.UNSET
    """How many processes train, if several do: absent for one, as in the records of older versions."""
    gpus: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    """The cards that the attempt may use, by the numbers of nvidia-smi; absent for all of them."""
    agents: tuple[ProcessIdentity, ...] | msgspec.UnsetType = msgspec.UNSET
    """The processes of a torchrun that you started yourself, one on each machine; absent without."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return 1 if isinstance(self.nproc, msgspec.UnsetType) else self.nproc

    @property
    def chosen_gpus(self) -> tuple[int, ...]:
        """The cards that the attempt may use; () for all of them."""
        return () if isinstance(self.gpus, msgspec.UnsetType) else self.gpus

    @property
    def torchrun(self) -> tuple[ProcessIdentity, ...]:
        """The processes of the torchrun that you started yourself; () without."""
        return () if isinstance(self.agents, msgspec.UnsetType) else self.agents


def name_nproc(world_size: int) -> int | msgspec.UnsetType:
    """Return what `AttemptStart.nproc` is for that number of ranks."""
    return world_size if world_size > 1 else msgspec.UNSET


class RankEnd(msgspec.Struct, frozen=True):
    """How the process of one rank ended: with an exit code, or by the signal of that name."""

    rank: int
    exit_code: int | None = None
    signal: str | None = None


class RanksFailure(Record, frozen=True, kw_only=True):
    """The ranks that failed, the first one first; those that were ended because of it follow."""

    failed: tuple[RankEnd, ...] = ()


class ScriptRecord(Record, frozen=True, kw_only=True):
    """What a script passed to `relight.init` in this attempt: its config, and what `best` means."""

    config: dict[str, Any] = {}
    best_metric: str | None = None
    """Full name; None until the first evaluation, unless `init` named it."""
    higher_is_better: bool = True
    direction_guessed: bool = False
    """Whether `higher_is_better` is a guess: neither `init` nor the metric's name says it."""
    settings: dict[str, Any] = {}
    """Options of `relight.init` with the values in effect: seed, checkpoint_every_s, …"""
    pid: int = 0

    @property
    def objective(self) -> Objective:
        """What `best` means for this script."""
        return Objective(self.best_metric, self.higher_is_better, self.direction_guessed)


class AttemptProcesses(Record, frozen=True, kw_only=True):
    """The processes that run the attempt."""

    supervisor: ProcessIdentity
    trainer: ProcessIdentity | None = None


class TrainerOutcome(Record, frozen=True, kw_only=True):
    """What the trainer itself recorded about its end. `reason` is one sentence; `traceback` is complete."""

    outcome: Outcome
    step: int
    reason: str = ""
    error: str | None = None
    traceback: str | None = None
    stop_signal: str | None = None
    """Name of the signal that made the trainer end in order; None for a stop by request."""


class AttemptExit(Record, frozen=True, kw_only=True):
    """How an attempt ended. `signal` is a name such as "SIGKILL", of the signal that killed the trainer."""

    attempt: int
    time_s: float
    outcome: Outcome
    exit_code: int | None = None
    signal: str | None = None
    step: int = 0
    reason: str = ""
    error: str | None = None
    traceback: str | None = None
    stop_signal: str | None = None
    """Name of the signal that stopped the trainer or its supervisor in order; None for a stop by request."""
    out_of_memory: Literal["group", "machine"] | None = None
    """What ran out of memory at that time: the attempt's control group (a container, a job), or the machine."""


class ResumeCheck(Record, frozen=True, kw_only=True):
    """What came of comparing the steps that an attempt trained again with what an earlier attempt had computed."""

    attempt: int
    time_s: float
    verdict: Literal["exact", "different", "changed"]
    """"changed": something differs that may well differ, since code, config or environment have changed."""
    against: int
    """The earlier attempt."""
    equal_steps: int
    """Steps that were compared and are the same, bit for bit."""
    first_difference: int | None = None
    """The first step that differs."""
    part: Literal["batch", "generators", "rates", "weights"] | None = None
    """What differs first."""
    sentence: str
    """The result in words, with the likely cause of a difference."""


ENDED_BY_DRILL = "Ended by the drill"


class DrillOrder(Record, frozen=True, kw_only=True):
    """What one attempt of a drill's run does at chosen steps. The trainer obeys it in a drill's own folder only."""

    attempt: int = 0
    checkpoint_step: int = 0
    """Cut a checkpoint at this step, or at the first later edge that can be saved; 0 for none."""
    kill_step: int = 0
    """From this step on, the trainer kills itself as soon as that checkpoint is durable; 0 for never.

    An attempt that is to be killed makes no periodic checkpoints, so that the resume starts from the chosen one.
    """
    in_validation: bool = False
    """Kill in a validation, when its result is known but not logged, instead of at a step edge."""
    rank: int = 0
    """The rank that kills itself, in a run of several."""
    end_step: int = 0
    """End the training here if it is longer; 0 for never."""
    end_after_s: float = 0.0
    """End it after these seconds if it is longer, but not in its first steps; 0 for never."""


class StopRequest(Record, frozen=True, kw_only=True):
    """A request that attempt `attempt` stops: at its next step edge with a checkpoint, or `now` without one."""

    attempt: int
    time_s: float
    now: bool = False
    grace_s: float = 60.0


PaceReason = Literal["first", "balance", "overhead", "bytes", "loss", "fixed", "off"]
"""What decides how often to save: "first" until there is a checkpoint, "balance" for the least time lost, a limit of
the budget, or the person."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often checkpoints are cut at present, and everything that this is based on. Null for what is not known."""

    reason: PaceReason
    interval_s: float | None = None
    every_s: float | None = None
    """Fixed by the person; null for not at all, 0 for never."""
    every_steps: int = 0
    """Fixed by the person; 0 for not at all."""
    at_risk_s: float | None = None
    """The most work that is ever at risk at this pace, as far as it was measured."""
    cost_s: float | None = None
    """Seconds of training that a checkpoint costs: all steps that are slower while it is saved. Null until measured."""
    durable_s: float | None = None
    """Seconds from the step edge until its checkpoint is durable: the longest of the last five."""
    step_s: float | None = None
    checkpoint_bytes: int | None = None
    """Bytes that the last checkpoint wrote."""
    failure_every_s: float | None = None
    """Expected seconds of training per failure of this machine."""
    max_loss_s: float = 300.0
    max_overhead: float = 0.01
    bytes_a_day: float | None = None
    """The most that checkpoints may write per day; null for no limit."""


class SavingState(Record, frozen=True, kw_only=True):
    """How saving goes in this attempt. While `failure` is set, training continues and every view of the run says so."""

    time_s: float
    durable_step: int | None = None
    durable_time_s: float | None = None
    """Time of that step edge, not of when it became durable: work at risk counts from here."""
    failure: str | None = None
    failing_since_s: float | None = None
    saves: int = 0
    bytes_written: int = 0
    last_cost_s: float | None = None
    """How long the training loop waited for the last save."""
    last_write_s: float | None = None
    """Time from the last saved step edge until its checkpoint was durable."""
    spent_s: float = 0.0
    """Training time that the checkpoints of this attempt have cost, as far as it was measured."""
    pace: Pace | None = None
    """How often checkpoints are cut; null in a record of an older version. The next attempt starts from its costs."""


class MirrorTarget(Record, frozen=True, kw_only=True):
    """Where the run is copied to while it trains."""

    url: str
    """Never with a password."""


class SlurmJob(Record, frozen=True, kw_only=True):
    """How Slurm starts the run's trainings, and the job that was submitted last."""

    nodes: int = 1
    options: tuple[str, ...] = ()
    """The user's own, for sbatch."""
    job: int = 0
    """0 before the first was submitted."""


class MirrorState(Record, frozen=True, kw_only=True):
    """How far the copy of the run elsewhere is; written by the process that copies."""

    url: str
    time_s: float
    process: ProcessIdentity | None = None
    """The process that copies; None once it has ended in order."""
    copied_sequence: int | None = None
    """The newest checkpoint there; None without any."""
    copied_step: int | None = None
    copied_s: float | None = None
    """When it was complete there."""
    checkpoints: int = 0
    """How many are there."""
    waiting_checkpoints: int = 0
    waiting_bytes: int = 0
    failure: str | None = None
    """Why nothing can be copied at the moment."""
    failing_since_s: float | None = None
    refused: bool = False
    """The failure will not pass: nothing more is copied until a person has set the mirror again."""
