"""`bench pack` and `bench unpack`: a colleague goes on where somebody else has been."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from harness.store.manifest import MANIFEST, Manifest, dump
from harness.store.objects import Store
from tests.kit.command import Bench, Call, Ran
from tests.kit.damage import flip, truncate
from tests.kit.zips import Entries, rewritten

RESULTS = "results, no weights and no images"


def files(store: Path) -> dict[str, bytes]:
    top = store / "objects"
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*.*")}


def test_a_colleague_finds_everything_cached(
    call: Call, bench: Bench, tiny_ran: Ran, tmp_path: Path
) -> None:
    code, said, _ = call("pack", "grid.toml", "-o", "tiny.zip")
    assert code == 0
    assert said.startswith("tiny.zip: 2 of 2 cells, 12 objects, ")
    assert said.endswith(f"; {RESULTS}\n")
    code, said, _ = call("unpack", "tiny.zip", "--store", "theirs")
    assert code == 0
    assert said.startswith("grid: 12 objects: 12 new, 0 there already\n")
    assert not list((tmp_path / "theirs").rglob("*.safetensors"))
    result = bench("run", "grid.toml", "--store", "theirs", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2 cells, 0 to run, 3 cached" in result.stderr
    assert result.stdout == tiny_ran.result.stdout
    for more in ((), ("--costs",)):
        here = call("report", "grid.toml", "--store", "theirs", *more)
        assert here == call("report", "grid.toml", *more)
    code, said, _ = call("unpack", "tiny.zip", "--store", "theirs")
    assert (code, said.splitlines()[0]) == (0, "grid: 12 objects: 0 new, 12 there already")


def test_weights_and_images_come_on_request(call: Call, tiny_ran: Ran, tmp_path: Path) -> None:
    held = {}
    for option in ("", "--weights", "--all"):
        assert call("pack", "grid.toml", "-o", "tiny.zip", *option.split())[0] == 0
        assert call("unpack", "tiny.zip", "--store", f"theirs{option}")[0] == 0
        held[option] = {Path(name).name for name in files(tmp_path / f"theirs{option}")}
    assert held["--weights"] - held[""] == {"model.safetensors", "trigger.safetensors"}
    assert {"train.safetensors", "stream.npy", "answers.safetensors"} <= held["--all"]
    assert files(tmp_path / "theirs--all") == files(tiny_ran.store)
    # The larger pack completes what came with the smaller one.
    code, said, _ = call("unpack", "tiny.zip", "--store", "theirs")
    assert code == 0
    assert "0 new, 10 completed, 2 there already" in said
    assert files(tmp_path / "theirs") == files(tiny_ran.store)


def test_what_needs_what_was_left_out_makes_it_again(
    call: Call, bench: Bench, tmp_path: Path
) -> None:
    """With a metric that measures models, or a defense, the colleague's store lacks the weights."""
    call("pack", "grid.toml", "-o", "tiny.zip")
    call("unpack", "tiny.zip", "--store", "theirs")
    more = '\n[[metric]]\nname = "weight-norm"\n'
    (tmp_path / "more.toml").write_text((tmp_path / "grid.toml").read_text() + more)
    plan = bench("plan", "more.toml", "--store", "theirs", cwd=tmp_path)
    assert "left out of the pack that it came in: model.safetensors" in plan.stdout
    table, _, _ = plan.stdout.partition("\n\nto run")
    kinds = {line.split()[0]: line.split()[1:3] for line in table.splitlines() if line}
    # Cached and to run: two measures, the defense, and the victim with all that it is made from.
    assert kinds["score"] == ["2", "0"]
    assert kinds["measure"] == ["0", "2"]
    for kind in ("data", "poison", "victim", "grant", "defend"):
        assert kinds[kind] == ["0", "1"]
    result = bench("run", "more.toml", "--store", "theirs", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "cannot be used: left out" not in result.stderr
    plan = bench("plan", "more.toml", "--store", "theirs", cwd=tmp_path)
    assert "2 cells: 2 complete" in plan.stdout


def test_a_pack_of_a_part_of_the_grid_says_so(call: Call, tiny_ran: Ran, tmp_path: Path) -> None:
    code, said, _ = call("pack", "grid.toml", "-o", "part.zip", "-k", "none")
    assert (code, said[:25]) == (0, "part.zip: 1 of 1 cell, 7 ")
    shutil.copytree(tiny_ran.store, tmp_path / "damaged")
    (result,) = (tmp_path / "damaged").rglob("result.json")
    flip(result)
    code, said, errors = call("pack", "grid.toml", "-o", "part.zip", "--store", "damaged")
    assert code == 1
    assert said.startswith("part.zip: 1 of 2 cells, 11 objects")
    assert "not in the store, or not whole" in errors


def test_the_grid_is_in_the_pack_with_what_it_extends(call: Call, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "paper.toml").write_text('extends = "../grid.toml"\ntitle = "Paper"\n')
    assert call("pack", "below/paper.toml", "-o", "paper.zip")[0] == 0
    with zipfile.ZipFile("paper.zip") as archive:
        archive.extractall("out")
        about = json.loads(archive.read("PACK.json"))
    assert about["title"] == "Paper"
    assert len(about["cells"]) == 2
    _, said, _ = call("unpack", "paper.zip", "--store", "theirs")
    assert said.startswith("Paper: 12 objects")
    assert "unzip paper.zip 'grid/*'" in said
    code, *_ = call("report", "out/grid/below/paper.toml", "--store", "theirs")
    assert code == 0


def test_what_is_no_result_is_refused_and_the_rest_is_merged(
    call: Call, tiny_ran: Ran, tmp_path: Path
) -> None:
    """Rows that are none, under a manifest that describes them well."""
    call("pack", "grid.toml", "-o", "tiny.zip")
    spoilt = []

    def change(entries: Entries) -> None:
        rows = next(info for info in entries if info.filename.endswith("rows.json"))
        folder = rows.filename.removesuffix("/rows.json")
        about = next(info for info in entries if info.filename == f"{folder}/{MANIFEST}")
        key = Path(folder).name
        spoilt.append(key)
        entries[rows] = b'{"acc": {"": "high"}}'
        manifest = Manifest.load(entries[about], key)
        entry = {"size": len(entries[rows]), "sha256": hashlib.sha256(entries[rows]).hexdigest()}
        entries[about] = dump(
            key,
            spec=manifest.spec,
            code=manifest.code,
            files={"rows.json": entry},  # type: ignore[typeddict-item]
            parents=manifest.parents,
            record=manifest.record,
        )

    tampered = rewritten(tmp_path / "tiny.zip", change)
    code, said, errors = call("unpack", tampered, "--store", "theirs")
    assert code == 1
    assert "11 new" in said
    assert f"object {spoilt[0]}: refused, not as its manifest says: its rows.json" in errors


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["pack", "grid.toml"], 2, "-o"),
        (["pack", "grid.toml", "-o", "x.zip", "--all", "--weights"], 2, "not allowed with"),
        (["pack", "grid.toml", "-o", "nowhere/x.zip"], 2, "-o names a file in a folder"),
        (["pack", "grid.toml", "-o", "/dev/null"], 2, "is no plain file"),
        (["pack", "grid.toml", "-o", "/dev/full"], 2, "is no plain file"),
        (["pack", "grid.toml", "-o", "x.zip", "--store", "none"], 1, "there is no store"),
        (["pack", "grid.toml", "-o", "x.zip", "--store", "empty"], 1, "holds no result"),
        (["pack", "none.toml", "-o", "x.zip"], 2, "none.toml"),
        (["unpack"], 2, "FILE"),
        (["unpack", "none.zip"], 2, "Name a file that `bench pack` made"),
        (["unpack", "grid.toml"], 2, "is no pack, or not whole"),
        (["unpack", "plain.zip"], 2, "holds no PACK.json"),
        (["unpack", "half.zip"], 2, "is no pack, or not whole"),
    ],
)
def test_mistakes(
    words: list[str],
    code: int,
    said: str,
    call: Call,
    tmp_path: Path,
) -> None:
    Store(tmp_path / "empty")
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("a", "b")
    if "half.zip" in words:
        call("pack", "grid.toml", "-o", "half.zip")
        truncate(tmp_path / "half.zip")
    ended, output, errors = call(*words)
    assert (ended, said in errors) == (code, True), errors
    assert output == ""
    assert not (tmp_path / "x.zip").exists()
    assert not list(tmp_path.glob(".*partial"))
