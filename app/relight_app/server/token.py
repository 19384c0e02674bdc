"""The token that opens the dashboard: a given one, the one of the last start, or a new one."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shlex
import stat
from pathlib import Path

from relight.errors import UsageError

TOKEN_VARIABLE = "RELIGHT_TOKEN"
_SHORTEST = 8
_REMEMBERED_CHARACTERS = 43
_MOST_BYTES = 4096


def choose_token(given: str | None = None) -> str:
    """Return `given`, else RELIGHT_TOKEN, else the token of the last start, which keeps open tabs and bookmarks valid.

    A remembered token is used only if its file is private to its owner. If it cannot be stored, each start has a new
    one. Raises `UsageError` for a token that is too short.
    """
    for source, token in (("--token", given), (TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE))):
        if token:
            if len(token) < _SHORTEST:
                raise UsageError(f"The token from {source} is too short. Use at least {_SHORTEST} characters.")
            return token
    path = remembered_token_path()
    return _read_remembered(path) or _remember(path, secrets.token_urlsafe(32))


def read_token_file(path: Path) -> str:
    """Return the token in a file that only its owner can read. Raises `UsageError` for any other file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"The token file {str(path)!r} cannot be read: {error.strerror or error}.") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"The token file {str(path)!r} is not a regular file.")
        if status.st_uid not in {os.geteuid(), 0} or status.st_mode & 0o077:
            cure = f"chmod 600 {shlex.quote(str(path))}"
            raise UsageError(f"Other users can read the token file {str(path)!r}. Make it private: {cure}")
        content = file.read(_MOST_BYTES + 1)
    try:
        token = content.decode().strip()
    except UnicodeDecodeError:
        token = ""
    if not token.isprintable() or len(content) > _MOST_BYTES or len(token) < _SHORTEST:
        raise UsageError(
            f"The token file {str(path)!r} must contain one line with a token of at least {_SHORTEST} characters."
        )
    return token


def remembered_token_path() -> Path:
    """Return where the token is stored between starts: in the user's state folder."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "relight" / "dashboard-token"


def cookie_value(token: str) -> str:
    """Return the value of the browser's cookie: it proves knowledge of `token` without containing it."""
    return hmac.new(token.encode(), b"relight dashboard cookie 1", hashlib.sha256).hexdigest()


def _read_remembered(path: Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        private = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
        token = file.read(200).decode("ascii", "replace").strip() if private else ""
    return token if len(token) == _REMEMBERED_CHARACTERS and token.isprintable() else None


def _remember(path: Path, token: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
        temporary.replace(path)
    except OSError:
        pass  # a read-only home, as in a container: the token of this start is still printed
    return token
