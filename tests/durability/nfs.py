"""Cuts the power of an NFS server and its client while checkpoints are saved, and checks that nothing is lost.

    python -m tests.durability.nfs --cuts 25

Server and client are one user-mode kernel, ended by SIGKILL: what it had not sent to its disk is gone. At the next boot
the server's journal is replayed, and every checkpoint is read over NFS and compared bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relight.checkpoints.file_operations import SYSTEM
from tests.durability.foreign_kernel import NFS3, NFS4, ForeignKernel, find_obstacle, make_disks
from tests.durability.lives import Promises, Said
from tests.durability.saver import Life, save_with_store

LONGEST_LIFE_S = 1.5
HEAD = (
    "| over | cuts | saves acknowledged | checkpoints compared | lost | wrong |\n| --- | --- | --- | --- | --- | --- |"
)

Say = Callable[[str], None]


@dataclass
class Tally:
    """The counts. Anything lost or wrong is an AssertionError, so there is none of it."""

    cuts: int = 0
    saves: int = 0
    checked: int = 0


def cut_nfs(mount_point: Path, *, cuts: int, seed: int, say: Say = lambda _: None) -> Tally:
    """Save at every step, cut, boot, compare, and continue from there on the same disk."""
    tally = Tally()
    chance = random.Random(f"{mount_point} {seed}")
    with make_disks() as disks:
        memory = disks / "promises.json"
        known: dict[str, Any] = {"next_step": 1, "kept": [], "said": {}, "keep_all": False}
        for cut in range(cuts + 1):
            memory.write_text(json.dumps(known))
            command = [sys.executable, "-m", "tests.durability.nfs", "--inside", str(mount_point), str(memory)]
            with ForeignKernel(disks, command) as kernel:
                known = json.loads(kernel.wait_for("compared ").removeprefix("compared "))
                tally.checked += known["checked"]
                if cut == cuts:
                    return tally
                kernel.wait_for("durable ")
                kernel.read(chance.uniform(0.05, LONGEST_LIFE_S))
                kernel.cut_power()
                said = Said()
                said.hear(line for line in kernel.lines if line.startswith(("began ", "durable ", "pinned ")))
            known |= {"said": said.numbers, "keep_all": known["will_keep_all"]}
            tally.cuts += 1
            tally.saves += len(said.all("durable"))
            say(f"{mount_point}: cut {cut + 1} of {cuts}, {said.newest('durable')} was acknowledged")
    return tally


def _live_inside(mount_point: Path, memory: Path) -> None:
    """Run in the second kernel: compare with what was promised before, then save until killed."""
    known = json.loads(memory.read_text())
    promises = Promises(mount_point / "checkpoints")
    promises.next_step = known["next_step"]
    promises.kept.update(known["kept"])
    if known["said"]:
        promises.check(Said(known["said"]), keep_all=known["keep_all"])
    keep_all = promises.next_step % 3 == 0
    facts = {
        "next_step": promises.next_step,
        "kept": sorted(promises.kept),
        "checked": promises.checked,
        "will_keep_all": keep_all,
    }
    print(f"compared {json.dumps(facts)}", flush=True)
    life = Life(str(promises.folder), promises.next_step, keep_all)
    save_with_store(life, lambda word, number: print(f"{word} {number}", flush=True), SYSTEM)


def main() -> int:
    """Parse the arguments, cut, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=25, help="for each version of NFS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--if-possible", action="store_true", help="do not fail if there is no such kernel")
    parser.add_argument("--inside", nargs=2, type=Path, metavar=("FOLDER", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is not None:
        _live_inside(*given.inside)
    obstacle = find_obstacle()
    if obstacle is not None:
        print(f"NFS cannot be tried here: {obstacle}.", file=sys.stderr)
        return 0 if given.if_possible else 1
    print(HEAD)
    for name, mount_point in (("NFS 4.2", NFS4), ("NFS 3", NFS3)):
        begun = time.monotonic()
        tally = cut_nfs(mount_point, cuts=given.cuts, seed=given.seed, say=lambda line: print(line, file=sys.stderr))
        print(f"| {name} | {tally.cuts} | {tally.saves} | {tally.checked} | 0 | 0 |", flush=True)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
