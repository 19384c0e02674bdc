"""Kills a trainer, its writer process or both with SIGKILL while every step is saved, and checks that nothing is lost.

    python -m tests.durability.kills                        150 kills of each victim, and a table
    python -m tests.durability.kills --kills 1000 --victims writer

The trainer here has no model: it hands a snapshot to a real `WriterClient` at every step, so that a kill costs half a
second instead of ten. `tests/integration/soak.py` kills whole trainings and resumes them.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.durability.lives import LivingSaver, Promises, SaverSeries
from tests.durability.saver import WRITER

VICTIMS = ("trainer", "writer", "both", "group")
LONGEST_LIFE_S = 0.25
_WRITERS_A_LIFE = 3  # a client whose writers die more often pauses for a while, as intended

Say = Callable[[str], None]


@dataclass
class Figures:
    """The counts for one victim. A torn or a lost checkpoint is an AssertionError, so there are none of these."""

    victim: str
    kills: int = 0
    lives: int = 0
    acknowledged: int = 0
    compared: int = 0

    def row(self) -> str:
        """Return one row of the table."""
        return f"| {self.victim} | {self.kills} | {self.lives} | {self.acknowledged} | {self.compared} | 0 | 0 |"


HEAD = (
    "| killed | kills | lives | saves acknowledged | checkpoints compared | torn loads | acknowledged and lost |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def kill_often(folder: Path, *, victim: str, kills: int, seed: int, say: Say = lambda _: None) -> Figures:
    """Kill `victim` at `kills` random moments, recover each time, and continue from there in the same store."""
    figures = Figures(victim)
    chance = random.Random(f"{victim} {seed}")
    promises = Promises(folder)
    with SaverSeries(WRITER) as series:
        while figures.kills < kills:
            keep_all = figures.lives % 3 == 0
            with series.begin(folder, first_step=promises.next_step, keep_all=keep_all) as saver:
                saver.wait_for("began")
                figures.kills += _live_and_be_killed(saver, victim, chance)
                said = saver.wait_until_gone()
            promises.check(said, keep_all=keep_all)
            if victim != "both":
                # A complete snapshot that the writer has becomes durable, whichever process dies.
                assert promises.lost_submitted == 0, f"{promises.lost_submitted} submitted steps are lost: {said}"
            figures.lives += 1
            figures.acknowledged += len(said.all("durable"))
            say(f"{victim}: {figures.kills} of {kills} kills, step {promises.next_step - 1} is the newest")
    figures.compared = promises.checked
    return figures


def _live_and_be_killed(saver: LivingSaver, victim: str, chance: random.Random) -> int:
    """Run one life until it is killed, and return how many kills that took."""
    kills = 0
    if victim == "writer":
        for _ in range(_WRITERS_A_LIFE):
            saver.wait_for("durable", count=len(saver.said.all("durable")) + 1)
            saver.let_live(chance.uniform(0.0, LONGEST_LIFE_S))
            writers = len(saver.said.all("writer"))
            saver.kill("writer")
            saver.wait_for("writer", count=writers + 1)
            kills += 1
        saver.wait_for("durable", count=len(saver.said.all("durable")) + 1)
        saver.kill("trainer")
        return kills
    if chance.random() < 0.8:  # before that the writer has hardly begun, and the store may not exist yet
        saver.wait_for("durable")
    saver.let_live(chance.uniform(0.0, LONGEST_LIFE_S))
    first, second = chance.sample(["trainer", "writer"], 2)
    saver.kill(*{"trainer": ["trainer"], "group": ["group"], "both": [first, second]}[victim])
    return 1


def main() -> int:
    """Parse the arguments, kill, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=150, help="of each victim")
    parser.add_argument("--victims", nargs="+", default=VICTIMS, choices=VICTIMS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args()
    say: Say = (lambda _: None) if given.quiet else lambda line: print(line, file=sys.stderr, flush=True)
    print(HEAD, flush=True)
    for victim in given.victims:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="relight-kills-") as folder:
            figures = kill_often(
                Path(folder) / "checkpoints", victim=victim, kills=given.kills, seed=given.seed, say=say
            )
        print(figures.row(), flush=True)
        say(f"{victim}: {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
