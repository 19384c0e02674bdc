"""All file names of a run folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from relight.errors import DamagedFile

DRILL_PREFIX = ".drill-"
"""Begins the name of the hidden runs folder in which a drill works."""
_RANK = re.compile(r"[1-9][0-9]{0,5}")
_ATTEMPT = re.compile(r"(?!0000)[0-9]{4}|[1-9][0-9]{4,17}")


@dataclass(frozen=True)
class AttemptLayout:
    """The files of one attempt."""

    folder: Path
    number: int

    @property
    def start(self) -> Path:
        """Why the attempt began, and from which checkpoint (`AttemptStart`); written by the launching process."""
        return self.folder / "start.json"

    @property
    def processes(self) -> Path:
        """Supervisor and trainer (`AttemptProcesses`); written by the supervisor."""
        return self.folder / "processes.json"

    @property
    def rank_process(self) -> Path:
        """The process of this rank (`ProcessIdentity`), in a run of several ranks; written by the process itself."""
        return self.folder / "rank.json"

    @property
    def ranks_failure(self) -> Path:
        """Which ranks failed, and how (`RanksFailure`); written by the process that started them."""
        return self.folder / "ranks_failure.json"

    @property
    def writer(self) -> Path:
        """The checkpoint writer (`ProcessIdentity`); written by the trainer that started it."""
        return self.folder / "writer.json"

    @property
    def script(self) -> Path:
        """What a script passed to `relight.init` (`ScriptRecord`); written by the script's own process."""
        return self.folder / "script.json"

    @property
    def environment(self) -> Path:
        """Versions, device, threads and determinism flags; written by the trainer."""
        return self.folder / "environment.json"

    @property
    def witness(self) -> Path:
        """Digests of what each of the last steps computed; written by the trainer, see `metrics.witness_file`."""
        return self.folder / "witness.bin"

    @property
    def resume_check(self) -> Path:
        """Whether the attempt computed what the attempt before it had computed (`ResumeCheck`); by the trainer."""
        return self.folder / "resume_check.json"

    @property
    def progress(self) -> Path:
        """The last step edge (`Progress`): a record of fixed size that the trainer overwrites in place."""
        return self.folder / "progress.bin"

    @property
    def saving(self) -> Path:
        """How saving goes (`SavingState`): what the last checkpoint cost or why it failed; written by the trainer."""
        return self.folder / "saving.json"

    @property
    def outcome(self) -> Path:
        """How the trainer says it ended (`TrainerOutcome`); the supervisor makes the exit record from it."""
        return self.folder / "outcome.json"

    @property
    def exit(self) -> Path:
        """The exit record (`AttemptExit`); written by the supervisor, once."""
        return self.folder / "exit.json"

    @property
    def log(self) -> Path:
        """Everything the trainer wrote to stdout and stderr."""
        return self.folder / "log.txt"

    @property
    def supervisor_log(self) -> Path:
        """The supervisor's own output; normally empty."""
        return self.folder / "supervisor.txt"


@dataclass(frozen=True)
class RunLayout:
    """The files of one run; `folder.name` is the run's id."""

    folder: Path

    @property
    def run_id(self) -> str:
        """The run's id: the folder's name."""
        return self.folder.name

    @property
    def record(self) -> Path:
        """Identity, task, config and parent (`RunRecord`); written once."""
        return self.folder / "run.json"

    @property
    def about(self) -> Path:
        """The shown name, note, tags, star and archive mark (`About`), once there are any."""
        return self.folder / "about.json"

    @property
    def damaged_about(self) -> Path:
        """The last `about` that could not be read when a new one was written; no reader uses it."""
        return self.folder / "about.damaged.json"

    @property
    def lock(self) -> Path:
        """Locked (flock) by supervisor, trainer and writer for as long as one of them is alive."""
        return self.folder / "lock"

    @property
    def stop_request(self) -> Path:
        """Exists while the current attempt is asked to stop (`StopRequest`)."""
        return self.folder / "stop.json"

    @property
    def trust(self) -> Path:
        """Exists once you have allowed the code of a run from elsewhere to run here (`Home`)."""
        return self.folder / "trust.json"

    @property
    def mirror(self) -> Path:
        """Exists if the run is copied elsewhere while it trains (`MirrorTarget`)."""
        return self.folder / "mirror.json"

    @property
    def mirror_state(self) -> Path:
        """How far the copy elsewhere is (`MirrorState`); written by the process that copies."""
        return self.folder / "mirror_state.json"

    @property
    def mirror_lock(self) -> Path:
        """Locked (flock) by the process that copies the run elsewhere."""
        return self.folder / "mirror.lock"

    @property
    def slurm(self) -> Path:
        """Exists if Slurm starts the run's trainings (`SlurmJob`)."""
        return self.folder / "slurm.json"

    @property
    def slurm_script(self) -> Path:
        """What was submitted to Slurm."""
        return self.folder / "job.sbatch"

    @property
    def slurm_log(self) -> Path:
        """What Slurm's jobs of this run have printed, beside the trainer's log; normally empty."""
        return self.folder / "slurm.txt"

    @property
    def drill(self) -> Path:
        """Where the trainer of a drill saves, dies or ends (`DrillOrder`); written by `relight drill`."""
        return self.folder / "drill.json"

    @property
    def attempts(self) -> Path:
        """A folder for each attempt, numbered from 0001."""
        return self.folder / "attempts"

    @property
    def metrics(self) -> Path:
        """Metric files."""
        return self.folder / "metrics"

    @property
    def checkpoints(self) -> Path:
        """The checkpoint store."""
        return self.folder / "checkpoints"

    def is_run(self) -> bool:
        """Return whether the folder holds a run, damaged or not; False for one that cannot be read. Never raises."""
        return os.path.lexists(self.record) or os.path.isdir(self.attempts)  # noqa: PTH112

    @property
    def exports(self) -> Path:
        """Exported weights."""
        return self.folder / "exports"

    def attempt(self, number: int) -> AttemptLayout:
        """Return the files of attempt `number`, which need not exist yet."""
        return AttemptLayout(self.attempts / f"{number:04d}", number)

    def of_rank(self, rank: int) -> RunLayout:
        """Return the files that rank `rank` uses. Those of rank 0 are the run's; the others have logs of their own."""
        return RankLayout(self.folder, rank) if rank else self

    def list_ranks(self, attempt: int) -> list[int]:
        """Return the ranks that have a log of attempt `attempt`: rank 0, and those with a folder of their own."""
        try:
            names = os.listdir(self.folder / "ranks")  # noqa: PTH208
        except OSError:
            names = []
        ranks = sorted(int(name) for name in names if _RANK.fullmatch(name))
        return [0, *(rank for rank in ranks if self.of_rank(rank).attempt(attempt).folder.is_dir())]

    def list_attempts(self) -> list[int]:
        """Return the numbers of the attempts that have a folder, in order; other names are skipped.

        Raises `DamagedFile` when their folder cannot be read.
        """
        try:
            names = os.listdir(self.attempts)  # noqa: PTH208  asked for each run of a list
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise DamagedFile(f"{str(self.attempts)!r} cannot be read: {error.strerror or error}.") from error
        return sorted(int(name) for name in names if _ATTEMPT.fullmatch(name))

    def latest_attempt(self) -> int:
        """Return the number of the newest attempt; 0 when there is none."""
        return max(self.list_attempts(), default=0)


@dataclass(frozen=True)
class RankLayout(RunLayout):
    """The files of a rank above 0: what it writes is in `ranks/N`, and everything else is the run's."""

    rank: int

    @property
    def own(self) -> Path:
        """The folder of everything that this rank writes."""
        return self.folder / "ranks" / str(self.rank)

    @property
    def attempts(self) -> Path:
        """What this rank wrote in each attempt."""
        return self.own / "attempts"

    @property
    def metrics(self) -> Path:
        """What this rank measured."""
        return self.own / "metrics"
