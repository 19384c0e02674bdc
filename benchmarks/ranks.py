"""What Relight costs a training of two ranks, compared with the same training under torchrun alone.

Two ranks train one model with `DistributedDataParallel` and gloo, each on one thread, with steps of some 50 ms. The
plain loop is started with torchrun. The other is the same script with `relight.init`, `run.track`, `run.steps` and
`run.step`: it logs the loss, leaves witnesses, saves checkpoints at the pace that Relight chooses, and asks
five times a second, in one all-reduce of five numbers, whether to save or to stop. *The question alone* is that
all-reduce and nothing else, in every step.

Each loop has its own processes, and they take turns, block by block. *Wall* is the wall-clock time of a block,
*typical* the median of single steps, both in ms per step.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import astuple
from pathlib import Path

from measuring.numbers import pair, spread
from measuring.report import Report, add_report_options, results_folder
from measuring.turns import Racer, Turns, race

BLOCK = 10
WARM_UP = 2
NPROC = 2
CASES = {"plain": "torchrun alone", "relight": "**Relight**", "question": "the question alone"}


def main() -> None:
    """Measure and report; with --case, be one rank of one of the loops."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=60, help=f"blocks of {BLOCK} steps (%(default)s)")
    parser.add_argument("--width", type=int, default=512, help="width of the model (%(default)s)")
    parser.add_argument("--batch", type=int, default=640, help="samples per rank and step (%(default)s)")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    add_report_options(parser)
    options = parser.parse_args()
    if options.case:
        _be_rank(options.case, BLOCK * (options.rounds + WARM_UP) + 1, width=options.width, batch=options.batch)
        return
    report = Report(
        "ranks", "What Relight costs a training of two ranks", (__doc__ or "").partition("\n\n")[2].rstrip()
    )
    with tempfile.TemporaryDirectory(prefix="relight-ranks-", ignore_cleanup_errors=True) as folder:
        racers: dict[str, Racer] = {}
        try:
            for case in CASES:
                racers[case] = _start(case, options, Path(folder))
            times = race(racers, rounds=options.rounds, warm_up=WARM_UP)
        finally:
            for racer in racers.values():
                racer.close()
    walls = {case: [block.wall_s * 1e3 / BLOCK for block in times[case]] for case in CASES}
    typical = {case: [block.typical_s * 1e3 for block in times[case]] for case in CASES}
    rows = []
    for case, title in CASES.items():
        ratios = [pair(each[case], each["plain"]) for each in (walls, typical)]
        percent = [f"{(ratio.median - (case == 'relight')) * 100:.1f} %" for ratio in ratios]
        shown = ["", ""] if case == "plain" else percent
        rows.append([title, spread(walls[case]).show(2), spread(typical[case]).show(2), *shown])
        report.data[case] = [astuple(block) for block in times[case]]
    heads = ["what", "wall", "typical", "wall: more than torchrun alone", "typical: more than torchrun alone"]
    report.add_table(f"{options.rounds} blocks of {BLOCK} steps each, {NPROC} ranks", heads, rows)
    report.finish(results_folder(options))


def _start(case: str, options: argparse.Namespace, folder: Path) -> Racer:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(NPROC)]
    loop = [__file__, "--case", case, "--rounds", str(options.rounds)]
    size = ["--width", str(options.width), "--batch", str(options.batch)]
    runs = {"RELIGHT_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return Racer(
        [sys.executable, *torchrun, *loop, *size], environment={**os.environ, **runs}, log=folder / f"{case}.log"
    )


def _be_rank(case: str, count: int, *, width: int, batch: int) -> None:
    import torch.distributed as dist

    is_first = os.environ["RANK"] == "0"
    turns = Turns(BLOCK) if is_first else None
    steps, act = _make_question(count) if case == "question" else _make_training(case, count, width=width, batch=batch)
    for _ in steps:
        if turns is not None:
            turns.edge()
        act()
    if dist.is_initialized():
        dist.destroy_process_group()


def _make_question(count: int) -> tuple[Iterable[int], Callable[[], object]]:
    from relight.training.ranks.group import Asking, RankGroup
    from relight.training.ranks.place import find_place

    place = find_place()
    assert place is not None
    group = RankGroup(place)
    return range(count), lambda: group.agree(Asking.STEP, 0, 0, 0)


def _make_training(case: str, count: int, *, width: int, batch: int) -> tuple[Iterable[int], Callable[[], object]]:
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    run = None
    if case == "relight":
        import relight

        run = relight.init(seed=0)
    dist.init_process_group("gloo")
    layers = [layer for _ in range(4) for layer in (nn.Linear(width, width), nn.ReLU())]
    model = DistributedDataParallel(nn.Sequential(*layers))
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randn(batch, width)
    if run is not None:
        run.track(model=model, optimizer=optimizer)

    def act() -> None:
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        value = loss.item()
        if run is not None:
            run.step(loss=value)

    return range(count) if run is None else run.steps(count), act


if __name__ == "__main__":
    main()
