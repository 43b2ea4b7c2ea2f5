from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from harness import Incompatible, Result, Task
from harness.access.granted import Access
from harness.components import Model
from harness.learn.evaluation import predict
from harness.learn.images import ImageSet, to_float
from harness.learn.recipes import Recipe
from plugins.defenses.trap_replace import (
    Decoder,
    TrapReplace,
    find_cut,
    renew,
    total_variation,
    trap_loss,
)
from plugins.models.cnn import CNN
from plugins.models.mnist_nets import CNN4, FC5
from plugins.models.nin import NiN
from plugins.models.preact_resnet18 import PreActResNet18
from plugins.models.resnet18 import ResNet18
from plugins.models.resnet20 import ResNet20
from plugins.models.small_cnn import SmallCNN
from plugins.models.smallvgg import SmallVGG
from plugins.models.vgg import VGG11
from plugins.models.wrn16_1 import WRN16
from plugins.parts.points import locate
from tests.kit.learned import Tiny, access_to, pictures, stamped
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")

NEEDS = frozenset({"training-set", "clean-labelled"})
CIFAR = Task("any", 10, 32, 32, 3, 100)


def poisoned(count: int = 120) -> ImageSet:
    """Pictures of three classes, every seventh of them stamped and called class 0."""
    data = pictures(count)
    assert data.labels is not None
    mask = torch.arange(count) % 7 == 0
    images = torch.where(mask.view(-1, 1, 1, 1), stamped(data), data.images)
    return ImageSet(images, torch.where(mask, 0, data.labels))


def granted(model: Model | None = None, clean: int = 60, count: int = 120) -> Access:
    return access_to(
        nn.Identity(), pictures(clean), model or Tiny(), NEEDS, training=poisoned(count)
    )


def settings(**fields: Any) -> TrapReplace:
    return TrapReplace(**{"stem_end": "stem", "epochs": 1, "head_epochs": 1, **fields})


def defended(access: Access, **fields: Any) -> Result:
    result = settings(**fields).defend(access)
    assert isinstance(result.model, nn.Module)
    return result


def weights(net: Any, prefix: str = "") -> Tensor:
    return torch.cat(
        [
            one.double().flatten()
            for name, one in net.state_dict().items()
            if name.startswith(prefix)
        ]
    )


# --- the published network ------------------------------------------------------------------------


@pytest.mark.oracle
def test_the_losses_of_the_first_phase_as_the_official_code_has_them() -> None:
    recorded = oracle("defenses/tr_losses")
    close: dict[str, Any] = {
        "rtol": float(recorded["tol_rtol"]),
        "atol": float(recorded["tol_atol"]),
    }
    made, image = torch.from_numpy(recorded["in_rec"]), torch.from_numpy(recorded["in_image"])
    np.testing.assert_allclose(total_variation(made), recorded["out_tv"], **close)
    cross = functional.cross_entropy(
        torch.from_numpy(recorded["in_logits"]), torch.from_numpy(recorded["in_labels"])
    )
    for defense, name in ((TrapReplace(), "paper"), (code(), "code")):
        assert defense.lambda1 == float(recorded["par_lambda1"])
        assert defense.lambda2 == pytest.approx(float(recorded[f"par_lambda2_{name}"]))
        total = cross + trap_loss(made, image, defense.lambda1, defense.lambda2)
        np.testing.assert_allclose(total, recorded[f"out_total_{name}"], **close)


def code() -> TrapReplace:
    return TrapReplace.model_validate_json(json.dumps(TrapReplace.presets["trap-code"]))


@pytest.mark.oracle
@pytest.mark.parametrize("number", [4, 5, 6])
def test_stem_decoder_and_head_have_the_official_sizes(number: int) -> None:
    recorded = oracle("defenses/tr_losses")
    model = WRN16()
    net = model.build(CIFAR)
    cut = find_cut(net, locate(model.anatomy(net), f"blocks[{number - 1}]"), CIFAR.image_shape)
    decoder = Decoder(cut.shape, CIFAR.image_shape)
    assert list(cut.shape) == recorded[f"out_stem{number}_shape"].tolist()
    assert (
        list(decoder(torch.zeros(1, *cut.shape)).shape[1:])
        == recorded[f"out_stem{number}_rec_shape"].tolist()
    )
    head = renew(net, net, cut.after)
    sizes = [count(net) - head, count(decoder)]
    assert sizes == recorded[f"out_stem{number}_params_stem_decoder"].tolist()
    if number == 5:
        assert head == int(recorded["out_stage2_trainable_params"])


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_the_default_stem_is_the_published_one() -> None:
    model = WRN16()
    net = model.build(CIFAR)
    assert locate(model.anatomy(net), TrapReplace().stem_end) == "stage3.0"
    cut = find_cut(net, "stage3.0", CIFAR.image_shape)
    assert (cut.shape, count(net) - renew(net, net, cut.after)) == ((64, 8, 8), 100736)
    assert [layer for layer in cut.after if "." not in layer] == [
        "stage3.1",
        "last",
        "pool",
        "flatten",
        "head",
    ][1:]
    decoder = dict(Decoder(cut.shape, CIFAR.image_shape).named_parameters())
    assert [tuple(value.shape) for value in decoder.values()] == [
        (64, 32, 4, 4),
        (32,),
        (32, 3, 4, 4),
        (3,),
    ]


def test_total_variation_restated_pixel_by_pixel() -> None:
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    total = 0.0
    for values in images.flatten(0, 1).numpy():
        for row in range(4):
            for column in range(5):
                total += (values[row, column] - values[row - 1, column]) ** 2 if row else 0
                total += (values[row, column] - values[row, column - 1]) ** 2 if column else 0
    assert float(total_variation(images)) == pytest.approx(total / (2 * 3 * 4 * 5))
    assert float(total_variation(torch.full((1, 3, 8, 8), 0.3))) == 0
    other = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)).double()
    error = float(((images - other) ** 2).mean())
    assert float(trap_loss(images, other, 3.0, 0.5)) == pytest.approx(3 * error + 0.5 * total / 120)


# --- any network ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "point"),
    [
        (SmallCNN(), "blocks[-2]"),
        (ResNet18(width=8), "blocks[-2]"),
        (PreActResNet18(width=8), "blocks[-2]"),
        (ResNet20(), "blocks[-2]"),
        (VGG11(), "blocks[-2]"),
        (SmallVGG(), "blocks[-2]"),
        (NiN(), "blocks[-2]"),
        (CNN(), "blocks[-2]"),
        (CNN4(norm=False), "stem"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Model) else "",
)
def test_every_network_with_maps_is_cut_into_stem_and_head(model: Model, point: str) -> None:
    net, fresh = model.build(CIFAR).eval(), model.build(CIFAR).eval()
    cut = find_cut(net, locate(model.anatomy(net), point), CIFAR.image_shape)
    assert Decoder(cut.shape, CIFAR.image_shape)(torch.zeros(2, *cut.shape)).shape == (2, 3, 32, 32)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    renewed = renew(net, fresh, cut.after)
    assert 0 < renewed < count(net)
    inside = tuple(f"{name}." for name in cut.after)
    kept: dict[str, Tensor] = {
        name: value for name, value in before.items() if not name.startswith(inside)
    }
    assert kept
    assert all(torch.equal(net.state_dict()[name], value) for name, value in kept.items())
    changed = set(before) - set(kept)
    assert all(torch.equal(net.state_dict()[name], fresh.state_dict()[name]) for name in changed)
    # with the stem of the one and the head of the other, the answer is that of the other on the
    # one's maps
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen: dict[str, Tensor] = {}
    handle = net.get_submodule(cut.name).register_forward_hook(
        lambda *run: seen.update(maps=run[2].clone())
    )
    with torch.no_grad():
        answer = net(images)
        handle.remove()
        fresh.get_submodule(cut.name).register_forward_hook(lambda *run: seen["maps"])
        assert torch.allclose(fresh(images), answer, atol=1e-5)


def test_networks_without_maps_or_blocks_are_incompatible() -> None:
    model = FC5()
    net = model.build(CIFAR)
    with pytest.raises(Incompatible, match=r"stage2 of this network gives a tensor \(2, 500\)"):
        find_cut(net, locate(model.anatomy(net), "blocks[-2]"), CIFAR.image_shape)
    with pytest.raises(Incompatible, match="has 0 blocks"):
        TrapReplace().defend(granted())
    with pytest.raises(Incompatible, match="gives no tensor"):
        find_cut(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), "elsewhere", (1, 2, 2))


@pytest.mark.parametrize(
    ("maps", "image"), [((6, 4, 4), (1, 28, 28)), ((5, 8, 8), (3, 8, 8)), ((1, 1, 1), (3, 9, 5))]
)
def test_a_decoder_makes_images_of_any_size(maps: Any, image: Any) -> None:
    made = Decoder(maps, image)(torch.randn(2, *maps))
    assert made.shape == (2, *image)
    assert bool(((made > 0) & (made < 1)).all())


# --- the two phases -------------------------------------------------------------------------------


def test_the_head_is_fresh_and_the_stem_stays_bit_for_bit() -> None:
    trapped = defended(granted(), replace=False).model
    renewed = defended(granted(), head_epochs=0).model
    trained = defended(granted(), head_epochs=2).model
    assert torch.equal(weights(trapped, "stem"), weights(renewed, "stem"))
    assert torch.equal(
        weights(trapped, "stem"), weights(trained, "stem")
    )  # its BatchNorm averages too
    second = granted()
    second.fresh_model()
    fresh = second.fresh_model()
    for part in ("stage1", "head"):
        assert torch.equal(weights(renewed, part), weights(fresh, part))
        assert not torch.equal(weights(renewed, part), weights(trapped, part))
        assert not torch.equal(weights(renewed, part), weights(trained, part))
    assert trained is not None
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_the_reconstruction_improves_with_its_weight() -> None:
    errors = [
        defended(granted(), lambda1=weight, lambda2=1e-9, epochs=6, replace=False).record[
            "reconstruction_mse"
        ]
        for weight in (0.0, 100.0)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_without_its_terms_the_first_phase_is_plain_training() -> None:
    access = granted()
    plain = access.fresh_model()
    access.fit(plain, poisoned(), epochs=2)
    bare = {"epochs": 2, "replace": False, "crop": 0, "flip": False}
    result = defended(granted(), lambda1=0.0, lambda2=0.0, **bare)
    assert torch.equal(weights(result.model), weights(plain))
    assert result.record == {}
    assert not torch.equal(weights(defended(granted(), **bare).model), weights(plain))
    augmented = defended(granted(), lambda1=0.0, lambda2=0.0, epochs=2, replace=False)
    assert not torch.equal(weights(augmented.model), weights(plain)), "of its own, as in its paper"


@pytest.mark.parametrize(
    "fields", [{"cutmix": 1.0}, {"dropout": 0.0}, {"label_smoothing": 0.2}, {"lambda2": 1.0}]
)
def test_every_variant_repeats_and_differs_from_the_plain_one(fields: dict[str, Any]) -> None:
    first, again, plain = (
        weights(defended(granted(), **chosen).model) for chosen in (fields, fields, {})
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)


def test_global_random_state_and_hooks_are_left_as_found() -> None:
    before = torch.random.get_rng_state()
    model = defended(granted(), cutmix=0.5).model
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model is not None
    assert not any(module._forward_hooks for module in model.modules())


def test_images_are_counted() -> None:
    access = granted()
    defended(access, epochs=2, head_epochs=3)
    assert (
        access.images_processed == 2 * 120 + 60 // 3 + 3 * 60
    )  # reconstructions are judged by a forward pass


def test_a_backdoor_is_trapped_and_replaced() -> None:
    model, test = SmallCNN(width=8), pictures(150)
    assert test.labels is not None
    found = []
    for replaced in (False, True):
        access = granted(model, clean=90, count=400)
        fields: dict[str, Any] = {
            "stem_end": "blocks[-3]",
            "epochs": 8,
            "head_epochs": 12,
            "replace": replaced,
        }
        net = defended(access, **fields).model
        assert net is not None
        clean, fooled = (predict(net, images)[0] for images in (test.images, stamped(test)))
        right, success = clean == test.labels, (fooled == 0)[test.labels != 0]
        found.append((float(right.float().mean()), float(success.float().mean())))
    assert found[0][1] > 0.9
    assert found[1][1] < 0.4
    assert found[1][0] > found[0][0] - 0.1


# --- settings -------------------------------------------------------------------------------------


def test_both_phases_train_as_the_grid_does_but_for_what_is_set() -> None:
    grid = Recipe(
        epochs=7, batch=256, optimizer="adam", lr=1e-3, schedule="cosine", weight_decay=5e-4
    )
    paper = TrapReplace()
    assert paper.trapping(grid) == grid
    assert paper.replacing(grid, 500) == grid.replace(batch=32)
    assert paper.replacing(grid, 20).batch == 20
    stepped = Recipe(steps=9, schedule="table", rates=((0, 0.1),))
    assert TrapReplace(epochs=3).trapping(stepped) == stepped.replace(epochs=3, steps=None)
    released = code().replacing(stepped, 500)
    assert (released.epochs, released.steps, released.batch) == (100, None, 64)
    assert (released.optimizer, released.lr, released.schedule) == ("adam", 0.03, "cosine")
    assert (released.label_smoothing, released.rates) == (0.1, ())
    assert (code().cutmix, code().dropout, paper.cutmix, paper.dropout) == (1.0, 0.0, 0.0, 0.5)


def test_an_optimiser_of_the_head_s_own_needs_a_rate() -> None:
    with pytest.raises(ValidationError, match="needs a head_lr"):
        TrapReplace(head_optimizer="adam")


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    for preset in TrapReplace.presets.values():
        TrapReplace.model_validate_json(json.dumps(preset))
    assert all(field.description for field in TrapReplace.model_fields.values())
    assert TrapReplace.needs == NEEDS


def test_a_reconstruction_is_judged_on_the_clean_images() -> None:
    """In evaluation mode: a decoder that knows nothing gives a half, or thereabouts."""
    result = defended(granted(), epochs=0, replace=False)
    expected = float((to_float(pictures(60).images) - 0.5).square().mean())
    assert result.record["reconstruction_mse"] == pytest.approx(expected, rel=0.2)
