"""A defense whose model, when it is evaluated, writes its own answers and ends the process."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from harness import Access, Defense


class Forging(nn.Module):
    """The network of another, until it is asked about a stream of test images."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images):
        here = Path.cwd()
        root = here if (here / "task.json").exists() else here.parent
        if (root / "inputs" / "stream").exists():
            save_file({"answers": torch.zeros(3)}, root / "out" / "answers.safetensors")
            (root / "record.json").write_text(json.dumps({"status": "ok", "opened": []}))
            os._exit(0)
        return self.inner(images)


class Forger(Defense):
    """Leave the victim as it is, in a network that forges its answers."""

    def defend(self, access: Access) -> nn.Module:
        return self.rebuild(access.victim())

    def rebuild(self, model: nn.Module) -> nn.Module:
        return Forging(model)
