"""A metric that measures the model, relative to the undefended one, with values and arrays; and one
that is broken.
"""

from harness import Metric


class WeightNorm(Metric):
    """Norm of all weights, and how it differs from the victim's."""

    needs = frozenset({"model", "reference"})
    unit = ""

    def measure(self, access):
        import numpy as np

        norms = np.array([float(p.detach().norm()) for p in access.model().parameters()])
        access.save(norms=norms)
        before = access.reference()
        change = (
            0.0 if before is None else abs(float(norms.sum() - before["arrays"]["norms"].sum()))
        )
        return {"": float(norms.sum()), "change": change}

    def combine(self, values):
        return {"median": sorted(values)[len(values) // 2]}


class Crooked(Metric):
    """A metric that returns what is no number."""

    def score(self, predictions):
        return float("nan")
