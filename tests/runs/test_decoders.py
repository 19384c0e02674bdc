"""Threads that decode the same records for the first time at the same moment do not end the process."""

from __future__ import annotations

import subprocess
import sys

_DECODE = """
import sys, threading
import msgspec
from relight.runs.records import RunRecord
from relight.runs.decoders import prepare_decoders

prepare_decoders()
sys.setswitchinterval(1e-6)
together = threading.Barrier(8)

def decode():
    together.wait()
    try:
        msgspec.json.decode(b'{"task": {"kind": "builtin", "name": "x"}, "run": "x", "name": "y"}', type=RunRecord)
    except msgspec.ValidationError:
        pass

threads = [threading.Thread(target=decode) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_records_can_be_decoded_by_threads_at_once() -> None:
    children = [subprocess.Popen([sys.executable, "-c", _DECODE]) for _ in range(8)]
    assert [child.wait(60) for child in children] == [0] * 8
