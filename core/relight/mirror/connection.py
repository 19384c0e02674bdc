"""Opens the place of a mirror, whichever kind it is."""

from __future__ import annotations

from relight.mirror.address import MirrorAddress
from relight.mirror.remote import MirrorRefused, Remote


def connect(address: MirrorAddress, run_id: str | None = None) -> Remote:
    """Return the place of a run's copy, or without `run_id` the place of all runs. It connects at the first call."""
    if address.bucket is None:
        from relight.mirror.folder_remote import FolderRemote

        return FolderRemote(address, run_id)
    # obstore takes some megabytes: only a process that uses S3 loads it.
    try:
        from relight.mirror.s3_remote import S3Remote
    except ModuleNotFoundError as error:
        raise MirrorRefused("The package obstore, which S3 needs, is missing: pip install 'relight[s3]'") from error

    return S3Remote(address, run_id)
