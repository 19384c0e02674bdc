"""What the callbacks for other frameworks share: ranks, the loader and the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from relight.errors import RelightError, TaskError
from relight.training.data.adopted_loader import adopt_loader
from relight.training.data.dealt_order import Deal
from relight.training.ranks.group import Asking
from relight.training.script.run import ScriptRun
from relight.training.script.script_loader import choose_seed
from relight.wording import count


def check_ranks(run: ScriptRun, framework: str, *, processes: int) -> None:
    """Raise `RelightError` unless the framework trains with exactly the processes that are the run's ranks."""
    ranks = 1 if run.group is None else run.group.world_size
    if processes != ranks:
        raise RelightError(
            f"{framework} trains in {count(processes, 'process', 'processes')}, and the run has "
            f"{count(ranks, 'rank')}. Start one process for each device: relight run FILE --nproc N, or torchrun "
            "--nproc-per-node N FILE."
        )


class EpochLoader:
    """A loader for a loop that asks for one iterator per epoch and takes `len(loader)` batches from it.

    Such a loop never asks for the end of an iterator, so the epoch ends with its last batch. `before_batch` is called
    whenever the loop asks for a batch and there is one, before the position moves. A loop that asks once more at the
    end of an epoch (the HF Trainer does in a resumed epoch) only learns that there are no more batches.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        run: ScriptRun,
        *,
        seed: int | None,
        before_batch: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over `loader`; with several ranks, each gets batches as large as its, of one order for all of them.

        Raises `TaskError` if it could not be resumed exactly.
        """
        group, deal = run.group, None
        chosen = choose_seed(seed)
        if group is not None:
            deal = Deal(group.rank, group.world_size)
            chosen = group.follow(Asking.LOADER, value=chosen % 2**63)  # ranks may have seeded torch differently
        self._inner = adopt_loader(loader, seed=chosen, deal=deal)
        self._before_batch = before_batch

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Any]:
        """Yield the rest of the current epoch, or the next epoch if the current one is over."""
        self._before_batch()
        inner = self._inner
        if inner.batch and inner.batch >= inner.batches:
            inner.next_epoch()
        for batch in inner:
            yield batch
            if inner.batch >= inner.batches:
                return
            self._before_batch()

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raise `TaskError` if batches had another size: the framework counts in batches.

        Sizes are those of the batches of all ranks together.
        """
        position = self._inner.state_dict()
        before, now = state.get("batch_size"), position.get("batch_size")
        if before != now:
            raise TaskError(
                f"A batch of all ranks had {before} samples when the checkpoint was saved, and has {now} now. The "
                "framework counts its progress in batches, so keep their size."
            )
        self._inner.load_state_dict(state)

    def close(self) -> None:
        """End the data-loading processes."""
        self._inner.close()


class OuterSteps:
    """`run.steps`, driven by another framework's loop: call `advance` after each step, `leave` after the last one."""

    def __init__(self, steps: Iterator[int]) -> None:
        self._steps: list[Iterator[int]] = [steps]
        next(steps, None)

    def advance(self) -> None:
        """End this step and begin the next one."""
        for steps in self._steps:
            next(steps, None)

    def leave(self) -> None:
        """End the last step. This leaves the loop like a `break`, so Relight saves the end of the training."""
        while self._steps:
            for _ in self._steps.pop():
                break
