"""An exception is described in one line."""

from __future__ import annotations

from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from relight.training.attempt_ending import name_error
from relight.training.data.loading_processes import end_workers


class Broken(Dataset[int]):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no label"), "ValueError: no label"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_an_exception_is_its_class_and_the_first_line_that_it_says(error: Exception, line: str) -> None:
    assert name_error(error) == line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("no label"), "KeyError: 'no label'"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (FileNotFoundError(2, "No such file", "x.png"), "FileNotFoundError: [Errno 2] No such file: 'x.png'"),
    ],
)
def test_an_exception_of_a_data_loading_process_says_what_it_says_itself(error: Exception, line: str) -> None:
    batches = iter(DataLoader(Broken(error), num_workers=1))
    try:
        with pytest.raises(type(error)) as caught:
            next(batches)
    finally:
        end_workers(batches)  # otherwise the exception keeps the workers alive
    assert name_error(caught.value) == f"{line} (in DataLoader worker process 0)"
