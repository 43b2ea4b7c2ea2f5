"""An in-training defense: train on what is left after dropping the images a first net finds
easiest.
"""

from harness import Access, Defense, Result


class Retrain(Defense):
    """Drop the images with the lowest early loss and train anew."""

    needs = frozenset({"training-set"})

    drop: float = 0.1
    """share of the training set that is dropped"""
    warmup: int = 1
    """epochs before losses are compared"""

    def defend(self, access: Access) -> Result:
        import torch
        from torch.nn import functional

        data = access.training_set()
        first = access.fresh_model()
        access.fit(first, data, epochs=self.warmup)
        losses = []
        with torch.no_grad():
            for images, labels in data.batches(500):
                losses.append(functional.cross_entropy(first(images), labels, reduction="none"))
        order = torch.cat(losses).argsort()
        suspects = order[: int(self.drop * len(data))]
        model = access.fresh_model()
        access.fit(model, data.subset(order[len(suspects) :]))
        return Result(model=model, suspects=suspects.tolist(), record={"dropped": len(suspects)})
