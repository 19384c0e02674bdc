"""Two ranks of one process ask each other at the same steps."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from relight.training.ranks.group import ASK_EVERY_S, RankGroup
from relight.training.ranks.place import RankPlace

STEPS = range(1, 61)


def in_both_ranks(monkeypatch: pytest.MonkeyPatch, act: Callable[[RankGroup], list[int]]) -> list[list[int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)

    def be_rank(rank: int) -> list[int]:
        return act(RankGroup(RankPlace(rank, 2, rank)))

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(be_rank, range(2)))


def test_a_stop_is_heard_by_both_ranks_at_one_step_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(group: RankGroup) -> list[int]:
        heard = []
        for step in STEPS:
            group.find_stop = lambda step=step: 7 * (group.rank == 1 and step >= 20)  # type: ignore[misc]
            group.end_step(step, due=False, fixed_in=1000)
            if group.heard_stop:
                heard.append(step)
        return heard

    first, second = in_both_ranks(monkeypatch, train)
    assert first == second
    assert 20 <= first[0] <= 30


def test_a_second_edge_of_a_step_does_not_make_long_steps_look_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(group: RankGroup) -> list[int]:
        due = []
        for step in range(1, 5):
            time.sleep(1.25 * ASK_EVERY_S)  # the step itself: from this length on, every step is asked about
            for _ in range(2):  # its own edge, and that of a validation behind it
                due += [step] if group.end_step(step, due=True, fixed_in=1000) else []
        return due

    first, second = in_both_ranks(monkeypatch, train)
    assert first == second == [1, 1, 2, 2, 3, 3, 4, 4]


def test_short_steps_are_seldom_asked_about_but_never_missed_where_a_checkpoint_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    questions: list[int] = []

    def train(group: RankGroup) -> list[int]:
        agree = group.agree
        monkeypatch.setattr(group, "agree", lambda *words: (questions.append(group.rank), agree(*words))[1])
        return [step for step in STEPS if group.end_step(step, due=step % 7 == 0, fixed_in=7 - step % 7)]

    first, second = in_both_ranks(monkeypatch, train)
    assert first == second == [step for step in STEPS if step % 7 == 0]
    assert questions.count(0) == questions.count(1) < len(STEPS) / 2
