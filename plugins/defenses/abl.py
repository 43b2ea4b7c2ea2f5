"""Anti-Backdoor Learning: train on poisoned data, find the poison by how fast it is learned, and
unlearn it.

Li et al., NeurIPS 2021. Poisoned images are learned sooner than clean ones. In the first phase the
loss is kept from falling below a bound, which holds clean images back; the images with the lowest
loss are isolated. The second phase trains on all others, the third climbs the loss of the isolated
ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Access, Context, Rates, Recipe, Result, Schedule
from harness.learn import Batch, ImageSet, evaluating, together
from plugins.parts.counting import FORWARD
from plugins.parts.fine_tuning import NAD_CUTOUT, FineTuning
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive

RATES = ((0.0, 0.1), (40.0, 0.01), (60.0, 0.001))
"""Learning rate by epoch of the second phase in the released code."""
RANKED = 500
"""Images whose losses are computed at a time at most."""


CODE: Mapping[str, Any] = {
    "objective": "flooding",
    "isolation_epochs": 10,
    "unlearn_epochs": 4,
    "batch": 128,
}
"""The released configuration. Of its 5 unlearning epochs the first only tests."""


class ABL(FineTuning):
    """Isolate what is learned fastest, train on the rest, unlearn the isolated (Li et al. 2021).

    The defaults are the paper's objective and its 20, 60 and 20 epochs, and Trap-and-Replace
    compares with them; `abl-code` is the released configuration, `backdoorbench` the same with
    BackdoorBench's epochs, batches and order. In all of them the mean loss of a batch is bounded,
    as released. The paper's formula bounds each image's (`abl-formula`): that holds back poisoned
    images just like clean ones, and the lowest losses tell little. The inherited fields of a
    schedule are those of the second phase; batch, momentum and decay serve all three.
    """

    citation = (
        "Li et al.: Anti-Backdoor Learning - Training Clean Models on Poisoned Data, NeurIPS 2021"
    )
    needs = frozenset({"training-set"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "abl": {},
        "abl-formula": {"per": "image"},
        "abl-code": CODE,
        "backdoorbench": {
            **CODE,
            "isolation_epochs": 20,
            "isolation_shuffle": True,
            "unlearn_epochs": 20,
            "batch": 256,
        },
        "trap": {},
    }

    objective: Literal["lga", "flooding"] = "lga"
    """of the first phase; lga, local gradient ascent: sign(loss - gamma) loss; flooding: |loss -
    gamma| + gamma, whose gradient is the same, so that the loss shown is all that differs
    """
    per: Literal["batch", "image"] = "batch"
    """unit whose loss the objective bounds: a batch by its mean, which climbs or descends as a
    whole, as in the released code; or each image, as the paper's formula reads
    """
    gamma: NotNegative = 0.5
    """bound of the loss, in nats"""
    isolation_epochs: CountOrZero = 20
    """passes of the first phase over the training set; the released configuration has 10"""
    isolation_lr: Positive = 0.1
    """learning rate of the first phase, constant"""
    isolation_shuffle: bool = False
    """a new order in each pass of the first phase; the released loader keeps one, and so the same
    batches
    """
    isolate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """share of the training set that is isolated: its lowest losses, without augmentation, in
    evaluation mode
    """

    epochs: CountOrZero = 60
    """passes of the second phase over the images that are not isolated"""
    batch: Count = 64
    """images a step"""
    nesterov: bool = True
    """look ahead, of SGD"""
    weight_decay: NotNegative = 1e-4
    """on all parameters, biases and normalisation included"""
    schedule: Schedule = "table"
    """of the second phase's learning rate; table: the last rate of `rates` begun; piecewise: lines
    between them
    """
    rates: Rates = RATES
    """of table and piecewise: (epoch, learning rate), ascending; `lr` is not used then"""
    cutout: CountOrZero = NAD_CUTOUT
    """side of the square that is blanked in the second phase, in pixels"""

    unlearn_epochs: CountOrZero = 20
    """passes of the third phase over the isolated images, uphill; the released configuration makes
    4
    """
    unlearn_lr: Positive = 5e-4
    """learning rate of the third phase, constant; too long or too fast an ascent destroys the
    network
    """

    def compatible(self, context: Context) -> str | None:
        """Require that at least one image is isolated."""
        count = context.task.train_count
        if int(self.isolate * count) == 0:
            return f"isolate = {self.isolate:g} of {count} training images is none of them"
        return super().compatible(context)

    def defend(self, access: Access) -> Result:
        """Isolate what is learned fastest, train on the rest, unlearn what is isolated."""
        model = access.fresh_model()
        data = access.training_set()
        labels = data.labels
        assert labels is not None

        access.fit(model, data, self.isolating(access), loss=self._bounded)
        losses = image_losses(access, model, data)
        order = losses.argsort(stable=True)
        count = int(self.isolate * len(data))
        isolated = order[:count]
        rest = order[count:].sort().values

        access.fit(model, data.subset(rest), self.tuning(access))
        access.fit(model, data.subset(isolated), self.unlearning(access), loss=_climb)

        per_class = labels[isolated].bincount()
        record = {
            "isolated": float(count),
            "isolated_loss": float(losses[isolated].mean()),
            "isolated_in_one_class": float(per_class.max()) / count,
        }
        return Result(model=model, suspects=isolated.tolist(), record=record)

    def isolating(self, access: Access) -> Recipe:
        """Return the recipe of the first phase, which has no augmentation."""
        recipe = self._plain(access, self.isolation_epochs, self.isolation_lr)
        return recipe.replace(shuffle=self.isolation_shuffle)

    def unlearning(self, access: Access) -> Recipe:
        """Return the recipe of the third phase, which has no augmentation."""
        recipe = self._plain(access, self.unlearn_epochs, self.unlearn_lr)
        return recipe.replace(shuffle=True)

    def _plain(self, access: Access, epochs: int, lr: float) -> Recipe:
        """Return the second phase's recipe with a constant rate and without augmentation."""
        recipe = self.tuning(access).replace(epochs=epochs)
        recipe = recipe.replace(lr=lr, schedule="constant", rates=(), horizon=None)
        return recipe.replace(crop=0, flip=False, rotation=0.0, cutout=0)

    def _bounded(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.labels is not None
        logits = model(batch.images).float()
        losses = functional.cross_entropy(logits, batch.labels, reduction="none")
        return bounded(losses, self.objective, self.per, self.gamma)


def bounded(losses: Tensor, objective: str, per: str, gamma: float) -> Tensor:
    """Return the first phase's objective on the cross-entropies (n,) of a batch: a scalar.

    At gamma itself the sign is 0.
    """
    held = losses
    if per == "batch":
        held = losses.mean()
    if objective == "lga":
        ascending = torch.sign(held - gamma) * held
        return ascending.mean()
    flooded = (held - gamma).abs() + gamma
    return flooded.mean()


def image_losses(access: Access, model: nn.Module, data: ImageSet) -> Tensor:
    """Return the cross-entropy of each image in evaluation mode: double (n,), on the CPU."""
    losses = []
    size = min(RANKED, together(data.images, access.device))
    with torch.no_grad(), evaluating(model):
        for images, labels in data.to(access.device).batches(size):
            assert labels is not None
            logits = model(images)
            losses.append(exact_losses(logits, labels).cpu())
            access.tick()
    access.tick(len(data) // FORWARD)
    return torch.cat(losses)


def exact_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return cross-entropies (n,) that do not round to 0 as those of a log-softmax do.

    They are log(1 + sum of exp(other - own logit)). What is learned fastest has losses below 1e-7,
    and the order among these would be lost.
    """
    logits = logits.double()
    own = labels.unsqueeze(1)
    gaps = logits - logits.gather(1, own)
    others = gaps.scatter(1, own, -torch.inf)
    return functional.softplus(others.logsumexp(1))


def _climb(model: nn.Module, batch: Batch) -> Tensor:
    assert batch.labels is not None
    logits = model(batch.images).float()
    return -functional.cross_entropy(logits, batch.labels)
