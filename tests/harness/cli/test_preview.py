"""`bench preview`: which stages it takes, what is on the sheet, and what it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness import Task, grid
from harness.cli import main
from harness.outcomes import Outcome
from harness.plan.attacker import victim as victim_stage
from harness.plan.graph import Graph
from harness.preview import sheet, subjects
from harness.preview.sheet import Sheet, factor, plain, show, wrap
from harness.registry.discovery import discover
from harness.registry.memo import Memo
from harness.registry.resolve import Resolver
from harness.store.objects import Store
from tests.kit.command import Bench
from tests.kit.fake_plugins import install, registering
from tests.kit.one_child import answering

GRID = """
[[dataset]]
name = "signs"
train = 120
test = 60
[[model]]
name = "small-cnn"
width = 4
[[attack]]
name = "none"
[[attack]]
name = "badnets"
as = "patch"
label_map = "source-specific"
sources = [3]
target = 1
[[attack]]
name = "stripes"
[[attack]]
name = "wanet"
training.recipe = "signs"
[[attack]]
name = "clumsy"
[[defense]]
name = "none"
[training]
recipe = "signs"
epochs = 1
[[metric]]
name = "acc"
"""

STRIPES = """
import torch
from torch import nn
from harness import PoisoningAttack

class Stripes(PoisoningAttack):
    "Poisons training images otherwise than it triggers test images."
    clean_label = True
    eligible: str = "target"
    rate_of: str = "eligible"
    poison_rate: float = 0.5

    def trigger(self, task):
        return Lighter()

    def stamp(self, access, trigger, images, labels):
        return 255 - images

class Lighter(nn.Module):
    def forward(self, images):
        return torch.cat([images[..., :1] + 10 / 255, images[..., 1:]], 3).clamp(0, 1)

class Clumsy(Stripes):
    def craft(self, access, trigger):
        raise RuntimeError("it slipped")
"""

IMAGES = 4


@dataclass(frozen=True)
class Drawn:
    """A preview that was made, its panels by title, and the folder that it was made in."""

    folder: Path
    call: Any
    code: int
    said: str
    picture: Image.Image
    panels: Mapping[str, Mapping[str, Any]]

    def row(self, title: str, images: str, less: str = "", section: int = 0) -> np.ndarray:
        """The images of a row as they are on the sheet, in their own size: uint8 (n, height, width,
        3).
        """
        told = self.told(title, images, less, section)
        step = told["scale"]
        sheet = np.asarray(self.picture)
        large = [sheet[y : y + height, x : x + width] for x, y, width, height in told["boxes"]]
        small = [box[::step, ::step] for box in large]
        for box, image in zip(large, small, strict=True):
            assert (box == image.repeat(step, 0).repeat(step, 1)).all(), (
                "enlarged by repeating pixels"
            )
        return np.stack(small)

    def told(self, title: str, images: str, less: str = "", section: int = 0) -> Mapping[str, Any]:
        rows = self.panels[title]["sections"][section]["rows"]
        (found,) = [row for row in rows if (row["images"], row["less"]) == (images, less)]
        return dict(found)


@pytest.fixture(scope="module")
def drawn(
    bench: Bench, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Drawn:
    folder = tmp_path_factory.mktemp("preview")
    register = registering(
        'register.attack("stripes", "lab_attacks.stripes:Stripes"); '
        'register.attack("clumsy", "lab_attacks.stripes:Clumsy")'
    )
    install(
        folder / "site",
        "lab",
        {"lab_attacks/__init__": register, "lab_attacks/stripes": STRIPES},
        "lab_attacks",
    )
    path = os.pathsep.join([environment["PYTHONPATH"], str(folder / "site")])
    env = {"PYTHONPATH": path, "BENCH_CACHE": str(folder / "cache")}
    (folder / "grid.toml").write_text(GRID)

    def call(*words: object) -> Any:
        return bench(*words, cwd=folder, env=env)

    made = call("preview", "grid.toml", "--images", IMAGES)
    picture, panels = opened(folder / "preview.png")
    return Drawn(folder, call, made.returncode, made.stdout + made.stderr, picture, panels)


def opened(path: Path) -> tuple[Image.Image, dict[str, Any]]:
    """The picture, and what it says of its panels, by title."""
    picture = Image.open(path)
    picture.load()
    return picture.convert("RGB"), {
        panel["title"]: panel for panel in json.loads(picture.text["doorbench"])
    }


# --- what is on the sheet -------------------------------------------------------------------------


def test_every_attack_is_drawn_or_told_why_not(drawn: Drawn) -> None:
    assert list(drawn.panels) == ["patch on signs", "stripes on signs", "wanet on signs"]
    assert "none on signs: skipped: it has no trigger\n" in drawn.said
    why = "needs poison (clumsy), which failed: RuntimeError: it slipped, at /"
    assert f"clumsy on signs: blocked: {why}" in drawn.said
    assert "it slipped" in drawn.said
    assert "preview.png: 3 of 5 drawn\n" in drawn.said
    assert drawn.code == 1


def test_the_sheet_is_as_large_as_what_is_on_it(drawn: Drawn) -> None:
    rows = [
        row
        for panel in drawn.panels.values()
        for section in panel["sections"]
        for row in section["rows"]
    ]
    boxes = [box for row in rows for box in row["boxes"]]
    assert all(len(row["boxes"]) == IMAGES for row in rows)
    assert {tuple(box[2:]) for box in boxes} == {(96, 96)}  # 16 pixels, six times
    right, bottom = (
        max(x + width for x, _, width, _ in boxes),
        max(y + height for _, y, _, height in boxes),
    )
    assert drawn.picture.width == max(sheet.WIDTH, right + sheet.MARGIN)
    assert drawn.picture.height == bottom + sheet.GAP + sheet.MARGIN
    corners = sorted((y, x) for x, y, _, _ in boxes)
    for (y, x), (below, beside) in pairwise(corners):
        assert below >= y + 96 or beside >= x + 96, "no two overlap"


def test_triggered_images_differ_where_the_trigger_is(drawn: Drawn) -> None:
    clean, triggered = (drawn.row("patch on signs", name) for name in ("clean", "triggered"))
    block = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 255]])
    assert (triggered[:, -3:, -3:] == block[None, :, :, None]).all()
    assert (clean[:, -3:, -3:] != triggered[:, -3:, -3:]).any()
    clean[:, -3:, -3:] = triggered[:, -3:, -3:]
    assert (clean == triggered).all()


@pytest.mark.parametrize(
    ("title", "images", "less", "section"),
    [
        ("patch on signs", "triggered", "clean", 0),
        ("stripes on signs", "triggered", "clean", 0),
        ("stripes on signs", "poisoned", "original", 1),
    ],
)
def test_differences_are_what_their_caption_says(
    title: str, images: str, less: str, section: int, drawn: Drawn
) -> None:
    told = drawn.told(title, images, less, section)
    one, other = (drawn.row(title, name, section=section).astype(int) for name in (images, less))
    apart = np.abs(one - other)
    assert (drawn.row(title, images, less, section) == apart * told["factor"]).all()
    assert told["factor"] == 255 // apart.max()
    assert (
        f"x{told['factor']:g}\nat most {apart.max()} of 255 grey levels, {apart.mean():.3g} in the"
        in told["caption"]
    )


def test_test_images_are_those_of_the_data_set_with_attacked_classes_first(drawn: Drawn) -> None:
    from plugins.datasets.signs import Signs

    made = Signs(train=120, test=60).load()
    columns = drawn.panels["patch on signs"]["sections"][0]["columns"]
    assert columns[:2] == ["3 -> 1", "3 -> 1"]
    assert all(column.endswith(", spared") for column in columns[2:])
    assert len(set(columns)) == 3
    for image, column in zip(drawn.row("patch on signs", "clean"), columns, strict=True):
        same = (made.test_images == image).all((1, 2, 3))
        assert made.test_labels[same].tolist() == [int(column[0])]
    assert "class 3 of 10 -> 1" in drawn.said
    columns = drawn.panels["wanet on signs"]["sections"][0]["columns"]
    assert len(set(columns)) == 4
    assert columns == sorted(columns)


def test_training_images_are_shown_where_they_are_poisoned_otherwise(drawn: Drawn) -> None:
    counts = {title: len(panel["sections"]) for title, panel in drawn.panels.items()}
    assert [title for title, count in counts.items() if count == 2] == ["stripes on signs"]
    section = drawn.panels["stripes on signs"]["sections"][1]
    assert section["columns"] == ["0, kept"] * 4
    original, poisoned = (
        drawn.row("stripes on signs", name, section=1) for name in ("original", "poisoned")
    )
    assert (poisoned == 255 - original).all()
    stamped = original.astype(int)
    stamped[:, :, 0] = (stamped[:, :, 0] + 10).clip(max=255)
    beyond = np.abs(poisoned - stamped)
    assert (
        drawn.row("stripes on signs", "poisoned", "stamped", 1) == beyond * (255 // beyond.max())
    ).all()
    assert (
        f"  poisoned: difference from the triggered original x{255 // beyond.max()}, at most"
        in drawn.said
    )
    assert (
        "6 of 120 training images are poisoned, and keep their labels; not by the trigger"
        in drawn.said
    )


def test_again_it_makes_nothing_and_draws_the_same(drawn: Drawn) -> None:
    words = ["preview", "grid.toml", "--images", IMAGES, "-k", "not clumsy"]
    again = drawn.call(*words, "-o", "again.png")
    assert (again.returncode, again.stderr) == (0, "")
    made = Image.open(drawn.folder / "again.png").convert("RGB")
    assert made.tobytes() == drawn.picture.tobytes()


def test_an_attack_is_drawn_by_its_name(drawn: Drawn) -> None:
    words = ["--set", "pattern=white", "--set", "size=4", "--images", 2, "--amplify", 0.5]
    alone = drawn.call("preview", "badnets", *words, "--output", "alone.png")
    assert alone.returncode == 0, alone.stderr
    assert (
        'badnets[pattern="white",size=4], seed 0; 16x16, 3 channels; every class -> 0'
        in alone.stdout
    )
    made = Drawn(drawn.folder, drawn.call, 0, alone.stdout, *opened(drawn.folder / "alone.png"))
    clean, triggered = (
        made.row("badnets on signs", name).astype(int) for name in ("clean", "triggered")
    )
    assert (triggered[:, -4:, -4:] == 255).all()
    half = np.rint(np.abs(triggered - clean).astype(np.float32) * np.float32(0.5))
    assert (made.row("badnets on signs", "triggered", "clean") == half).all()


def test_a_trigger_that_training_may_change_is_said_to_be_of_before(drawn: Drawn) -> None:
    panel = drawn.panels["wanet on signs"]
    assert "BEFORE TRAINING" in panel["notes"][1]
    assert "BEFORE TRAINING" in drawn.said
    captions = [row["caption"].partition("\n")[0] for row in panel["sections"][0]["rows"]]
    assert captions[:2] + captions[3:4] == ["clean", "triggered", "variant noise"]
    stored = (drawn.folder / ".bench" / "objects").rglob("manifest.json")
    assert {json.loads(path.read_text())["spec"]["stage"] for path in stored} == {
        "data",
        "poison",
        "preview",
    }


# --- what it refuses ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder, while one child answers all questions about components."""
    with answering():
        yield tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """A working folder with a grid and something that is no picture."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_CACHE", str(cache))
    monkeypatch.delenv("BENCH_STORE", raising=False)
    (tmp_path / "grid.toml").write_text(
        GRID.replace('"stripes"', '"blend"').replace('"clumsy"', '"sig"')
    )
    (tmp_path / "words.png").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("badnet", 2, "unknown attack 'badnet'. Did you mean: badnets"),
        ("badnets --dataset sign", 2, "unknown dataset 'sign'. Did you mean: signs"),
        ("gird.toml", 2, "gird.toml: there is no such file\n    Did you mean: grid.toml?"),
        ("grid.toml -k patsch", 5, "no cell has 'patsch'. Did you mean: patch"),
        ("badnets -k patch", 2, "-k chooses cells of a grid"),
        ("grid.toml --set size=6", 2, "--set goes with the name of an attack"),
        ("grid.toml --dataset signs", 2, "--dataset goes with the name of an attack"),
        ("badnets --set size", 2, "KEY=VALUE is expected"),
        ("badnets --set size=3 --set size=6", 2, "--set cannot be read as keys of an [[attack]]"),
        ("badnets --set name=blend", 2, "the attack is named already"),
        ("badnets --images 0", 2, "--images"),
        ("badnets --images 101", 2, "at most 100"),
        ("badnets --amplify -1", 2, "--amplify"),
        ("badnets -o words.png", 2, "exists and is no PNG picture"),
        ("badnets -o sheet.jpg", 2, "a name that ends in .png"),
        ("badnets -o nowhere/sheet.png", 2, "there is no folder nowhere"),
    ],
)
def test_mistakes_cost_nothing(
    words: str, code: int, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    assert main(["preview", *words.split()]) == code
    assert said in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before
    assert (here / "words.png").read_text() == "no picture"


def test_settings_of_an_attack_are_checked_like_those_of_a_grid(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--set", "poison_rate=7", "--set", "pattern=checkered", "--set", "corner=four"]
    assert main(["preview", "badnets", *words]) == 2
    error = capsys.readouterr().err
    assert "preview badnets: poison_rate: 7 is not a number between 0 and 1" in error
    assert 'preview badnets: pattern: "checkered"' in error
    assert "preview badnets: corner: BadNets has no parameter 'corner'" in error


def test_where_nothing_has_a_trigger_there_is_nothing_to_draw(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, reason in (
        (["none"], "none on signs: skipped: it has no trigger"),
        (
            ["badnets", "--set", "target=10"],
            "badnets on signs: skipped: badnets: label 10 is no class of a task",
        ),
    ):
        assert main(["preview", *words]) == 5
        told = capsys.readouterr()
        assert reason in told.out
        assert "there is no trigger to draw" in told.err
    assert not (here / "preview.png").exists()


# --- which stages it takes ------------------------------------------------------------------------


def test_the_trigger_of_a_trained_victim_is_taken_where_there_is_one(here: Path) -> None:
    memo = Memo()
    resolver = Resolver(discover(memo), memo=memo)
    read = grid.read(here / "grid.toml")
    cells = grid.select(read.cells, "wanet or patch")
    store = Store(here / "store")

    def laid() -> tuple[Mapping[str, str], Sequence[subjects.Subject], Graph]:
        graph, found = subjects.choose(read, cells, resolver)
        plan = subjects.lay_out(graph, found, store, 8)
        to_run = {
            key: plan.stages[key].kind
            for key, outcome in plan.outcome.items()
            if outcome is Outcome.TO_RUN
        }
        return to_run, found, graph

    to_run, found, graph = laid()
    assert sorted(to_run.values()) == ["data", "poison", "poison", "preview", "preview"]
    assert [subject.trained for subject in found] == [False, False]
    (here / "made").mkdir()
    (here / "made" / "truth.json").write_text("{}")
    victim, before = victim_stage(graph, found[1].at).stage, found[1].stage
    store.commit(
        victim.key, here / "made", spec=victim.spec, code=victim.code, parents={}, record={}
    )
    to_run, found, _ = laid()
    assert list(to_run.values()).count("poison") == 1, "that of the patch"
    assert [subject.trained for subject in found] == [False, True]
    after = found[1].stage
    assert before is not None
    assert after is not None
    assert after.key != before.key
    facts = {"label_map": "every class -> 0", "notes": ["a note of the stage"], "sections": []}
    notes = subjects.panel_of(found[1], facts)["notes"]
    assert "for small-cnn" in notes[0]
    assert notes[0].endswith("; every class -> 0")
    assert "after training" in notes[1]
    assert notes[2:] == ["a note of the stage"]


# --- its parts ------------------------------------------------------------------------------------


@given(st.floats(min_value=0, max_value=2000, allow_subnormal=False))
def test_the_factor_is_the_largest_whole_one_that_cuts_nothing_off(largest: float) -> None:
    times = factor(largest)
    assert times == int(times)
    assert 1 <= times <= 255
    assert times == 1 or times * largest <= 255 + 1e-9
    assert times == 255 or largest == 0 or (times + 1) * largest > 255 - 1e-9


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([2, 2, 2], "every class -> 2"),
        ([1, 2, 0], "every class -> the next one"),
        ([-1, 0, -1], "class 1 of 3 -> 0"),
        ([-1, 0, 0, -1], "classes 1, 2 of 4 -> 0"),
        ([1, 0, -1], "classes 0, 1 of 3, each with a label of its own"),
        ([2, 0, 1], "every class, each with a label of its own"),
        ([2, 2, 0, 0], "every class -> one of 0, 2"),
        ([1, 0, -1, 1], "classes 0, 1, 3 of 4 -> one of 0, 1"),
        ([-1, -1], "no class is attacked"),
        ([0], "every class -> 0"),
    ],
)
def test_label_maps_in_words(table: Sequence[int], said: str) -> None:
    from harness.stages.preview import label_map

    assert label_map(table) == said


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40),
    st.booleans(),
)
def test_a_sample_holds_every_class_and_both_kinds(
    count: int, images: list[tuple[int, bool]], all_hit: bool
) -> None:
    from harness.stages.preview import sample

    labels = np.array([label for label, _ in images])
    attacked = (
        np.full(len(labels), True) if all_hit else labels % 2 == 0
    )  # whole classes are attacked or not
    rows = sample(labels, attacked, count, np.random.default_rng(0))
    assert len(rows) == len(set(rows.tolist())) == min(count, len(labels))
    hits = attacked[rows]
    assert sorted(hits, reverse=True) == hits.tolist(), "attacked ones first"
    if attacked.any() and count > 1 and not attacked.all():
        assert hits.any()
        assert not hits.all()
    for part in (labels[rows][hits], labels[rows][~hits]):
        assert sorted(part) == part.tolist()
    assert rows.tolist() == sample(labels, attacked, count, np.random.default_rng(0)).tolist()


def test_training_images_need_no_rows_where_test_images_show_the_same() -> None:
    import torch

    from harness.learn.images import ImageSet
    from harness.learn.poisoning import PoisonedSet, stamp
    from harness.stages.preview import training
    from plugins.attacks.badnets import BadNets

    attack, draw = BadNets(size=6), torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 8, 8, 1), generator=draw).to(torch.uint8)
    train, chosen = ImageSet(images, torch.arange(20) % 4), torch.arange(1, 20, 2)
    trigger = attack.trigger(Task("any", 4, 8, 8, 1, 20))
    stamped, zeros = stamp(trigger, images[chosen]), torch.zeros(10, dtype=torch.int64)

    def added(
        pixels: torch.Tensor, labels: torch.Tensor
    ) -> tuple[dict[str, Any], str, dict[str, torch.Tensor]] | None:
        poisoned = PoisonedSet(pixels, labels, chosen)
        return training(attack, trigger, train, poisoned, 4, np.random.default_rng(0))

    assert added(stamped, zeros) is None
    kept = added(stamped, train.labels[chosen])
    assert kept is not None
    section, note, tensors = kept
    assert note == "10 of 20 training images are poisoned, and keep their labels"
    assert all(column.endswith(", kept") for column in section["columns"])
    assert "stamped" not in {row["less"] for row in section["rows"]}
    assert (tensors["poisoned"] == tensors["stamped"]).all()
    other = added(stamped // 2, zeros)
    assert other is not None
    section, note, tensors = other
    assert note.startswith("10 of 20 training images are poisoned; not by the trigger")
    assert "stamped" in {row["less"] for row in section["rows"]}
    assert (tensors["poisoned"] - tensors["stamped"]).abs().max() > 100
    assert len(section["columns"]) == 4
    assert all(column in ("1 -> 0", "3 -> 0") for column in section["columns"])
    assert set(tensors) == {"original", "poisoned", "stamped"}


def test_levels_are_whole_where_a_trigger_changes_nothing() -> None:
    import torch
    from torch import nn

    from harness.components import Quantise
    from harness.stages.preview import levels
    from plugins.attacks.badnets import BadNets

    class Floats(BadNets):
        @property
        def test_quantise(self) -> Quantise:
            return "none"

    class Brighter(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images + self.by / 255

    images = torch.arange(256).to(torch.uint8).view(1, 16, 16, 1)
    for attack, by, wanted in (
        (BadNets(), 0.0, images.float()),
        (Floats(), 0.0, images.float()),
        (BadNets(), 0.5, images.float()),
        (Floats(), 0.5, images.float() + 0.5),
        (BadNets(quantise="round"), 0.7, (images.float() + 1).clamp(max=255)),
    ):
        assert torch.allclose(levels(attack, Brighter(by), images), wanted, atol=1e-4)
        if not by % 1 or attack.test_quantise != "none":
            assert (levels(attack, Brighter(by), images) % 1 == 0).all()
    with pytest.raises(ValueError, match="no finite numbers"):
        levels(Floats(), Brighter(float("nan")), images)


@pytest.mark.parametrize(
    ("height", "width", "channels", "scale"), [(32, 32, 3, 3), (28, 28, 1, 3), (8, 24, 3, 4)]
)
@pytest.mark.parametrize("count", [1, 12])
def test_images_of_any_size_are_drawn(
    height: int, width: int, channels: int, scale: int, count: int
) -> None:
    draw = np.random.default_rng(0)
    clean = draw.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    tensors = {"clean": clean, "triggered": clean.astype(np.float32) + 3.25}
    rows = [row("clean", "clean"), row("a caption of\nseveral lines", "triggered", "clean")]
    section = {"title": "images", "columns": ["12 -> 3"] * count, "rows": rows}
    made = Sheet(amplify=10.0)
    made.add({"title": "title", "notes": ["note " * 60], "sections": [section]}, tensors)
    picture = np.asarray(made.draw())
    for plan, told in zip(rows, made.contents[0]["sections"][0]["rows"], strict=True):
        images, caption, times = show(plan, tensors, 10.0)
        assert (told["scale"], told["caption"], told["factor"]) == (scale, caption, times)
        for image, (x, y, wide, high) in zip(images, told["boxes"], strict=True):
            assert (wide, high) == (width * scale, height * scale)
            assert (
                picture[y : y + high, x : x + wide] == image.repeat(scale, 0).repeat(scale, 1)
            ).all()
    assert images.max() == images.min() == 32  # 32.5, to even


def row(caption: str, images: str, less: str = "") -> dict[str, str]:
    return {"caption": caption, "images": images, "less": less}


def test_a_caption_says_what_a_factor_cuts_off() -> None:
    tensors = {
        "clean": np.zeros((1, 8, 8, 1), np.uint8),
        "triggered": np.full((1, 8, 8, 1), 30.0, np.float32),
    }
    difference = row("difference", "triggered", "clean")
    for amplify, times, cut in ((None, 8, False), (8.5, 8.5, False), (9.0, 9, True)):
        images, caption, chosen = show(difference, tensors, amplify)
        assert chosen == times
        assert caption.startswith(f"difference x{times:g}\nat most 30 of 255 grey levels, 30 in")
        assert caption.endswith("; cut off at white") == cut
        assert images.max() == min(255, round(30 * times))


def test_a_large_image_is_left_as_large_as_it_is() -> None:
    made = Sheet()
    section = {"title": "", "columns": ["0"], "rows": [row("clean", "clean")]}
    made.add(
        {"title": "title", "notes": [], "sections": [section]},
        {"clean": np.zeros((1, 224, 160, 3), np.uint8)},
    )
    assert list(made.contents[0]["sections"][0]["rows"][0]["boxes"][0][2:]) == [160, 224]


@given(st.text(max_size=60))
def test_any_text_can_be_drawn_in_lines_that_fit(text: str) -> None:
    lines = wrap(text, 10)
    assert all(len(line) <= 10 for line in lines)
    assert "".join("".join(lines).split()) == "".join(plain(text).split())
    assert all(32 <= ord(letter) < 127 for line in lines for letter in line)


def test_text_that_the_font_lacks_is_replaced() -> None:
    assert plain("Überraschung × 2") == "Uberraschung ? 2"


def test_what_is_on_a_sheet_is_json() -> None:
    made = Sheet()
    section = {"title": "c", "columns": ["0 -> 1"], "rows": [row("d", "clean")]}
    panel = {"title": "a", "notes": ["b"], "sections": [section], "stage": "e"}
    made.add(panel, {"clean": np.zeros((1, 8, 8, 3), np.uint8)})
    (told,) = json.loads(json.dumps(made.contents))
    del told["sections"][0]["rows"][0]["boxes"]
    shown = {**row("d", "clean"), "factor": 1.0, "scale": 12}
    assert told == {**panel, "sections": [{**section, "rows": [shown]}]}
