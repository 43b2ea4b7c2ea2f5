"""Adversarial training: a network that has only seen images moved against it.

Madry et al., ICLR 2018. The inner search is projected gradient descent in the maximum norm, anew
for every batch; settings are those of MOTH's code, which trains the robust networks of DECK's
tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar

from torch import nn

from harness import Access, Defense
from plugins.parts.pgd import AdversarialTraining
from plugins.parts.ranges import Count

SIGNS = {"eps": 0.03 * 255, "step": 0.005 * 255, "steps": 8}
"""On GTSRB and SVHN, where the code gives it in [0,1] pixels."""


class AT(AdversarialTraining, Defense):
    """Train from scratch on adversarial images of the network in training (Madry et al. 2018).

    Everything else is as the victim was trained.
    """

    citation = (
        "Madry, Makelov, Schmidt, Tsipras, Vladu: "
        "Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018"
    )
    needs: ClassVar[AbstractSet[str]] = frozenset({"training-set"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deck": {},
        "deck/svhn": SIGNS,
        "deck/gtsrb": SIGNS,
        "deck/lisa": {"eps": 0.1 * 255, "step": 0.02 * 255, "steps": 8},
    }

    steps: Count = 7
    """steps an image, 7 in MOTH's code; training then costs `steps` + 1 times what it costs on
    plain images
    """

    def defend(self, access: Access) -> nn.Module:
        """Train. Raises `Diverged` where the loss does."""
        model = access.fresh_model()
        perturb = self.perturbing(access, model)
        access.fit(model, access.training_set(), after_augment=perturb)
        return model
