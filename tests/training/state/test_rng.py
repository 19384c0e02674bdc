"""Every global generator is saved and restored exactly, as plain values and tensors."""

from __future__ import annotations

import random
from array import array

import numpy as np
import torch

from relight.checkpoints.typed_json import decode_state, encode_state
from relight.training.state.rng import (
    PythonState,
    RngRecorder,
    decode_rng,
    encode_rng,
    get_python_state,
    restore_rng,
    seed_everything,
    set_python_state,
)


def draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.randn(()))]


def test_all_generators_come_back_exactly_a_pending_gaussian_included() -> None:
    seed_everything(3)
    recorder = RngRecorder()
    for _ in range(5):
        draw()
        tree, tensors = encode_rng(recorder.capture())
        tree = decode_state(encode_state(tree))
        expected = [draw() for _ in range(3)]
        seed_everything(99)
        restore_rng(decode_rng(tree, tensors))
        assert [draw() for _ in range(3)] == expected


def test_a_recorder_notices_every_draw_and_every_setting() -> None:
    seed_everything(3)
    recorder = RngRecorder()

    def same_as_numpy_says() -> bool:
        ours, theirs = recorder.capture().numpy, np.random.get_state(legacy=False)
        assert isinstance(theirs, dict)
        return (
            (ours["state"]["key"] == theirs["state"]["key"]).all()
            and ours["state"]["pos"] == theirs["state"]["pos"]
            and (ours["has_gauss"], ours["gauss"]) == (theirs["has_gauss"], theirs["gauss"])
        )

    assert same_as_numpy_says()
    np.random.randn()  # draws two numbers and keeps one for later
    assert same_as_numpy_says()
    pending = recorder.capture()
    np.random.randn()  # returns the kept number, and leaves the words of the generator unchanged
    assert same_as_numpy_says()
    restore_rng(pending)
    assert same_as_numpy_says()
    np.random.seed(5)
    assert same_as_numpy_says()
    np.random.rand(1000)
    assert same_as_numpy_says()


def test_another_bit_generator_behind_numpys_functions_is_captured_too() -> None:
    earlier = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(7))
        tree, tensors = encode_rng(RngRecorder().capture())
        tree = decode_state(encode_state(tree))
        expected = np.random.rand(3).tolist()
        restore_rng(decode_rng(tree, tensors))
        assert np.random.rand(3).tolist() == expected
    finally:
        np.random.set_bit_generator(earlier)


def test_the_words_of_pythons_generator_are_those_of_its_getstate() -> None:
    for seed in range(20):
        random.seed(seed)
        for _ in range(seed * 37 % 700):
            random.random()
        if seed % 2:
            random.gauss(0, 1)  # draws two numbers and keeps one for later
        version, words, gauss = random.getstate()
        expected = PythonState(array("I", (words[-1], *words[:-1])).tobytes(), gauss)
        assert get_python_state() == expected
        following = [random.gauss(0, 1) for _ in range(3)]
        set_python_state(expected)
        assert [random.gauss(0, 1) for _ in range(3)] == following
        assert version == 3


def test_a_recorder_notices_every_move_of_torchs_generator_and_nothing_else() -> None:
    seed_everything(3)
    recorder = RngRecorder()
    last = recorder.capture()
    assert recorder.capture() is last
    early = last.torch
    for move in (
        lambda: torch.rand(()),
        lambda: torch.randn(()),  # draws two numbers and keeps one for later
        lambda: torch.randn(()),  # returns the kept number
        lambda: torch.randn((), dtype=torch.float64),
        lambda: torch.randn((), dtype=torch.float64),
        lambda: torch.randperm(700),
        lambda: torch.nn.functional.dropout(torch.ones(9)),
        lambda: torch.manual_seed(3),
        lambda: torch.rand(624),
        lambda: torch.set_rng_state(early),
    ):
        before, last = last, (move(), recorder.capture())[1]
        assert last is not before
        assert torch.equal(last.torch, torch.get_rng_state())
        assert not torch.equal(last.torch, before.torch)
        assert recorder.capture() is last
