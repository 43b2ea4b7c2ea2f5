"""Damage to finished stores: what is lost is said aloud and made again, and the table is the same.

A step copies a finished store, does it some harm, and looks at it with `plan`, `report` and
`status`, or not; then `bench run` must repair what it needs. At last the results that rest on
others are thrown away, so that these are read as well. In some steps the harm is done while a run
is at work. Each harm is a try.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.soak.ground import (
    LIGHT,
    PATIENCE,
    REAL,
    Broken,
    Expected,
    Ground,
    check_table,
    check_temporary,
    demand,
    entries,
    line,
)
from benchmarks.soak.kills import CHAINED, HEAD, METRICS, SMALL
from harness.store import disk
from harness.store.objects import Store
from tests.kit import damage
from tests.kit.damage import make_special

REAL_SHARE = 0.1
"""Share of steps with real stages."""
GRID = (
    HEAD.format(seeds=[0])
    + entries(["badnets", "wanet"], "attack")
    + entries(["none", "ft", "nad", "abl"], "defense")
    + CHAINED
    + METRICS
)
LEAVES = ("evaluate", "recheck", "score", "measure")
"""Kinds of stages that nothing but results depends on."""
MANIFEST = "manifest.json"
SIDES = ("tmp", "locks", "live", "failures")

Harm = Callable[[Path], None]


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" ")


def socket(path: Path) -> None:
    path.unlink()
    make_special(path, "socket")


HARMS: dict[str, Harm] = {
    "truncated": damage.truncate,
    "with a bit flipped": damage.flip,
    "emptied": damage.empty,
    "lengthened": lengthen,
    "removed": Path.unlink,
    "replaced by a pipe": damage.pipe,
    "replaced by a link to /dev/zero": damage.endless,
    "moved, with a link in its place": damage.moved_and_linked,
    "replaced by a folder": damage.as_folder,
    "replaced by a socket": socket,
}
"""What is done to a file of an object."""


class Ruin:
    """A copy of a finished store, what was done to it, and what commands said about it."""

    def __init__(self, draw: Random, ground: Ground, folder: Path, tries: Counter[str]) -> None:
        self.draw = draw
        self.ground = ground
        self.tries = tries
        is_real = draw.random() < REAL_SHARE
        self.module = REAL if is_real else LIGHT
        self.expected: Expected = ground.expected(self.module, SMALL if is_real else GRID)
        self.folder = folder
        self.environment = ground.around(folder)
        self.store = folder / "store"
        shutil.copytree(self.expected.store, self.store)
        self.damaged: dict[str, str] = {}
        """What was done to objects that are still there, by key."""
        self.bears = True
        """Whether the store is such as commands must cope with; else they may refuse it."""
        self.said = ""

    def harm(self) -> None:
        """Do one kind of harm, somewhere."""
        where = self.draw.choice(("file", "file", "file", "file", "manifest", "object", "side"))
        if where == "side":
            what = self.harm_side()
        else:
            objects = sorted((self.store / "objects").glob("*/*"))
            if not objects:
                return
            place = self.draw.choice(objects)
            if where == "object":
                what = self.harm_object(place)
            elif where == "manifest":
                what = self.harm_manifest(place, self.draw.choice(objects))
            else:
                what = self.harm_file(place)
        with (self.folder / "harms.txt").open("a", encoding="utf-8") as notes:
            notes.write(what + "\n")

    def harm_file(self, place: Path) -> str:
        """Harm one file of an object; return what was done."""
        files = sorted(path for path in place.iterdir() if path.is_file())
        if not files:
            return f"nothing was left of {place.name}"
        path = self.draw.choice(files)
        name = self.draw.choice(sorted(HARMS))
        HARMS[name](path)
        self.tries[f"files {name}"] += 1
        if path.name != "log.txt":  # which is kept beside the content, and no part of it
            self.damaged[place.name] = f"{path.name} {name}"
        return f"{path}: {name}"

    def harm_manifest(self, place: Path, other: Path) -> str:
        """Alter the manifest of an object; return what was done."""
        path = place / MANIFEST
        if not path.is_file() or path.is_symlink():
            return f"no manifest was left of {place.name}"
        data = path.read_bytes()
        if self.draw.random() < 0.3 and other != place and (other / MANIFEST).is_file():
            new = (other / MANIFEST).read_bytes()
        else:
            new = self.edited(data)
        path.write_bytes(new)
        self.tries["manifests edited"] += 1
        if new != data:
            self.damaged[place.name] = "manifest edited"
        return f"{path}: edited"

    def edited(self, data: bytes) -> bytes:
        """Return the text of a manifest with a few characters altered, or a part of it gone."""
        text = bytearray(data)
        for _ in range(self.draw.randint(1, 3)):
            start = self.draw.randrange(len(text))
            if self.draw.random() < 0.5:
                text[start] = self.draw.choice(b'0123456789abcdef"{}[],:/. ')
            else:
                del text[start : start + self.draw.randint(1, 40)]
        return bytes(text)

    def harm_object(self, place: Path) -> str:
        """Harm an object as a whole; return what was done."""
        way = self.draw.choice(("removed", "replaced by a file", "moved and linked", "emptied"))
        if way == "moved and linked":
            aside = self.folder / f"moved-{place.name}"
            shutil.rmtree(aside, ignore_errors=True)
            place.rename(aside)
            place.symlink_to(aside)
        else:
            shutil.rmtree(place, ignore_errors=True)
            place.unlink(missing_ok=True)
            if way == "replaced by a file":
                place.write_bytes(b"no object")
            if way == "emptied":
                place.mkdir()
        self.tries[f"objects {way}"] += 1
        self.damaged.pop(place.name, None)
        if way != "removed":  # a removed one is no damage: it may be deleted to save space
            self.damaged[place.name] = way
        return f"{place}: {way}"

    def harm_side(self) -> str:
        """Harm what lies beside the objects."""
        way = self.draw.choice(("folder removed", "folder as a file", "rubbish", "mark"))
        side = self.store / self.draw.choice(SIDES)
        if way == "mark":
            path = self.store / "STORE.json"
            name = self.draw.choice(sorted(HARMS))
            if path.is_file() and not path.is_symlink():
                HARMS[name](path)
            self.bears = False
            self.tries["STORE.json harmed"] += 1
            return f"{path}: {name}"
        if way == "rubbish":
            self.litter(side)
        else:
            shutil.rmtree(side, ignore_errors=True)
            side.unlink(missing_ok=True)
        if way == "folder as a file":
            side.write_bytes(b"no folder")
            self.bears = False
        self.tries[f"folders of notes: {way}"] += 1
        return f"{side}: {way}"

    def litter(self, side: Path) -> None:
        """Leave rubbish under the names that notes have."""
        key = self.draw.choice(sorted(self.expected.contents))
        name = self.draw.choice((key, f"{key}.json", "what is this", f"damaged.{key[:16]}.0"))
        path = side / name
        if path.exists() or path.is_symlink() or not side.is_dir():
            return
        kind = self.draw.choice(("bytes", "record", "fifo", "folder", "socket", "/dev/zero"))
        if kind == "bytes":
            path.write_bytes(self.draw.randbytes(self.draw.randint(0, 200)))
        elif kind == "record":
            path.mkdir()
            (path / "record.json").write_bytes(self.draw.choice((b"", b"[]", b'{"message": 3}')))
        else:
            make_special(path, kind)

    # --- commands -----------------------------------------------------------------------------

    def look(self) -> None:
        """Look at the store with a command that only reads. Raises Broken."""
        verb = self.draw.choice(("plan", "report", "status", "plan --explain", "report --costs"))
        name, *flags = verb.split()
        words = (name, self.expected.grid, "--store", self.store, *flags)
        result = self.ground.bench(self.module, *words, env=self.environment)
        self.hear(f"bench {verb}", result, {0, 1})

    def run(self) -> None:
        """Let a run repair the store. Raises Broken."""
        words = ("run", self.expected.grid, "--store", self.store)
        result = self.ground.bench(self.module, *words, env=self.environment)
        self.hear("bench run", result, {0} if self.bears else {0, 1})

    def hear(self, name: str, result: subprocess.CompletedProcess[str], allowed: set[int]) -> None:
        """Keep what a command said, and check how it ended. Raises Broken."""
        said = result.stdout + result.stderr
        self.said += said
        demand("Traceback" not in said, f"{name}: a traceback: {said[-3000:]}")
        demand(
            result.returncode in allowed, f"{name}: exit code {result.returncode}: {said[-3000:]}"
        )

    def run_while_harmed(self) -> None:
        """Do harm while a run is at work; how it ends is not told in advance, but it ends well or
        says why.
        """
        self.drop_leaves()
        output = self.folder / "while.txt"
        words = ("run", self.expected.grid, "--store", self.store)
        with output.open("wb") as stream:
            process = subprocess.Popen(
                line(self.module, *words), env=self.environment, stdout=stream, stderr=stream
            )
            while process.poll() is None:
                time.sleep(self.draw.uniform(0.1, 0.6))
                if self.tries.total() % 4:
                    self.harm_now()
                else:
                    break
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise Broken(f"no end of a run after {PATIENCE} s") from None
        said = output.read_text("utf-8", "replace")
        finished = subprocess.CompletedProcess(words, process.returncode, said, "")
        self.hear("bench run, harmed meanwhile", finished, {0, 1})

    def harm_now(self) -> None:
        """Harm a file; the run may have moved it away in the meantime."""
        try:
            self.harm_file(self.draw.choice(sorted((self.store / "objects").glob("*/*"))))
        except (OSError, IndexError):
            return

    def drop_leaves(self) -> None:
        """Throw away what nothing but results rests on, so that it is made again from the rest."""
        for key in self.expected.contents:
            manifest = Store(self.expected.store).manifest(key)
            assert manifest is not None
            if manifest.spec["stage"] in LEAVES:
                place = self.store / "objects" / key[:2] / key
                if place.is_symlink() or place.is_file():
                    place.unlink()
                else:
                    shutil.rmtree(place, ignore_errors=True)
                self.damaged.pop(key, None)

    def check(self) -> None:
        """Compare the table with that of the undisturbed store, and demand that what has been
        repaired was spoken of. Raises Broken.
        """
        table = self.ground.table(self.module, self.expected.grid, self.store, self.environment)
        for row, other in zip(table, self.expected.table, strict=False):
            if not row["poisoned"]:  # told by an object that no number needs any more
                row["poisoned"] = other["poisoned"]
        check_table(table, self.expected.table)
        for key, what in self.damaged.items():
            if self.is_whole(key):
                demand(key in self.said, f"object {key} ({what}) was repaired in silence")

    def is_whole(self, key: str) -> bool:
        """Tell whether an object is as it should be, by every checksum, without setting it
        aside.
        """
        place = self.store / "objects" / key[:2] / key
        manifest = Store(self.expected.store).manifest(key)
        assert manifest is not None
        if place.is_symlink() or not (place / MANIFEST).is_file():
            return False
        for name in manifest.files:
            try:
                checksum = disk.checksum(place / name)
            except (OSError, ValueError):
                return False
            if name != "result.json" and checksum != manifest.files[name]["sha256"]:
                return False
        return True


def attempt(draw: Random, ground: Ground, folder: Path, tries: Counter[str]) -> None:
    """Harm a copy of a finished store and let it be repaired."""
    ruin = Ruin(draw, ground, folder, tries)
    if draw.random() < 0.2:
        ruin.run_while_harmed()
    else:
        for _ in range(draw.choice((1, 1, 2, 4))):
            ruin.harm()
    for _ in range(draw.choice((0, 0, 1, 2))):
        ruin.look()
    ruin.run()
    if not ruin.bears:
        return
    ruin.drop_leaves()
    ruin.run()
    ruin.check()
    check_temporary(folder / "temporary")
