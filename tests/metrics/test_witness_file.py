"""The witness file holds the last steps whole, and a reader takes nothing that was not written whole."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from relight.metrics.witness_file import CAPACITY, Digests, WitnessWriter, read_witnesses

BIG = 2**64 - 1


def write(path: Path, steps: range) -> None:
    writer = WitnessWriter(path)
    writer.write([(step, step, BIG, 0, BIG - step) for step in steps])
    writer.close()


def test_what_is_written_is_read_in_the_order_of_steps(tmp_path: Path) -> None:
    path = tmp_path / "witness.bin"
    write(path, range(5, 9))
    assert read_witnesses(path, after_step=6) == {step: Digests(step, BIG, 0, BIG - step) for step in (7, 8)}


def test_the_file_keeps_the_last_steps_and_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "witness.bin"
    write(path, range(1, CAPACITY + 11))
    found = list(read_witnesses(path, after_step=0))
    assert found == list(range(11, CAPACITY + 11))
    assert path.stat().st_size == 64 + 48 * CAPACITY


@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_steps_may_be_written_several_at_a_time_around_the_end_of_the_file(tmp_path: Path, at_once: int) -> None:
    path = tmp_path / "witness.bin"
    writer = WitnessWriter(path)
    steps = range(CAPACITY - 20, CAPACITY + 20)
    for first in steps[::at_once]:
        writer.write([(step, step, BIG, 0, 7) for step in steps if first <= step < first + at_once])
    writer.close()
    assert read_witnesses(path, after_step=0) == {step: Digests(step, BIG, 0, 7) for step in steps}


def test_a_record_that_is_not_whole_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "witness.bin"
    write(path, range(1, 5))
    data = bytearray(path.read_bytes())
    data[64 + 48 * 2 + 10] ^= 1  # in the record of step 2
    path.write_bytes(data[: 64 + 48 * 5 - 1])  # the record of step 4 is cut off
    assert list(read_witnesses(path, after_step=0)) == [1, 3]


@pytest.mark.parametrize(
    "content",
    [b"", b"RLWT", b"RLWT\x03\x00\x30\x00" + bytes(200), os.urandom(5000)],
    ids=["empty", "magic only", "later version", "random"],
)
def test_a_file_that_is_damaged_or_of_a_later_version_holds_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "witness.bin"
    path.write_bytes(content)
    assert read_witnesses(path, after_step=0) == {}


def test_what_is_no_file_holds_nothing(tmp_path: Path) -> None:
    assert read_witnesses(tmp_path / "none", after_step=0) == {}
    assert read_witnesses(tmp_path, after_step=0) == {}
    os.mkfifo(tmp_path / "pipe")
    assert read_witnesses(tmp_path / "pipe", after_step=0) == {}


def test_a_disk_that_refuses_costs_one_warning_and_no_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = WitnessWriter(tmp_path / "no folder" / "witness.bin")
    with caplog.at_level(logging.WARNING):
        for step in range(1, 4):
            writer.write([(step, 1, 1, 1, 1)])
    writer.close()
    assert [record.message for record in caplog.records if "Training continues" in record.message] == caplog.messages
    assert len(caplog.messages) == 1
