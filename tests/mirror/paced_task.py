"""The tiny task at the pace that the environment says, so that a twin with the same config can be faster."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from tiny_task import Tiny


class Paced(Tiny):
    """Sleep PACE_S seconds in each step."""

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        if model.training:
            time.sleep(float(os.environ.get("PACE_S", "0")))
        return super().step(model, batch)
