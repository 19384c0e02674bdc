"""Asks for actions as the dashboard's route does, without a server."""

from __future__ import annotations

import itertools
import json
import time
import weakref
from collections.abc import Callable
from typing import Any

from relight_app.answers import ActionAnswer, Answers
from relight_app.engine import Engine
from tests.patience import stretch

_keys = (f"press-{number}" for number in itertools.count())
_known: weakref.WeakKeyDictionary[Engine, Answers] = weakref.WeakKeyDictionary()


def ask(engine: Engine, action: str, *, key: str | None = None, **payload: Any) -> ActionAnswer:
    """Do an action as one press does, and wait for its answer."""
    body = json.dumps(payload).encode()
    return _find_answers(engine).answer(action, body, key=key or next(_keys), patience_s=stretch(60))


def ask_in_passing(engine: Engine, action: str, *, key: str | None = None, **payload: Any) -> ActionAnswer:
    """Do an action, and do not wait for its answer."""
    return _find_answers(engine).answer(action, json.dumps(payload).encode(), key=key or next(_keys), patience_s=0.0)


def problem(answer: ActionAnswer) -> str:
    """Return the sentence of an action that failed."""
    assert answer.status >= 400, answer
    sentence = answer.body["problem"]
    assert isinstance(sentence, str)
    return sentence


def wait_until(condition: Callable[[], bool], *, what: str) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + stretch(30)
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.01)


def _find_answers(engine: Engine) -> Answers:
    """Return the answers of the server that reads with `engine`; another engine is another server."""
    return _known.setdefault(engine, Answers(engine))
