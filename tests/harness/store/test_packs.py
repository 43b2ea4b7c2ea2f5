"""Packs: what is written comes back, and what somebody else made of one does no harm."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import keys
from harness.store import merging, partial, unpacking
from harness.store.manifest import LOG, MANIFEST, Manifest, dump
from harness.store.merging import Merged
from harness.store.objects import Damaged, DiskFull, Store
from harness.store.packs import ABOUT, PackError, pack, place
from tests.kit.damage import flip, make_special, truncate
from tests.kit.lineages import CODE, add, describe, key_of
from tests.kit.places import ROOT
from tests.kit.zips import Entries, rewritten

VICTIM = key_of("victim")
SCORE = key_of("score", {"model": VICTIM})
KEYS = [VICTIM, SCORE]
WEIGHTS = b"w" * 3_000_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a victim that has weights, and a score that was made from it."""
    store = Store(tmp_path / "store")
    log = tmp_path / "printed"
    log.write_text("epoch 1\n")
    add(store, "victim", {"model.safetensors": WEIGHTS, "deep/truth.json": b"{}"}, log=log)
    add(store, "score", {"rows.json": b'{"acc": 1}'}, {"model": VICTIM})
    return store


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


def packed(
    store: Store, name: str = "pack.zip", choose: Callable[[str], bool] = lambda name: True
) -> Path:
    path = store.root.parent / name
    made = pack(path, store, KEYS, choose, about={"title": "T"}, grid={}, incompatible={})
    assert made.keys == sorted(KEYS)
    return path


def is_small(name: str) -> bool:
    return name.endswith(".json")


def merged(path: Path, store: Store) -> Merged:
    with unpacking.opened(path) as opened:
        return merging.merge(opened, store, lambda manifest, folder: None)


def contents(store: Store) -> dict[str, bytes]:
    """Return all files below the store's objects, by path."""
    top = store.root / "objects"
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*.*")}


def leftovers(store: Store) -> list[Path]:
    return list((store.root / "tmp").iterdir())


# --- there and back -------------------------------------------------------------------------------


def test_a_store_comes_back_as_it_was(store: Store, other: Store) -> None:
    result = merged(packed(store), other)
    assert sorted(result.added) == sorted(KEYS)
    assert contents(other) == contents(store)
    log = other.log(VICTIM)
    assert log is not None
    assert log.read_text() == "epoch 1\n"
    assert all(map(other.has, KEYS))
    assert leftovers(other) == []


def test_files_of_more_than_4_gib_fit_in(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bound lowered, from which on the format has longer numbers."""
    for name, limit in (("ZIP64_LIMIT", 1000), ("ZIP_FILECOUNT_LIMIT", 2)):
        monkeypatch.setattr(zipfile, name, limit)
    path = packed(store)
    assert b"PK\6\6" in path.read_bytes()  # the end of a directory with longer numbers
    monkeypatch.undo()
    assert sorted(merged(path, other).added) == sorted(KEYS)
    assert contents(other) == contents(store)


def test_equal_stores_give_equal_bytes(store: Store, other: Store, tmp_path: Path) -> None:
    first = packed(store).read_bytes()
    merged(tmp_path / "pack.zip", other)
    for path in (other.root / "objects").rglob("*"):
        os.utime(path, (1, 1))
    assert packed(other, "again.zip").read_bytes() == first


def test_without_weights_an_object_is_cached_until_they_are_needed(
    store: Store, other: Store, tmp_path: Path
) -> None:
    path = packed(store, choose=is_small)
    assert path.stat().st_size < 10_000
    merged(path, other)
    manifest = other.manifest(VICTIM)
    assert manifest is not None
    assert manifest.absent == {"model.safetensors"}
    assert other.read(VICTIM, "deep/truth.json", manifest) == b"{}"
    assert other.has(SCORE)
    assert not other.has(VICTIM)
    for _ in range(2):  # and nothing is set aside
        with pytest.raises(Damaged, match=r"left out .*: model\.safetensors"):
            other.fetch(VICTIM, ["model*"], tmp_path / "into")
        with pytest.raises(Damaged, match=r"left out .*: model\.safetensors"):
            other.read(VICTIM, "model.safetensors", manifest)
    assert other.fetch(VICTIM, ["deep/*"], tmp_path / "into").keys() == {"deep/truth.json"}
    # Made again, it is whole.
    add(other, "victim", {"model.safetensors": WEIGHTS, "deep/truth.json": b"{}"})
    assert all(map(other.has, KEYS))
    assert leftovers(other) == []


def test_a_file_that_is_gone_and_was_not_left_out_is_damage(store: Store, other: Store) -> None:
    merged(packed(store, choose=is_small), other)
    (other.folder(VICTIM) / "deep" / "truth.json").unlink()
    assert other.manifest(VICTIM) is None
    merged(packed(store, choose=is_small), other)
    (other.folder(VICTIM) / partial.LEFT_OUT).write_text("[1]")
    assert other.manifest(VICTIM) is None


def test_what_was_left_out_is_added_by_a_fuller_pack(store: Store, other: Store) -> None:
    merged(packed(store, choose=is_small), other)
    before = (other.folder(VICTIM) / MANIFEST).stat().st_ino
    result = merged(packed(store), other)
    assert (result.completed, result.there, result.added) == ([VICTIM], [SCORE], [])
    assert (other.folder(VICTIM) / MANIFEST).stat().st_ino == before
    assert all(map(other.has, KEYS))
    assert partial.LEFT_OUT not in {path.name for path in other.folder(VICTIM).iterdir()}
    # A smaller pack takes nothing away.
    result = merged(packed(store, choose=is_small), other)
    assert sorted(result.there) == sorted(KEYS)
    assert all(map(other.has, KEYS))


def test_a_partial_object_is_packed_as_it_is(store: Store, other: Store, tmp_path: Path) -> None:
    merged(packed(store, choose=is_small), other)
    third = Store(tmp_path / "third")
    merged(packed(other, "second.zip"), third)
    assert contents(third) == contents(other)


# --- what is there already ------------------------------------------------------------------------


def test_what_is_there_is_left_and_what_was_made_from_something_else_stays_out(
    store: Store, other: Store
) -> None:
    add(other, "victim", {"model.safetensors": b"mine"})
    result = merged(packed(store), other)
    assert (result.other, result.unfit, result.added) == ([VICTIM], [SCORE], [])
    assert other.read(VICTIM, "model.safetensors") == b"mine"
    assert other.manifest(SCORE) is None


def test_what_was_made_from_something_unfit_is_unfit_itself(
    store: Store, other: Store, tmp_path: Path
) -> None:
    below = add(store, "below", {"rows.json": b"{}"}, {"score": SCORE}).key
    path = tmp_path / "pack.zip"
    pack(path, store, [*KEYS, below], bool, about={}, grid={}, incompatible={})
    add(other, "victim", {"model.safetensors": b"mine"})
    result = merged(path, other)
    assert result.unfit == [SCORE, below]
    assert list(other.keys()) == [VICTIM]


def test_a_partial_object_stays_where_a_whole_one_cannot_be_written(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged(packed(store, choose=is_small), other)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DiskFull):
            add(other, "victim", {"model.safetensors": WEIGHTS, "deep/truth.json": b"{}"})
    manifest = other.manifest(VICTIM)
    assert manifest is not None
    assert manifest.absent


def test_what_is_damaged_is_said_aloud_and_replaced(
    store: Store, other: Store, caplog: pytest.LogCaptureFixture
) -> None:
    path = packed(store)
    merged(path, other)
    truncate(other.folder(SCORE) / "rows.json")
    with caplog.at_level(logging.WARNING):
        result = merged(path, other)
    assert result.added == [SCORE]
    assert f"object {SCORE} cannot be used" in caplog.text
    assert contents(other) == contents(store)


def test_a_key_that_a_run_works_on_is_left_to_it(store: Store, other: Store) -> None:
    path = packed(store)
    with Store(other.root).lock(VICTIM):
        result = merged(path, other)
    assert result.busy == [VICTIM]
    assert result.added == [SCORE]
    assert merged(path, other).added == [VICTIM]


def test_a_damaged_object_is_not_packed(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    flip(store.folder(SCORE) / "rows.json")
    path = store.root.parent / "pack.zip"
    with caplog.at_level(logging.WARNING):
        made = pack(path, store, KEYS, is_small, about={}, grid={}, incompatible={})
    assert made.keys == [VICTIM]
    assert "is altered" in made.damaged[SCORE]
    assert "cannot be used" in caplog.text


def test_notes_of_what_makes_no_sense_come_along(store: Store, other: Store) -> None:
    senseless, known = key_of("senseless"), key_of("known")
    other.fail(known, {"status": "error", "message": "mine"})
    path = store.root.parent / "pack.zip"
    note = {"message": "no channels \x1b[2J", "kind": "defend", "title": "badnets · ft", "pid": 1}
    notes = {senseless: note, known: note}
    pack(path, store, KEYS, is_small, about={}, grid={}, incompatible=notes)
    merged(path, other)
    told = other.failure(senseless)
    assert told is not None
    assert (told["status"], told["message"]) == ("incompatible", "no channels ?[2J")
    assert "pid" not in told
    mine = other.failure(known)
    assert mine is not None
    assert mine["message"] == "mine"


# --- packs that somebody tampered with ------------------------------------------------------------


def entry(entries: Entries, name: str) -> zipfile.ZipInfo:
    return next(info for info in entries if info.filename == name)


def added(name: str, mode: int = stat.S_IFREG | 0o644, **settings: Any) -> Callable[[Entries], Any]:
    def change(entries: Entries) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        for setting, value in settings.items():
            setattr(info, setting, value)
        entries[info] = b"/etc/passwd"

    return change


IN_SCORE = place(SCORE)


def twice(entries: Entries) -> None:
    added(f"{IN_SCORE}/rows.json")(entries)


FORMS: Mapping[str, tuple[Callable[[Entries], Any], str]] = {
    "up": (added("objects/../../evil"), "leads out"),
    "absolute": (added("/etc/evil"), "leads out"),
    "up in an object": (added(f"{IN_SCORE}/../evil.json"), "leads out"),
    "backslash": (added(f"{IN_SCORE}\\..\\evil"), "leads out"),
    "current": (added(f"{IN_SCORE}/./evil"), "leads out"),
    "link": (added(f"{IN_SCORE}/link", stat.S_IFLNK | 0o777), "a link, a device or a folder"),
    "device": (added(f"{IN_SCORE}/zero", stat.S_IFCHR | 0o666), "a link, a device or a folder"),
    "pipe": (added(f"{IN_SCORE}/pipe", stat.S_IFIFO | 0o666), "a link, a device or a folder"),
    "folder": (added(f"{IN_SCORE}/folder", stat.S_IFDIR | 0o777), "a link, a device or a folder"),
    "folder by name": (added(f"{IN_SCORE}/folder/"), "leads out"),
    "file and folder": (added(f"{IN_SCORE}/rows.json/x"), "as a file and as a folder"),
    "elsewhere": (added("STORE.json"), "no place in a pack"),
    "other shard": (added(f"objects/00/{SCORE}/x"), "no place in a pack"),
    "control": (added(f"{IN_SCORE}/a\x1b[2J"), "control characters"),
    "long": (added(f"{IN_SCORE}/{'a' * 2000}"), "characters"),
    "another object": (added(f"{place('0' * 64)}/rows.json"), "other objects"),
    "another file": (added(f"{IN_SCORE}/more.json"), "other files"),
    "another note": (added(f"incompatible/{'0' * 64}.json"), "other notes"),
    "no contents": (lambda entries: entries.pop(entry(entries, ABOUT)), "holds no PACK.json"),
    "object gone": (
        lambda entries: [
            entries.pop(info) for info in list(entries) if info.filename.startswith(IN_SCORE)
        ],
        "other objects",
    ),
    "file gone": (
        lambda entries: entries.pop(entry(entries, f"{IN_SCORE}/rows.json")),
        "other files",
    ),
    "other format": (
        lambda entries: entries.update({entry(entries, ABOUT): b'{"format": 2}'}),
        "format 2",
    ),
    "no table": (lambda entries: entries.update({entry(entries, ABOUT): b"[]"}), "JSON object"),
    "nested": (
        lambda entries: entries.update({entry(entries, ABOUT): b"[" * 100_000}),
        "not as it should be",
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_pack_of_another_form_is_refused_before_anything_is_written(
    case: str, store: Store, other: Store
) -> None:
    change, said = FORMS[case]
    tampered = rewritten(packed(store), change)
    with pytest.raises(PackError, match=said) as raised:
        merged(tampered, other)
    assert str(tampered) in str(raised.value)
    assert contents(other) == {}
    assert leftovers(other) == []
    assert not list(other.root.parent.rglob("evil*"))


def test_a_name_twice_is_refused(store: Store, other: Store) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        tampered = rewritten(packed(store), twice)
    with pytest.raises(PackError, match="twice"):
        merged(tampered, other)
    assert contents(other) == {}


def test_a_compressed_entry_is_refused_as_it_may_be_a_bomb(store: Store, other: Store) -> None:
    def bomb(entries: Entries) -> None:
        info = entry(entries, f"{place(VICTIM)}/model.safetensors")
        info.compress_type = zipfile.ZIP_DEFLATED
        entries[info] = b"\0" * 100_000_000

    tampered = rewritten(packed(store), bomb)
    assert tampered.stat().st_size < 1_000_000
    with pytest.raises(PackError, match="compressed"):
        merged(tampered, other)


def test_entries_in_one_place_are_refused(store: Store, other: Store) -> None:
    """As in a bomb whose files are all the same bytes of the archive."""
    path = packed(store)
    with zipfile.ZipFile(path) as archive:
        big = archive.getinfo(f"{place(VICTIM)}/model.safetensors")
        truth = archive.getinfo(f"{place(VICTIM)}/deep/truth.json")
    data = bytearray(path.read_bytes())
    old = truth.header_offset.to_bytes(4, "little")
    at = data.rfind(b"deep/truth.json") - len(f"{place(VICTIM)}/") - 46
    assert data[at : at + 4] == b"PK\1\2"
    assert data[at + 42 : at + 46] == old
    data[at + 42 : at + 46] = big.header_offset.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(PackError, match="in the same place"):
        merged(path, other)


def test_a_name_with_a_null_character_is_refused(store: Store, other: Store) -> None:
    tampered = rewritten(packed(store), added(f"{IN_SCORE}/evil#x"))
    tampered.write_bytes(tampered.read_bytes().replace(b"evil#x", b"evil\0x"))
    with pytest.raises(PackError, match="leads out"):
        merged(tampered, other)


def test_an_encrypted_entry_is_refused(store: Store, other: Store) -> None:
    path = packed(store)
    data = bytearray(path.read_bytes())
    data[data.rfind(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(PackError, match="encrypted"):
        merged(path, other)


@pytest.mark.parametrize("what", ["fifo", "folder", "socket"])
def test_what_is_no_file_is_no_pack(what: str, tmp_path: Path) -> None:
    make_special(tmp_path / "special", what)
    with pytest.raises(PackError, match="special"), unpacking.opened(tmp_path / "special"):
        pass
    with pytest.raises(PackError, match="No such file"), unpacking.opened(tmp_path / "none"):
        pass


def test_any_damage_of_a_pack_is_told_and_leaves_whole_objects_only(
    store: Store, tmp_path: Path
) -> None:
    data = packed(store, choose=is_small).read_bytes()
    whole = contents(store)
    draw = random.Random(0)
    for number in range(300):
        spoilt = bytearray(data)
        for _ in range(draw.choice((1, 1, 4))):
            spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
        if number % 10 == 0:
            del spoilt[draw.randrange(len(spoilt)) :]
        path = tmp_path / "spoilt.zip"
        path.write_bytes(spoilt)
        target = Store(tmp_path / "target")
        with contextlib.suppress(PackError):
            merged(path, target)
        for name, content in contents(target).items():
            if not name.endswith((LOG, partial.LEFT_OUT)):
                assert content == whole[name]
        assert leftovers(target) == []
        shutil.rmtree(target.root)


# --- objects that are not what they say -----------------------------------------------------------


def forged(**changes: Any) -> Callable[[Entries], None]:
    """Write the manifest of the score anew, sealed, with other members."""

    def change(entries: Entries) -> None:
        info = entry(entries, f"{IN_SCORE}/{MANIFEST}")
        manifest = Manifest.load(entries[info], SCORE)
        members = {
            "spec": manifest.spec,
            "code": manifest.code,
            "files": manifest.files,
            "parents": manifest.parents,
            "record": manifest.record,
        }
        entries[info] = dump(SCORE, **{**members, **changes})

    return change


def content(data: bytes) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        entries[entry(entries, f"{IN_SCORE}/rows.json")] = data

    return change


PARENT = {"model": {"key": VICTIM, "digest": "0" * 64}}
NO_SIZE = {"rows.json": {"size": -1, "sha256": "0" * 64}}
OUT = {"../rows.json": {"size": 1, "sha256": "0" * 64}}

OBJECTS: Mapping[str, tuple[Callable[[Entries], Any], str]] = {
    "content": (content(b'{"acc": 2}'), "not what its manifest.json describes"),
    "longer content": (content(b'{"acc": 1}' + b" " * 9), "not what its manifest.json describes"),
    "settings": (forged(spec=describe("other", {"model": VICTIM})), "not that of its settings"),
    "sources": (forged(code={**CODE, "more": "r1"}), "other sources"),
    "no parents": (forged(parents={}), "other inputs"),
    "odd parents": (forged(parents={"model": 1}), "no key and digest"),
    "no files": (forged(files={}), "lists no files"),
    "odd files": (forged(files={"rows.json": 1}), "without size"),
    "odd size": (forged(files=NO_SIZE), "without size"),
    "file outside": (forged(files=OUT), "no name of a file"),
    "odd code": (forged(code=[]), "no table"),
    "broken seal": (
        lambda entries: entries.update({entry(entries, f"{IN_SCORE}/{MANIFEST}"): b"{}"}),
        "truncated or altered",
    ),
    "no manifest": (
        lambda entries: entries.pop(entry(entries, f"{IN_SCORE}/{MANIFEST}")),
        "has no manifest.json",
    ),
    "left out, but there": (
        lambda entries: (
            added(f"{IN_SCORE}/{partial.LEFT_OUT}")(entries)
            or entries.update({list(entries)[-1]: b'["rows.json"]'})
        ),
        "not those that",
    ),
}


@pytest.mark.parametrize("case", OBJECTS)
def test_an_object_that_is_not_what_its_manifest_says_is_refused_alone(
    case: str, store: Store, other: Store
) -> None:
    change, said = OBJECTS[case]
    result = merged(rewritten(packed(store), change), other)
    assert result.added == [VICTIM]
    assert said in result.refused[SCORE]
    assert other.manifest(SCORE) is None
    assert leftovers(other) == []


def test_an_object_made_from_another_parent_is_left_out(store: Store, other: Store) -> None:
    result = merged(rewritten(packed(store), forged(parents=PARENT)), other)
    assert (result.added, result.unfit) == ([VICTIM], [SCORE])


def test_an_object_that_does_not_pass_examination_is_refused(store: Store, other: Store) -> None:
    def examine(manifest: Manifest, folder: Path) -> None:
        if (folder / "rows.json").is_file():
            raise ValueError("no rows")

    with unpacking.opened(packed(store)) as opened:
        result = merging.merge(opened, other, examine)
    assert result.refused == {SCORE: "no rows"}
    assert result.added == [VICTIM]


# --- killed in the middle -------------------------------------------------------------------------

DIE = """
import os, signal, sys
from pathlib import Path
from harness.store import merging, packs, unpacking
from harness.store.objects import Store
store, path, fatal = Store(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
step = 0
def counted(function):
    def call(*arguments, **options):
        global step
        step += 1
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
os.fsync, Path.rename, Path.replace = map(counted, (os.fsync, Path.rename, Path.replace))
if sys.argv[4] == "unpack":
    with unpacking.opened(path) as pack:
        merging.merge(pack, store, lambda manifest, folder: None)
else:
    packs.pack(path, store, list(store.keys()), bool, about={}, grid={}, incompatible={})
print(step)
"""


def die(store: Path, path: Path, step: int, verb: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DIE, str(store), str(path), str(step), verb],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_unpacking_that_is_killed_at_any_step_leaves_whole_objects_and_goes_on(
    store: Store, tmp_path: Path
) -> None:
    small, full = packed(store, "small.zip", is_small), packed(store)
    whole = contents(store)
    # From nothing, and from a store whose objects are completed.
    for prepared, path in ((None, full), (small, full)):
        start = tmp_path / "start"
        shutil.rmtree(start, ignore_errors=True)
        begun = Store(start)
        if prepared is not None:
            merged(prepared, begun)
        shutil.copytree(start, tmp_path / "counted", dirs_exist_ok=True)
        steps = int(die(tmp_path / "counted", path, 0, "unpack").stdout)
        shutil.rmtree(tmp_path / "counted")
        assert steps > 2
        for step in range(1, steps + 1):
            target = tmp_path / "target"
            shutil.copytree(start, target)
            assert die(target, path, step, "unpack").returncode == -signal.SIGKILL
            survivor = Store(target)
            for key in list(survivor.keys()):
                manifest = survivor.manifest(key)
                assert manifest is not None
                for name in manifest.files.keys() - manifest.absent:
                    survivor.read(manifest.key, name)
            merged(path, survivor)
            survivor.tidy()
            assert contents(survivor) == whole
            assert leftovers(survivor) == []
            shutil.rmtree(target)


def test_packing_that_is_killed_leaves_the_pack_that_was_there(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "pack.zip"
    path.write_bytes(b"earlier")
    steps = int(die(store.root, tmp_path / "counted.zip", 0, "pack").stdout)
    for step in range(1, steps + 1):
        assert die(store.root, path, step, "pack").returncode == -signal.SIGKILL
        assert path.read_bytes() == b"earlier"


def test_a_manifest_is_of_the_settings_that_make_its_key(store: Store) -> None:
    """What the forgeries above rest on: untampered manifests pass."""
    for key in KEYS:
        manifest = store.manifest(key)
        assert manifest is not None
        assert keys.digest(manifest.spec) == key
        assert json.loads(json.dumps(manifest.spec)) == manifest.spec
