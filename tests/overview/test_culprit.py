"""Of a traceback people see the line in their own code first."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import relight
from relight.overview.culprit import Frame, find_culprit

ENGINE = Path(relight.__file__).parent / "training" / "trainer.py"
CHAINED = f"""Traceback (most recent call last):
  File "/home/me/train.py", line 5, in load
    row = table[key]
          ~~~~~^^^^^
KeyError: 'x'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "{ENGINE}", line 90, in run
    self._train()
  File "/home/me/train.py", line 12, in step
    raise ValueError("bad batch") from error
  File "/opt/venv/lib/python3.11/site-packages/torch/nn/module.py", line 1501, in _call_impl
    return forward_call(*args, **kwargs)
ValueError: bad batch
"""
WORKER = f"""Traceback (most recent call last):
  File "{ENGINE}", line 90, in run
    self._train()
  File "/opt/venv/lib/python3.11/site-packages/torch/_utils.py", line 750, in reraise
    raise exception
ValueError: Caught ValueError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "/opt/venv/lib/python3.11/site-packages/torch/utils/data/_utils/worker.py", line 349, in _worker_loop
    data = fetcher.fetch(index)
  File "/home/me/data set/files.py", line 7, in __getitem__
    return self.read(index)
  File "/usr/lib/python3/dist-packages/PIL/Image.py", line 3, in open
    raise ValueError
ValueError: truncated file
"""


def _own(file: str, line: int, function: str, code: str) -> Frame:
    return Frame(file=file, line=line, function=function, code=code, own=True)


def test_the_users_own_innermost_frame_counts_and_the_last_error_of_a_chain() -> None:
    found = find_culprit(CHAINED)
    assert found == _own("/home/me/train.py", 12, "step", 'raise ValueError("bad batch") from error')
    assert found.place == "train.py:12, in step"


def test_an_earlier_error_counts_when_the_last_one_touches_no_own_code() -> None:
    elsewhere = CHAINED.replace('"/home/me/train.py", line 12', '"/opt/lib/python3.11/contextlib.py", line 12')
    assert find_culprit(elsewhere) == _own("/home/me/train.py", 5, "load", "row = table[key]")


def test_the_frame_inside_a_data_loading_process_is_found() -> None:
    assert find_culprit(WORKER) == _own("/home/me/data set/files.py", 7, "__getitem__", "return self.read(index)")


def test_without_own_code_it_is_the_innermost_frame() -> None:
    text = CHAINED.replace("/home/me/", "/opt/venv/lib/python3.11/site-packages/mine/")
    found = find_culprit(text)
    assert found is not None
    assert (found.own, found.function) == (False, "_call_impl")


def test_a_syntax_error_has_a_place_too() -> None:
    text = (
        'Traceback (most recent call last):\n  File "/home/me/x.py", line 3\n    def f(:\n          ^\nSyntaxError: no'
    )
    assert find_culprit(text) == _own("/home/me/x.py", 3, "", "def f(:")


def test_real_tracebacks_of_this_python_are_read(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "import json\n\ndef fall(n):\n    return fall(n + 1)\n\ndef read():\n    return json.loads('{')\n"
    )
    namespace: dict[str, object] = {}
    exec(compile(script.read_text(), str(script), "exec"), namespace)
    for name, arguments, line in (("read", (), 7), ("fall", (0,), 4)):
        with pytest.raises((ValueError, RecursionError)) as caught:
            namespace[name](*arguments)  # type: ignore[operator]
        found = find_culprit("".join(traceback.format_exception(caught.value)))
        assert found is not None
        assert (found.file, found.line, found.function) == (str(script), line, name), sys.version


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    find_culprit(text)
    find_culprit(f'  File "{text}", line 3, in {text}\n    {text}')
    assert find_culprit("") is None
    assert find_culprit(None) is None
