from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.components import PoisoningAttack, Task
from harness.errors import Incompatible
from harness.learn.evaluation import BadOutput
from harness.learn.hooks import Batch
from harness.learn.images import ImageSet, to_float, to_uint8
from harness.learn.poisoning import (
    PoisonedSet,
    choose,
    mapped_labels,
    poison_with_cover,
    stamp,
    stamping_hook,
    training_data,
)
from harness.stages.poison import check

CLASSES = 5


class Corner(nn.Module):
    """Half-transparent white in the last two rows; loud about being in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("colour", torch.tensor(1.0))

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        images = images.clone()
        images[:, :, -2:] = 0.5 * images[:, :, -2:] + 0.5 * self.colour
        return images


class Clean(PoisoningAttack):
    """A clean-label attack."""

    clean_label = True


def train_set(count: int = 200, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 6, 6, 3), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.randint(CLASSES, (count,), generator=generator))


def labels_of(data: ImageSet) -> Tensor:
    assert data.labels is not None
    return data.labels


def bench(train: ImageSet) -> Any:
    task = Task("noise", CLASSES, 6, 6, 3, len(train))
    return SimpleNamespace(
        train=train, task=task, selection=lambda: torch.Generator().manual_seed(7)
    )


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def chosen(attack: PoisoningAttack, labels: Tensor) -> Tensor:
    return choose(attack.rule(CLASSES), labels, seeded())


ATTACKS = st.builds(
    PoisoningAttack,
    target=st.integers(0, CLASSES - 1),
    poison_rate=st.floats(0.01, 0.15),
    eligible=st.sampled_from(["all", "non-target", "target"]),
    rate_of=st.sampled_from(["train", "eligible"]),
    order=st.sampled_from(["random", "first"]),
    label_map=st.sampled_from(["all-to-one", "all-to-all"]),
)


@given(ATTACKS, st.floats(0.1, 1))
@settings(deadline=None, max_examples=50)
def test_a_smaller_rate_poisons_a_part_of_a_larger_ones(
    attack: PoisoningAttack, share: float
) -> None:
    labels = labels_of(train_set(1000))
    larger = chosen(attack, labels).tolist()
    smaller = attack.model_copy(update={"poison_rate": max(0.01, attack.poison_rate * share)})
    fewer = chosen(smaller, labels).tolist()
    assert fewer == larger[: len(fewer)]
    assert len(set(larger)) == len(larger)
    eligible = {
        "all": lambda label: True,
        "target": lambda label: label == attack.target,
        "non-target": lambda label: attack.label_map == "all-to-all" or label != attack.target,
    }[attack.eligible]
    possible = [index for index, label in enumerate(labels.tolist()) if eligible(label)]
    assert set(larger) <= set(possible)
    of = len(possible) if attack.rate_of == "eligible" else 1000
    assert abs(len(larger) - attack.poison_rate * of) <= 0.5
    if attack.order == "first":
        assert larger == possible[: len(larger)]


def test_attacks_of_a_replicate_share_the_permutation() -> None:
    labels = labels_of(train_set())
    everywhere = chosen(PoisoningAttack(poison_rate=1.0), labels)
    other = PoisoningAttack(poison_rate=1.0, rate_of="eligible", eligible="non-target")
    others = chosen(other, labels)
    assert others.tolist() == [index for index in everywhere.tolist() if labels[index] != 0]


def test_a_source_specific_map_poisons_its_sources_only() -> None:
    labels = labels_of(train_set())
    attack = PoisoningAttack(label_map="source-specific", sources=(1, 3), target=4, poison_rate=0.1)
    assert set(labels[chosen(attack, labels)].tolist()) == {1, 3}
    assert mapped_labels(attack.label_table(CLASSES), torch.arange(5)).tolist() == [
        -1,
        4,
        -1,
        4,
        -1,
    ]


@given(
    st.lists(st.integers(-1, CLASSES - 1), min_size=CLASSES, max_size=CLASSES),
    st.sampled_from(["all", "non-target"]),
)
@settings(deadline=None, max_examples=50)
def test_a_list_poisons_each_class_with_its_own_label(table: list[int], eligible: Any) -> None:
    assume(any(new not in (-1, old) for old, new in enumerate(table)))
    train = train_set()
    labels = labels_of(train).tolist()
    attack = PoisoningAttack(
        label_map=tuple(table), eligible=eligible, rate_of="eligible", poison_rate=1.0
    )
    made = attack.poison(bench(train), Corner())
    expected = {}
    for index, label in enumerate(labels):
        changed = table[label] != label
        if table[label] >= 0 and (changed or eligible == "all"):
            expected[index] = table[label]
    found = zip(made.indices.tolist(), made.labels.tolist(), strict=True)
    assert dict(found) == expected


def test_a_list_that_spares_classes_makes_fewer_images_eligible() -> None:
    labels = torch.arange(CLASSES).repeat(40)
    attack = PoisoningAttack(label_map=(-1, 2, 2, -1, -1), poison_rate=0.4)
    assert set(labels[chosen(attack, labels)].tolist()) == {1, 2}
    with pytest.raises(Incompatible, match=r"asks for 100, but only 80 are eligible.*lower it to"):
        chosen(attack.model_copy(update={"poison_rate": 0.5}), labels)
    with pytest.raises(Incompatible, match=r"asks for 80, but only 40 are eligible"):
        chosen(attack.model_copy(update={"eligible": "non-target"}), labels)


def test_impossible_rates_are_incompatible() -> None:
    labels = torch.arange(CLASSES).repeat(40)
    whole_class = PoisoningAttack(eligible="target", poison_rate=0.2)
    assert len(chosen(whole_class, labels)) == 40
    # as class sizes spread, a rate of one class finds a few images less: the whole class then
    assert len(chosen(whole_class.model_copy(update={"poison_rate": 0.21}), labels)) == 40
    with pytest.raises(
        Incompatible, match=r"asks for 60, but only 40 are eligible.*lower it to 0\.2"
    ):
        chosen(whole_class.model_copy(update={"poison_rate": 0.3}), labels)
    with pytest.raises(Incompatible, match="poisons none"):
        chosen(PoisoningAttack(poison_rate=0.001), labels)
    assert len(chosen(PoisoningAttack(poison_rate=0.0), labels)) == 0


@pytest.mark.parametrize("quantise", ["truncate", "round"])
def test_stamping_is_the_trigger_and_back_to_bytes(quantise: Any) -> None:
    images = train_set(11).images
    trigger = Corner().train()
    result = stamp(trigger, images, quantise, batch=4)
    assert trigger.training
    assert torch.equal(result[:, :-2], images[:, :-2])
    half = (images[:, -2:].double() + 255) / 2
    if quantise == "truncate":
        assert torch.equal(result[:, -2:].double(), half.floor())
    else:
        assert (result[:, -2:].double() - half).abs().max() <= 0.5
    assert stamp(trigger, images[:0]).shape == (0, 6, 6, 3)


def test_a_trigger_must_keep_the_shape() -> None:
    with pytest.raises(BadOutput, match="MaxPool2d made"):
        stamp(nn.MaxPool2d(2), train_set(3).images)


@pytest.mark.parametrize("add", [False, True])
def test_poison_and_merge(add: bool, tmp_path: Path) -> None:
    train = train_set()
    attack = PoisoningAttack(label_map="all-to-all", poison_rate=0.2, add=add)
    made = attack.poison(bench(train), Corner())
    made.save(tmp_path / "poisoned.safetensors")
    made = PoisonedSet.load(tmp_path / "poisoned.safetensors")
    assert made.add is add
    assert made.rate(len(train)) == 0.2
    labels = labels_of(train)
    assert torch.equal(made.labels, (labels[made.indices] + 1) % CLASSES)
    assert torch.equal(made.images, stamp(Corner(), train.images[made.indices]))
    merged, mask = made.merge(train), made.mask(len(train))
    assert len(merged) == len(mask) == (240 if add else 200)
    assert int(mask.sum()) == 40
    kept = torch.arange(200) if add else (~mask).nonzero().squeeze(1)
    assert torch.equal(merged.images[kept], train.images[kept])
    assert torch.equal(labels_of(merged)[kept], labels[kept])
    where = torch.arange(200, 240) if add else made.indices
    assert torch.equal(merged.images[where], made.images)
    assert torch.equal(labels_of(merged)[where], made.labels)
    unstamped = made.merge(train, stamp=False)
    assert torch.equal(unstamped.images[where], train.images[made.indices])
    assert torch.equal(labels_of(unstamped), labels_of(merged))


class Dark(nn.Module):
    """Cover: images at half their brightness."""

    def forward(self, images: Tensor) -> Tensor:
        return images / 2


@pytest.mark.parametrize("add", [False, True])
def test_cover_counts_as_clean(add: bool, tmp_path: Path) -> None:
    train = train_set()
    made = covered(train, 0.1, 2.0, table=(0, 0, 0, 0, 0))
    made = replace(made, add=add)
    made.save(tmp_path / "poisoned.safetensors")
    made = PoisonedSet.load(tmp_path / "poisoned.safetensors")
    assert made.cover is not None
    assert made.rate(200) == 0.1
    merged, mask = made.merge(train), made.mask(len(train))
    where = torch.arange(200, 260) if add else made.indices
    assert torch.equal(merged.images[where], made.images)
    assert torch.equal(labels_of(merged)[where], made.labels)
    assert len(mask) == len(merged)
    assert mask.nonzero().squeeze(1).tolist() == sorted(where[:20].tolist())


def covered(train: ImageSet, rate: float, ratio: float, table: tuple[int, ...]) -> PoisonedSet:
    return poison_with_cover(
        train, table, seeded(), Corner(), Dark(), poison_rate=rate, cover_ratio=ratio
    )


def test_poison_with_cover_shows_what_a_trainer_s_batches_do() -> None:
    """10 % triggered, twice as many cover with their own labels; a larger share holds the same
    triggered images.
    """
    train = train_set()
    order = torch.randperm(200, generator=seeded())
    made = covered(train, 0.1, 2.0, table=(1, 2, 3, 4, 0))
    first, second = order[:20], order[20:60]
    assert torch.equal(made.indices, torch.cat([first, second]))
    assert torch.equal(made.images[:20], stamp(Corner(), train.images[first]))
    assert torch.equal(made.images[20:], stamp(Dark(), train.images[second]))
    assert torch.equal(made.labels[:20], (labels_of(train)[first] + 1) % CLASSES)
    assert torch.equal(made.labels[20:], labels_of(train)[second])
    assert torch.equal(made.poisoned, torch.arange(60) < 20)


@given(
    st.integers(1, 60),
    st.floats(0, 0.5),
    st.floats(0, 1),
    st.lists(st.integers(-1, CLASSES - 1), min_size=CLASSES, max_size=CLASSES),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=50)
def test_what_is_exported_has_the_rate_that_was_asked(
    count: int, rate: float, ratio: float, table: list[int], seed: int
) -> None:
    """To one image, over the classes that are attacked; what is no poison has its true label."""
    train = train_set(count, seed)
    made = covered(train, rate, ratio, table=tuple(table))
    check(made, train, CLASSES)
    merged, mask = made.merge(train), made.mask(count)
    first = torch.randperm(count, generator=seeded())[: int(rate * count)]
    attacked = first[torch.tensor(table)[labels_of(train)[first]] >= 0]
    assert mask.nonzero().squeeze(1).tolist() == sorted(attacked.tolist())
    assert made.rate(count) == int(mask.sum()) / count
    assert torch.equal(labels_of(merged)[~mask], labels_of(train)[~mask])
    assert torch.equal(labels_of(merged)[mask], torch.tensor(table)[labels_of(train)[mask]])
    touched = torch.zeros(count, dtype=torch.bool).index_fill(0, made.indices, True)
    assert torch.equal(merged.images[~touched], train.images[~touched])
    assert int((touched & ~mask).sum()) == int(int(rate * count) * ratio)


def test_a_class_that_is_not_attacked_may_be_cover() -> None:
    train = train_set()
    made = covered(train, 0.2, 1.0, table=(-1, 0, -1, -1, -1))
    originals = labels_of(train)[made.indices]
    assert set(originals[made.poisoned].tolist()) == {1}
    assert int((~made.poisoned).sum()) == 40
    assert set(originals[~made.poisoned].tolist()) == set(range(CLASSES))
    none = covered(train, 0.0, 1.0, table=(0,) * 5)
    assert len(none) == 0
    assert len(none.merge(train)) == 200


def test_cover_has_true_labels_and_is_stamped_beforehand() -> None:
    train = train_set()
    made = covered(train, 0.1, 1.0, table=(0,) * 5)
    check(made, train, CLASSES)
    with pytest.raises(ValueError, match="40 cover images have another"):
        check(
            replace(
                made, labels=(labels_of(train)[made.indices] + 1) % 5, cover=~torch.zeros(40).bool()
            ),
            train,
            5,
        )
    with pytest.raises(ValueError, match="stamped before training"):
        training_data(train, made, Corner(), PoisoningAttack(when="before-augment").batch_stamping)
    assert training_data(train, made, Corner(), PoisoningAttack().batch_stamping)[1] == {}


def test_clean_labels_are_kept() -> None:
    train = train_set()
    attack = Clean(target=2, eligible="target", rate_of="eligible", poison_rate=0.5)
    made = attack.poison(bench(train), Corner())
    assert set(made.labels.tolist()) == {2}
    assert torch.equal(labels_of(made.merge(train)), labels_of(train))


def test_an_attack_may_stamp_in_its_own_way() -> None:
    class Inverse(PoisoningAttack):
        def stamp(self, access: Any, trigger: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            return 255 - images

    train = train_set()
    made = Inverse().poison(bench(train), Corner())
    assert torch.equal(made.images, 255 - train.images[made.indices])


def test_what_is_no_poisoned_set_is_refused() -> None:
    train = train_set(4)
    two, labels = train.images[:2], torch.tensor([0, 1])
    with pytest.raises(ValueError, match="twice"):
        PoisonedSet(two, labels, torch.tensor([3, 3]))
    assert len(PoisonedSet(two, labels, torch.tensor([3, 3]), add=True).merge(train)) == 6
    with pytest.raises(ValueError, match="labels must be int64"):
        PoisonedSet(two, labels[:1], torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"cover must be bool \(2,\)"):
        PoisonedSet(two, labels, torch.tensor([1, 2]), cover=torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="within the 4"):
        PoisonedSet(two, labels, torch.tensor([1, 4])).merge(train)
    with pytest.raises(ValueError, match=r"\(3, 6, 3\)"):
        PoisonedSet(two[:, :3], labels, torch.tensor([1, 2])).merge(train)


@pytest.mark.parametrize("quantise", ["none", "truncate"])
def test_the_hook_stamps_the_poisoned_of_a_batch(quantise: Any) -> None:
    train = train_set(20)
    mask = torch.arange(20) % 3 == 0
    hook = stamping_hook(Corner().train(), mask, torch.full((20,), 4), quantise)
    indices = torch.tensor([5, 9, 0, 7, 18])
    pixels = to_float(train.images[indices])
    batch = Batch(pixels.clone(), labels_of(train)[indices], indices, 0, 0)
    done = hook(batch)
    assert torch.equal(batch.images, pixels)
    stamped = Corner().eval()(pixels)
    wanted = stamped if quantise == "none" else to_float(to_uint8(stamped))
    poisoned = mask[indices]
    torch.testing.assert_close(done.images[poisoned], wanted[poisoned], rtol=0, atol=0)
    assert torch.equal(done.images[~poisoned], pixels[~poisoned])
    assert done.labels is not None
    assert done.labels.tolist() == [int(labels_of(train)[5]), 4, 4, int(labels_of(train)[7]), 4]
    clean = Batch(pixels[:1], None, torch.tensor([5]), 0, 0)
    assert hook(clean) is clean


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("when", ["dataset", "before-augment", "after-augment"])
def test_a_victim_sees_the_same_poison_however_it_is_stamped(when: Any, add: bool) -> None:
    train = train_set(50)
    attack = PoisoningAttack(when=when, add=add, label_map="all-to-all", poison_rate=0.2)
    made = attack.poison(bench(train), Corner())
    data, hooks = training_data(train, made, Corner(), attack.batch_stamping)
    everything = torch.arange(len(data))
    batch = Batch(to_float(data.images), data.labels, everything, 0, 0)
    assert set(hooks) == ({when.replace("-", "_")} if when != "dataset" else set())
    for hook in hooks.values():
        batch = hook(batch)
    merged = made.merge(train)
    assert torch.equal(batch.images, to_float(merged.images))
    assert batch.labels is not None
    assert torch.equal(batch.labels, labels_of(merged))
    assert training_data(train, None, None, attack.batch_stamping) == (train, {})
