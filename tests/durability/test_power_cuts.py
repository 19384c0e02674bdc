"""Power cuts on a real ext4 or xfs: what was called durable is there, and no wrong bytes are loaded.

`python -m tests.durability.power_cuts` makes the tables in `docs/checkpoint-proofs.md`.
"""

from __future__ import annotations

import pytest

from tests.durability.disks import need_disks
from tests.durability.power_cuts import DEFAULT, SLOPPY, Mount, cut_relight
from tests.durability.saver import RANKS, STORE, UNSYNCED, WRITER

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("disks")]
CUTS = 4


@pytest.mark.parametrize(
    ("engine", "mount"),
    [(WRITER, DEFAULT), (STORE, SLOPPY), (RANKS, DEFAULT)],
    ids=["writer process", "store, sloppy ext4", "two ranks"],
)
def test_a_power_cut_loses_no_checkpoint_that_was_called_durable(engine: str, mount: Mount) -> None:
    need_disks(power_cuts=True)
    tally = cut_relight(engine, cuts=CUTS, seed=0, mount=mount)
    assert tally.cuts == CUTS
    assert tally.saves >= CUTS
    assert tally.checked >= CUTS


def test_without_fsync_the_same_cuts_lose_what_was_promised() -> None:
    need_disks(power_cuts=True)
    with pytest.raises(AssertionError, match=r"acknowledged|nothing is left|damaged"):
        cut_relight(UNSYNCED, cuts=20, seed=0, mount=DEFAULT)
