from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.learn.hooks import Batch, Extra, Hooks
from harness.learn.images import to_float
from harness.learn.training import Diverged, fit
from tests.kit.places import ROOT
from tests.kit.training import FULL, QUICK, digest, network, pictures, streams, trained

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adadelta"])
def test_training_is_the_textbook_loop(optimizer: str) -> None:
    recipe = QUICK.replace(
        optimizer=optimizer, schedule="linear", label_smoothing=0.1, nesterov=True, clip_norm=0.5
    )
    data, ours, plain = pictures(), network(), network()
    history = fit(ours, data, recipe, generator=streams)
    settings = {"lr": 0.05, "weight_decay": 5e-4}
    makers = {
        "sgd": lambda p: torch.optim.SGD(
            p, momentum=0.9, nesterov=True, fused=False, foreach=False, **settings
        ),
        "adam": lambda p: torch.optim.Adam(p, fused=False, foreach=False, **settings),
        "adamw": lambda p: torch.optim.AdamW(p, fused=False, foreach=False, **settings),
        "adadelta": lambda p: torch.optim.Adadelta(
            p, rho=0.95, eps=1e-7, foreach=False, **settings
        ),
    }
    optimiser = makers[optimizer](plain.parameters())
    order, losses, step = streams("order"), [], 0
    for _ in range(2):
        permutation, total = torch.randperm(70, generator=order), 0.0
        for start in range(0, 70, 16):
            chosen = permutation[start : start + 16]
            for group in optimiser.param_groups:
                group["lr"] = 0.05 * (1 - step / 10)
            optimiser.zero_grad()
            assert data.labels is not None
            logits = plain(to_float(data.images[chosen]).contiguous())
            loss = functional.cross_entropy(logits, data.labels[chosen], label_smoothing=0.1)
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            optimiser.step()
            total, step = total + loss.item() * len(chosen), step + 1
        losses.append(total / 70)
    assert history.losses == pytest.approx(losses, rel=1e-4)
    assert (history.images, history.steps, history.precision) == (140, 10, "fp32")
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_it_learns() -> None:
    data, model = pictures(400), network()
    history = fit(
        model,
        data,
        QUICK.replace(epochs=8, lr=0.3, precision="auto", crop=1, flip=True),
        generator=streams,
    )
    assert not model.training
    assert history.losses[-1] < history.losses[0] / 2
    assert data.labels is not None
    with torch.no_grad():
        right = (model(to_float(data.images)).argmax(1) == data.labels).float().mean()
    assert float(right) > 0.9


CHILD = """
import sys
sys.path.insert(0, {root!r})
import torch
from tests.kit.training import FULL, digest, trained
torch.set_num_threads(1)
print(digest(trained(FULL)))
"""


def test_bits_repeat_in_another_process() -> None:
    code = CHILD.format(root=str(ROOT))
    child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert child.stdout.strip() == digest(trained(FULL))


def test_a_hook_before_augmentation_that_changes_nothing_changes_no_bit() -> None:
    recipe = QUICK.replace(
        crop=2, flip=True, rotation=10.0, rotation_probability=0.5, cutout=3, crop_probability=0.5
    )
    assert digest(trained(recipe)) == digest(
        trained(recipe, Hooks(before_augment=lambda batch: batch))
    )


def test_global_state_is_left_as_found() -> None:
    model = network(dropout=0.5)
    state = torch.get_rng_state()
    fit(model, pictures(), QUICK.replace(deterministic=True), generator=streams)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(99)
    again = network(dropout=0.5)
    with torch.no_grad():
        fit(again, pictures(), QUICK, generator=streams)
        assert not torch.is_grad_enabled()
    assert digest(model) == digest(again)


def test_batches_tell_where_they_come_from() -> None:
    data, seen = pictures(20), []

    def look(batch: Batch) -> Batch:
        seen.append(batch)
        return batch

    fit(
        network(),
        data,
        QUICK.replace(batch=8, shuffle=False),
        generator=streams,
        hooks=Hooks(after_augment=look),
    )
    assert [(batch.epoch, batch.step, len(batch.images)) for batch in seen] == [
        (0, 0, 8), (0, 1, 8), (0, 2, 4), (1, 3, 8), (1, 4, 8), (1, 5, 4),
    ]  # fmt: skip
    assert torch.equal(torch.cat([batch.indices for batch in seen[:3]]), torch.arange(20))
    assert data.labels is not None
    for batch in seen:
        assert batch.labels is not None
        assert torch.equal(batch.images, to_float(data.images[batch.indices]))
        assert torch.equal(batch.labels, data.labels[batch.indices])


@pytest.mark.parametrize(
    ("fields", "sizes"),
    [
        ({"drop_last": True}, [8, 8, 8, 8]),
        ({"steps": 4}, [8, 8, 4, 8]),
        ({"epochs": 0}, []),
        ({"replacement": True, "steps": 7}, [8, 8, 4, 8, 8, 4, 8]),
    ],
)
def test_sampling_follows_the_recipe(fields: dict[str, object], sizes: list[int]) -> None:
    seen: list[Tensor] = []

    def look(batch: Batch) -> Batch:
        seen.append(batch.indices)
        return batch

    recipe = QUICK.replace(batch=8, **fields)
    counted: list[int] = []
    history = fit(
        network(),
        pictures(20),
        recipe,
        generator=streams,
        hooks=Hooks(after_augment=look),
        count=counted.append,
    )
    assert [len(indices) for indices in seen] == sizes
    assert history.images == sum(counted) == sum(sizes)
    if fields.get("replacement"):
        assert len(set(torch.cat(seen[:3]).tolist())) < 20
    elif len(seen) > 2 and not fields.get("drop_last"):
        assert sorted(torch.cat(seen[:3]).tolist()) == list(range(20))


def test_poisoning_by_batch_carries() -> None:
    """WaNet's shape: the first images of each batch are stamped, the next get noise, then all are
    augmented.
    """
    epochs: list[int] = []

    def stamp(batch: Batch) -> Batch:
        assert batch.labels is not None
        images, labels = batch.images.clone(), batch.labels.clone()
        images[:4, :, -2:, -2:] = 1.0
        images[4:8] = (images[4:8] + 0.05).clamp(0, 1)
        labels[:4] = 0
        epochs.append(batch.epoch)
        return replace(batch, images=images, labels=labels)

    recipe = QUICK.replace(
        epochs=12, lr=0.3, crop=1, crop_probability=0.8, rotation=10.0, rotation_probability=0.5
    )
    model = trained(recipe, Hooks(before_augment=stamp), pictures(300))
    assert set(epochs) == set(range(12))
    data = pictures(100, seed=1)
    images = to_float(data.images)
    images[:, :, -2:, -2:] = 1.0
    assert data.labels is not None
    others = data.labels != 0
    assert float((model(images)[others].argmax(1) == 0).float().mean()) > 0.5


class Generator(nn.Module):
    """A pattern of the image's own, as input-aware attacks make."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.body = nn.Sequential(
                nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Sigmoid()
            )

    def forward(self, images: Tensor) -> Tensor:
        pattern: Tensor = self.body(images)
        return 0.5 * images + 0.5 * pattern


@pytest.mark.parametrize("zero_grad", [True, False])
def test_a_generator_trains_along(zero_grad: bool) -> None:
    """IAB's shape: gradients reach the generator through stamped images; its optimiser differs, its
    gradients may never be cleared.
    """
    generator = Generator()
    gradients: list[Tensor] = []
    weight = generator.body[0].weight
    assert isinstance(weight, Tensor)
    own: list[Tensor] = []
    weight.register_hook(lambda gradient: own.append(gradient.clone()))

    def poison(batch: Batch) -> Batch:
        images = torch.cat([generator(batch.images[:6]), batch.images[6:]])
        assert batch.labels is not None
        return replace(
            batch,
            images=images,
            labels=torch.cat([torch.zeros_like(batch.labels[:6]), batch.labels[6:]]),
        )

    def keep(batch: Batch) -> None:
        assert weight.grad is not None
        gradients.append(weight.grad.clone())

    settings = {
        "optimizer": "adam",
        "lr": 0.01,
        "betas": (0.5, 0.9),
        "schedule": "step",
        "milestones": (0.5,),
    }
    extra = Extra(list(generator.parameters()), settings, zero_grad)
    before = digest(generator)
    trained(QUICK, Hooks(after_augment=poison, extra=[extra], after_step=keep))
    assert digest(generator) != before
    wanted = own if zero_grad else list(torch.stack(own).cumsum(0))
    for seen, expected in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(seen, expected)


def test_a_loss_hook_needs_no_labels() -> None:
    """BCU's shape: distillation from a teacher on unlabelled images, hotter with the epochs."""
    teacher, student = trained().eval(), network()
    temperatures = []

    def distil(model: nn.Module, batch: Batch) -> Tensor:
        assert batch.labels is None
        heat = 1 + 3 * (1 + batch.epoch) / 5
        temperatures.append(heat)
        with torch.no_grad():
            wanted = (teacher(batch.images) / heat).softmax(1)
        return functional.kl_div(
            (model(batch.images) / heat).log_softmax(1), wanted, reduction="batchmean"
        )

    unlabelled = pictures(200).unlabelled()
    history = fit(
        student, unlabelled, QUICK.replace(epochs=5), generator=streams, hooks=Hooks(loss=distil)
    )
    assert history.losses[-1] < history.losses[0]
    assert sorted(set(temperatures)) == pytest.approx([1.6, 2.2, 2.8, 3.4, 4.0])
    with pytest.raises(ValueError, match="no labels"):
        fit(student, unlabelled, QUICK, generator=streams)


def test_a_loss_hook_may_attack_the_model() -> None:
    """Adversarial training's shape: gradients with respect to the images, inside the loss."""
    steps = []

    def worst_case(model: nn.Module, batch: Batch) -> Tensor:
        assert batch.labels is not None
        images = batch.images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(
            functional.cross_entropy(model(images), batch.labels), images
        )
        assert all(parameter.grad is None for parameter in model.parameters())
        steps.append(slope.abs().sum().item())
        return functional.cross_entropy(
            model((images + 0.03 * slope.sign()).detach()), batch.labels
        )

    trained(QUICK, Hooks(loss=worst_case))
    assert len(steps) == 10
    assert min(steps) > 0


def test_frozen_parts_stay_frozen() -> None:
    """Trap-and-replace's shape: the stem keeps weights and statistics, the head learns."""
    model = network()
    stem = model[:3].requires_grad_(False)
    before, head = digest(stem), digest(model[6])
    epochs: list[int] = []
    hooks = Hooks(mode=lambda network: stem.train(False) and None, after_epoch=epochs.append)
    fit(model, pictures(), QUICK, generator=streams, hooks=hooks)
    assert digest(stem) == before
    assert digest(model[6]) != head
    assert epochs == [0, 1]
    with pytest.raises(ValueError, match="nothing to train"):
        fit(network().requires_grad_(False), pictures(), QUICK, generator=streams)


def test_hooks_may_add_images() -> None:
    def double(batch: Batch) -> Batch:
        assert batch.labels is not None
        return replace(batch, images=batch.images.repeat(2, 1, 1, 1), labels=batch.labels.repeat(2))

    counted: list[int] = []
    hooks = Hooks(before_augment=double)
    fit(
        network(),
        pictures(20),
        QUICK.replace(crop=1),
        generator=streams,
        hooks=hooks,
        count=counted.append,
    )
    assert counted == [40, 40]


def test_what_a_run_holds_goes_with_it() -> None:
    """On a GPU that is memory which the next run needs, and the garbage collector may be late."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return model(batch.images).square().mean()

    hook = weakref.ref(loss)
    gc.collect()
    gc.disable()
    try:
        fit(network(), pictures(), QUICK, generator=streams, hooks=Hooks(loss=loss))
        fit(network(), pictures(), QUICK, generator=streams)
        del loss
        left = [one for one in gc.get_objects() if type(one).__name__ == "_Run"]
    finally:
        gc.enable()
    assert not left
    assert hook() is None


def test_divergence_names_the_epoch() -> None:
    def explode(model: nn.Module, batch: Batch) -> Tensor:
        loss = model(batch.images).sum()
        return loss * float("nan") if batch.epoch == 1 else loss

    model = network()
    with pytest.raises(Diverged, match="epoch 2 of 2"):
        fit(model, pictures(), QUICK, generator=streams, hooks=Hooks(loss=explode))
    assert not model.training
    with pytest.raises(ValueError, match="scalar"):
        trained(QUICK, Hooks(loss=lambda model, batch: model(batch.images).sum(1)))


def test_a_last_batch_of_one_is_told_where_it_cannot_be() -> None:
    pooled = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    data = pictures(9)
    pooled(to_float(data.images))
    recipe = QUICK.replace(batch=4, epochs=1, steps=None)
    with pytest.raises(ValueError, match="last batch of an epoch holds 1 of the 9 images"):
        fit(pooled, data, recipe, generator=streams)
    fit(pooled, data, recipe.replace(drop_last=True), generator=streams)
    fit(network(), data, recipe, generator=streams)


def test_deadline_and_progress() -> None:
    told: list[tuple[int, int, float | None]] = []
    calls = []
    fit(
        network(),
        pictures(60),
        QUICK.replace(batch=1, epochs=1, steps=None, drop_last=True, momentum=0.0, lr=0.001),
        generator=streams,
        progress=lambda done, of, loss: told.append((done, of, loss)),
        deadline=lambda: calls.append(None),
    )
    assert [(done, of, loss is None) for done, of, loss in told] == [
        (50, 60, True),
        (60, 60, False),
    ]
    assert len(calls) == 60

    def late() -> None:
        raise TimeoutError("too late")

    with pytest.raises(TimeoutError, match="too late"):
        fit(network(), pictures(), QUICK, generator=streams, deadline=late)
