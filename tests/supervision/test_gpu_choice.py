"""The choice of GPUs: what a person may type, what the trainer sees, and what a resume keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.errors import UsageError
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import AttemptStart
from relight.supervision.gpu_choice import choose_gpus, word_gpus
from relight.supervision.nproc import choose_nproc
from relight.supervision.resume import resume_run
from supervision.conftest import Lab, kill


@pytest.fixture
def four_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relight.supervision.gpu_choice._count_gpus", lambda: (4, None))


@pytest.mark.usefixtures("four_cards")
def test_cards_are_named_by_their_numbers() -> None:
    assert choose_gpus(None) is None
    assert choose_gpus("all") == ()
    assert choose_gpus("0, 2") == (0, 2)
    assert word_gpus((0, 2)) == "GPUs 0, 2"


@pytest.mark.usefixtures("four_cards")
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("", "is not a list of GPUs"),
        ("0,,1", "is not a list of GPUs"),
        ("-1", "is not a list of GPUs"),
        ("1,1", "names a GPU twice"),
        ("0,4", "there is no GPU 4. This machine has GPUs 0 to 3."),
    ],
)
def test_anything_else_is_refused_with_a_sentence(asked: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        choose_gpus(asked)


def test_a_machine_without_a_card_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relight.supervision.gpu_choice._count_gpus", lambda: (0, "No NVIDIA driver on this machine."))
    with pytest.raises(UsageError, match="no GPU that Relight can find"):
        choose_gpus("0")


@pytest.mark.usefixtures("four_cards")
def test_one_process_for_each_gpu_counts_the_chosen_ones() -> None:
    assert choose_nproc("auto") == 4
    assert choose_nproc("auto", gpus=()) == 4
    assert choose_nproc("auto", gpus=(0, 2)) == 2


@pytest.mark.processes
def test_a_run_sees_the_chosen_cards_only_and_a_resume_keeps_the_choice(lab: Lab) -> None:
    layout = lab.launch("train", "10000", gpus=(0, 2)).layout
    assert read_record(layout.attempt(1).start, AttemptStart).chosen_gpus == (0, 2)
    assert _read_visible(lab, layout) == {"CUDA_VISIBLE_DEVICES": "0,2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    _kill(lab, layout)
    resume_run(layout)
    assert _read_visible(lab, layout)["CUDA_VISIBLE_DEVICES"] == "0,2"
    _kill(lab, layout)
    resume_run(layout, gpus=())
    assert b"gpus" not in layout.attempt(3).start.read_bytes()
    assert _read_visible(lab, layout) == {}


def _kill(lab: Lab, layout: RunLayout) -> None:
    kill(lab.trainer(layout))
    lab.wait_for_exit(layout)


def _read_visible(lab: Lab, layout: RunLayout) -> dict[str, str]:
    """Return what the environment of the newest trainer says about cards."""
    environment = Path(f"/proc/{lab.trainer(layout)}/environ").read_text()
    return dict(line.split("=", 1) for line in environment.split("\0") if line.startswith("CUDA_"))
