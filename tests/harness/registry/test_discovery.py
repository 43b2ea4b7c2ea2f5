from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import PluginError
from harness.introspect.register import Register
from harness.registry.discovery import check_neighbour, discover
from harness.registry.memo import Memo
from harness.registry.names import Registry
from tests.kit.fake_plugins import install, registering

GOOD = registering('register.defense("shrink", "good_plug:Shrink")')


@pytest.fixture(scope="module")
def memo(tmp_path_factory: pytest.TempPathFactory) -> Memo:
    """One memory for all tests: the built-in plugin is asked once, so that short time-outs are for
    the others only.
    """
    memo = Memo(tmp_path_factory.mktemp("memo"))
    assert not discover(memo).broken
    return memo


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def names(registry: Registry, kind: str) -> list[str]:
    return [entry.name for entry in registry.entries(kind)]


def test_the_built_ins_come_through_the_entry_point(memo: Memo) -> None:
    registry = discover(memo)
    found = registry.find("model", "small-cnn")
    assert (found.distribution, found.entry_point, found.target) == (
        "doorbench",
        "builtin",
        "plugins.models.small_cnn:SmallCNN",
    )
    assert "signs" in registry.recipes


def test_a_plugin_joins_the_built_ins(site: Path, memo: Memo) -> None:
    install(site, "good", {"good_plug": GOOD})
    registry = discover(memo)
    found = registry.find("defense", "shrink")
    assert (found.distribution, found.dist_version, found.entry_point) == (
        "good",
        "1.0",
        "plug-good",
    )
    assert not registry.broken
    assert "ft" in names(registry, "defense")


HOSTILE = {
    "raises on import": ("raise RuntimeError('boom')", r"RuntimeError: boom"),
    "does not import": (
        "import nothing_of_that_name",
        r"ModuleNotFoundError: No module named 'nothing_of_that_name'",
    ),
    "syntax error": ("def (", r"SyntaxError"),
    "leaves": ("import sys; sys.exit('bye')", r"called sys.exit\('bye'\)"),
    "dies": ("import os; os._exit(0)", r"ended itself \(exit status 0\)"),
    "is killed": ("import os; os.kill(os.getpid(), 9)", r"killed by signal 9 \(SIGKILL\)"),
    "raises in the hook": (registering("1 / 0"), r"ZeroDivisionError"),
    "has no hook": ("x = 1", r"bench_register is not there"),
    "forgot the mark": ("def bench_register(register): pass", r"is not marked with @hookimpl"),
    "wrong argument": (
        "from harness import hookimpl\n@hookimpl\ndef bench_register(thing): pass",
        r"thing",
    ),
    "unknown hook": (
        "from harness import hookimpl\n@hookimpl\ndef bench_registre(register): pass",
        r"bench_registre",
    ),
    "unknown kind": (registering('register.defence("x", "m:C")'), r"AttributeError.*defence"),
}


def test_hostile_plugins_are_listed_and_the_others_go_on(site: Path, memo: Memo) -> None:
    install(site, "good", {"good_plug": GOOD})
    for number, (text, _) in enumerate(HOSTILE.values()):
        install(site, f"bad{number}", {f"bad_plug{number}": text})
    registry = discover(memo)
    reasons = {broken.origin.distribution: broken.reason for broken in registry.broken}
    assert "shrink" in names(registry, "defense")
    assert "ft" in names(registry, "defense")
    assert set(reasons) == {f"bad{number}" for number in range(len(HOSTILE))}
    said = {title: reasons[f"bad{number}"] for number, title in enumerate(HOSTILE)}
    assert not {
        title: text for title, text in said.items() if not re.search(HOSTILE[title][1], text)
    }


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda register: register.attack("x", dict),
            r'attack \'x\': the target is .*"package.module:Class"',
        ),
        (lambda register: register.attack("x", "module.Class"), "the target is 'module.Class'"),
        (
            lambda register: register.attack("Bad_Name", "m:C"),
            "attack 'Bad_Name': a name is lower-case",
        ),
        (
            lambda register: [register.part("x", "m:C") for _ in "ab"],
            "part 'x' is registered twice",
        ),
        (lambda register: register.model("x", "m:C", argument="a b"), "argument = 'a b'"),
        (lambda register: register.recipe("fast", {"epoch": 3}), "(?s)recipe 'fast'.*epoch"),
        (lambda register: register.recipe("fast", {"epochs": object()}), "(?s)recipe 'fast'.*JSON"),
    ],
)
def test_what_register_refuses(call: Callable[[Register], object], expected: str) -> None:
    with pytest.raises(PluginError, match=expected):
        call(Register())


def test_a_broken_plugin_shows_its_traceback_and_what_it_printed(site: Path, memo: Memo) -> None:
    install(site, "raising", {"raising_plug": "def f():\n    raise RuntimeError('boom')\nf()"})
    install(
        site, "dying", {"dying_plug": "import os\nprint('last words', flush=True)\nos._exit(3)"}
    )
    broken = {one.origin.distribution: one for one in discover(memo).broken}
    assert 'raising_plug.py", line 2, in f' in broken["raising"].traceback
    assert "last words" in broken["dying"].traceback


def counting(count: Path, text: str) -> str:
    """Return the text of a module that counts how often it is imported, in `number`, and goes on
    with `text`.
    """
    return (
        "from pathlib import Path\n"
        f"count = Path({str(count)!r})\n"
        "count.open('a').write('x')\n"
        "number = len(count.read_text())\n"
        f"{text}\n"
    )


def test_a_hanging_plugin_is_asked_twice_and_not_remembered(
    site: Path, memo: Memo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = counting(tmp_path / "count", "import time; time.sleep(600)")
    install(site, "stuck", {"stuck_plug": text})
    assert [one.reason for one in discover(memo, timeout=1).broken] == ["did not finish within 3 s"]
    assert (
        "stuck_plug: did not finish within 1 s. It is asked again, alone, with 3 s" in caplog.text
    )
    assert len((tmp_path / "count").read_text()) == 2
    assert len(discover(memo, timeout=1).broken) == 1
    assert len((tmp_path / "count").read_text()) == 4
    (site / "stuck_plug.py").write_text(
        registering('register.defense("freed", "stuck_plug:Freed")')
    )
    assert "freed" in names(discover(memo), "defense")


MACHINES = {
    "killed": "import os; os.kill(os.getpid(), 9)",
    "terminated": "import os; os.kill(os.getpid(), 15)",
    "slow": "import time; time.sleep(2)",
    "leaves": "import os; os._exit(1)",
}
"""What a busy machine, or one that is short of memory, does to a child."""


@pytest.mark.parametrize("harm", MACHINES)
def test_one_mishap_in_discovery_breaks_no_plugin(
    site: Path, memo: Memo, tmp_path: Path, harm: str
) -> None:
    text = counting(tmp_path / "count", f"if number == 1:\n    {MACHINES[harm]}") + GOOD
    install(site, "good", {"good_plug": text})
    registry = discover(memo, timeout=1.5)
    assert not registry.broken
    assert "shrink" in names(registry, "defense")


def test_that_a_plugin_died_is_not_remembered(site: Path, memo: Memo, tmp_path: Path) -> None:
    text = counting(tmp_path / "count", f"if number <= 2:\n    {MACHINES['killed']}") + GOOD
    install(site, "good", {"good_plug": text})
    assert [one.reason for one in discover(memo).broken] == [
        "the process was killed by signal 9 (SIGKILL)"
    ]
    registry = discover(memo)
    assert not registry.broken
    assert "shrink" in names(registry, "defense")


def test_a_plugin_that_writes_its_own_answer(site: Path, memo: Memo) -> None:
    forging = """
        import json, os, sys
        reply = sys.argv[2]
        {how}
        os._exit(0)
    """
    ways = {
        "pipe": "os.remove(reply); os.mkfifo(reply)",
        "link": "os.remove(reply); os.symlink('/dev/zero', reply)",
        "deep": "open(reply, 'w').write('[' * 100000)",
        "list": "open(reply, 'w').write('[]')",
        "number": """open(reply, 'w').write('{"number": [0], "ok": {}}')""",
        "empty": """open(reply, 'w').write('{"number": 0, "ok": {}}')""",
        "wrong": """open(reply, 'w').write('{"number": 0, "ok": {"recipes": [1]}}')""",
    }
    for name, how in ways.items():
        install(site, f"forger-{name}", {f"forger_{name}": forging.format(how=how)})
    registry = discover(memo)
    assert {one.origin.distribution for one in registry.broken} == {
        f"forger-{name}" for name in ways
    }
    assert "ft" in names(registry, "defense")


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("end", ["time.sleep(600)", "raise ValueError"])
def test_what_a_broken_plugin_started_is_killed_too(
    site: Path, memo: Memo, end: str, own_session: bool
) -> None:
    text = f"""
        import subprocess, time
        child = subprocess.Popen(["sleep", "600"], start_new_session={own_session})
        open({str(site / "pid")!r}, "w").write(str(child.pid))
        {end}
    """
    install(site, "nest", {"nest_plug": text})
    assert len(discover(memo, timeout=2).broken) == 1
    pid = int((site / "pid").read_text())
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.02)
    else:
        os.kill(pid, 9)
        pytest.fail("the grandchild lives on")


def test_the_second_look_starts_no_child(
    site: Path, memo: Memo, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "good", {"good_plug": GOOD})
    first = names(discover(memo), "defense")
    monkeypatch.setattr(
        "harness.registry.ask.subprocess.Popen", lambda *_, **__: pytest.fail("a child was started")
    )
    assert names(discover(memo), "defense") == first


def test_a_change_of_any_module_that_registering_loads_is_noticed(site: Path, memo: Memo) -> None:
    text = "from .names import NAME\n" + registering('register.defense(NAME, "pack.body:Shrink")')
    install(site, "pack", {"pack/__init__": text, "pack/names": "NAME = 'before'"}, entry="pack")
    assert "before" in names(discover(memo), "defense")
    (site / "pack" / "names.py").write_text("NAME = 'afterwards'")
    assert "afterwards" in names(discover(memo), "defense")


def test_a_slow_module_is_named(site: Path, memo: Memo, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "slow", {"slow_plug": "import time; time.sleep(0.5)\n" + GOOD})
    with caplog.at_level(logging.WARNING):
        assert "shrink" in names(discover(memo), "defense")
    assert "slow 1.0 (entry point 'plug-slow') takes" in caplog.text


def test_a_collision_with_a_built_in_is_seen(site: Path, memo: Memo) -> None:
    install(site, "thief", {"thief_plug": registering('register.defense("ft", "thief_plug:Mine")')})
    registry = discover(memo)
    with pytest.raises(PluginError, match=r"'ft' is registered by doorbench .* and by thief 1\.0"):
        registry.find("defense", "ft")
    assert "nad" in names(registry, "defense")


def test_another_folder_called_plugins_is_refused(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(
        sys.modules, "plugins", raising=False
    )  # a package that was imported is where it was found
    (site / "plugins").mkdir()
    (site / "plugins" / "__init__.py").touch()
    with pytest.raises(
        PluginError,
        match=rf"finds {site / 'plugins'}, where the built-in methods in .*plugins are expected",
    ):
        check_neighbour()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"question": 1}', "[" * 100_000])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, damage: str) -> None:
    memo = Memo(tmp_path)
    memo.put("question", {"answer": 1}, valid_for=(1, 2))
    assert memo.get("question", valid_for=(1, 2)) == {"answer": 1}
    assert memo.get("question", valid_for=(1, 3)) is None
    for file in tmp_path.rglob("*.json"):
        file.write_text(damage)
    assert memo.get("question", valid_for=(1, 2)) is None


def test_a_memory_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    memo = Memo(tmp_path / "file" / "folder")
    memo.put("question", 1)
    assert memo.get("question") is None


def test_a_memory_notices_changed_files(tmp_path: Path) -> None:
    from harness.environment import file_state

    data = tmp_path / "data.bin"
    data.write_bytes(b"one")
    memo = Memo(tmp_path / "memo")
    memo.put("question", 1, files={str(data): file_state(data)})
    assert memo.get("question") == 1
    data.write_bytes(b"three")
    assert memo.get("question") is None
