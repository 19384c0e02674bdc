"""Cuts the power of a real ext4 or xfs while something saves at every step, and counts what survives, for peers too.

    python -m tests.durability.power_cuts                            100 cuts for Relight, 25 for each of the peers
    python -m tests.durability.power_cuts --cuts 400 --engines relight "relight writer"

A disk is an image on a loop device. The cut is the file system's own shutdown ioctl, without a last write to its
journal: dirty pages and everything that was not committed are gone, as in a power cut. Then the image is mounted again,
the journal is replayed, and every checkpoint is loaded and compared bit for bit with what was saved at that step. This
does not cover a drive that loses its own cache: the image has everything that the kernel had sent.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.durability.disks import Disk, find_obstacle, make_disk
from tests.durability.lives import LivingSaver, Promises, Said, SaverSeries
from tests.durability.peers import PEERS, Peer
from tests.durability.saver import RELIGHT, snapshot_at

LONGEST_LIFE_S = 1.2

Say = Callable[[str], None]


@dataclass(frozen=True)
class Mount:
    """A file system whose power can be cut, with its mount options."""

    kind: str
    options: tuple[str, ...] = ()
    megabytes: int = 256

    def __str__(self) -> str:
        return f"{self.kind}, mounted with {','.join(self.options)}" if self.options else self.kind


DEFAULT = Mount("ext4", ("commit=1",))
"""ext4 with its defaults, except that the journal is committed every second instead of every five."""
SLOPPY = Mount("ext4", ("commit=1", "data=writeback", "noauto_da_alloc"))
"""Names may reach the disk long before the data: only fsync helps."""
XFS = Mount("xfs", megabytes=320)
MOUNTS = {"default": DEFAULT, "sloppy": SLOPPY, "xfs": XFS}


@dataclass
class Tally:
    """The counts for one engine."""

    engine: str
    cuts: int = 0
    saves: int = 0
    newest: int = 0
    """The last acknowledged step was loaded, or a later one."""
    older: int = 0
    """An older step was loaded: acknowledged steps were gone."""
    most_lost: int = 0
    fails: int = 0
    """The newest could not be loaded."""
    wrong: int = 0
    """It was loaded without an error, but was not what was saved."""
    nothing: int = 0
    checked: int = 0
    """Checkpoints of which every byte was compared."""

    def row(self) -> str:
        """Return one row of the table."""
        return (
            f"| {self.engine} | {self.cuts} | {self.saves} | {self.newest} | {self.older} | {self.most_lost} "
            f"| {self.fails} | {self.wrong} | {self.nothing} |"
        )


COLUMNS = (
    "engine", "cuts", "saves acknowledged", "continues from the last one", "from an older one", "most steps lost",
    "the newest fails to load", "**loads wrong data silently**", "nothing left",
)  # fmt: skip
HEAD = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def cut_relight(engine: str, *, cuts: int, seed: int, mount: Mount, say: Say = lambda _: None) -> Tally:
    """Cut, recover and continue on the same disk, repeatedly. A broken promise is an AssertionError."""
    tally = Tally(engine)
    chance = random.Random(f"{engine} {seed}")
    with (
        make_disk(megabytes=mount.megabytes, kind=mount.kind, options=mount.options) as disk,
        SaverSeries(engine) as series,
    ):
        promises = Promises(disk.path / "checkpoints")
        for cut in range(cuts):
            keep_all = cut % 3 == 0
            with series.begin(promises.folder, first_step=promises.next_step, keep_all=keep_all) as saver:
                saver.wait_for("durable")
                _live_and_lose_power(saver, disk, chance)
                saver.kill("trainer", "writer", "second")
                said = saver.wait_until_gone()
            disk.come_back()
            promises.check(said, keep_all=keep_all)
            tally.cuts += 1
            tally.newest += 1
            tally.saves += len(said.all("durable"))
            say(f"{engine}: cut {cut + 1} of {cuts}, {said.newest('durable')} was acknowledged, all is there")
        tally.checked = promises.checked
    return tally


def cut_peer(engine: str, *, cuts: int, seed: int, mount: Mount, say: Say = lambda _: None) -> Tally:
    """Do the same with another library, in a new folder each time, and count what happens."""
    peer = PEERS[engine]
    tally = Tally(engine)
    chance = random.Random(f"peer {seed}")
    with (
        make_disk(megabytes=mount.megabytes, kind=mount.kind, options=mount.options) as disk,
        SaverSeries(engine) as series,
    ):
        folder = disk.path / "checkpoints"
        for cut in range(cuts):
            with series.begin(folder, first_step=1) as saver:
                saver.wait_for("durable", count=3)
                _live_and_lose_power(saver, disk, chance)
                saver.kill("trainer")
                said = saver.wait_until_gone()
            disk.come_back()
            what = _judge(peer, disk, said, tally)
            say(f"{engine}: cut {cut + 1} of {cuts}, {said.newest('durable')} was acknowledged: {what}")
            shutil.rmtree(folder, ignore_errors=True)
            disk.write_back()
    return tally


def _live_and_lose_power(saver: LivingSaver, disk: Disk, chance: random.Random) -> None:
    life_s = chance.uniform(0.05, LONGEST_LIFE_S)
    # The kernel writes back every 5 to 30 seconds. Here it does so at a random moment of a shorter life.
    before_s = chance.uniform(0.0, life_s)
    saver.let_live(before_s)
    disk.write_back()
    saver.let_live(life_s - before_s)
    disk.cut_power()


def _judge(peer: Peer, disk: Disk, said: Said, tally: Tally) -> str:
    acknowledged = said.newest("durable")
    tally.cuts += 1
    tally.saves += len(said.all("durable"))
    folder = disk.path / "checkpoints"
    path = peer.newest(folder) if folder.exists() else None
    if path is None:
        tally.nothing += 1
        return "nothing is left"
    try:
        loaded = peer.load(path, peer.build_state(snapshot_at(1)))
        step = int(loaded["step"])
    except Exception as error:
        tally.fails += 1
        return f"{path.name} fails: {type(error).__name__}: {' '.join(str(error).split())[:80]}"
    named = int(path.stem.removeprefix("step-")) or step
    if not peer.same(loaded, peer.build_state(snapshot_at(named))):
        tally.wrong += 1
        return f"{path.name} loads and is wrong"
    if step >= acknowledged:
        tally.newest += 1
        return "it is there"
    tally.older += 1
    tally.most_lost = max(tally.most_lost, acknowledged - step)
    return f"only step {step} is there"


def main() -> int:
    """Parse the arguments, cut, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=100, help="for each of Relight's engines")
    parser.add_argument("--peer-cuts", type=int, default=25, help="for each of the peers")
    parser.add_argument("--engines", nargs="+", default=[*RELIGHT, *PEERS], choices=[*RELIGHT, *PEERS], metavar="NAME")
    parser.add_argument("--mounts", nargs="+", choices=MOUNTS, default=list(MOUNTS), help="default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--if-possible", action="store_true", help="do not fail where power cannot be cut")
    given = parser.parse_args()
    obstacle = find_obstacle(power_cuts=True)
    if obstacle is not None:
        print(f"Power cannot be cut here: {obstacle}.", file=sys.stderr)
        return 0 if given.if_possible else 1
    say: Say = (lambda _: None) if given.quiet else lambda line: print(line, file=sys.stderr, flush=True)
    for mount in map(MOUNTS.__getitem__, given.mounts):
        obstacle = find_obstacle(mount.kind, power_cuts=True)
        if obstacle is not None:
            print(f"\n{mount}: {obstacle}", flush=True)
            continue
        print(f"\n{mount}\n\n{HEAD}", flush=True)
        for engine in given.engines:
            begun = time.monotonic()
            run = cut_relight if engine in RELIGHT else cut_peer
            cuts = given.cuts if engine in RELIGHT else given.peer_cuts
            tally = run(engine, cuts=cuts, seed=given.seed, mount=mount, say=say)
            print(tally.row(), flush=True)
            say(f"{engine}: {time.monotonic() - begun:.0f} s, {tally.checked} checkpoints compared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
