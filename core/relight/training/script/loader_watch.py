"""Notices a `DataLoader` that Relight does not know and whose batches go on from one step to the next.

No checkpoint has the position of such a loader, so after a resume its batches would start over. One whose passes begin
and end between two steps, as in a validation, does no harm.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

from torch.utils.data import dataloader

from relight.training.script.loop_source import is_foreign

_STEP = "_relight_step"
_OWN = "relight."
_BaseIterator: Any = dataloader._BaseDataLoaderIter


class LoaderWatch:
    """Watches the iterators of all loaders in this process until the first one is found."""

    def __init__(self) -> None:
        self.step = 0
        """The number of the step that is being taken; the driver sets it."""
        self.found = ""
        """Where the script draws from such a loader: "train.py, line 12"; empty while there is none."""

    def install(self) -> None:
        """Look at each batch from now on."""
        advance = _BaseIterator.__next__

        def advance_watched(iterator: Any) -> Any:
            if not self.found:
                self._look(iterator, sys._getframe(1))
            return advance(iterator)

        _BaseIterator.__next__ = advance_watched

    def _look(self, iterator: Any, frame: FrameType | None) -> None:
        known = vars(iterator)
        before = known.get(_STEP, self.step)
        known[_STEP] = self.step
        begins = known.get("_num_yielded") == 0  # also if persistent workers use the iterator for another pass
        if begins or before == self.step or type(known.get("_dataset")).__module__.startswith(_OWN):
            return
        while frame is not None and is_foreign(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is not None:
            self.found = f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
