"""Long training: far beyond zero training error, where neural collapse sets in.

Papyan, Han & Donoho, PNAS 2020, found networks that are trained on after they fit every image to be
better and more robust. Tao et al. (DECK) trained for 250 and 300 epochs to see what that does to
class distances and backdoors: little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from harness import Access, Defense, Result
from plugins.parts.holdout import accuracy
from plugins.parts.ranges import Count
from plugins.parts.stretching import stretched


class LongTraining(Defense):
    """Train from scratch, past zero training error (the neural-collapse baseline of DECK).

    Everything is as the victim was trained, but longer: the schedule of the learning rate is
    stretched. `training_error` records the share of the training set that the network still gets
    wrong, which should be 0.
    """

    citation = (
        "Papyan, Han, Donoho: Prevalence of neural collapse during the terminal phase of "
        "training, PNAS 2020"
    )
    needs = frozenset({"training-set"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deck": {"epochs": 250},
        "deck-300": {"epochs": 300},
    }

    epochs: Count = 250
    """passes over the training set; DECK's comparison has 250 and 300"""

    def defend(self, access: Access) -> Result:
        """Train, then count what is still wrong.

        Images are as they are, labels as they were delivered.
        """
        model = access.fresh_model()
        data = access.training_set()
        recipe = stretched(access.recipe, self.epochs, len(data))
        access.fit(model, data, recipe)
        wrong = 1 - accuracy(access, model, data)
        return Result(model=model, record={"training_error": wrong})
