"""A process is the one that was written down only if pid, start time and boot all agree, and it is not a zombie."""

from __future__ import annotations

import os
import signal
import subprocess
import timeit
from collections.abc import Callable

import msgspec
import pytest

from relight.runs import process_identity
from relight.runs.process_identity import current_process, identify_process, is_alive

WAIT = "import sys; print('up', flush=True); sys.stdin.read()"


def test_this_process_is_alive_and_nothing_is_not() -> None:
    assert is_alive(current_process())
    assert not is_alive(None)


def test_a_killed_child_is_dead_at_once_even_before_anybody_reaps_it(
    start_process: Callable[..., subprocess.Popen[str]],
) -> None:
    child = start_process(WAIT)
    assert child.stdout
    child.stdout.readline()
    identity = identify_process(child.pid)
    assert is_alive(identity)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert not is_alive(identity)
    with pytest.raises(ProcessLookupError):
        identify_process(child.pid)


@pytest.mark.parametrize("change", [{"start_ticks": 5.0}, {"boot_id": "another boot"}, {"pid": 0}, {"pid": -1}])
def test_another_start_time_boot_or_pid_is_another_process(change: dict[str, object]) -> None:
    assert not is_alive(msgspec.structs.replace(current_process(), **change))


def test_a_pid_that_no_system_can_have_is_dead() -> None:
    assert not is_alive(msgspec.structs.replace(current_process(), pid=2**62))


@pytest.mark.parametrize("name", ["x) R 1 (y", "(((", "a b) c"])
def test_brackets_and_blanks_in_a_command_name_confuse_nobody(
    start_process: Callable[..., subprocess.Popen[str]], name: str
) -> None:
    code = "import sys; open('/proc/self/comm', 'w').write(sys.argv[1]); print('up', flush=True); sys.stdin.read()"
    child = start_process(code, name)
    assert child.stdout
    assert child.stdout.readline() == "up\n"
    identity = identify_process(child.pid)
    assert is_alive(identity)
    assert identity.start_ticks >= current_process().start_ticks


def test_without_proc_psutil_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_identity, "_start_of", process_identity._start_without_proc)
    me = current_process()
    assert is_alive(me)
    assert not is_alive(msgspec.structs.replace(me, start_ticks=me.start_ticks - 100))
    assert not is_alive(msgspec.structs.replace(me, pid=2**22 + 1))


def test_asking_costs_less_than_a_tenth_of_a_millisecond() -> None:
    me = current_process()
    assert min(timeit.repeat(lambda: is_alive(me), number=200, repeat=5)) / 200 < 1e-4
