"""Where copies of runs are kept: `s3://bucket/prefix`, `file:///other/disk`, or the path of a folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from relight.errors import UsageError

MIRROR_VARIABLE = "RELIGHT_MIRROR"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._=+:@!,-]+")
_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_FORMS = "Write s3://bucket/prefix, file:///folder, or the path of a folder: /folder or ./folder"


@dataclass(frozen=True)
class MirrorAddress:
    """The place of a mirror. `url` is what people read and what a run's folder stores; it never has a password."""

    url: str
    bucket: str | None
    """None for a folder."""
    path: str
    """Prefix of the keys in the bucket ("" for none), or the absolute path of the folder."""

    def of_run(self, run_id: str) -> str:
        """Return the URL of one run's copy."""
        return f"{self.url.rstrip('/')}/{run_id}"


def parse_mirror(text: str) -> MirrorAddress:
    """Parse the URL or the folder of a mirror. Raises `UsageError`, which repeats no text with a password."""
    text = text.strip()
    if text.startswith(("./", "../")):
        text = os.path.abspath(text)  # noqa: PTH100  it takes ".." out, too
    scheme, found, rest = text.partition("://")
    if not found:
        return _parse_folder(text, text)
    if "@" in rest.partition("/")[0] or "?" in rest or "#" in rest:
        raise UsageError(
            "The URL of a mirror must not contain a user, a password, '?' or '#'. Relight takes credentials from the "
            f"environment only (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, …). {_FORMS}."
        )
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise UsageError(f"{text!r} names the host {host!r}. A folder must be on this machine: file:///folder.")
        return _parse_folder(text, unquote(slash + path))
    if scheme != "s3":
        raise UsageError(f"{text!r} cannot be used as a mirror: {scheme}:// is not supported. {_FORMS}.")
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(
            f"{bucket!r} is not the name of an S3 bucket: 3 to 63 lower-case letters, digits, '.' and '-'."
        )
    prefix = prefix.strip("/")
    wrong = [part for part in prefix.split("/") if not _SEGMENT.fullmatch(part)] if prefix else []
    if wrong:
        raise UsageError(
            f"The prefix {prefix!r} has a part that Relight does not use: {wrong[0]!r}. Choose plain letters."
        )
    return MirrorAddress(f"s3://{bucket}/{prefix}".rstrip("/"), bucket, prefix)


def choose_mirror(given: str | None) -> MirrorAddress | None:
    """Return the mirror of a new run: the one that was given, else that of RELIGHT_MIRROR, else None.

    An empty text means no mirror, also where RELIGHT_MIRROR is set.
    """
    chosen = os.environ.get(MIRROR_VARIABLE, "") if given is None else given
    return parse_mirror(chosen) if chosen.strip() else None


def is_run_url(text: str) -> bool:
    """Return whether a person means a copy elsewhere, and not a run of the runs folder."""
    return "://" in text or text.startswith(("/", "./", "../"))


def split_run_url(text: str) -> tuple[MirrorAddress, str]:
    """Split "s3://bucket/prefix/digits-k3f9" into the mirror and the run's id. Raises `UsageError`."""
    head, _, run_id = text.strip().rstrip("/").rpartition("/")
    if not head or head.endswith(":/") or (head.endswith("/") and "://" in text):
        parse_mirror(text)
        raise UsageError(f"{text!r} does not name a run. Write the URL of the mirror, a slash, and the run's id.")
    address = parse_mirror(head)
    if not is_run_id(run_id):
        raise UsageError(f"{run_id!r} is not the id of a run. Write the URL of the mirror, a slash, and the run's id.")
    return address, run_id


def is_run_id(name: str) -> bool:
    """Return whether a name that came from elsewhere can be the folder of a run."""
    return _RUN_ID.fullmatch(name) is not None


def check_place(address: MirrorAddress, runs: Path) -> None:
    """Raise `UsageError` if a mirror in a folder is not somewhere else than the runs folder, or is missing."""
    if address.bucket is not None:
        return  # a server that is down must not keep a training from starting
    target, home = Path(address.path).resolve(), runs.resolve()
    if target == home or target.is_relative_to(home):
        raise UsageError(f"The mirror {address.url!r} is inside the runs folder {str(runs)!r}. Choose another disk.")
    if not target.is_dir():  # making it could fill this disk instead of one that is not mounted
        raise UsageError(f"The mirror {address.url!r} does not exist. Create that folder, or mount its disk.")


def _parse_folder(text: str, path: str) -> MirrorAddress:
    if not path.startswith("/") or "\0" in path:
        raise UsageError(f"{text!r} is not a place for a mirror. {_FORMS}.")
    path = os.path.normpath(path)
    return MirrorAddress(text.rstrip("/") or "/", None, path)
