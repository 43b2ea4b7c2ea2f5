"""Register the components of this package.

Keep this module light: it is imported to list plugins, the classes only to run them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import hookimpl

if TYPE_CHECKING:
    from harness import Register


@hookimpl
def bench_register(register: Register) -> None:
    """Register each component: its name, and the place of its class."""
    register.attack("single-pixel", "doorbench_example.single_pixel:SinglePixel")
    register.defense("clp", "doorbench_example.clp:CLP")
