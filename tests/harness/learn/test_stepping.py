"""On a CPU recording is stood in for by a recorder that calls the work again: what is tested is all
around it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harness.learn import training
from harness.learn.hooks import Batch, Extra, Hooks
from harness.learn.optimiser import Optimiser
from harness.learn.recipes import Recipe
from harness.learn.stepping import (
    COMPILE_FROM,
    GRAPH_FROM,
    VARIABLE,
    WARM,
    Compiled,
    Stepping,
    choose,
    recordable,
)
from harness.learn.training import History, fit
from tests.kit.training import LONG, digest, network, pictures, streams

GPU, CPU = torch.device("cuda"), torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


class Again:
    """Records by remembering; counts, and can be told to fail as CUDA does."""

    def __init__(self, failure: Exception | None = None, hindrance: str | None = None) -> None:
        self.failure, self.hindrance = failure, hindrance
        self.warmed = self.recorded = self.replays = 0

    def __call__(self, device: torch.device) -> Again:
        return self

    def warm(self, work: Callable[[], Tensor]) -> Tensor:
        self.warmed += 1
        return work()

    def record(self, work: Callable[[], None]) -> Callable[[], object]:
        if self.failure is not None:
            raise self.failure
        self.recorded += 1

        def replay() -> None:
            self.replays += 1
            work()

        return replay


def run(
    recorder: Again,
    recipe: Recipe = LONG,
    hooks: Hooks | None = None,
    model: nn.Module | None = None,
) -> tuple[str, History]:
    net = network() if model is None else model
    history = fit(
        net, pictures(), recipe, generator=streams, hooks=hooks, stepping="graph", recorder=recorder
    )
    return digest(net), history


def plain(
    recipe: Recipe = LONG, hooks: Hooks | None = None, model: nn.Module | None = None
) -> tuple[str, History]:
    net = network() if model is None else model
    history = fit(net, pictures(), recipe, generator=streams, hooks=hooks)
    return digest(net), history


@pytest.mark.parametrize(
    "fields", [{}, {"optimizer": "adam"}, {"drop_last": True}, {"steps": 11}, {"rotation": 9.0}]
)
def test_replayed_steps_are_the_plain_ones(fields: dict[str, object]) -> None:
    """70 images in batches of 16: four full ones an epoch, which are replayed, and one of six,
    which is not.
    """
    recipe, recorder = LONG.replace(**fields), Again()
    replayed, history = run(recorder, recipe)
    expected, usual = plain(recipe)
    assert replayed == expected
    assert history.losses == usual.losses
    assert (history.stepping, usual.stepping) == ("graph", "eager")
    assert recorder.warmed == WARM
    assert recorder.recorded == 1
    full = {"drop_last": 12, "steps": 9}.get(next(iter(fields), ""), 12)
    assert recorder.replays == full - WARM


def test_replayed_steps_read_the_same_memory_each_time() -> None:
    """A CUDA graph knows addresses only: batches must be copied to where the first one was."""
    seen: list[int] = []

    class Watched(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) == 16:
                seen.append(images.data_ptr())
            return super().forward(images)

    recorder = Again()
    run(recorder, model=Watched(*network()))
    assert len(seen) == 12
    assert len(set(seen[WARM:])) == 1


def test_batches_are_still_made_by_hooks() -> None:
    def brighten(batch: Batch) -> Batch:
        return replace(batch, images=(batch.images + 0.01 * batch.step).clamp(0, 1))

    for hooks in (Hooks(before_augment=brighten), Hooks(after_augment=brighten)):
        recorder = Again()
        assert run(recorder, hooks=hooks)[0] == plain(hooks=hooks)[0] != plain()[0]
        assert recorder.replays


@pytest.mark.parametrize(
    "hooks",
    [
        Hooks(loss=lambda model, batch: model(batch.images).square().mean()),
        Hooks(mode=lambda model: None),
        Hooks(after_step=lambda batch: None),
        Hooks(after_epoch=lambda epoch: None),
        Hooks(extra=[Extra([nn.Parameter(torch.zeros(1))])]),
    ],
    ids=["loss", "mode", "after_step", "after_epoch", "extra"],
)
def test_methods_that_act_within_steps_are_not_recorded(hooks: Hooks) -> None:
    recorder = Again()
    _, history = run(recorder, hooks=hooks)
    assert history.stepping == "eager"
    assert not recorder.warmed


def test_hooks_of_modules_and_parameters_keep_python_in_the_step() -> None:
    def nothing(*_: object) -> None:
        return None

    assert recordable(network())
    attach: list[Callable[[nn.Module], object]] = [
        lambda net: net.get_submodule("1").register_forward_hook(nothing),
        lambda net: net.get_submodule("0").register_forward_pre_hook(nothing),
        lambda net: net.register_full_backward_hook(nothing),
        lambda net: net.get_parameter("0.weight").register_hook(lambda gradient: gradient),
        lambda net: net.get_parameter("0.weight").register_post_accumulate_grad_hook(nothing),
    ]
    for one in attach:
        net = network()
        one(net)
        assert not recordable(net)


class Moody(nn.Sequential):
    """Something different at every step, out of a generator on the host or a count of its own."""

    def __init__(self, source: str) -> None:
        super().__init__(*network())
        self.source, self.calls = source, 0

    def forward(self, images: Tensor) -> Tensor:
        if self.source == "count":
            self.calls += 1
            return super().forward(images) * (1 + self.calls % 2)
        factor = random.random() if self.source == "python" else float(torch.rand(()))
        return super().forward(images) * (1 + factor)


@pytest.mark.parametrize("source", ["count", "python", "torch"])
def test_what_python_draws_or_counts_within_a_step_is_noticed(source: str) -> None:
    recorder = Again()
    random.seed(0)
    _, history = run(recorder, model=Moody(source))
    assert history.stepping.startswith("eager (the step draws random numbers on the host")
    assert not recorder.recorded


def test_a_step_that_waits_for_the_device_is_not_recorded() -> None:
    recorder = Again(hindrance="the step waits for the device at model.py:7")
    replayed, history = run(recorder)
    assert replayed == plain()[0]
    assert history.stepping == "eager (the step waits for the device at model.py:7)"
    assert (recorder.warmed, recorder.recorded) == (WARM, 0)


def test_a_step_that_cannot_be_recorded_is_made_all_the_same() -> None:
    recorder = Again(RuntimeError("operation not permitted when stream is capturing"))
    replayed, history = run(recorder)
    assert replayed == plain()[0]
    assert (
        history.stepping == "eager (RuntimeError: operation not permitted when stream is capturing)"
    )
    assert recorder.warmed == WARM


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_rate_kept_as_a_tensor_moves_parameters_alike(optimizer: str) -> None:
    recipe = Recipe(
        optimizer=optimizer, lr=0.1, schedule="cosine", update="step", epochs=1, batch=1
    )
    ends = []
    for kept in (False, True):
        parameter = nn.Parameter(torch.linspace(-1, 1, 50))
        optimiser = Optimiser([parameter], recipe, rate_tensor=kept)
        rates = {id(group["lr"]) for group in optimiser.torch.param_groups}
        for step in range(6):
            optimiser.prepare(step, 6)
            optimiser.clear()
            (parameter.sin() * step).sum().backward()
            optimiser.advance()
        if kept:
            assert {id(group["lr"]) for group in optimiser.torch.param_groups} == rates
        ends.append(parameter.detach().clone())
    torch.testing.assert_close(*ends)
    assert not torch.equal(ends[0], torch.linspace(-1, 1, 50))


@pytest.mark.parametrize(
    ("said", "device", "steps", "repeatable", "chosen"),
    [
        (None, GPU, GRAPH_FROM, False, "graph"),
        (None, GPU, GRAPH_FROM - 1, False, "eager"),
        (None, GPU, COMPILE_FROM, False, "compiled"),
        (None, GPU, COMPILE_FROM, True, "graph"),
        (None, CPU, COMPILE_FROM, False, "eager"),
        ("eager", GPU, COMPILE_FROM, False, "eager"),
        ("compiled", GPU, 1, False, "compiled"),
        ("compiled", CPU, COMPILE_FROM, False, "eager"),
        ("auto", GPU, GRAPH_FROM, False, "graph"),
    ],
)
def test_the_way_of_stepping_follows_the_length(
    monkeypatch: pytest.MonkeyPatch,
    said: str | None,
    device: torch.device,
    steps: int,
    repeatable: bool,
    chosen: str,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if said is not None:
        monkeypatch.setenv(VARIABLE, said)
    found: Stepping = choose("auto", device, steps, repeatable)
    assert found == chosen


def test_unknown_ways_of_stepping_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ValueError, match="not 'fast'"):
        choose("auto", GPU, 1, False)


def test_a_compiled_network_learns_alike() -> None:
    """By the backend that traces forward and backward pass and runs them as they are: no C++
    compiler is needed.
    """
    net, ours = network(), network()
    compiled = Compiled(ours, backend="aot_eager")
    images = torch.rand(16, 3, 8, 8)
    for model in (net, compiled):
        for _ in range(2):
            model(images).square().mean().backward()
    assert compiled.problem is None
    for one, other in zip(net.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(net.buffers(), ours.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_compiled_steps_are_recorded_and_the_rest_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Traced(Compiled):
        def __init__(self, model: nn.Module) -> None:
            super().__init__(model, backend="aot_eager")

        def __call__(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            return super().__call__(images)

    monkeypatch.setattr(training, "Compiled", Traced)
    net, recorder = network(), Again()
    history = fit(net, pictures(), LONG, generator=streams, stepping="compiled", recorder=recorder)
    assert history.stepping == "compiled"
    assert seen == [16] * 12
    expected = network()
    usual = fit(expected, pictures(), LONG, generator=streams)
    assert history.losses == pytest.approx(usual.losses, rel=1e-4)


def test_a_network_that_cannot_be_compiled_runs_as_it_is_and_only_once() -> None:
    class Asking(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = super().forward(images)
            return logits * (2 if logits.sum().item() > 0 else 1)

    net = Asking(*network())
    compiled = Compiled(net, backend="aot_eager")
    images = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(compiled(images), Asking(*network())(images))
    assert compiled.problem is not None
    assert int(net.get_buffer("1.num_batches_tracked")) == 1
