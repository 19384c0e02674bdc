"""Runs numeric tests as other processors compute them: with fewer vector instructions, and on one thread or two.

    python -m tests.processors                    every numeric test, in each way; `make soak` runs this
    python -m tests.processors tests/drill -x     these tests, with these options of pytest

The order in which vector instructions and threads add numbers decides the last bits of a sum. So a test that compares
numbers bit for bit may pass on one processor and fail on another, although nothing is wrong with the code.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence

import torch

# PyTorch's own kernels, oneDNN (convolutions) and MKL (matrix products) each choose their instructions.
_LIMITS = {
    "DEFAULT": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "AVX512": {"ATEN_CPU_CAPABILITY": "avx512"},
}
_RUN = """
import sys, pytest, torch
found = f"{torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
assert found == sys.argv[1], f"asked for {sys.argv[1]} and got {found}"
sys.exit(pytest.main(sys.argv[2:]))
"""
_NUMERIC = ("tests/training", "tests/exactness", "tests/examples", "tests/drill", "tests/integration/test_soak.py")


def list_vector_sets() -> list[str]:
    """Return the names of the instruction sets that this process can use, smallest first, in PyTorch's words.

    Processors that are not x86 have one set.
    """
    names = list(_LIMITS)
    own = torch.backends.cpu.get_cpu_capability()
    return names[: names.index(own) + 1] if own in names else [own]


def run_tests(vectors: str, *, threads: int, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run pytest in a process of its own, and so all processes that its tests start; stdout and stderr are one text."""
    environment = {**os.environ, **_LIMITS.get(vectors, {}), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", _RUN, f"{vectors} {threads}", "-q", *arguments]
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def main(arguments: Sequence[str]) -> int:
    """Run the tests in each way and print what pytest says at its end, or all of it after a failure."""
    failed = False
    for vectors, threads in itertools.product(list_vector_sets(), (1, 2)):
        done = run_tests(vectors, threads=threads, arguments=arguments or ["-n", "logical", *_NUMERIC])
        failed |= done.returncode != 0
        print(f"{vectors}, {threads} thread{'s' * (threads > 1)}: {done.stdout if done.returncode else ''}", end="")
        print(done.stdout.splitlines()[-1] if done.stdout else f"pytest ended with {done.returncode}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
