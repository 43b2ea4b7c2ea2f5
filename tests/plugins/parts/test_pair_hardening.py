from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import Context, Incompatible, Recipe, Task
from harness.access.granted import Access
from harness.learn.images import ImageSet, to_float
from harness.learn.layers import NORMS
from plugins.parts.hardening_settings import HardeningSettings
from plugins.parts.pair_hardening import PairHardening, Way
from tests.kit.learned import Tiny, pictures
from tests.kit.scanned import scanning, victim

pytestmark = pytest.mark.usefixtures("one_thread")


def upper_white(images: Tensor) -> Tensor:
    images = images.clone()
    images[:, :, :4] = 1
    return images


def painted(distance: float | None = 7.0) -> list[Way]:
    """Return white on the upper half, and black on all."""
    return [Way(upper_white, distance), Way(torch.zeros_like, distance)]


class Painted:
    """Triggers that nothing is searched for; `given` is what each step gets."""

    def __init__(self, given: list[Way]) -> None:
        self.given = given
        self.pairs: list[tuple[int, int]] = []
        self.seen: list[Tensor] = []

    def universal(self, target: int) -> Way:
        return Way(upper_white, 10.0 + target)

    def begin(self, pair: tuple[int, int]) -> None:
        self.pairs.append(pair)

    def both(self, images: Tensor) -> list[Way]:
        self.seen.append(images)
        return self.given

    def kept(self) -> Mapping[str, object]:
        return {}


SMALL: dict[str, Any] = {"batch": 30, "of_pair": 8, "stamped": 0.5, "lr": 0.01}


def hardening(
    given: list[Way] | None = None,
    data: ImageSet | None = None,
    net: nn.Module | None = None,
    **fields: Any,
) -> tuple[PairHardening, Painted]:
    access: Access = scanning(net or victim(), data or pictures(60))
    triggers = Painted(painted() if given is None else given)
    settings = HardeningSettings(**{**SMALL, **fields})
    work = PairHardening(
        settings, access, access.victim(), access.clean(), Recipe(flip=False, crop=0), triggers
    )
    return work, triggers


def batch_of(work: PairHardening, found: list[Way]) -> tuple[Tensor, Tensor]:
    """Return the batch of a step on the pair (2, 0) of the first images of both classes."""
    return work.stamped((2, 0), work.pools[2][:8], work.pools[0][:8], found)


# --- a batch --------------------------------------------------------------------------------------


def test_both_classes_are_stamped_and_keep_their_labels() -> None:
    work, _ = hardening(stamped=0.25)
    images, labels = batch_of(work, painted())
    assert labels.tolist()[:16] == [2] * 8 + [0] * 8
    # the rest of the batch is of other classes
    assert labels.tolist()[16:] == [1] * 14
    plain = to_float(work.images[torch.cat([work.pools[2][:8], work.pools[0][:8]])])
    changed = [row for row in range(16) if not torch.equal(images[row], plain[row])]
    assert changed == [0, 1, 8, 9]
    assert (images[:2, :, :4] == 1).all()
    assert torch.equal(images[:2, :, 4:], plain[:2, :, 4:])
    assert (images[8:10] == 0).all()
    assert work.record["stamped"] == 4


def test_one_image_is_stamped_at_least_and_none_where_there_is_no_trigger() -> None:
    work, _ = hardening(stamped=0.01)
    upper, black = painted()
    batch_of(work, [Way(None, 7.0), black])
    assert work.record["stamped"] == 1
    batch_of(work, [upper, black])
    assert work.record["stamped"] == 3


def test_adversarial_images_are_stamped_where_the_network_was_trained_on_them() -> None:
    plain, _ = hardening()
    robust, _ = hardening(pgd_eps=10.0, pgd_steps=3, pgd_step=4.0)
    images, _ = batch_of(plain, painted())
    moved, _ = batch_of(robust, painted())
    gaps = (images - moved).abs().amax((1, 2, 3))
    assert 0 < float(gaps.max()) <= 10 / 255 + 1e-6
    # the stamp is on top
    assert [row for row in range(20) if gaps[row] == 0] == [8, 9, 10, 11]
    assert torch.equal(images[0, :, :4], moved[0, :, :4])


# --- steps ----------------------------------------------------------------------------------------


def test_a_period_keeps_its_pair_and_records_the_mean_of_its_distances() -> None:
    work, triggers = hardening(explore=0.0)
    work.choice.begin(torch.tensor([10.0, 20.0, 5.0]))
    work.choice.learned[2, 1] = 5.0
    for step, distance in enumerate((6.0, None, 8.0)):
        triggers.given = [Way(upper_white, distance), Way(torch.zeros_like, 9.0)]
        work.harden(step)
    (pair,) = triggers.pairs
    assert set(pair) == {1, 2}
    assert float(work.choice.size[pair]) == 7.0
    assert float(work.choice.size[pair[1], pair[0]]) == 9.0
    # triggers are generated on as many images of each class, as they are
    for images in triggers.seen:
        assert images.shape == (2, 8, 8, 8, 1)
        for of_class, label in zip(images, pair, strict=True):
            pool = work.images[work.pools[label]]
            assert all((pool == image).flatten(1).all(1).any() for image in of_class)
    work.harden(3)
    assert len(triggers.pairs) == 2
    assert work.record["periods"] == 2


def test_where_nothing_is_found_the_network_stays_as_it_is() -> None:
    work, _ = hardening([Way(None, None), Way(None, None)], explore=1.0)
    before = [tensor.clone() for tensor in work.model.state_dict().values()]
    for step in range(3):
        work.harden(step)
    assert work.record["skipped_steps"] == 3
    assert (work.record["periods"], work.record["failed_periods"]) == (1, 1)
    after = work.model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_warm_up_records_what_each_class_learned() -> None:
    """Restated: half of the images of other classes carry the trigger; losses are of these, before
    and after the step.
    """
    work, _ = hardening(batch=60)
    seen: list[Any] = []
    train = work._train

    def watched(images: Tensor, labels: Tensor) -> None:
        seen.append((images.clone(), labels.clone()))
        train(images, labels)

    work._train = watched  # type: ignore[method-assign]
    work.warm_up(1)
    images, labels = seen[0]
    places = torch.randperm(60, generator=work.access.generator("batches"))
    plain = to_float(work.images[places])
    others = torch.nonzero(labels != 1).flatten()[:20]
    assert torch.equal(images[others], upper_white(plain[others]))
    untouched = [row for row in range(60) if row not in others.tolist()]
    assert torch.equal(images[untouched], plain[untouched])
    for source in (0, 2):
        rows = others[labels[others] == source]
        with torch.no_grad():
            losses = [
                functional.cross_entropy(net.eval()(images[rows]), labels[rows])
                for net in (victim(), work.model)
            ]
        expected = float((losses[0] - losses[1]) / losses[0])
        assert float(work.choice.learned[source, 1]) == pytest.approx(expected, rel=1e-3)
    assert (work.choice.learned[:, [0, 2]] == 0).all()


def test_steps_warm_up_each_class_and_go_on_with_pairs() -> None:
    work, triggers = hardening()
    for _ in range(3):
        work.step()
    assert triggers.pairs == []
    assert work.choice.size.tolist() == [[0, 11, 12], [10, 0, 12], [10, 11, 0]]
    for _ in range(4):
        work.step()
    assert len(triggers.pairs) == 2
    assert work.distance == pytest.approx(float(work.choice.size.sum()) / 6)


@pytest.mark.parametrize(("bn", "moves"), [("trained", True), ("frozen", False)])
def test_batchnorm_is_trained_or_frozen(bn: str, moves: bool) -> None:
    work, _ = hardening(bn=bn)
    for _ in range(4):
        work.step()
    old, new = (
        torch.cat([layer.running_mean for layer in model.modules() if isinstance(layer, NORMS)])
        for model in (victim(), work.model)
    )
    assert torch.equal(old, new) != moves


# --- where it makes no sense ----------------------------------------------------------------------


def test_a_class_without_images_is_incompatible() -> None:
    with pytest.raises(Incompatible, match="class 1"):
        hardening(data=pictures(30).subset(torch.arange(0, 30, 3)))


def test_one_class_is_incompatible() -> None:
    task = Task("one", classes=1, height=8, width=8, channels=1, train_count=9)
    assert HardeningSettings().compatible(Context(task=task, recipe=None)) is not None
    assert HardeningSettings().compatible(Context(task=Tiny.task, recipe=None)) is None
