"""The errors that a person can cause or meet: each says what, which one, and what to do.

Anything else that escapes is a bug of ours and keeps its traceback.
"""


class RelightError(Exception):
    """A sentence for a person. The command line prints it on one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(RelightError):
    """The request itself is wrong: an unknown task, key, run or step, or a value out of bounds."""

    exit_code = 2


class ConfigError(UsageError):
    """A task's config has an unknown key or a value that its field does not take."""


class TaskError(RelightError):
    """A task cannot be used: its file does not import, its data is missing or broken.

    `traceback` is the whole one of the person's own code, where that is what failed.
    """

    def __init__(self, message: str, *, traceback: str | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback


class RunNotFound(UsageError):
    """No run has that id or name, or several do."""


class DamagedFile(RelightError):
    """A file of a run folder is truncated, empty or not what it should be."""


class RunBusy(RelightError):
    """The run is being trained by somebody else right now."""


class CheckpointNotFound(UsageError):
    """The run has no checkpoint like the one asked for."""


class DamagedCheckpoint(DamagedFile):
    """A checkpoint's manifest or pack does not match its own digests."""


class DeviceError(RelightError):
    """The device that was asked for is not on this machine."""


class UnsupportedState(UsageError):
    """The training state holds something that a checkpoint cannot represent; the message names its owner."""


class ExportError(RelightError):
    """Weights could not be exported; whatever lay under that name before still does."""


class SaveError(RelightError):
    """A checkpoint could not be written. Whatever was durable before still is; training may go on."""
