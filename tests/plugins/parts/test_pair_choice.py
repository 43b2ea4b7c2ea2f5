from __future__ import annotations

import numpy as np
import pytest
import torch

from plugins.parts.inversion import Found
from plugins.parts.pair_choice import PairChoice, Stored
from tests.kit.oracles import oracle


@pytest.mark.oracle
def test_pairs_are_chosen_as_by_the_official_code() -> None:
    recorded = oracle("defenses/class_distance")
    choice = PairChoice(5)
    choice.learned.copy_(torch.from_numpy(recorded["in_univ"]))
    choice.grown.copy_(torch.from_numpy(recorded["in_diff"]))
    choice.size.copy_(torch.from_numpy(recorded["in_size"]))
    expected = recorded["out_selected_source_target_alpha_score"]
    for step, (source, other, share, score) in zip(recorded["par_steps"], expected, strict=True):
        found = choice.share(int(step) - int(recorded["par_max_warmup"]), 1000)
        assert found == pytest.approx(share)
        assert choice.best(found) == (source, other)
        assert float(choice.scores(found)[int(source), int(other)]) == pytest.approx(score)
    source, other = recorded["in_pair"].tolist()
    forth, back = recorded["in_mask_size_avg"].tolist()
    choice.record((source, other), forth)
    choice.record((other, source), back)
    np.testing.assert_allclose(choice.size, recorded["out_size_after"])
    np.testing.assert_allclose(choice.grown, recorded["out_diff_after"])


def test_the_promise_restated() -> None:
    choice = PairChoice(3)
    choice.begin(torch.tensor([10.0, 20.0, 5.0]))
    assert choice.size.tolist() == [[0, 20, 5], [10, 0, 5], [10, 20, 0]]
    choice.learned[0, 1] = 0.4
    assert choice.scores(0.0)[1, 0] == pytest.approx(0.4)
    # (20 + 10) / 20 and (20 + 5) / 20
    assert choice.scores(1.0)[0, 1] == pytest.approx(1.5)
    assert choice.scores(0.5)[1, 2] == pytest.approx(0.625)
    choice.record((1, 2), 7.5)
    assert choice.grown[1, 2] == pytest.approx((0.25 + 0.5) / 2)
    assert choice.size[1, 2] == 7.5


def test_a_pair_is_of_two_classes() -> None:
    choice = PairChoice(3)
    choice.learned[0, 1] = -5.0
    choice.learned[0, 2] = -1.0
    choice.learned[1, 2] = -2.0
    assert choice.best(0.0) == (0, 2)
    draw = torch.Generator().manual_seed(0)
    drawn = {choice.any(draw) for _ in range(200)}
    assert drawn == {(a, b) for a in range(3) for b in range(3) if a != b}


def test_each_way_of_a_pair_has_a_trigger_of_its_own_the_largest() -> None:
    stored = Stored()
    fresh = (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    assert stored.start((0, 1), fresh) is fresh
    for size in (0.2, 0.5, 0.3):
        stored.add((0, 1), Found(torch.full((1, 2, 2), size), torch.ones(1, 2, 2), True))
    assert stored.start((0, 1), fresh)[0].sum() == pytest.approx(2.0)
    assert stored.start((1, 0), fresh) is fresh
    again = Stored()
    again.load_state_dict(stored.state_dict())
    assert again.start((0, 1), fresh)[0].sum() == pytest.approx(2.0)
