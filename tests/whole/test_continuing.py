"""Every method that trains, stopped three times at random places, leaves what it leaves
undisturbed, bit by bit.

The stages of a small grid run in this process, each of its cells a line of `METHODS`. Loops of
which nothing is kept are found in the source, and are those of `AGAIN`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.continued import (
    Planner,
    at_random,
    boundaries,
    disturbed,
    keep_everything,
    stage_body,
)
from tests.kit.one_child import answering
from tests.kit.places import ROOT
from tests.kit.unkept_loops import unkept

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = """
seeds = [0]
[[dataset]]
name = "signs"
train = 300
test = 240
pool = 60
validation = 20
[[model]]
name = "small-cnn"
width = 8
[defender]
clean = 40
[training]
recipe = "signs"
epochs = 2
batch = 32
[[metric]]
name = "acc"
"""

DECODER = (
    'decoder.name = "deck-decoder"\ndecoder.count = 32\ndecoder.epochs = 1\n'
    "decoder.encoder_epochs = 1\n"
    'decoder.pictures = {name = "signs", train = 80, test = 20}'
)
METHODS = {
    "attack badnets": "",
    "attack deck-adaptive": (
        "z = 2\nsteps = 16\nbegin = 0.1\nbatch = 48\nof_pair = 4\nwarm_per_class = 1\n"
        "warm_epochs = 2\nfirst_epochs = 3\nagain_epochs = 2\nleast = 0.0\nlevel_rate = 20.0\n"
        f"{DECODER}"
    ),
    "attack dfst": (
        "per_class = 2\nepochs = 1\nrates = []\nlayers = 1\nneurons = 2\nseeds_per_class = 1\n"
        "watched_per_class = 2\nchecked_per_class = 2\ninjected_per_class = 1\n"
        "injector_steps = 4\nlikeness = -1\nflips = 0\nfactor = 0.0\n"
        "detox = 2\ndetox_epochs = 1\ndetox_rates = []\n"
        'style.name = "style-generator"\nstyle.per_class = 4\nstyle.epochs = 2\n'
        "style.batch = 8\nstyle.judge_width = 4"
    ),
    "attack iab": "stages = 1\nchannels = 2\nmask_epochs = 2",
    "attack invisible": (
        'encoder.name = "steganography"\nencoder.bits = 4\nencoder.resolution = 16\n'
        "encoder.epochs = 2\nencoder.secret_epochs = 1\nencoder.critic = 0.5\n"
        'encoder.secrets = "fresh"'
    ),
    "attack l0-invisible": 'pictures = 20\nsteps = 4\npixels = 80\nplace = "salient"',
    "attack l2-invisible": "pictures = 20\nsteps = 6",
    "attack lba": "steps = 8\nepochs = 1",
    "attack lc": (
        'steps = 2\npoison_rate = 1.0\neligible = "all"\n'
        'robust.name = "robust-model"\nrobust.preset = "fast"\nrobust.epochs = 1'
    ),
    "attack smooth": "pictures = 10\npasses = 3\nsteps = 40\ndeviation = 1\nflips = 1.0",
    "attack trojan-sq": "pictures = 20\nsteps = 6",
    "attack trojan-wm": "pictures = 20\nsteps = 6",
    "attack wanet": "",
    "defense ft": "epochs = 3\nbatch = 16",
    "defense mcr": 'epochs = 3\nepoch_images = 40\nt = "best"\nend.name = "ft"\nend.epochs = 2',
    "defense nc": (
        'unlearn = "always"\ntriggers.name = "universal-triggers"\ntriggers.steps = 12\n'
        'triggers.images = 40\ntriggers.batch = 20\ntriggers.start = "cost"\n'
        "triggers.patience = 1\ntriggers.stop = 3\ntriggers.bound = 0.1"
    ),
    # defenses
    "defense abl": (
        "isolation_epochs = 2\nepochs = 2\nunlearn_epochs = 2\nbatch = 100\nisolate = 0.1\n"
        "unlearn_lr = 1e-3"
    ),
    "defense abs": (
        "neurons = 3\nper_class = 1\nsteps = 15\nat_once = 6\ndissent = 9\nwindow = 4\n"
        'unlearn = "always"\nbatch = 20'
    ),
    "defense anp": 'iterations = 6\nbatch = 16\nprune = "accuracy"',
    "defense at": "steps = 2",
    "defense bcu": "epochs = 3\nbatch = 16",
    "defense deck": (
        "steps = 14\nbatch = 16\nof_pair = 3\nwarm_per_class = 1\nwarm_epochs = 2\nleast = 0.0\n"
        'first_epochs = 3\nagain_epochs = 2\ndecoder = {name = "deck-decoder", count = 32, '
        "epochs = 1, encoder_epochs = 1, "
        'pictures = {name = "signs", train = 80, test = 20}}'
    ),
    "defense dp-sgd": "epochs = 2\nbatch = 75\nat_once = 50\nnoise = 0.01\nclip = 8.0",
    "defense fine-pruning": "epochs = 3\nbatch = 16",
    "defense i-bau": "rounds = 5\nbatch = 10\nportion = 0.1\nshuffle = true",
    "defense k-arm": (
        "per_class = 2\nsteps = 30\nbatch = 10\nbound = 0.1\neverywhere = 1.0\ntogether = 0.1\n"
        "pair = 1.0"
    ),
    "defense long-training": "epochs = 3",
    "defense moth": (
        "steps = 15\nbatch = 16\nof_pair = 3\nfirst_steps = 4\nagain_steps = 3\nbound = 0.1\n"
        'triggers.name = "universal-triggers"\ntriggers.preset = "moth"\ntriggers.steps = 3\n'
        "triggers.per_class = 2"
    ),
    "defense nad": 'epochs = 3\nbatch = 16\nteacher.name = "ft"\nteacher.epochs = 2',
    "defense trap-replace": "epochs = 2\nhead_epochs = 2\ncutmix = 0.5",
    "defense uap": "alternate = true",
    # metrics
    "metric class-distance": (
        f"images = 4\nbatch = 4\nepochs = 4\nsearches = 2\npairs = 2\nlevel_rate = 20.0\n{DECODER}"
    ),
    "metric class-distance by moth": (
        'backdoor = "moth"\nimages = 4\nbatch = 4\nepochs = 6\nsearches = 2\npairs = 2\nbound = 0.1'
    ),
    "metric robustness": 'split = "test"\nsteps = 2',
}
"""Entries of a grid, each by its kind, its name and what else tells it apart, with settings that
make it short.

Parts are disturbed with the methods that use them: `clean-model` with `dfst` and `lba`.
"""

PASS = "one pass over images, without gradients"
STEP = "within a step of `fit`"
AGAIN = {
    "plugins.attacks.dfst: sums": PASS,
    "plugins.attacks.lba: LBA._target_features": PASS,
    "plugins.attacks.smooth: Smooth._deepfool": "for one image",
    "plugins.defenses.abl: image_losses": PASS,
    "plugins.defenses.fine_pruning: affordable": "the last layer alone",
    "plugins.defenses.fine_pruning: responses": PASS,
    "plugins.defenses.i_bau: IBAU._perturbation": "within a round, which is kept",
    "plugins.defenses.trap_replace: reconstruction_error": PASS,
    "plugins.metrics.nc1: answers": PASS,
    "plugins.parts.batchnorm: refresh": PASS,
    "plugins.parts.pgd: pgd": STEP,
    "plugins.parts.style_generator: Game.play": STEP,
}
"""Functions with loops that are short enough to be run again, with the reason."""

MAKING = ("data", "poison", "victim", "export", "part", "grant", "defend", "measure")
"""Stage kinds that make something, or judge it by long work; the others judge it."""


def grid_of(method: str) -> str:
    kind, name, *_ = method.split()
    entry = f'[[{kind}]]\nname = "{name}"\n{METHODS[method]}\n'
    if kind == "metric":
        return f'{GRID}{entry}[[attack]]\nname = "none"\n[[defense]]\nname = "none"\n'
    if kind == "attack":
        return f'{GRID}{entry}[[defense]]\nname = "none"\n'
    return f'{GRID}[[attack]]\nname = "badnets"\npoison_rate = 0.1\n{entry}'


class Bench:
    """The stages of one method after another; what several of them have in common is made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.planner = Planner(folder)
        self.made: dict[str, Path] = {}

    def check(self, method: str) -> int:
        """Disturb the stages of a method that train; return the number of places at which they
        could be stopped.
        """
        stopped = 0
        for stage in self.planner.stages(grid_of(method)):
            if stage.kind not in MAKING or stage.key in self.made:
                continue
            folder = self.folder / f"{len(self.made)}-{stage.kind}"
            undisturbed = folder / "undisturbed"
            left, count = boundaries(stage_body(stage, self.made, undisturbed), folder / "counted")
            self.made[stage.key] = undisturbed / "out"
            if count:
                stopped += count
                again = stage_body(stage, self.made, folder / "again")
                places = at_random(count, seed=count)
                found = disturbed(again, folder / "attempts", places)
                assert found == left, f"{stage.kind}, stopped at {places} of {count}"
        return stopped


@pytest.fixture(scope="module")
def bench_of_methods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with answering():
        yield Bench(tmp_path_factory.mktemp("methods"))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_goes_on_to_the_same_bits(
    method: str, bench_of_methods: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_everything(monkeypatch)
    assert bench_of_methods.check(method) > 0, "nothing of it was kept"


def test_the_list_of_loops_of_which_nothing_is_kept_is_right() -> None:
    found = set()
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for function in unkept(path):
            found.add(f"{module}: {function}")
    assert found == AGAIN.keys()


LOOPS = """
class Method:
    def kept(self, access):
        steps = access.steps(5)
        for _ in steps:
            for batch in batches:
                access.tick()

    def around(self, access):
        for corner in corners:
            for _ in self.access.steps(5):
                loss.backward()

    def bare(self, access):
        for batch in batches:
            access.tick(len(batch))

    def without_a_clock(self, access):
        for _ in self.steps(5):
            torch.autograd.grad(loss, weights)

    def hook(self, access):
        def loss(model, batch):
            while True:
                value.backward()
        for name in names:
            fits.append(loss)
"""


def test_loops_of_which_nothing_is_kept_are_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(LOOPS)
    assert unkept(module) == ["Method.bare", "Method.without_a_clock", "Method.hook.loss"]
