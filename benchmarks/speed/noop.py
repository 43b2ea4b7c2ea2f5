"""A stage that does next to nothing, to see what a fresh process costs: one tensor, one step of an
optimiser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENTRY = "noop:main"


def main(task: Mapping[str, Any]) -> None:
    """Stand in for `harness.run.worker.main`, which knows the stage kinds of the harness only."""
    import torch  # the child finds it imported, and its parent need not have it

    weight = torch.zeros(2, requires_grad=True)
    weight.sum().backward()
    torch.optim.SGD([weight], lr=0.1).step()
    record = Path(task["scratch"]) / "record.json"
    record.write_text(json.dumps({"status": "ok", "opened": []}))
