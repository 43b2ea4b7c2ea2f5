from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness import Result
from harness.learn import ImageSet
from plugins.defenses.k_arm import (
    PUBLISHED,
    Arm,
    KArm,
    class_by_class,
    everywhere_likely,
    likely_count,
    middle,
    pairs_of,
    together_likely,
)
from plugins.parts.bandit import bet, velocity
from tests.kit.learned import Tiny, pictures
from tests.kit.oracles import oracle
from tests.kit.scanned import TARGET, scanning, victim

pytestmark = pytest.mark.usefixtures("one_thread")


def scanned(net: nn.Module, **fields: Any) -> Result:
    return KArm(**{"steps": 60, "universal": 0.2, "pair": 0.2, **fields}).defend(scanning(net))


# --- screening ------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_screening_and_arms_are_those_of_the_official_code() -> None:
    recorded = oracle("defenses/karm_prescreen")
    close = {"rtol": float(recorded["tol_rtol"]), "atol": float(recorded["tol_atol"])}
    probabilities, others = (
        torch.from_numpy(recorded[f"in_{name}"]) for name in ("probs", "probs2")
    )
    count = likely_count(10, float(recorded["par_gamma"]))
    assert count == int(recorded["out_k"])
    theta = float(recorded["par_global_theta"])
    assert everywhere_likely(probabilities, count, theta) == []
    assert int(recorded["out_all_label"]) == -1
    assert everywhere_likely(others, count, theta) == [int(recorded["out_all_label_2"])]
    sums, medians = together_likely(probabilities, count, float(recorded["par_local_theta"]))
    np.testing.assert_allclose(sums, recorded["out_sum"], **close)
    np.testing.assert_allclose(medians, recorded["out_median"], **close)
    assert float(recorded["par_beta"]) == 1e4
    assert bet(recorded["in_vel"].tolist(), recorded["in_reg"].tolist()) == int(recorded["out_arm"])


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 40), st.integers(3, 12), st.floats(0.1, 1))
def test_screening_restated(seed: int, images: int, classes: int, share: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=draw) + torch.linspace(0, 3, classes)
    probabilities = logits.softmax(1)
    count = likely_count(classes, 0.25)
    assert count == (2 if classes <= 8 else round(classes / 4))
    rows = [row.tolist() for row in probabilities]
    tops = [sorted(range(classes), key=lambda label, row=row: -row[label])[:count] for row in rows]
    often = [sum(label in top for top in tops) / images for label in range(classes)]
    most = max(range(classes), key=often.__getitem__)
    universal = [most] if often[most] > share else []
    assert everywhere_likely(probabilities, count, share) == universal
    sums, medians = together_likely(probabilities, count, share)
    for source in range(classes):
        mine = [place for place, row in enumerate(rows) if row.index(max(row)) == source]
        for label in range(classes):
            listed = sum(label in tops[place] for place in mine)
            expected = 0.0, 0.0
            if label != source and mine and listed / len(mine) >= share:
                values = sorted(rows[place][label] for place in mine)
                expected = sum(values), values[(len(values) - 1) // 2]
            assert float(sums[label, source]) == pytest.approx(expected[0], abs=1e-5)
            assert float(medians[label, source]) == pytest.approx(expected[1], abs=1e-6)


def test_three_sources_at_most() -> None:
    """Those with the largest sums, as released; as they lie where there are no more than three."""
    sums = torch.tensor([1.0, 2, 3, 4, 5, 0])
    assert pairs_of(sums, torch.tensor([0.1, 0.5, 0, 0.3, 0.2, 0])) == [4, 3, 1]
    assert pairs_of(sums, torch.tensor([0.1, 0.5, 0, 0.3, 0, 0])) == [0, 1, 3]
    assert pairs_of(sums, torch.zeros(6)) == []


def test_images_come_class_by_class() -> None:
    data = ImageSet(
        torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.tensor([2, 0, 1, 0, 2])
    )
    assert class_by_class(data).images.flatten().tolist() == [1, 3, 2, 0, 4]


# --- the bandit -----------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.floats(1, 5e4), st.integers(2, 99), st.integers(2, 999)),
        min_size=1,
        max_size=9,
    )
)
def test_the_bet_restated(arms: list[tuple[float, int, int]]) -> None:
    values = [(2500 - size) / (wins + steps / 2) + 10_000 / size for size, wins, steps in arms]
    chosen = bet([velocity(*arm) for arm in arms], [size for size, _, _ in arms])
    assert values[chosen] == pytest.approx(max(values))


def test_the_mask_of_a_pair_starts_in_the_middle() -> None:
    noise = torch.rand(1, 224, 224, generator=torch.Generator().manual_seed(0))
    mask = middle(noise)
    inside = torch.zeros(224, 224, dtype=torch.bool)
    inside[87:137, 87:137] = True
    assert bool((mask[0, inside] == 0.99).all())
    torch.testing.assert_close(mask[0, ~inside], noise[0, ~inside] * 0.001)
    assert 0 < int((middle(torch.rand(1, 8, 8)) > 0.5).sum()) < 8


def test_an_arm_is_left_after_an_improvement_only_and_the_best_is_pulled_most() -> None:
    pulled: list[tuple[int, bool]] = []

    class Watched(KArm):
        def _pull(self, *given_: Any) -> None:
            bandit = given_[-1]
            number = bandit.next
            super()._pull(*given_)
            pulled.append((number, bandit.arms[number].improved))

    Watched(steps=60, screen=False, random=0.0, bound=0.5).defend(scanning(victim()))
    assert pulled[0][0] == 0
    for (before, improved), (after, _) in itertools.pairwise(pulled):
        assert before == after or improved
    late = [number for number, _ in pulled[40:]]
    assert max(late.count(number) for number in range(3)) > 10
    assert len(pulled) == 60


# --- the method -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norms", [True, False])
def test_a_universal_trigger_gives_the_backdoor_away(norms: bool) -> None:
    found = scanned(victim(norms=norms), steps=90)
    assert (found.flagged, found.targets, found.model) == (True, [TARGET], None)
    assert found.score == pytest.approx(0.2 / found.record["share"])
    clean = scanned(victim(False, norms), steps=90)
    assert clean.flagged is False
    assert clean.score is not None
    assert found.score is not None
    assert clean.score < 1 < found.score


class Pairwise(nn.Module):
    """Brightness says the class; a dark corner in a bright image says class 1 instead of 2, and
    nothing else does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        bright = images[:, 0, 4:].mean((1, 2))
        corner = images[:, 0, 3:5, 3:5].mean((1, 2))
        # The runner-up is always class 1, so that the screen lets its pairs pass.
        lower = 8 * (0.45 - bright)
        upper = 8 * (bright - 0.45) - 60 * (0.4 - corner).clamp(min=0) * (bright > 0.45)
        return torch.stack([lower, torch.zeros_like(bright), upper], dim=1) + self.unused


def judged(back: float | None, asymmetry: float) -> tuple[Result, list[int]]:
    """Scan `Pairwise` with a way back of this size; also return its steps, none if not asked."""
    asked: list[int] = []

    class Watched(KArm):
        def _arms(self, *given_: Any) -> list[Arm]:
            arms = super()._arms(*given_)
            assert arms
            assert all(arm.source is not None and arm.source != arm.target for arm in arms)
            return arms

        def _way_back(self, *given_: Any) -> float | None:
            asked.append(given_[-1])
            return back

    settings_ = {"steps": 40, "everywhere": 1.0, "together": 0.5, "pair": 0.5}
    return Watched(asymmetry=asymmetry, **settings_).defend(scanning(Pairwise())), asked


def test_a_pair_counts_by_both_ways() -> None:
    found, asked = judged(32.0, 0.01)
    share = found.record["share"]
    assert found.flagged is True
    assert found.record["asymmetry"] == pytest.approx(32 / 64 / share)
    assert found.score == pytest.approx(min(0.5 / share, found.record["asymmetry"] / 0.01))
    again, _ = judged(32.0, 1000.0)
    assert (again.flagged, again.targets) == (False, [])
    assert len(asked) == 1
    assert 0 < asked[0] <= found.record["steps"]


def test_no_way_back_leaves_a_pair_as_it_is() -> None:
    found, _ = judged(None, 1000.0)
    assert found.flagged is True
    assert found.score == pytest.approx(0.5 / found.record["share"])
    assert "asymmetry" not in found.record


def test_the_way_back_is_one_arm_of_so_many_steps() -> None:
    pulled: list[int] = []

    class Watched(KArm):
        def _pull(self, *given_: Any) -> None:
            pulled.append(given_[-1].next)
            super()._pull(*given_)

    access = scanning(victim())
    data = pictures(30)
    size = Watched(bound=0.3)._way_back(access, access.victim(), data, Arm(0, TARGET), 50)
    assert pulled == [0] * 50
    assert size is not None
    assert 0 < size < 64
    assert Watched(bound=1.0)._way_back(access, Pairwise(), data, Arm(2, 0), 1) is None


def test_nothing_that_looks_possible_is_no_backdoor() -> None:

    class Unlikely(KArm):
        def _arms(self, *given_: Any) -> list[Arm]:
            return []

    found = Unlikely().defend(scanning(victim()))
    assert (found.flagged, found.score, list(found.targets)) == (False, 0.0, [])
    assert found.record == {"arms": 0.0, "steps": 0.0}
    nothing = KArm(steps=3, screen=False, bound=1.0).defend(scanning(victim(False)))
    assert nothing.flagged is False


def test_images_are_counted() -> None:
    access = scanning(victim(), pictures(30))
    KArm(steps=5, per_class=4, screen=False, batch=5).defend(access)
    assert access.images_processed == 5 * 12
    assert PUBLISHED == 50_176


def test_it_repeats_and_leaves_torch_as_found() -> None:
    random = torch.get_rng_state()
    assert scanned(victim(), steps=8) == scanned(victim(), steps=8)
    assert torch.equal(random, torch.get_rng_state())


def test_every_parameter_has_a_meaning() -> None:
    assert KArm.model_validate_json(json.dumps({})) == KArm()
    assert all(field.description for field in KArm.model_fields.values())
    assert KArm.needs == {"victim", "clean-labelled"}
    assert Tiny.task.classes == 3
