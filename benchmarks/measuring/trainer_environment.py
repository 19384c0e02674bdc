"""The environment of a trainer, which decides how fast its libraries copy and how they wait."""

from __future__ import annotations

import os
import sys

from relight.supervision.local_launcher import COPY_PAST_CACHES

_VARIABLES = {"GLIBC_TUNABLES": COPY_PAST_CACHES, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
"""What the supervisor gives a trainer, and what the trainer sets before it imports torch."""


def adopt_trainer_environment() -> None:
    """Start this script again with the variables that a trainer has, unless it has them."""
    if any(os.environ.get(name) != value for name, value in _VARIABLES.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **_VARIABLES})
