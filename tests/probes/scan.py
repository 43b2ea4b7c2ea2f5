"""A scanner: a verdict and no model."""

from harness import Access, Defense, Result


class Scan(Defense):
    """Call a model backdoored if one class's weights stand out."""

    needs = frozenset({"victim"})

    bound: float = 2.0
    """standard deviations above the mean"""

    def defend(self, access: Access) -> Result:
        model = access.victim()
        head = model.get_submodule(access.anatomy(model).head)
        norms = head.weight.detach().norm(dim=1)
        score = float((norms.max() - norms.mean()) / norms.std())
        return Result(flagged=score > self.bound, score=score, targets=[int(norms.argmax())])
