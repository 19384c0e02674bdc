"""`relight.init`: joins the run that this script was launched in, or creates one."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import multiprocessing
import os
import stat
import sys
import threading
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from relight.errors import RelightError, UsageError
from relight.machine.standard_streams import replace_closed_streams
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.process_identity import host_name
from relight.runs.record_file import read_record
from relight.runs.records import AttemptStart, Objective, ProcessIdentity, RunRecord, ScriptRecord
from relight.runs.run_record import read_script_record
from relight.supervision.ranks import record_rank
from relight.supervision.standalone import RunIsOver, Standalone, Torchrun, begin_standalone
from relight.tasks.config import full_metric_name
from relight.tasks.script_config import apply_overrides, as_mapping, plain_config
from relight.training.best_metric import choose_objective
from relight.training.data.persistent_loaders import seed_persistent_workers_apart
from relight.training.environment import prepare_determinism
from relight.training.log_streams import TeeStream, log_to, tolerate_write_errors
from relight.training.ranks.group import RankGroup
from relight.training.ranks.place import RankPlace, find_agent, find_place
from relight.training.script.run import ScriptRun
from relight.training.script.script_attempt import Launch, ScriptAttempt
from relight.training.script.script_stopping import ScriptStopping
from relight.training.task_attempt import close_in_children

_VARIABLES = ("RELIGHT_RUN_FOLDER", "RELIGHT_ATTEMPT", "RELIGHT_LIFELINE_FD", "RELIGHT_LOCK_FD")
_RESUME_VARIABLE = "RELIGHT_RESUME"
_log = logging.getLogger("relight")
_runs: list[ScriptRun] = []


class _Hello(msgspec.Struct, frozen=True):
    """What each rank of your own torchrun tells the others before they join a run."""

    agent: ProcessIdentity | None
    resume: str | None


class _Joined(msgspec.Struct, frozen=True):
    """What rank 0 tells the others: the attempt that all of them join, or why there is none."""

    folder: str = ""
    attempt: int = 0
    problem: str = ""
    is_over: bool = False


def init(
    config: Any = None,
    *,
    name: str | None = None,
    runs: str | Path | None = None,
    resume: str | None = None,
    best: str | None = None,
    higher_is_better: bool | None = None,
    seed: int | None = None,
    max_steps: int = 0,
    max_loss_s: float = 300.0,
    max_overhead: float = 0.01,
    checkpoint_every_s: float | None = None,
    checkpoint_every_steps: int = 0,
    keep_latest: int = 2,
    keep_best: int = 1,
    keep_best_by: str = "",
    keep_every_steps: int = 0,
    keep_every_hours: float = 0.0,
    deterministic: bool = True,
) -> ScriptRun:
    """Join the run that this script was launched in by `relight run`, or create one under RELIGHT_RUNS or ./runs.

    `config` is a dictionary such as `vars(args)`: it is recorded, and what the launch sets (`--set KEY=VALUE`) is put
    into that very dictionary. `name`, `runs` and `resume` are for a script that is started without the launcher.
    `resume`, or else RELIGHT_RESUME, is the run to continue from its newest checkpoint: its id, its name or the
    beginning of its id. A torchrun that starts its ranks again continues its own run without that.

    `best` names the metric of `run.evaluated` that says which checkpoint is the best, else its first one. The name says
    whether higher is better ("f1") or lower ("loss"), unless `higher_is_better` does; for an unknown name a warning
    asks for that. `seed` seeds Python, NumPy and torch; None leaves that to the script. The rest as in a task's config.
    `deterministic` chooses deterministic kernels where that costs nothing, as tasks do.

    Every rank of a distributed training calls it, with the same arguments; all of them join one run.

    Raises `UsageError` when called twice, in another thread than the main one, or in a child process.
    """
    _check_caller()
    launch = _find_launch()
    named = os.environ.pop(_RESUME_VARIABLE, None)
    place = _find_place(launch)
    group = None if place is None else RankGroup(place)
    values = as_mapping(config)
    standalone = launch is None
    if launch is None:
        replace_closed_streams()
        launch = _begin(group, name=name, runs=runs, resume=resume or named)
    elif place is not None:
        launch = replace(launch, layout=launch.layout.of_rank(place.rank))
    layout = launch.layout
    record = read_record(layout.record, RunRecord)
    start = read_record(layout.attempt(launch.attempt).start, AttemptStart)
    stopping = ScriptStopping(layout, launch.attempt, terminal=standalone)
    stopping.has_ranks = group is not None
    stopping.under_torchrun = standalone and find_agent() is not None
    stopping.install(lifeline=launch.lifeline)
    close_in_children(tuple(each for each in (launch.lifeline, launch.lock_fd) if each is not None))
    _set_up_output(layout.attempt(launch.attempt), standalone=standalone)
    settings = {
        "seed": seed,
        "max_steps": max_steps,
        "max_loss_s": max_loss_s,
        "max_overhead": max_overhead,
        "checkpoint_every_s": checkpoint_every_s,
        "checkpoint_every_steps": checkpoint_every_steps,
        "keep_latest": keep_latest,
        "keep_best": keep_best,
        "keep_best_by": keep_best_by,
        "keep_every_steps": keep_every_steps,
        "keep_every_hours": keep_every_hours,
    }
    before = read_script_record(layout) or record
    objective = _choose_objective(before.objective, best=best, higher_is_better=higher_is_better)
    said = ScriptRecord(
        config=plain_config(values), best_metric=objective.metric, higher_is_better=objective.higher_is_better,
        direction_guessed=objective.guessed,
        settings=settings, pid=os.getpid(),
    )  # fmt: skip
    attempt = ScriptAttempt(
        launch, start, task=record.task, said=said, higher_is_better=higher_is_better, stopping=stopping,
        group=group,
    )  # fmt: skip
    try:
        attempt.install()
    except FileExistsError:
        raise UsageError(
            f"Another process is already training attempt {start.attempt} of run '{layout.run_id}'. Only one process "
            "may call relight.init() in an attempt; to train with several, launch it with --nproc or with torchrun."
        ) from None
    _override(attempt, record, values)
    if deterministic:
        prepare_determinism(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    seed_persistent_workers_apart()
    run = ScriptRun(attempt, values)
    _runs.append(run)
    if standalone and (group is None or group.rank == 0):
        _log.info("Run %s in %s", layout.run_id, layout.folder)
    return run


def _check_caller() -> None:
    if _runs:
        raise UsageError(
            "relight.init() was called twice, but a script trains one run. Use the object that the first call returned."
        )
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("relight.init() must be called in the main thread, because only that thread receives signals.")
    if multiprocessing.parent_process() is not None:
        raise UsageError(
            "relight.init() was called in a child process of the training script: put it, and the training, under "
            "`if __name__ == '__main__':`."
        )


def _find_place(launch: Launch | None) -> RankPlace | None:
    """Return this process's place among several ranks. Raise `UsageError` for ranks that cannot find each other."""
    place = find_place()
    if launch is not None:
        number = launch.layout.attempt(launch.attempt)
        return place if read_record(number.start, AttemptStart).world_size > 1 else None
    if place is None and "RANK" not in os.environ and "LOCAL_RANK" in os.environ:
        others = os.environ.get("WORLD_SIZE", "")
        if others.isdigit() and int(others) > 1:  # Lightning starts its processes like this
            raise UsageError(
                f"This is one of {others} processes that the training has started itself. Start all of them together: "
                f"relight run FILE --nproc {others}, or torchrun --nproc-per-node {others} FILE."
            )
    if place is not None and not os.environ.get("MASTER_PORT"):
        raise UsageError(
            f"This is one of {place.world_size} processes of a distributed training (WORLD_SIZE), but MASTER_PORT does "
            "not say where they meet. Start it with torchrun, or with relight run --nproc."
        )
    return place


def _find_launch() -> Launch | None:
    """Find the run that this process was launched in from what its supervisor passed on; None without a launcher.

    A process that the script starts inherits neither the descriptors nor, from now on, the variables.
    """
    given = [os.environ.pop(variable, "") for variable in _VARIABLES]
    folder, attempt, lifeline, lock = given
    if not folder or not attempt.isdigit():
        return None
    lifeline_fd, lock_fd = _open_descriptor(lifeline), _open_descriptor(lock)
    if lifeline_fd is None or lock_fd is None:
        return None
    try:
        is_lock = os.path.samestat(os.fstat(lock_fd), RunLayout(Path(folder)).lock.stat())
        if not is_lock or not stat.S_ISFIFO(os.fstat(lifeline_fd).st_mode):
            return None
    except OSError:
        return None
    for descriptor in (lifeline_fd, lock_fd):
        os.set_inheritable(descriptor, False)
    return Launch(RunLayout(Path(folder)), int(attempt), lifeline_fd, lock_fd)


def _open_descriptor(text: str) -> int | None:
    try:
        descriptor = int(text)
        fcntl.fcntl(descriptor, fcntl.F_GETFD)
    except (ValueError, OSError):
        return None
    return descriptor


def _begin(group: RankGroup | None, *, name: str | None, runs: str | Path | None, resume: str | None) -> Launch:
    """Begin an attempt without the launcher. End the process if torchrun has started it for a run that is over."""
    agent = find_agent()
    try:
        if group is None:
            return _begin_alone(Torchrun(1, (agent,) if agent else ()), name=name, runs=runs, resume=resume)
        return _begin_together(group, _Hello(agent, resume), name=name, runs=runs)
    except RunIsOver as over:
        if group is not None:
            group.leave()
        sys.stderr.write(f"relight: {over}\n")
        sys.exit(0)  # anything else would make torchrun start the ranks once more


def _begin_alone(torchrun: Torchrun, *, name: str | None, runs: str | Path | None, resume: str | None) -> Launch:
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file is None:
        raise UsageError(
            "relight.init() needs a script that can be run again. Put the training into a .py file and run that file."
        )
    spec = getattr(main, "__spec__", None)
    begun: Standalone = begin_standalone(
        Path(file), arguments=sys.argv[1:], module=_name_module(spec), name=name, runs=runs, resume=resume,
        torchrun=torchrun,
    )  # fmt: skip
    return Launch(begun.layout, begun.attempt, begun.lifeline, begun.lock.fileno())


def _begin_together(group: RankGroup, own: _Hello, *, name: str | None, runs: str | Path | None) -> Launch:
    """Join the run that rank 0 creates, or continues, for all ranks that torchrun has started."""
    hellos = [msgspec.json.decode(each, type=_Hello) for each in group.gather(msgspec.json.encode(own))]
    if group.rank == 0:
        try:
            begun = _begin_alone(
                Torchrun(group.world_size, _list_agents(hellos)), name=name, runs=runs, resume=_choose_resume(hellos)
            )
        except Exception as error:
            told = _Joined(problem=str(error) or type(error).__name__, is_over=isinstance(error, RunIsOver))
            group.tell("run", msgspec.json.encode(told).decode())
            raise
        group.tell("run", msgspec.json.encode(_Joined(str(begun.layout.folder), begun.attempt)).decode())
        record_rank(begun.layout, rank=0, attempt=begun.attempt)
        return begun
    joined = msgspec.json.decode(group.hear("run"), type=_Joined)
    if joined.is_over:
        raise RunIsOver(joined.problem)
    if joined.problem:
        raise RelightError(f"Rank 0 could not begin: {joined.problem}")
    layout = RunLayout(Path(joined.folder))
    if not layout.record.is_file():
        raise UsageError(
            f"Rank {group.rank} on {host_name()} does not see the run's folder {joined.folder}. Put the runs into a "
            "folder that all machines share, with relight.init(runs=...) or RELIGHT_RUNS."
        )
    record_rank(layout, rank=group.rank, attempt=joined.attempt)
    return Launch(layout.of_rank(group.rank), joined.attempt, None, None)


def _list_agents(hellos: list[_Hello]) -> tuple[ProcessIdentity, ...]:
    return tuple(dict.fromkeys(hello.agent for hello in hellos if hello.agent is not None))


def _choose_resume(hellos: list[_Hello]) -> str | None:
    """Return the run that the ranks are to resume. It is enough to name it on one machine."""
    named = sorted({hello.resume for hello in hellos if hello.resume})
    if len(named) > 1:
        raise UsageError(
            f"The machines name different runs to resume: {', '.join(named)}. Give all of them the same, or name it on "
            "one of them."
        )
    return named[0] if named else None


def _name_module(spec: Any) -> str | None:
    """Return what followed `python -m`; None for a file."""
    if spec is None:
        return None
    return str(spec.parent) if spec.name.rpartition(".")[2] == "__main__" and spec.parent else str(spec.name)


def _choose_objective(before: Objective, *, best: str | None, higher_is_better: bool | None) -> Objective:
    """Return what `best` means: from `init`, else from earlier attempts or a branch's parent."""
    if best:
        return choose_objective(full_metric_name(best), higher_is_better=higher_is_better)
    return before if higher_is_better is None else Objective(before.metric, higher_is_better)


def _override(attempt: ScriptAttempt, record: RunRecord, config: MutableMapping[str, Any]) -> None:
    """Put the values that the launch sets into the config, and record both."""
    attempt.take_settings(apply_overrides(config, record.config))
    attempt.take_config(plain_config(config))


def _set_up_output(layout: AttemptLayout, *, standalone: bool) -> None:
    """Set up the output: only the log under the launcher, terminal and log without it."""
    if not standalone:
        tolerate_write_errors()
        log_to(sys.stdout)
        return
    with contextlib.suppress(OSError):
        log = os.open(layout.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        sys.stdout = TeeStream(sys.stdout, log)
        sys.stderr = TeeStream(sys.stderr, log)
    log_to(sys.stderr, prefix="relight: ")
