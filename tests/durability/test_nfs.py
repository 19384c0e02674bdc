"""NFS and FAT, in a second kernel. `python -m tests.durability.nfs` cuts the power of an NFS server many times."""

from __future__ import annotations

import sys

import pytest

from tests.durability.foreign_kernel import NFS3, NFS4, VFAT, ForeignKernel, make_disks, need_foreign_kernel

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("disks")]


def test_runs_and_checkpoints_work_on_nfs_and_fat() -> None:
    need_foreign_kernel()
    folders = [str(NFS4 / "trial-4"), str(NFS3 / "trial-3"), str(VFAT / "trial")]  # both versions export the same disk
    with (
        make_disks() as disks,
        ForeignKernel(disks, [sys.executable, "-m", "tests.durability.trial", *folders]) as kernel,
    ):
        kernel.wait_for("the trial ended with code")
        said = [line for line in kernel.lines if line.startswith(("all is well", "the trial ended"))]
        assert said == [*(f"all is well in {folder}" for folder in folders), "the trial ended with code 0"], (
            kernel.lines
        )
