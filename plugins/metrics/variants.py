"""What a model answers to an attack's further triggers."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import ClassVar

from harness import Incompatible, Metric, Predictions


class Variants(Metric):
    """Variants: share of test images under each further trigger of the attack that get their true
    label, in percent.

    The further triggers are those that a backdoor should ignore: WaNet's noise mode, IAB's cross
    mode. One number a trigger, by its name.
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"predictions", "trigger"})
    higher_is_better = True

    fooled: bool = False
    """count those that get the label the attacker wants instead, over the images that ASR counts"""

    def score(self, predictions: Predictions) -> Mapping[str, float]:
        """Over the whole test set, as the attacks' papers have it."""
        if not predictions.variants:
            raise Incompatible("the attack has no further trigger")
        if not self.fooled:
            answers = {
                name: found == predictions.labels for name, found in predictions.variants.items()
            }
        elif predictions.attacked.any():
            counted, mapped = predictions.attacked, predictions.mapped
            answers = {
                name: (found == mapped)[counted] for name, found in predictions.variants.items()
            }
        else:
            raise Incompatible("no test image is attacked")
        return {name: 100 * float(right.mean()) for name, right in answers.items()}
