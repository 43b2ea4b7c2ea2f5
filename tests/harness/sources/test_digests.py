from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BenchError, PluginError
from harness.sources import bless, locate
from harness.sources import text as source_text
from harness.sources.bless import review, unblessed
from harness.sources.digests import Sources, tracked
from harness.sources.locate import find
from tests.kit.places import ROOT

Write = Callable[[dict[str, str]], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Puts modules on sys.path; every one of them fails when it is imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\nraise SystemExit('imported')\n", encoding="utf-8")

    return put


# --- finding --------------------------------------------------------------------------------------


def test_modules_are_found_without_importing_their_packages(write: Write, tmp_path: Path) -> None:
    write(
        {
            "pack/__init__.py": "",
            "pack/deep/__init__.py": "",
            "pack/deep/end.py": "",
            "pack/space/end.py": "",
            "one.py": "",
        }
    )
    (tmp_path / "pack" / "not-a-name.py").touch()
    assert find("pack") == tmp_path / "pack" / "__init__.py"
    assert find("pack.deep.end") == tmp_path / "pack" / "deep" / "end.py"
    assert find("pack.space.end") == tmp_path / "pack" / "space" / "end.py"
    assert find("one") == tmp_path / "one.py"
    for name in (
        "pack.space",
        "pack.nothing",
        "nothing",
        "nothing.at.all",
        "one.inside",
        "sys",
        "",
        "a b",
        "pack..deep",
    ):
        assert find(name) is None, name
    assert locate.modules("pack") == ["pack", "pack.deep", "pack.deep.end", "pack.space.end"]
    assert locate.modules("one") == ["one"]
    assert locate.modules("nothing") == []
    assert not {"pack", "one", "pack.deep"} & sys.modules.keys()


def test_a_distribution_says_what_it_can_be_imported_as(write: Write, tmp_path: Path) -> None:
    for name, text, record in (
        ("told", "one\ntwo\n", ""),
        ("listed", None, "three/__init__.py,,\nfour.py,,\nlisted-1.dist-info/METADATA,,\n"),
    ):
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / "RECORD").write_text(record)
        if text:
            (folder / "top_level.txt").write_text(text)
    assert locate.top_levels("told") == ("one", "two")
    assert locate.top_levels("listed") == ("four", "three")
    assert locate.top_levels("absent") == ()


# --- what is reached ------------------------------------------------------------------------------


def test_imports_are_followed_however_they_are_written(write: Write) -> None:
    write(
        {
            "mine/__init__.py": "from . import initial",
            "mine/initial.py": "",
            "mine/method.py": (
                "import mine.plain as p\n"
                "from mine import submodule, no_module\n"
                "from .relative import thing\n"
                "from .deep import below\n"
                "def body():\n    import mine.late\n"
                "    class C:\n        from mine.later import x\n"
                "try:\n    import mine.tried\nexcept ImportError:\n    import mine.instead\n"
            ),
            **{
                f"mine/{name}.py": ""
                for name in ("plain", "submodule", "relative", "late", "later", "tried", "instead")
            },
            "mine/deep/__init__.py": "",
            "mine/deep/below.py": (
                "from ..above import x\nfrom .. import cousin\nfrom ....beyond import x"
            ),
            "mine/above.py": "import mine.method",
            "mine/cousin.py": "",
            "mine/unrelated.py": "",
        }
    )
    names = (
        "above cousin deep deep.below initial instead late later method plain relative submodule "
        "tried"
    )
    assert Sources().closure("mine.method") == {"mine", *(f"mine.{name}" for name in names.split())}


def test_imports_for_type_checkers_only_do_not_count(write: Write) -> None:
    write(
        {
            "one.py": (
                "import typing\nfrom typing import TYPE_CHECKING\n"
                "if TYPE_CHECKING:\n    import mine_a\nelse:\n    import one_else\n"
                "if typing.TYPE_CHECKING:\n    import mine_a\n"
            ),
            "mine_a.py": "",
            "one_else.py": "",
        }
    )
    assert Sources().closure("one", ["mine_a", "one_else"]) == {"one", "one_else"}


def test_other_distributions_are_not_followed_but_the_own_one_is(write: Write) -> None:
    write(
        {
            "mine.py": "import torch, json, cousin, stranger",
            "cousin.py": "import mine",
            "stranger.py": "",
        }
    )
    assert set(Sources().of("mine")) == {"mine"}
    assert set(Sources().of("mine", ["mine", "cousin"])) == {"mine", "cousin"}


@pytest.fixture
def project(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy of the project's layout, found before the real one."""
    write(
        {
            "harness/__init__.py": "",
            "harness/access/granted.py": (
                "from harness.learn import training\nfrom harness import store"
            ),
            "harness/access/seeds.py": "from harness.keys import canonical",
            "harness/keys.py": "",
            "harness/store/objects.py": "",
            "harness/learning.py": "",
            "harness/learn/__init__.py": "",
            "harness/learn/training.py": "import harness.access.seeds",
            "harness/learn/unused.py": "",
            "harness/stages/__init__.py": "",
            "harness/stages/victim.py": (
                "from harness.access.granted import Access\nimport harness.learning"
            ),
            "plugins/__init__.py": '"plugins.attacks.one:One"\n"plugins.attacks.two:Two"',
            "plugins/attacks/__init__.py": "",
            "plugins/attacks/one.py": (
                "from harness import Attack, store\nfrom plugins.parts.blend import blend"
            ),
            "plugins/attacks/two.py": "def implant():\n    from harness.learn.training import fit",
            "plugins/parts/__init__.py": "",
            "plugins/parts/blend.py": "import plugins",
            "outside.py": "from plugins.attacks import two",
        }
    )
    return tmp_path


def test_of_harness_only_the_rooms_that_move_numbers_count(project: Path) -> None:
    reached = Sources().closure
    rooms = {
        "harness.access.granted",
        "harness.learn",
        "harness.learn.training",
        "harness.access.seeds",
    }
    parts = {"plugins.parts", "plugins.parts.blend"}
    assert reached("plugins.attacks.one") == {"plugins.attacks", "plugins.attacks.one"} | parts
    two = {
        "plugins.attacks",
        "plugins.attacks.two",
        "harness.learn",
        "harness.learn.training",
        "harness.access.seeds",
    }
    assert reached("plugins.attacks.two") == two
    assert reached("harness.stages.victim") == {"harness.stages", "harness.stages.victim"} | rooms
    assert reached("outside") == {"outside"} | two
    assert reached("harness.store.objects") == {"harness.store.objects"}
    assert reached("plugins.attacks.none") == set()
    assert Sources().of("plugins.attacks.none") == {}


def test_what_the_package_exports_counts_as_imported_from_its_home() -> None:
    reached = Sources().closure("plugins.attacks.badnets")
    assert {"harness.components", "harness.components.attack", "harness.learn.poisoning"} <= reached
    assert not reached & {
        "harness",
        "harness.errors",
        "harness.hookspecs",
        "harness.access.granted",
    }


def test_a_change_shows_in_what_reaches_it_and_nowhere_else(project: Path) -> None:
    sources = Sources()
    one, two = sources.of("plugins.attacks.one"), sources.of("plugins.attacks.two")
    assert all(value.startswith("sha256:") and len(value) == 7 + 16 for value in one.values())
    path = project / "plugins" / "parts" / "blend.py"
    path.write_text("import plugins  # unchanged\n\nraise SystemExit('imported')\n")
    assert sources.of("plugins.attacks.one") == one
    path.write_text("import plugins.attacks.two")
    changed = sources.of("plugins.attacks.one")
    assert changed["plugins.parts.blend"] != one["plugins.parts.blend"]
    assert "harness.learn.training" in changed
    assert sources.of("plugins.attacks.two") == two


def test_a_file_that_is_no_python_still_has_a_digest(write: Write) -> None:
    write({"broken.py": "def broken(:", "nul.py": "\0"})
    assert Sources().of("broken").keys() == {"broken"}
    assert Sources().of("nul").keys() == {"nul"}


def test_what_was_learnt_of_a_text_is_kept_by_its_content(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo: dict[str, Any] = {}
    expected = Sources(memo).of("plugins.attacks.two")
    memo = json.loads(json.dumps(memo))

    def refuse(data: bytes) -> source_text.Text:
        raise AssertionError("read again")

    with monkeypatch.context() as patched:
        patched.setattr(source_text, "read", refuse)
        assert Sources(memo).of("plugins.attacks.two") == expected
    path = project / "plugins" / "attacks" / "two.py"
    status = path.stat()
    path.write_text(path.read_text().replace("implant", "implanT"))
    os.utime(
        path, ns=(status.st_atime_ns, status.st_mtime_ns)
    )  # same size, same time, as from an archive
    assert Sources(memo).of("plugins.attacks.two") != expected
    for name in memo:
        memo[name] = "spoilt"
    assert Sources(memo).of("plugins.attacks.two") != expected


def test_hundreds_of_components_are_cheap(project: Path) -> None:
    sources = Sources()
    sources.of("harness.stages.victim")
    start = time.perf_counter()
    for _ in range(500):
        sources.of("harness.stages.victim")
    assert time.perf_counter() - start < 1


# --- the blessed lists ----------------------------------------------------------------------------


def revisions(project: Path, package: str) -> dict[str, int]:
    table = json.loads((project / package / "blessed.json").read_text())
    return {name: entry["revision"] for name, entry in table.items()}


def test_new_modules_are_blessed_with_revision_one(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "plugins.attacks.one" in unblessed("plugins")
    assert "plugins" not in unblessed("plugins")
    assert tracked("harness") == [
        "harness.access.granted",
        "harness.access.seeds",
        "harness.learn",
        "harness.learn.training",
        "harness.learn.unused",
        "harness.stages",
        "harness.stages.victim",
    ]
    assert bless.main([]) == 0
    assert "new      plugins.attacks.one" in capsys.readouterr().out
    assert unblessed("plugins") == unblessed("harness") == []
    assert set(Sources().of("plugins.attacks.two").values()) == {"r1"}
    lines = (project / "plugins" / "blessed.json").read_text().splitlines()
    assert len(lines) == 2 + len(revisions(project, "plugins"))
    assert lines[1:-1] == sorted(lines[1:-1])
    assert set(Sources().of("outside").values()) > {"r1"}, (
        "a plain module has no list, so it stands by its digest"
    )


def test_each_changed_module_is_asked_about(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bless.main([])
    for name in ("harness/access/seeds", "plugins/parts/blend"):
        with (project / f"{name}.py").open("a") as stream:
            stream.write("x = 1\n")
    assert (unblessed("harness"), unblessed("plugins")) == (
        ["harness.access.seeds"],
        ["plugins.parts.blend"],
    )
    value = Sources().of("plugins.attacks.two")
    assert value["harness.access.seeds"].startswith("sha256:")
    assert value["harness.learn.training"] == "r1"

    capsys.readouterr()
    answers = iter(["what?", "Same", "c"])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert bless.main([]) == 0
    said = capsys.readouterr().out
    assert (
        "changed  harness.access.seeds, which reaches harness.stages.victim, plugins.attacks.two\n"
        in said
    )
    assert "changed  plugins.parts.blend, which reaches plugins.attacks.one\n" in said
    assert Sources().of("plugins.attacks.two")["harness.access.seeds"] == "r1"
    assert Sources().of("plugins.attacks.one")["plugins.parts.blend"] == "r2"


@pytest.mark.parametrize(("option", "revision"), [("--same", 1), ("--changed", 2)])
def test_a_script_answers_for_all(project: Path, option: str, revision: int) -> None:
    bless.main(["plugins"])
    (project / "plugins" / "attacks" / "one.py").write_text("x = 1\n")
    assert bless.main(["plugins", option]) == 0
    assert revisions(project, "plugins")["plugins.attacks.one"] == revision
    assert unblessed("plugins") == []


def test_a_module_that_is_gone_cannot_be_followed_by_another(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bless.main(["plugins"])
    path = project / "plugins" / "attacks" / "one.py"
    path.unlink()
    assert review("plugins", Sources()).gone == ["plugins.attacks.one"]
    assert bless.main(["plugins"]) == 0
    assert "gone     plugins.attacks.one" in capsys.readouterr().out
    path.write_text("another = 1\n")
    assert bless.main(["plugins", "--changed"]) == 0
    assert revisions(project, "plugins")["plugins.attacks.one"] == 2


def test_nothing_is_written_when_nobody_answers(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bless.main([])
    before = {path: path.read_bytes() for path in project.rglob("blessed.json")}
    (project / "harness" / "learn" / "fresh.py").write_text("")
    (project / "plugins" / "attacks" / "one.py").write_text("x = 1\n")

    def nobody(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    assert bless.main([]) == 2
    assert "--same or --changed" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in project.rglob("blessed.json")} == before


def test_what_cannot_be_blessed_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bless.main(["outside"]) == 2
    assert "no package 'outside' with a folder" in capsys.readouterr().err
    with pytest.raises(BenchError, match="no package 'nothing'"):
        unblessed("nothing")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"plugins.attacks.one": {"revision": "1", "digest": ""}}', '{"a": 1}']
)
def test_a_list_that_is_none_is_named(project: Path, text: str) -> None:
    path = project / "plugins" / "blessed.json"
    path.write_text(text)
    with pytest.raises(PluginError, match=r"plugins/blessed\.json: no list of blessed texts"):
        Sources().of("plugins.attacks.one")


def test_the_command_blesses_an_outside_package(write: Write, tmp_path: Path) -> None:
    write({"doors/__init__.py": '"doors.method:Method"', "doors/method.py": ""})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    command = [sys.executable, "-m", "harness.sources", "doors"]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("doors: 2 new, 0 changed, 0 gone\n")
    assert revisions(tmp_path, "doors") == {"doors": 1, "doors.method": 1}


def test_the_parent_learns_of_sources_without_importing_any() -> None:
    script = (
        "import sys\nfrom harness.sources.digests import Sources, tracked\n"
        "import harness.store.objects\nsources = Sources()\n"
        "for name in tracked('plugins') + tracked('harness'): sources.of(name)\n"
        "heavy = {'torch', 'pandas', 'numpy', 'plugins', 'harness.learn'}\n"
        "print(*sorted(heavy & sys.modules.keys()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout == "\n"


@pytest.mark.parametrize("package", ["harness", "plugins"])
def test_every_built_in_module_is_blessed(package: str) -> None:
    """Fails after an edit to a module that moves numbers: say with `make bless` whether it changed
    what they are.
    """
    assert unblessed(package) == []
