"""`bench cache`: what a store holds, what of it is damaged, and deleting what no grid needs."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest

from harness.store import disk
from harness.store.objects import Store
from tests.kit.command import Call, Ran
from tests.kit.damage import flip, truncate
from tests.kit.lineages import add, key_of

FOREIGN = key_of("foreign")
SIZE = 1_500_000


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def store(tiny_ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> Store:
    """A copy of the grid's store, with an object, a checkpoint, a failure, and damaged and
    abandoned work of another grid.
    """
    shutil.copytree(tiny_ran.store, tmp_path / "mine")
    monkeypatch.setenv("BENCH_STORE", "mine")
    store = Store(tmp_path / "mine")
    add(store, "foreign", {"model.safetensors": b"w" * SIZE})
    kept = tmp_path / "kept"
    kept.write_bytes(b"k" * SIZE)
    record = {"seconds": 1.0, "place": "epoch 1"}
    about = {"spec": {"stage": "victim"}, "code": {}, "parents": {}, "record": record}
    store.checkpoints.keep(key_of("unfinished"), {"state": kept}, **about)
    store.fail(key_of("failed"), {"status": "error", "kind": "defend", "message": "no"})
    store.set_aside(add(store, "damaged", {"a": b"b"}).key, "for a test")
    dead = disk.owned("dead").replace(f".{os.getpid()}.", ".99999999.")
    (store.root / "tmp" / dead).mkdir()
    (store.root / "tmp" / disk.owned("alive")).mkdir()
    return store


def held(store: Store) -> list[int]:
    """Count objects, checkpoints, failures and what is in `tmp/`."""
    tmp = list((store.root / "tmp").iterdir())
    return [len(list(store.keys())), len(store.checkpoints.held()), len(store.failed()), len(tmp)]


def test_sizes_are_told_by_kind_age_and_grid(call: Call, store: Store) -> None:
    day = 86_400
    path = store.folder(FOREIGN) / "manifest.json"
    os.utime(path, (path.stat().st_mtime - 100 * day,) * 2)
    code, said, _ = call("cache", "grid.toml")
    assert code == 0
    assert said.startswith(f"{store.root}: 13 objects, ")
    lines = {
        line.rsplit(maxsplit=3)[0]: line.rsplit(maxsplit=3)[1:]
        for line in said.splitlines()
        if line
    }
    assert lines["test"] == ["1", "1.5", "MB"]
    assert lines["victim"][0] == "1"
    assert lines["score"][0] == "2"
    assert lines["up to a day"][0] == "12"
    assert lines["older"] == ["1", "1.5", "MB"]
    assert lines["grid.toml"][0] == "12"
    assert lines["none of these"] == ["1", "1.5", "MB"]
    assert "checkpoints: 1 stage, 1.5 MB\nfailures: 1 note, " in said
    assert "tmp: 3 leftovers, " in said
    assert held(store) == [13, 1, 1, 3]
    assert call("cache")[1].count("none of these") == 0


def test_prune_keeps_what_the_grids_need(call: Call, store: Store) -> None:
    code, said, _ = call("cache", "prune", "grid.toml", "--yes")
    assert code == 0
    assert "1 object (1.5 MB), 1 checkpoint (1.5 MB), 1 failure (" in said
    assert "2 leftovers (" in said
    assert held(store) == [12, 0, 0, 1]
    assert call("report", "grid.toml")[0] == 0
    assert call("cache", "prune", "grid.toml")[:2] == (
        0,
        "there is nothing that these grids do not need\n",
    )


@pytest.mark.parametrize(
    ("answer", "deleted"),
    [("y\n", True), ("YES\n", True), ("\n", False), ("n\n", False), ("", False)],
)
def test_prune_asks(
    answer: str, deleted: bool, call: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    code, said, _ = call("cache", "prune", "grid.toml")
    assert code == 0
    assert said.index("do not need: 1 object") < said.index("Delete all of that?")
    assert ("nothing was deleted" in said) is not deleted
    assert held(store) == ([12, 0, 0, 1] if deleted else [13, 1, 1, 3])


def test_without_a_terminal_prune_refuses(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, said, errors = call("cache", "prune", "grid.toml")
    assert code == 2
    assert "do not need: 1 object" in said
    assert "no terminal to ask at. Say --yes" in errors
    assert held(store) == [13, 1, 1, 3]


def test_a_part_of_a_grid_keeps_its_part(call: Call, store: Store, tmp_path: Path) -> None:
    text = (tmp_path / "grid.toml").read_text()
    part = text.replace('[[defense]]\nname = "ft"\nepochs = 1\n', "")
    assert part != text
    (tmp_path / "part.toml").write_text(part)
    assert call("cache", "prune", "part.toml", "--yes")[0] == 0
    assert len(list(store.keys())) == 7
    assert call("report", "part.toml")[0] == 0


def test_nothing_is_deleted_while_a_run_of_another_grid_works(call: Call, store: Store) -> None:
    note = {"host": disk.host(), "pid": os.getpid(), "kind": "victim", "title": "wanet"}
    store.live(key_of("other"), note)
    code, said, errors = call("cache", "prune", "grid.toml", "--yes")
    assert (code, said) == (1, "")
    assert "works on victim (wanet), which is of none of these grids" in errors
    assert held(store) == [13, 1, 1, 3]
    # One that died, or one of a grid that is given, is no obstacle.
    store.live(key_of("other"), {**note, "pid": 99999999})
    needed = set(store.keys()) - {FOREIGN}
    store.live(min(needed), note)
    assert call("cache", "prune", "grid.toml", "--yes")[0] == 0
    assert held(store)[:3] == [12, 0, 0]


def test_what_is_locked_stays(call: Call, store: Store) -> None:
    with Store(store.root).lock(FOREIGN), Store(store.root).lock(key_of("unfinished")):
        code, said, _ = call("cache", "prune", "grid.toml", "--yes")
    assert code == 1
    assert "but for 2 stages in use" in said
    assert held(store) == [13, 1, 0, 1]


def test_verify_finds_every_damage_and_sets_it_aside(call: Call, store: Store) -> None:
    assert call("cache", "verify")[:2] == (0, "13 objects, 1 checkpoint: all are whole\n")
    flip(store.folder(FOREIGN) / "model.safetensors")
    (rows, other) = sorted(store.root.rglob("rows.json"))
    truncate(rows)
    (state,) = store.root.rglob("state")
    flip(state)
    code, said, _ = call("cache", "verify")
    assert code == 1
    assert "13 objects, 1 checkpoint: 3 damaged; the next run makes again what it needs" in said
    assert held(store) == [11, 0, 1, 5]  # set aside, or removed
    assert call("cache", "verify")[0] == 0
    assert other.is_file()


def test_a_checkpoint_that_is_being_written_is_not_looked_at(call: Call, store: Store) -> None:
    with Store(store.root).lock(key_of("unfinished")):
        code, said, _ = call("cache", "verify")
    assert (code, said) == (0, "13 objects, 0 checkpoints: all are whole\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["prune"], 2, "name the grids whose results stay"),
        (["prune", "--yes"], 2, "name the grids whose results stay"),
        (["verify", "--yes"], 2, "and nothing else"),
        (["verify", "grid.toml"], 2, "takes no grid"),
        (["--yes"], 2, "and nothing else"),
        (["none.toml"], 2, "none.toml"),
        (["prune", "grid.toml", "none.toml", "--yes"], 2, "none.toml"),
        (["--store", "nowhere"], 1, "there is no store"),
        (["prune", "grid.toml", "--yes", "--store", "nowhere"], 1, "there is no store"),
    ],
)
def test_mistakes_delete_nothing(
    words: list[str], code: int, said: str, call: Call, store: Store
) -> None:
    ended, output, errors = call("cache", *words)
    assert (ended, output) == (code, "")
    assert said in errors
    assert held(store) == [13, 1, 1, 3]
