"""A metric that measures the model, relative to the undefended one, with values and arrays; one
that looks at images alone; and one that is broken.
"""

from pathlib import Path

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


class Blind(Metric):
    """Images that are shown, and files beside the model that know more than images."""

    needs = frozenset({"model", "test-unlabelled", "validation-unlabelled"})
    unit = ""

    def measure(self, access):
        from safetensors import safe_open

        images = access.unlabelled_test()
        others = access.unlabelled_validation()
        assert images.labels is None
        assert others.labels is None
        answers = access.model()(images.images[:5].float().permute(0, 3, 1, 2))
        knowing = 0
        for path in Path().rglob("inputs/*/*"):
            with safe_open(path, "pt") as file:
                knowing += path.parent.name != "model" and set(file.keys()) != {"images"}
        return {
            "test": len(images),
            "validation": len(others),
            "knowing": knowing,
            "answers": len(answers),
        }


class Crooked(Metric):
    """A metric that returns what is no number."""

    def score(self, predictions):
        return float("nan")
