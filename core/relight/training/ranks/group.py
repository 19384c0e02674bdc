"""The group of a run's ranks: small messages between them, apart from those of the training itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from enum import IntEnum
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from relight.errors import RelightError
from relight.runs.process_identity import host_name
from relight.training.ranks.connections import RankConnections, list_sockets
from relight.training.ranks.place import RankPlace

_JOIN_WITHIN = timedelta(minutes=10)
_VALUES = 3
ASK_EVERY_S = 0.2
"""The ranks ask each other at the end of a step so often, or at every step that takes longer."""
_STEPS_BETWEEN = 10
"""So many short steps have at most one question: steps may become slow at once, and a stop should not wait for long."""
_ANSWER_WITHIN = timedelta(days=1)
"""Only a slow disk makes the ranks wait for long: `connections` notices one that has gone."""


class Asking(IntEnum):
    """What the ranks agree on. Each rank says what it asks, so ranks that take different ways are noticed."""

    STEP = 1
    STOP = 2
    PAUSE = 3
    CUT = 4
    LOOP_END = 5
    EVALUATED = 6
    END = 7
    DRILL = 8
    LOADER = 9


_PLACES = {
    Asking.STEP: "at the end of a step",
    Asking.STOP: "looking for a request to stop",
    Asking.PAUSE: "before a validation",
    Asking.CUT: "saving a checkpoint",
    Asking.LOOP_END: "at the end of a loop",
    Asking.EVALUATED: "in run.evaluated",
    Asking.END: "at the end of the training",
    Asking.DRILL: "at a step of the drill",
    Asking.LOADER: "taking over a loader",
}


class RankGroup:
    """All ranks of a training, connected by gloo.

    The training's own collectives run in torch's default group. Ours have their own connections, because a background
    thread or another order of calls must never mix the two.
    """

    def __init__(self, place: RankPlace) -> None:
        """Connect to the other ranks. Raise `RelightError` if some of them do not come."""
        self.rank = place.rank
        self.world_size = place.world_size
        self.local_rank = place.local_rank
        self.parted = False
        """Whether this rank goes on without the others: it answers every question alone."""
        self.find_stop: Callable[[], int] = int
        """Tells this rank's own reason to stop, as a number: it travels with the question that ends each step."""
        self.heard_stop: int | None = None
        """The ranks' reason to stop, if that question was the last one."""
        self._asked_step = -1
        self._ask_at = 0
        self._asked_s = 0.0
        # Not every build of PyTorch has these names.
        from torch._C._distributed_c10d import PrefixStore, TCPStore

        # With torchrun's agent as its host, the store exists already. Otherwise rank 0 hosts it, and a script's own
        # `init_process_group` in that process finds the same one.
        is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        hosts = place.rank == 0 and not is_agents
        store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), place.world_size, hosts,
            timeout=_JOIN_WITHIN, wait_for_workers=False, multi_tenant=True,
        )  # fmt: skip
        # An agent's store may outlive a round. Its count of restarts is its own: a machine that comes back begins at 0.
        number = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if is_agents else "0"
        self._store = PrefixStore(f"relight/{number}", store)
        self._wait_for_all()
        before = list_sockets()
        self._gloo: Any = dist.ProcessGroupGloo(self._store, self.rank, self.world_size, _ANSWER_WITHIN)
        self._connections = RankConnections(before=before)
        self._name_connections()

    def _wait_for_all(self) -> None:
        self._store.set(f"rank {self.rank}", "here")
        try:
            self._store.wait([f"rank {rank}" for rank in range(self.world_size)], _JOIN_WITHIN)
        except RuntimeError:
            raise RelightError(
                f"Not all of the {self.world_size} ranks have come within {_JOIN_WITHIN.seconds // 60} minutes. Every "
                "rank of a script must call relight.init()."
            ) from None

    def _name_connections(self) -> None:
        """Watch the connections between rank 0 and the others. When one of these two ends, all others soon do."""
        own = msgspec.json.encode([host_name(), *self._connections.own])
        names = {}
        for rank, told in enumerate(self.gather(own)):
            host, *addresses = msgspec.json.decode(told, type=list[str])
            if rank != self.rank and 0 in (rank, self.rank):
                names.update(dict.fromkeys(addresses, f"rank {rank} on {host}"))
        self._connections.keep(names)

    def find_lost(self, *, parted: bool = False) -> str:
        """Say which rank has gone or does not answer any more; "" while all are there.

        Also "" if this rank goes on without the others, unless `parted`.
        """
        if (self.parted and not parted) or not (lost := self._connections.find_lost()):
            return ""
        return f"The connection to {lost} is lost: that process, its machine or the network has failed."

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """Call `on_lost` with a sentence, in another thread, when a rank is lost and this one still waits for it."""
        self._connections.watch(lambda _: on_lost(sentence) if (sentence := self.find_lost()) else None)

    def agree(self, what: Asking, *values: int) -> list[int]:
        """Return the largest of each value among all ranks; raise `RelightError` if another rank asks for another."""
        if self.parted:
            return list(values)
        words = torch.tensor([what, -what, *values, *[0] * (_VALUES - len(values))])
        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.MAX  # type: ignore[assignment]
        self._gloo.allreduce([words], options).wait()
        largest, smallest, *agreed = words.tolist()
        if largest != -smallest:
            other = Asking(largest if what == -smallest else -smallest)
            raise RelightError(
                f"The ranks have taken different ways: rank {self.rank} is {_PLACES[what]}, and another rank is "
                f"{_PLACES[other]}. Every rank must take the same steps and make the same calls of its run."
            )
        return agreed[: len(values)]

    def end_step(self, step: int, *, due: bool, fixed_in: int = 1) -> bool:
        """Return whether rank 0 finds a checkpoint due, and hear whether any rank is asked to stop.

        The ranks ask each other five times a second, or at every step that takes longer; between these steps the
        answer is no. Rank 0 chooses the next one, at most `fixed_in` steps away: there a checkpoint is due in any case.
        """
        if self.parted:
            return due
        self.heard_stop = 0
        if self._asked_step < step < self._ask_at:
            return False
        pause = self._choose_pause(step, fixed_in) if self.rank == 0 else 0
        is_due, self.heard_stop, pause = self.agree(Asking.STEP, int(due and self.rank == 0), self.find_stop(), pause)
        self._asked_step, self._ask_at = step, step + pause
        return bool(is_due)

    def _choose_pause(self, step: int, fixed_in: int) -> int:
        """Return in how many steps the ranks ask again, from the time that the last ones took."""
        if step == self._asked_step:  # a second edge of one step tells nothing about steps
            return self._ask_at - step
        before, self._asked_s = self._asked_s, time.monotonic()
        step_s = (self._asked_s - before) / max(1, step - self._asked_step)
        return max(1, min(_STEPS_BETWEEN, fixed_in, int(ASK_EVERY_S / max(step_s, 1e-6))))

    def follow(self, what: Asking, *, value: int) -> int:
        """Return rank 0's value, which is not negative."""
        return self.agree(what, value if self.rank == 0 else -1)[0] if not self.parted else value

    def gather(self, message: bytes) -> list[bytes]:
        """Return all ranks' messages, in the order of the ranks, to every rank."""
        lengths = self._all_gather(torch.tensor([len(message)]))
        room = int(max(length.item() for length in lengths))
        padded = torch.zeros(room, dtype=torch.uint8)
        if message:
            padded[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        parts = self._all_gather(padded)
        return [part[: int(length.item())].numpy().tobytes() for part, length in zip(parts, lengths, strict=True)]

    def tell(self, key: str, message: str) -> None:
        """Leave a message for all ranks."""
        self._store.set(key, message)

    def hear(self, key: str) -> str:
        """Wait for a message that another rank leaves."""
        heard: bytes = self._store.get(key)
        return heard.decode()

    def leave(self) -> None:
        """Wait until all ranks are done, then end torch's default group: otherwise gloo may abort the process."""
        self.parted = False
        try:
            self.agree(Asking.END)
        except (RuntimeError, RelightError):  # another rank is crashing, and says so itself
            return
        finally:
            self._connections.close()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _all_gather(self, tensor: Tensor) -> list[Tensor]:
        out = [torch.empty_like(tensor) for _ in range(self.world_size)]
        self._gloo.allgather([out], [tensor]).wait()
        return out
