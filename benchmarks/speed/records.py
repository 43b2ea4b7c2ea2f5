"""The file that keeps the figures of this machine: results/speed/<machine>.json."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CPUS = Path("/proc/cpuinfo")


def write(**parts: Any) -> None:
    """Replace some parts of the figures in the machine's file, and say where it lies."""
    name = f"{processor().lower().replace(' ', '-')}-{os.cpu_count()}.json"
    target = ROOT / "results" / "speed" / name
    target.parent.mkdir(exist_ok=True)
    report = {}
    if target.is_file():
        report = json.loads(target.read_text())
    report["machine"] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    report["versions"] = {"python": platform.python_version(), "torch": version("torch")}
    report.update(parts)
    target.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {target.relative_to(ROOT)}")


def processor() -> str:
    """Return the first words of what the machine calls its CPU."""
    if CPUS.exists():
        for line in CPUS.read_text().splitlines():
            label, _, value = line.partition(":")
            if label.startswith("model name"):
                return " ".join(value.split()[:3])
    return platform.processor() or platform.machine()
