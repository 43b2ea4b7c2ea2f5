from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Result, Task
from harness.learn.images import to_float
from plugins.defenses.abs import ABS, activations, reasr
from plugins.models.resnet18 import ResNet18
from plugins.parts.abs_triggers import (
    Filters,
    FilterTrigger,
    Patches,
    filtered,
    local_statistics,
    penalty,
)
from plugins.parts.similarity import similarity
from plugins.parts.stimulation import Candidate
from tests.kit.learned import Tiny, access_to, pictures
from tests.kit.oracles import oracle
from tests.kit.scanned import TARGET, acc, asr, scanning, victim

pytestmark = pytest.mark.usefixtures("one_thread")


def scanned(backdoor: bool = True, norms: bool = True, **fields: Any) -> Result:
    settings_ = {"steps": 40, "unlearn": "never", **fields}
    return ABS(**settings_).defend(scanning(victim(backdoor, norms)))


# --- formulae -------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_filters_are_those_of_the_official_code() -> None:
    recorded = oracle("defenses/abs_filter")
    close = {"rtol": float(recorded["tol_rtol"]), "atol": float(recorded["tol_atol"])}
    images = torch.from_numpy(recorded["in_x"]).permute(0, 3, 1, 2)
    features = local_statistics(images, int(recorded["par_window"]))
    for place, name in enumerate(("max", "min", "avg"), start=1):
        mine = features[:, 3 * place : 3 * place + 3].permute(0, 2, 3, 1)
        np.testing.assert_allclose(mine, recorded[f"out_{name}"], err_msg=name, **close)
    low, high = (
        torch.from_numpy(recorded[f"par_{name}"]).view(3, 1, 1) for name in ("low", "high")
    )
    found = filtered(features, torch.from_numpy(recorded["in_delta"])[None], low, high)[0].permute(
        0, 2, 3, 1
    )
    np.testing.assert_allclose(found, recorded["out_y"], **close)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 3))
def test_surroundings_restated_pixel_by_pixel(seed: int, window: int, channels: int) -> None:
    images = torch.randn(2, channels, 5, 7, generator=torch.Generator().manual_seed(seed))
    found = local_statistics(images, window)
    before = (window - 1) // 2
    for row in range(5):
        for column in range(7):
            rows, columns = (
                slice(max(0, one - before), one - before + window) for one in (row, column)
            )
            patch = images[:, :, rows, columns].flatten(2)
            expected = torch.cat(
                [images[:, :, row, column], patch.amax(2), patch.amin(2), patch.mean(2)], dim=1
            )
            torch.testing.assert_close(found[:, :, row, column], expected)


def test_the_first_filter_changes_nothing_and_all_stay_images() -> None:
    images = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    first = FilterTrigger.like(images, 12)
    torch.testing.assert_close(first(images), images)
    wild = first.of(10 * torch.randn(12, 3, generator=torch.Generator().manual_seed(1)))(images)
    assert -1e-6 <= float(wild.min()) < float(wild.max()) <= 1 + 1e-6
    mean, std = (part.view(3, 1, 1) for part in (first.mean, first.std))
    matrix = torch.zeros(12, 3)
    matrix[3:6] = 0.5 * torch.eye(3)  # half of the local maximum
    top = torch.nn.functional.max_pool2d((images - mean) / std, 3, 1, 1)
    expected = (0.5 * top * std + mean).clamp(0, 1)
    torch.testing.assert_close(FilterTrigger(matrix, first.mean, first.std, 3)(images), expected)


def test_masks_are_punished_where_they_cover_too_much() -> None:
    masks = torch.full((4, 1, 16, 16), 0.005)
    for place, pixels in enumerate((16, 17, 25, 26)):
        masks[place].view(-1)[:pixels] = 0.5
    sums = masks.sum((1, 2, 3))
    expected = torch.stack([torch.tensor(0.0), 500 * sums[1], 500 * sums[2], 1000 * sums[3]])
    torch.testing.assert_close(penalty(masks, 16.0), expected)


def test_losses_restated() -> None:
    images = to_float(pictures(6).images)
    own, others = torch.tensor([3.0, 4.0]), torch.tensor([50.0, 60.0])
    patches = Patches(2, images, 1 / 16, 0.1, torch.Generator().manual_seed(0))
    masks = patches.masks()
    torch.testing.assert_close(masks[0, 0, 0, 0], (torch.tanh(torch.tensor(2.0)) + 1) / 2)
    assert int((masks > 0.5).sum()) == 2 * 2 * 2
    stamped = patches.stamped(images)
    assert stamped.shape == (2, 6, 1, 8, 8)
    # A mask of 0.018 is visible, so all 64 pixels are at first, of which 4 are free.
    expected = -own + 1e-4 * others + 1000 * masks.sum((1, 2, 3))
    torch.testing.assert_close(patches.loss(images, stamped, own, others), expected)
    torch.testing.assert_close(patches.trigger(1)(images), stamped[1])

    filters = Filters(2, images, 3, 0.002)
    filters.matrices.data[1] *= -1
    stamped = filters.stamped(images)
    alike = [similarity(one, images).detach() for one in stamped]
    assert float(alike[1].mean()) < 0.125 < float(alike[0].mean())
    expected = torch.stack([-10 * alike[0].sum(), -10_000 * alike[1].sum()]) + 0.01 * (
        1e-5 * others - own
    )
    torch.testing.assert_close(filters.loss(images, stamped, own, others).detach(), expected)
    torch.testing.assert_close(filters.trigger(1)(images), stamped[1])


@pytest.mark.parametrize("hidden", [0, 5])
def test_activations_restated(hidden: int) -> None:
    model = Tiny(norms=not hidden, hidden=hidden)
    torch.manual_seed(0)
    net = model.build(Tiny.task).eval()
    names = [unit.module for unit in access_to(net, model=model).units(net)]
    neurons = [
        Candidate(names[0], 1, 4, 0, 1.0),
        Candidate(names[1], 2, 8, 0, 1.0),
        Candidate(names[0], 3, 4, 0, 1.0),
    ]
    stamped = torch.rand(3, 5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    own, others = activations(net, stamped, neurons)
    for place, neuron in enumerate(neurons):
        seen: list[torch.Tensor] = []
        handle = net.get_submodule(neuron.module).register_forward_hook(
            lambda m, i, o, seen=seen: seen.append(o)
        )
        net(stamped[place])
        handle.remove()
        both = seen[0] + seen[0].clamp(min=0)
        torch.testing.assert_close(own[place], both[:, neuron.channel].sum())
        torch.testing.assert_close(others[place], both.sum() - both[:, neuron.channel].sum())


# --- the method -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norms", [True, False])
def test_a_patch_gives_the_backdoor_away(norms: bool) -> None:
    found = scanned(norms=norms)
    assert found.flagged is True
    assert found.targets == [TARGET]
    assert found.score is not None
    assert found.score > 0.8
    clean = scanned(False, norms)
    assert clean.flagged is False
    assert clean.score is not None
    assert clean.score < found.score


def test_a_filter_stays_close_to_the_image() -> None:
    net, images = victim(), to_float(pictures().images)
    access = scanning(net)
    neurons = [Candidate("stage1.1", channel, 8, TARGET, 1.0) for channel in range(2)]
    found = ABS(kind="filter", steps=40, rate=0.02)._inverted(
        access, net.requires_grad_(False), images, neurons
    )
    for channel, (trigger, _) in enumerate(found):
        assert isinstance(trigger, FilterTrigger)
        assert float(trigger.matrix.abs().max()) <= 1
        changed = trigger(images)
        assert not torch.equal(changed, images)
        assert float(similarity(changed, images).mean()) > 0.3
        before, after = (
            activations(net, one[None], neurons[channel : channel + 1])[0]
            for one in (images, changed)
        )
        assert float(after) > float(before)


def test_neurons_are_inverted_alike_however_many_go_together() -> None:
    net, images = victim().requires_grad_(False), to_float(pictures().images)
    neurons = [Candidate("stem.1", 1, 4, 0, 1.0), Candidate("stage1.1", 5, 8, 1, 1.0)]
    made = {}
    for count in (1000, 1):
        made[count] = ABS(steps=10, at_once=count)._inverted(scanning(net), net, images, neurons)
    assert [neuron for _, neuron in made[1]] == neurons * 2
    for (together, one), (alone, other) in zip(made[1000], made[1], strict=True):
        assert one is other
        torch.testing.assert_close(together(images), alone(images), rtol=1e-4, atol=1e-4)


def test_a_patch_is_found_where_it_starts() -> None:
    """Started top left, as released, a patch stays there: one that lies elsewhere takes another
    start.
    """
    for corners in (1, 2):
        method = ABS(kind="patch", corners=corners, steps=40, epochs=10, batch=16, lr=0.05)
        found = method.defend(scanning(victim(last=True), pictures(60)))
        assert found.model is not None
        assert found.flagged is (corners == 2)
        assert (asr(found.model, last=True) < 0.5) is (corners == 2)
        assert found.record["inverted"] == corners * 12


def test_patterns_and_matrices_stay_where_gradients_live() -> None:
    images = to_float(pictures(6).images)
    patches = Patches(1, images, 1 / 16, 0.1, torch.Generator().manual_seed(0), corner=1)
    assert (
        int((patches.masks()[0, 0, -2:, -2:] > 0.5).sum())
        == int((patches.masks() > 0.5).sum())
        == 4
    )
    filters = Filters(1, images, 3, 0.002)
    for form, parameter, low in (
        (patches, patches.patterns, 0.0),
        (filters, filters.matrices, -1.0),
    ):
        parameter.data += 3
        form.project()
        assert bool((parameter == 1).all())
        parameter.data -= 5
        form.project()
        assert bool((parameter == low).all())


def test_what_is_found_is_unlearned() -> None:
    net = victim()
    access = scanning(net, pictures(60))
    found = ABS(steps=40, epochs=10, batch=16, lr=0.05).defend(access)
    assert found.model is not None
    assert asr(found.model) < 0.5 < 0.95 < asr(net)
    assert acc(found.model) > 0.9
    assert {"raised", "inverted"} <= found.record.keys()


def test_it_repeats_and_leaves_torch_as_found() -> None:
    random = torch.get_rng_state()
    first, again = (scanned(steps=2) for _ in range(2))
    assert first == again
    assert torch.equal(random, torch.get_rng_state())


def test_a_network_without_a_suspicious_neuron_is_not_inverted() -> None:
    silent = Tiny().build(Tiny.task)
    with torch.no_grad():
        for weight in silent.parameters():
            weight.zero_()
    found = ABS(per_class=2, unlearn="always").defend(scanning(silent, pictures(9)))
    assert (found.flagged, found.score, found.targets) == (False, 0.0, [])
    assert found.record == {"raised": 0.0, "inverted": 0.0}
    assert found.model is not None


def test_images_are_counted() -> None:
    """Stimulation and judgement are forward passes, of which three count as one forward and
    backward.
    """
    access = scanning(victim(), pictures(30))
    found = ABS(steps=3, unlearn="never").defend(access)
    stimulated, inverted = 12 * 5 * 15 // 3, int(found.record["inverted"])
    assert inverted > 0
    assert access.images_processed == stimulated + inverted * 3 * 5 + inverted * 15 // 3


def test_reasr_counts_all_images() -> None:
    images = to_float(pictures().images)
    assert reasr(victim(), images, torch.nn.Identity(), TARGET) == pytest.approx(1 / 3, abs=0.05)


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    for preset in ABS.presets.values():
        ABS.model_validate_json(json.dumps(preset))
    assert all(field.description for field in ABS.model_fields.values())
    assert ABS.needs == {"victim", "clean-labelled"}


def test_the_activation_of_a_block_is_its_sum() -> None:
    """Before rectification and after it, so that a silent neuron has a slope too."""
    torch.manual_seed(0)
    model = ResNet18(width=4)
    net = model.build(Task("colours", 10, 16, 16, 3, 1)).eval()
    images = torch.rand(3, 3, 16, 16)
    neuron = Candidate("stage1.0", 2, 4, 0, 1.0)
    own, others = activations(net, images[None], [neuron])
    block = net.get_submodule("stage1.0")
    start = net.get_submodule("stem")(images)
    inner = block.conv1(start)
    inner = block.bn2(block.conv2(block.bn1(inner).relu()))
    both = (inner + start) + (inner + start).relu()
    torch.testing.assert_close(own[0], both[:, 2].sum())
    torch.testing.assert_close(others[0], both.sum() - both[:, 2].sum())
    assert bool(((inner + start) < 0).any())
