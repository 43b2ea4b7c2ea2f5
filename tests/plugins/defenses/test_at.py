from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harness.access.granted import Access
from harness.learn.images import ImageSet, to_float
from plugins.defenses.at import AT
from plugins.parts.pgd import pgd
from tests.kit.learned import Tiny, access_to, pictures

pytestmark = pytest.mark.usefixtures("one_thread")


def training(norms: bool = True, data: ImageSet | None = None) -> Access:
    model = Tiny(norms=norms)
    return access_to(
        model.build(Tiny.task), model=model, needs=AT.needs, training=data or pictures(90)
    )


def attacked(net: nn.Module, eps: float) -> float:
    """The share of new pictures that stay right."""
    data = pictures(60)
    assert data.labels is not None
    images = to_float(data.images)
    moved = pgd(net, images, data.labels, eps=eps / 255, step=eps / 255 / 4, steps=10)
    with torch.no_grad():
        return float((net(moved).argmax(1) == data.labels).float().mean())


@pytest.mark.parametrize(("norms", "eps"), [(True, 24.0), (False, 36.0)])
def test_the_network_withstands_more(norms: bool, eps: float) -> None:
    robust = trained(AT(eps=36.0, step=12.0, steps=4, statistics="running"), norms)
    assert not robust.training
    assert attacked(robust, eps) > attacked(trained(None, norms), eps) + 0.1


def trained(defense: AT | None, norms: bool) -> nn.Module:
    access = training(norms)
    longer = access.recipe.replace(epochs=15)
    access._context = replace(access._context, recipe=longer)
    if defense is not None:
        return defense.defend(access)
    net = access.fresh_model()
    access.fit(net, access.training_set())
    return net


def test_it_trains_on_adversarial_images_alone() -> None:
    """Of the delivered set, at the price of a pass for each step and one for the weights."""
    access = training()
    seen: list[Tensor] = []
    fit = access.fit

    def watching(model: nn.Module, data: ImageSet, **hooks: object) -> object:
        after = hooks["after_augment"]

        def watched(batch: object) -> object:
            moved = after(batch)  # type: ignore[operator]
            seen.append((moved.images - batch.images).abs().amax((1, 2, 3)))  # type: ignore[attr-defined]
            return moved

        return fit(model, data, **{**hooks, "after_augment": watched})  # type: ignore[arg-type]

    access.fit = watching  # type: ignore[method-assign, assignment]
    AT(eps=10.0).defend(access)
    furthest = torch.cat(seen)
    assert len(furthest) == 90
    assert (furthest > 0).all()
    assert float(furthest.max()) <= 10 / 255 + 1e-6
    assert access.images_processed == 90 * (7 + 1)


def test_presets_are_those_of_deck() -> None:
    found = {
        name: AT.model_validate_json(json.dumps({**AT.presets["deck"], **preset}))
        for name, preset in AT.presets.items()
    }
    assert (found["deck"].eps, found["deck"].step, found["deck"].steps) == (8.0, 2.0, 7)
    for name in ("deck/svhn", "deck/gtsrb"):
        assert found[name].eps == pytest.approx(7.65)
        assert found[name].step == pytest.approx(1.275)
        assert found[name].steps == 8
    assert found["deck/lisa"].eps == pytest.approx(25.5)
    assert all(field.description for field in AT.model_fields.values())
