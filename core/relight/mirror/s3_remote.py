"""A mirror in S3 or in any server that speaks its protocol, through obstore."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from relight.mirror.address import MirrorAddress
from relight.mirror.remote import AlreadyThere, MirrorError, NotThere, RemoteFile
from relight.wording import describe_bytes

_PART_BYTES = 8 << 20
_MOST_PARTS = 9_000
"""S3 takes 10,000 parts of a file."""
_AT_ONCE = 4
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")
_STATUS = re.compile(r"status code: (\d{3}[A-Za-z ]{0,40})")
_URL = re.compile(r"https?://\S+")
_DENIED = re.compile(r"status code: 40[13]")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class S3Remote:
    """Files in a bucket below a prefix. Credentials, endpoint and region come from the AWS_* variables."""

    def __init__(self, address: MirrorAddress, run_id: str | None) -> None:
        assert address.bucket is not None
        self._bucket = address.bucket
        self._prefix = "/".join(filter(None, (address.path, run_id)))

    @cached_property
    def _store(self) -> S3Store:
        endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS)), "")
        return S3Store(
            self._bucket,
            prefix=self._prefix or None,
            disable_bulk_delete=True,  # not every server has it
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": "10s",
                # Of one request, so of one part: enough for 8 MB at 0.2 Mbit/s.
                "timeout": "300s",
            },
            # Later attempts are the caller's: it says why it waits.
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
        )

    def list_files(self, folder: str = "") -> dict[str, RemoteFile]:
        """Return all files below `folder`, by their whole path."""
        with self._explained():
            return {
                found["path"]: RemoteFile(found["size"], found["last_modified"].timestamp())
                for chunk in obstore.list(self._store, prefix=folder or None)
                for found in chunk
            }

    def list_folders(self) -> list[str]:
        """Return the names of the folders directly in this one."""
        with self._explained():
            return sorted(path.rstrip("/") for path in obstore.list_with_delimiter(self._store)["common_prefixes"])

    def read(self, path: str, *, most_bytes: int) -> bytes:
        """Return a small file."""
        with self._explained():
            answer = obstore.get(self._store, path)
            if answer.meta["size"] > most_bytes:
                raise MirrorError(f"{path} is larger than {describe_bytes(most_bytes)}.")
            return bytes(answer.bytes())

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return `length` bytes of a file from `start` on: fewer at its end."""
        with self._explained():
            return bytes(obstore.get_range(self._store, path, start=start, length=length))

    def put(self, path: str, chunks: Iterable[bytes], size: int) -> None:
        """Write a file, in place of one of that name. A large one goes in parts, of which S3 shows nothing before."""
        with self._explained():
            if size <= _PART_BYTES:
                obstore.put(self._store, path, b"".join(chunks), use_multipart=False)
                return
            part_bytes = max(_PART_BYTES, -(-size // _MOST_PARTS))
            obstore.put(self._store, path, iter(chunks), chunk_size=part_bytes, max_concurrency=_AT_ONCE)

    def create(self, path: str, data: bytes) -> None:
        """Write a small file unless there is one of that name."""
        with self._explained():
            obstore.put(self._store, path, data, mode="create", use_multipart=False)

    def delete(self, path: str) -> None:
        """Delete a file if it is there."""
        with self._explained():
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError:
                pass

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except AlreadyExistsError as error:
            raise AlreadyThere("It is there already.") from error
        except (BaseError, FileNotFoundError) as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> MirrorError:
        text = str(error)
        found = _CODE.search(text) or _STATUS.search(text)
        what = found[1].strip() if found else ""
        if what == "NoSuchBucket":
            return MirrorError(f"There is no bucket {self._bucket!r}. Create it.")
        if isinstance(error, FileNotFoundError):
            return NotThere("There is no such file.")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or _DENIED.search(text):
            return MirrorError(
                f"Access denied ({what}). Check the credentials in the environment (AWS_ACCESS_KEY_ID, "
                f"AWS_SECRET_ACCESS_KEY) and whether they may list, read, write and delete in {self._bucket!r}."
            )
        if "instance metadata" in text or "169.254.169.254" in text:
            return MirrorError("There are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
        for words, sentence in (
            ("Connection refused", "Connection refused."),
            ("kind: Timeout", "The server does not answer."),
            ("dns error", "The server's name cannot be found. Check AWS_ENDPOINT_URL and the network."),
            ("kind: Connect", "The server cannot be reached."),
            ("certificate", "The server's certificate is not trusted."),
            ("incorrectly configured region", "The bucket is in another region. Set AWS_REGION."),
        ):
            if words in text:
                return MirrorError(sentence)
        if what:
            return MirrorError(f"The server answered {what}.")
        if "HTTP error" in text:
            return MirrorError("The connection broke.")
        return MirrorError(_URL.sub("…", text.partition("\n")[0])[:200])
