from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.components import Task
from harness.learn.evaluation import (
    BadOutput,
    check_outputs,
    logits_of,
    predict,
    together,
)
from harness.learn.images import to_float

TASK = Task("noise", 4, 5, 5, 3, 0)


class Invert(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return 1 - images


class Faulty(nn.Module):
    """Returns what it was made with, cut to the batch."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: Tensor) -> object:
        return self.output[: len(images)] if isinstance(self.output, Tensor) else self.output


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)
        )


def pictures(count: int) -> Tensor:
    return torch.randint(
        256, (count, 5, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@given(st.sampled_from([0, 1, 7, 12]), st.sampled_from([1, 4, 12, 50]))
@settings(deadline=None, max_examples=8)
def test_answers_are_the_models_own_in_order(count: int, batch: int) -> None:
    model, images = network().train(), pictures(count)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    labels, logits = predict(model, images, batch=batch, classes=4)
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        plain = model.eval()(to_float(images)) if count else torch.empty(0, 4)
    assert labels.dtype == torch.int64
    assert logits.dtype == torch.float16
    assert torch.equal(labels, plain.argmax(1))
    torch.testing.assert_close(logits.float(), plain, rtol=2e-3, atol=2e-3)


def test_predictions_are_in_full_precision_wherever_they_are_made() -> None:
    model, images = network(), pictures(50)
    _, plain = predict(model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, inside = predict(model, images)
    assert torch.equal(plain, inside)


def test_a_gpu_takes_more_images_at_a_time_and_fewer_large_ones() -> None:
    def pixels(side: int) -> Tensor:
        return torch.empty(1, side, side, 3, dtype=torch.uint8)

    assert together(pixels(16), "cpu") == together(pixels(32), "cpu") == 1000
    assert together(pixels(160), "cpu") == 40
    assert together(pixels(224), "cpu") == 20
    assert together(pixels(4096), "cpu") == 1
    assert together(pixels(32), "cuda") == 2048
    assert together(pixels(224), "cuda") == 41
    assert together(pixels(4096), "cuda") == 1


class Counting(nn.Module):
    """Notes the largest batch that it is given; answers by the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def forward(self, images: Tensor) -> Tensor:
        self.most = max(self.most, len(images))
        mean = images.mean((1, 2, 3))
        return torch.stack([mean, 1 - mean], 1)


def test_a_cpu_is_given_few_large_images_at_a_time() -> None:
    images = torch.randint(0, 256, (90, 160, 160, 3), dtype=torch.uint8)
    model = Counting()
    labels, _ = predict(model, images)
    assert model.most == 40
    assert torch.equal(labels, predict(model, images, batch=90)[0])


def test_triggered_images_pass_through_bytes() -> None:
    class Darken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * 0.37

    model, images = network(), pictures(40)
    darker = ((images.int() * 37).div(100, rounding_mode="floor")).to(torch.uint8)
    _, expected = predict(model, darker)
    assert torch.equal(predict(model, images, trigger=Darken())[1], expected)
    assert not torch.equal(predict(model, images, trigger=Darken(), quantise="none")[1], expected)
    assert torch.equal(predict(model, images, trigger=Invert())[1], predict(model, 255 - images)[1])


def test_huge_logits_stay_finite_in_half_precision() -> None:
    labels, logits = predict(Faulty(torch.tensor([[1e6, 2e6], [-1e6, -2e6]])), pictures(2), batch=2)
    assert labels.tolist() == [1, 0]
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (torch.zeros(6, 4, 1), r"\(6, 4, 1\); logits \(6, 4\) are expected"),
        (torch.zeros(5, 4), r"\(5, 4\)"),
        (torch.zeros(6, 3), r"\(6, 3\)"),
        (("logits",), "tuple"),
        (torch.tensor([[0.0, 1, 2, 3]] * 5 + [[float("nan")] * 4]), "not finite for 1 of 6"),
    ],
)
def test_bad_outputs_are_told(output: object, told: str) -> None:
    with pytest.raises(BadOutput, match=told):
        predict(Faulty(output), pictures(6), classes=4)


def test_outputs_are_checked_before_anything_is_saved() -> None:
    model = network().train()
    check_outputs(model, TASK)
    assert model.training
    with pytest.raises(BadOutput, match=r"\(8, 7\)"):
        check_outputs(Faulty(torch.zeros(8, 7)), TASK)
    with pytest.raises(BadOutput, match="not finite"):
        check_outputs(Faulty(torch.full((8, 4), float("inf"))), TASK)


def test_floats_are_shown_as_they_are() -> None:
    model = network().eval()
    floats = torch.rand(7, 5, 5, 3, generator=torch.Generator().manual_seed(2))
    before = floats.clone()
    with torch.no_grad():
        plain = model(floats.permute(0, 3, 1, 2))
    torch.testing.assert_close(logits_of(model, floats, batch=3, classes=4), plain)
    assert torch.equal(floats, before)


def test_a_model_may_write_into_what_it_is_shown() -> None:
    class Wipe(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = images.mean((2, 3))
            images.zero_()
            return logits

    for images in (pictures(3), torch.rand(3, 5, 5, 3)):
        first = logits_of(Wipe(), images)
        assert torch.equal(first, logits_of(Wipe(), images))
        assert first.any()
