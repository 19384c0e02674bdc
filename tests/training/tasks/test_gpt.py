"""The GPT has the stated number of parameters for each size, is causal, and accepts any context up to its own."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from relight.training.tasks.gpt import SHAPES, Gpt


@pytest.mark.parametrize(
    ("size", "parameters"), [("tiny", 869_504), ("mini", 4_885_760), ("small", 29_909_120), ("base", 124_373_760)]
)
def test_each_size_has_the_parameters_that_it_promises(size: str, parameters: int) -> None:
    with torch.device("meta"):
        model = Gpt(SHAPES[size], context=128)
    shape = SHAPES[size]
    counted = sum(parameter.numel() for parameter in model.parameters())
    matrices = shape.layers * (4 * shape.width**2 + 2 * shape.width * shape.hidden)
    norms = (2 * shape.layers + 1) * shape.width
    assert counted == matrices + norms + (256 + 256 + 128) * shape.width
    assert counted == parameters


def test_a_new_model_knows_nothing() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(256, (4, 65))
    model = Gpt(SHAPES["tiny"], context=64)
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(256), abs=0.1)


def test_no_byte_sees_a_later_one() -> None:
    torch.manual_seed(0)
    model = Gpt(SHAPES["tiny"], context=32).eval()
    tokens = torch.randint(256, (1, 32))
    changed = tokens.clone()
    changed[0, 20:] = (changed[0, 20:] + 1) % 256
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[0, :20], after[0, :20], atol=1e-5)
    assert not torch.allclose(before[0, 20:], after[0, 20:], atol=1e-2)


def test_the_same_bytes_at_another_place_give_other_logits() -> None:
    torch.manual_seed(0)
    model = Gpt(SHAPES["tiny"], context=32).eval()
    logits = model(torch.full((1, 32), 65))
    assert not torch.allclose(logits[0, 3], logits[0, 30], atol=1e-4)


def test_shorter_inputs_than_the_context_work_and_dropout_rests_in_evaluation() -> None:
    torch.manual_seed(0)
    model = Gpt(SHAPES["tiny"], context=32, dropout=0.5)
    tokens = torch.randint(256, (2, 7))
    assert model(tokens).shape == (2, 7, 256)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_what_writes_into_the_residual_stream_starts_smaller() -> None:
    torch.manual_seed(0)
    block = Gpt(SHAPES["mini"], context=8).blocks[0]
    assert block.mlp_in.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp_out.weight.std().item() == pytest.approx(0.02 / math.sqrt(12), rel=0.05)
    assert block.attention_out.weight.std().item() == pytest.approx(0.02 / math.sqrt(12), rel=0.05)
