"""The errors that users can cause or meet: each says what happened, to which thing, and what to do next.

Anything else that escapes is a bug of ours and keeps its traceback.
"""


class RelightError(Exception):
    """A sentence for the user. The command line prints it on one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(RelightError):
    """The request itself is wrong: an unknown task, key, run or step, or a value out of bounds."""

    exit_code = 2


class ConfigError(UsageError):
    """A task's config has an unknown key or a value that its field does not accept."""


class TaskError(RelightError):
    """A task cannot be used: its file does not import, its data is missing or broken.

    `traceback` is the complete traceback of the user's own code, if that is what failed.
    """

    def __init__(self, message: str, *, traceback: str | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback


class RunNotFound(UsageError):
    """No run has that id or name, or several do."""


class DamagedFile(RelightError):
    """A file of a run folder is truncated, empty or not what it should be."""


class RunBusy(RelightError):
    """Another process is training the run right now."""


class UntrustedRun(RelightError):
    """The run was made elsewhere, and names code that the user has not allowed to run here."""


class CheckpointNotFound(UsageError):
    """The run does not have the requested checkpoint."""


class DamagedCheckpoint(DamagedFile):
    """A checkpoint's manifest or pack does not match its own digests."""


class DeviceError(RelightError):
    """The requested device is not on this machine."""


class UnsupportedState(UsageError):
    """The training state holds something that a checkpoint cannot represent; the message names its owner."""


class ExportError(RelightError):
    """Weights could not be exported; an earlier file of that name is unchanged."""


class SaveError(RelightError):
    """A checkpoint could not be written. Earlier checkpoints are intact, and training may continue."""
