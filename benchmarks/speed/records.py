"""Where figures of this machine are kept: results/speed/<machine>.json."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def write(**parts: Any) -> None:
    """Put some parts of the figures in place of what the file had of them, and say where it lies."""
    name = f"{processor().lower().replace(' ', '-')}-{os.cpu_count()}.json"
    target = ROOT / "results" / "speed" / name
    target.parent.mkdir(exist_ok=True)
    report = json.loads(target.read_text()) if target.is_file() else {}
    report |= {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        **parts,
    }
    target.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {target.relative_to(ROOT)}")


def processor() -> str:
    """What the machine calls its CPU."""
    for line in (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    ):
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split()[:3])
    return platform.processor() or platform.machine()
