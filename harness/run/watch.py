"""What a guarded stage opens, and whom it signals, noted from inside its own process by an audit
hook of Python.

A plugin that sets out to cheat gets around this; a mistake does not.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.run.claims import TRESPASSES

PATHS = {
    "open": 1,
    "os.chmod": 1,
    "os.link": 2,
    "os.listdir": 1,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.scandir": 1,
    "os.truncate": 1,
    "os.utime": 1,
    "shutil.copyfile": 2,
    "shutil.move": 2,
}
"""Audit events that name paths, with the number of arguments at their beginning that are paths."""
ALTERING = {
    "os.chmod": 1,
    "os.chown": 1,
    "os.link": 2,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.removexattr": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.setxattr": 1,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.utime": 1,
}
"""Audit events of what alters a file or a folder, times and permissions included, with the number
of paths at the beginning of their arguments.
"""
LINKS = "os.symlink"
"""The audit event that names what a link leads to, and the link."""
SIGNALS = frozenset({"os.kill", "os.killpg"})
"""Audit events that name a process, or a group of them, and a signal."""
SYSTEM = (
    "/proc/self",
    "/sys/",
    "/dev/null",
    "/dev/urandom",
    "/dev/nvidia",
    "/lib/",
    "/lib64/",
    "/usr/lib",
    "/usr/share/",
    "/etc/",
)
"""Places that everybody looks at. Not all of /dev or /usr: stores lie in /dev/shm and /usr/local
too.
"""
REPORTED = 5000
"""Paths reported at most."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
"""Flags of which one is set where a file is opened to be written."""
ALTERED = 10
"""Alterations told at most; one is enough."""
LONGEST = 4096
"""Characters of a path that are reported: the system opens none that is longer."""


@contextlib.contextmanager
def watching(opened: list[str], scratch: Path, *, alone: bool = False) -> Iterator[None]:
    """Collect the paths opened outside Python's folders, the system's and the scratch folder.

    What cannot wait for the record, as the process may not live to write one, is noted at once in
    a file of the scratch folder: paths among the scratch folders of others, signals to processes
    that are not the stage's own and, for a stage that is to be `alone`, whatever it alters outside
    its scratch folder.
    """
    watch = _Watch(opened, scratch, alone)
    sys.addaudithook(watch.hook)  # cannot be removed again; the process ends with the stage
    _audit_safetensors()
    try:
        yield
    finally:
        watch.active = False


class _Watch:
    def __init__(self, opened: list[str], scratch: Path, alone: bool) -> None:
        self.opened = opened
        self.active = True
        self._alone = alone
        self._altered = 0
        self._own = (f"{scratch}{os.sep}", f"{scratch.resolve()}{os.sep}")
        self._seen: set[str] = set()
        self._allowed = _allowed(scratch)
        self._neighbours = f"{scratch.parent}{os.sep}"
        self._note = os.open(scratch / TRESPASSES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.set_inheritable(self._note, False)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """Take note of an audit event."""
        if not self.active:
            return
        if self._alone:
            for argument in _altered(event, args):
                self._note_altered(argument)
        if event in PATHS:
            for argument in args[: PATHS[event]]:
                self._note_path(argument)
        elif event == LINKS:
            # What a link leads to counts from the link's folder, unless it is absolute.
            for argument in args[:2]:
                if argument is args[1] or os.path.isabs(argument):  # noqa: PTH117
                    self._note_path(argument)
        elif event in SIGNALS:
            self._note_signal(event, *args[:2])

    def _note_path(self, argument: Any) -> None:
        if not isinstance(argument, str | bytes | os.PathLike):
            return  # an open file
        # Not resolve(), which reads links: those are events again.
        path = os.path.abspath(os.fsdecode(argument))[:LONGEST]  # noqa: PTH100
        if path in self._seen or len(self.opened) >= REPORTED:
            return
        if (path + "/").startswith(self._allowed) or path.startswith(SYSTEM):
            return
        self._seen.add(path)
        self.opened.append(path)
        if path.startswith(self._neighbours):
            self._tell(path)

    def _note_altered(self, argument: Any) -> None:
        if isinstance(argument, int):  # an open file, by its number
            try:
                argument = os.readlink(f"/proc/self/fd/{argument}")  # noqa: PTH115
            except OSError:  # it is not open
                return
        if not isinstance(argument, str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(argument))[:LONGEST]  # noqa: PTH100
        if f"{path}/".startswith(self._own) or path.startswith(SYSTEM):
            return
        self._altered += 1
        if self._altered <= ALTERED:
            self._tell(f"altered {path}, outside its own folder, while a model was judged")

    def _note_signal(self, event: str, target: int, number: int) -> None:
        if not number:
            return  # a question whether it is there
        self.active = False  # looking it up opens files
        try:
            own = _is_own(target if event == "os.kill" else -target)
        finally:
            self.active = True
        if not own:
            self._tell(f"sent signal {number:d} to process {abs(target)}, which is not its own")

    def _tell(self, text: str) -> None:
        line = text.encode("utf-8", "backslashreplace").replace(b"\n", b"?")
        with contextlib.suppress(OSError):
            os.write(self._note, line + b"\n")


def _altered(event: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the files and folders that an audit event says to be altered."""
    if event == "open":
        path, _, flags = args
        return (path,) if flags & WRITING else ()
    return args[: ALTERING.get(event, 0)]


def _is_own(target: int) -> bool:
    """Tell whether a process, or with a minus the group that it leads, is this one or was started
    from it; also where there is none.
    """
    if target in (0, -1):
        return target == 0
    process = abs(target)
    if target < 0 and process == os.getpgid(0):
        return True
    while process > 1:
        if process == os.getpid():
            return True
        try:
            status = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
        except OSError:
            return True
        process = int(status.rpartition(")")[2].split()[1])
    return False


def _allowed(scratch: Path) -> tuple[str, ...]:
    """Return Python's own folders and the scratch folder, each with a slash at the end."""
    folders = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, str(scratch)}
    folders.discard("")
    return tuple({str(Path(folder).resolve()).rstrip("/") + "/" for folder in folders})


def _audit_safetensors() -> None:
    """Make safetensors report what it opens: it opens files outside Python, and objects of a store
    are read with it.
    """
    import safetensors  # here, since only guarded stages need it

    opening = safetensors.safe_open

    def safe_open(filename: str | os.PathLike[str], *args: Any, **options: Any) -> Any:
        sys.audit("open", os.fspath(filename), "r", 0)
        return opening(filename, *args, **options)

    for name in ("safetensors", "safetensors.torch", "safetensors.numpy"):
        if hasattr(sys.modules.get(name), "safe_open"):
            sys.modules[name].safe_open = safe_open  # type: ignore[attr-defined]
