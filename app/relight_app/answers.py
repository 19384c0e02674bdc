"""Does each action once per idempotency key, and remembers the answer, also for the next server."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from relight.errors import DamagedFile, RelightError, UntrustedRun, UsageError
from relight.runs.durable_file import make_folder
from relight.runs.record_file import read_record_if_there, write_record
from relight.runs.records import Record
from relight_app.actions import ACTIONS, Action, Answer, Subject
from relight_app.engine import Engine
from relight_app.jobs import KEPT_S, Job, Work
from relight_app.problems import explain

_FOLDER = ".actions"
_ANSWER_KEPT_S = 86_400.0
_SWEEP_EVERY_S = 3_600.0


class ActionAnswer(Record, frozen=True, kw_only=True):
    """The answer to one request: an HTTP status and its JSON body."""

    format: str = "relight-action"
    asked: str = ""
    """A digest of the action and its request."""
    time_s: float = 0.0
    status: int = 200
    body: dict[str, Any] = msgspec.field(default_factory=dict)
    subject: Subject = ()
    """By which a page asks for the work; () if the action has none."""


@dataclass
class _Press:
    """A request that this server has begun, and its answer once there is one."""

    asked: str
    subject: Subject
    work: Work
    answer: ActionAnswer | None = None


class Answers:
    """The answers of one runs folder, one small file for each key, kept for a day."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._folder = engine.folder / _FOLDER
        self._presses: dict[str, _Press] = {}
        self._swept_s = 0.0
        self._lock = threading.Lock()

    def answer(self, name: str, body: bytes, *, key: str, patience_s: float) -> ActionAnswer:
        """Do the action `name` and return its answer, or 202 when it takes longer than `patience_s`.

        Asked again with the same key, it continues to wait, or returns the same answer.
        """
        action = ACTIONS[name]
        try:
            request = msgspec.json.decode(body or b"{}", type=action.request, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _refuse(400, f"The request for {name!r} is not valid: {error}.")
        asked = hashlib.sha256(name.encode() + b"\0" + msgspec.json.encode(request, order="sorted")).hexdigest()
        known = None
        with self._lock:
            press = self._presses.get(key)
            if press is None and (known := self._find(key)) is None:
                self._forget_old()
                subject = action.subject(request) if action.subject is not None else ()
                press = self._presses[key] = _Press(asked, subject, self._start(action, request, key, subject))
        if (press or known).asked != asked:  # type: ignore[union-attr]
            return _refuse(409, "This idempotency key was used for another request. Use a new key for each press.")
        if press is None:
            return known  # type: ignore[return-value]
        job = press.work.wait(patience_s)
        if job.is_running:
            return ActionAnswer(asked=asked, status=202, body={"pending": True, "told": list(job.told)})
        return self._settle(key, press, job)

    def _start(self, action: Action[Any], request: Any, key: str, subject: Subject) -> Work:
        def act(work: Work) -> Answer:
            ended = Job("failed")
            try:
                result = action.act(self._engine, request, key, work)
                ended = Job("done", result=result)
            except BaseException as error:
                ended = Job("failed", error=error)
                raise
            finally:
                self._engine.memo.forget()
                self._settle_all(work, ended)
            return result

        return self._engine.jobs.start(subject or ("key", key), act)

    def _settle_all(self, work: Work, job: Job) -> None:
        """Keep the answers of everybody who asked for the work: they may have gone, and ask the next server again."""
        with self._lock:
            presses = [(key, press) for key, press in self._presses.items() if press.work is work]
        for key, press in presses:
            self._settle(key, press, job)

    def _settle(self, key: str, press: _Press, job: Job) -> ActionAnswer:
        if press.answer is None:
            answer = _describe(job.error) if job.error is not None else ActionAnswer(body=job.result)
            press.answer = msgspec.structs.replace(answer, asked=press.asked, time_s=time.time(), subject=press.subject)
            self._keep(key, press.answer)
        return press.answer

    def _forget_old(self) -> None:
        """Forget the presses that were answered long ago: their answers are in files."""
        now = time.time()
        for key, press in list(self._presses.items()):
            if press.answer is not None and now - press.answer.time_s > _SWEEP_EVERY_S:
                del self._presses[key]

    def _find(self, key: str) -> ActionAnswer | None:
        with contextlib.suppress(DamagedFile, OSError):
            return read_record_if_there(self._path(key), ActionAnswer)
        return None

    def _keep(self, key: str, answer: ActionAnswer) -> None:
        with contextlib.suppress(OSError, RelightError):  # a full disk must not hide the answer
            make_folder(self._folder)
            write_record(self._path(key), answer, durable=False)
            self._sweep()

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def _sweep(self) -> None:
        now = time.time()
        with self._lock:
            if now - self._swept_s < _SWEEP_EVERY_S:
                return
            self._swept_s = now
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if path.suffix == ".json" and now - path.stat().st_mtime > _ANSWER_KEPT_S:
                    path.unlink()


def restore_jobs(engine: Engine) -> None:
    """Let pages show what the servers before this one have found, such as the result of a verification."""
    since_s = time.time() - KEPT_S
    found: list[ActionAnswer] = []
    with contextlib.suppress(OSError):
        for path in (engine.folder / _FOLDER).glob("*.json"):
            with contextlib.suppress(OSError, DamagedFile):
                if path.stat().st_mtime > since_s and (answer := read_record_if_there(path, ActionAnswer)) is not None:
                    found.append(answer)
    for answer in sorted(found, key=lambda answer: answer.time_s):
        if answer.subject and answer.status == 200:
            engine.jobs.restore(answer.subject, answer.body, ended_s=answer.time_s)


def _describe(error: BaseException) -> ActionAnswer:
    problem = explain(error)
    facts: dict[str, Any] = {"problem": problem.sentence, "traceback": problem.traceback}
    if isinstance(error, UntrustedRun):
        facts["ask"] = "trust"
    known = isinstance(error, RelightError | OSError)
    return ActionAnswer(status=400 if isinstance(error, UsageError) else 409 if known else 500, body=facts)


def _refuse(status: int, sentence: str) -> ActionAnswer:
    return ActionAnswer(status=status, body={"problem": sentence, "traceback": None})
