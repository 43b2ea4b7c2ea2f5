"""Registers what this package brings. Keep it light: it is imported to list plugins, the classes only to run them."""

from harness import hookimpl


@hookimpl
def bench_register(register):
    """Name -> where the class is."""
    register.attack("single-pixel", "doorbench_example.single_pixel:SinglePixel")
    register.defense("clp", "doorbench_example.clp:CLP")
