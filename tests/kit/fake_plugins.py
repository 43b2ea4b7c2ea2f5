"""Plugin packages as tests need them: a dist-info folder and modules in a folder that is put on the
path.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

from tests.kit.places import TESTS

REGISTERS = """
from harness import hookimpl

@hookimpl
def bench_register(register):
    {body}
"""


def install(
    folder: Path, distribution: str, modules: dict[str, str], entry: str | None = None
) -> Path:
    """Write a distribution whose entry point `plug` is the module `entry` (default: the first of
    `modules`).
    """
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "top_level.txt").write_text(
        "\n".join(sorted({name.partition("/")[0] for name in modules})) + "\n"
    )
    point = entry or next(iter(modules)).replace("/", ".")
    (info / "entry_points.txt").write_text(f"[bench.plugins]\nplug-{distribution} = {point}\n")
    for name, text in modules.items():
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return folder


def install_probes(folder: Path) -> Path:
    """Write the plugins of `tests/probes` as a distribution of their own."""
    modules = {
        f"bench_probes/{path.stem}": path.read_text()
        for path in sorted((TESTS / "probes").glob("*.py"))
    }
    return install(folder, "bench-probes", modules, entry="bench_probes")


def registering(body: str) -> str:
    """Return the text of a module whose `bench_register` has this one-line body."""
    return REGISTERS.format(body=body)


def boxed(kind: str) -> dict[str, str]:
    """Return the targets of what the box registers of a kind, by name."""
    from plugins import bench_register

    found: dict[str, str] = {}

    class Register:
        def __getattr__(self, called: str) -> Callable[..., None]:
            def register(name: str, target: object = None, **more: object) -> None:
                if called == kind:
                    found[name] = str(target)

            return register

    bench_register(Register())  # type: ignore[arg-type]
    return found
