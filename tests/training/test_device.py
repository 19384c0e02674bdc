"""The training device is described in one line, and the error for an unavailable device is one sentence."""

from __future__ import annotations

import pytest
import torch

from relight.errors import DeviceError
from relight.training.device import choose_device, explain_choice
from relight.training.precision import Precision


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("no_gpu")
def test_auto_takes_the_cpu_when_there_is_no_gpu_and_says_so() -> None:
    device = choose_device("auto")
    assert device.type == "cpu"
    line = explain_choice("auto", device)
    assert line.startswith("Device: cpu (")
    assert "no GPU" in line
    assert "chosen" not in explain_choice("cpu", device)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_available_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(DeviceError, match=rf"^device={name}.* is not available: .*\. Use device=auto") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("two_gpus")
def test_auto_prefers_cuda_and_a_card_that_does_not_exist_is_refused() -> None:
    assert choose_device("auto") == torch.device("cuda", 0)
    assert choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="only has cuda:0 to cuda:1"):
        choose_device("cuda:2")


def test_a_precision_that_the_device_does_not_support_is_refused_in_one_sentence() -> None:
    with pytest.raises(DeviceError, match="precision=fp16 needs a CUDA GPU, and the device is cpu"):
        Precision("fp16", device=torch.device("cpu"))


def test_bf16_computes_in_bf16_and_leaves_the_weights_in_float32() -> None:
    precision = Precision("bf16", device=torch.device("cpu"))
    layer = torch.nn.Linear(2, 2)
    with precision.autocast():
        assert layer(torch.ones(1, 2)).dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32
    assert precision.scaler is None
    with Precision("fp32", device=torch.device("cpu")).autocast():
        assert layer(torch.ones(1, 2)).dtype == torch.float32
