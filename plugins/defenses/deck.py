"""DECK: move the classes of a network apart, by training on pervasive backdoors between pairs.

Tao et al., NDSS 2024. The loop is that of MOTH (`plugins/parts/pair_hardening.py`), the triggers
are DECK's: one transformation of all images, in the features of an ImageNet network
(`plugins/parts/pervasive.py`). What a patch's size is to MOTH is here the class distance. Both ways
of a pair are generated anew at each training step, against the network as it is by then, from where
the last search of the pair ended.

The paper's ablation (Table X) is in the parameters: weights of 0 leave a term of the loss out
(`content`, `ssim`, `norm`, `smooth`), and the decoder has `upsampling` and `layer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from harness import Access, Part, Recipe, Result, Use, use
from plugins.parts.fine_tuning import Augmented
from plugins.parts.pervasive_hardening import PervasiveHardeningSettings, pervasive_hardening
from plugins.parts.pervasive_settings import AUTHOR


class DECK(PervasiveHardeningSettings, Augmented):
    """Enlarge the distance between pairs of classes against pervasive backdoors (Tao et al. 2024).

    The paper takes 5 % of the training data, which is the grid's to grant. Its own text fixes the
    loss; the length of the hardening, the optimiser and the choice of pairs are those of MOTH,
    which it follows, and the rest are choices of ours that are named as such.
    """

    citation = "Tao et al.: DECK - Model Hardening for Defending Pervasive Backdoors, NDSS 2024"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deck": {},
        "author": {**AUTHOR, "decoder": {"name": "deck-decoder", "preset": "author"}},
    }

    decoder: Use[Part] = use("deck-decoder")
    """encoder whose features backdoors change, with its decoder"""

    def unused(self) -> Mapping[str, str]:
        """Name the deviation of draws that nothing is added to."""
        unused = dict(super().unused())
        if self.start == "drawn":
            unused["spread"] = 'kernels that start "drawn" are no identity'
        return unused

    def defend(self, access: Access) -> Result:
        """Harden, and record how many periods there were and how many searches failed.

        Raises Incompatible where a class has no clean image, or where features of the images do not
        fall into z x z regions.
        """
        hardening = pervasive_hardening(
            self,
            access,
            access.victim(),
            access.part("decoder"),
            access.clean(),
            Recipe(**self.augmentation(access.task)),
        )
        for _ in access.steps(self.steps, hardening.kept()):
            hardening.step()
        record = dict(hardening.record)
        record["distance"] = hardening.distance
        return Result(model=hardening.model.eval(), record=record)
