"""Tensors, generators and steps on a GPU, which no other test sees. It is played by the CPU, in
whose arithmetic.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harness import Task
from harness.components import Model, load_component
from harness.components.spec import ComponentSpec
from harness.keeping.continuing import Continuing
from harness.keeping.loops import Kept
from harness.learn.device import seeded_build
from harness.learn.hooks import Batch, Hooks
from harness.learn.images import ImageSet
from harness.learn.poisoning import stamping_hook
from harness.learn.recipes import Recipe
from harness.learn.stepping import WAITED, CUDARecorder, waits
from harness.learn.training import History, fit
from tests.kit.continued import boundaries, disturbed, keep_everything
from tests.kit.fake_plugins import boxed
from tests.kit.places import ROOT
from tests.kit.played_gpu import Far, playing, rounding
from tests.kit.training import LONG, network, pictures, streams

pytestmark = [
    pytest.mark.long,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU"),
]

GRID = """
seeds = [0]
[[dataset]]
name = "signs"
train = 200
test = 60
pool = 60
classes = 4
[[model]]
name = "small-cnn"
width = 8
[defender]
clean = 60
[training]
recipe = "signs"
epochs = 2
batch = 32
[[attack]]
name = "none"
[[attack]]
name = "badnets"
[[attack]]
name = "blend"
when = "after-augment"
[[attack]]
name = "deck-adaptive"
z = 2
steps = 6
begin = 0.1
batch = 16
of_pair = 2
warm_per_class = 1
warm_epochs = 1
first_epochs = 1
again_epochs = 1
least = 0.0
[attack.decoder]
name = "deck-decoder"
count = 16
epochs = 1
encoder_epochs = 1
pictures = {name = "signs", train = 40, test = 10}
[[attack]]
name = "dfst"
per_class = 4
epochs = 2
rates = []
style = {name = "style-generator", per_class = 4, epochs = 1, batch = 8, judge_width = 4}
layers = 1
seeds_per_class = 1
watched_per_class = 4
checked_per_class = 4
injected_per_class = 4
injector_steps = 2
likeness = -1
flips = 0
factor = 0.0
detox_epochs = 1
detox_rates = []
[[attack]]
name = "filter"
[[attack]]
name = "iab"
stages = 1
channels = 2
mask_epochs = 1
[[attack]]
name = "invisible"
encoder = {name = "steganography", bits = 4, resolution = 16, epochs = 1, secret_epochs = 1}
[[attack]]
name = "l0-invisible"
steps = 3
pixels = 4
[[attack]]
name = "l2-invisible"
steps = 3
[[attack]]
name = "lba"
steps = 3
[[attack]]
name = "lc"
steps = 2
robust = {name = "robust-model", preset = "fast", epochs = 1}
[[attack]]
name = "patch"
picture = "picture.png"
mask = "picture.png"
[[attack]]
name = "sig"
[[attack]]
name = "smooth"
passes = 1
steps = 2
pictures = 10
deviation = 1
[[attack]]
name = "trojan-sq"
steps = 3
[[attack]]
name = "trojan-wm"
steps = 3
[[attack]]
name = "wanet"
[[defense]]
name = "none"
[[defense]]
name = "abl"
isolation_epochs = 1
epochs = 1
unlearn_epochs = 1
isolate = 0.1
[[defense]]
name = "abs"
steps = 2
[[defense]]
name = "anp"
iterations = 3
[[defense]]
name = "at"
steps = 1
[[defense]]
name = "bcu"
epochs = 1
[[defense]]
name = "deck"
steps = 12
batch = 16
of_pair = 3
warm_per_class = 1
warm_epochs = 1
first_epochs = 1
again_epochs = 1
least = 0.0
decoder = {name = "deck-decoder", count = 32, epochs = 1, encoder_epochs = 1}
[[defense]]
name = "dp-sgd"
epochs = 1
[[defense]]
name = "fine-pruning"
epochs = 1
[[defense]]
name = "ft"
epochs = 4
batch = 20
[[defense]]
name = "i-bau"
rounds = 1
portion = 0.1
terms = 2
[[defense]]
name = "k-arm"
steps = 3
[[defense]]
name = "long-training"
epochs = 2
[[defense]]
name = "mcr"
epochs = 1
[[defense]]
name = "moth"
steps = 4
batch = 16
first_steps = 2
again_steps = 1
triggers = {name = "universal-triggers", preset = "moth", steps = 2, per_class = 2}
[[defense]]
name = "nad"
epochs = 1
[[defense]]
name = "nc"
few = true
unlearn = "always"
triggers = {name = "universal-triggers", steps = 3}
[[defense]]
name = "trap-replace"
[[defense]]
name = "uap"
[[metric]]
name = "acc"
[[metric]]
name = "asr"
"""
SELECTED = "badnets or */none/0.0"
RECORDED = {"none", "blend", "badnets", "sig", "ft"}


# --- the player -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda a: a + torch.ones(3), "at least two devices, cuda:0 and cpu"),
        (lambda a: torch.cat([a, torch.ones(3)]), "at least two devices"),
        (lambda a: torch.ones(3)[a.long()], "indices should be either on cpu"),
        (lambda a: torch.zeros(()).add_(a.sum()), "at least two devices"),
        (
            lambda a: torch.rand(3, device="cuda", generator=torch.Generator()),
            "Expected a 'cuda' device type",
        ),
        (lambda a: torch.stack([a[0], torch.tensor(1.0)]), "at least two devices"),
        (
            lambda a: torch.randperm(3, generator=torch.Generator("cuda")),
            "Expected a 'cpu' device type",
        ),
        (
            lambda a: torch.ones(3).normal_(generator=torch.Generator("cuda")),
            "Expected a 'cpu' device type",
        ),
        (lambda a: a.pin_memory(), "cannot pin"),
        (lambda a: a.numpy(), "numpy"),
    ],
)
def test_what_cuda_refuses_is_refused(work: Callable[[Tensor], object], words: str) -> None:
    with playing(), pytest.raises((RuntimeError, TypeError), match=words):
        work(torch.zeros(3, device="cuda"))


def test_what_cuda_takes_is_taken() -> None:
    with playing():
        there = torch.arange(4.0).to("cuda")
        assert there.device == torch.device("cuda", 0)
        assert isinstance(there * 2 + torch.tensor(1.0), Far)
        assert there[torch.tensor([1, 2])].tolist() == there[[1, 2]].tolist() == [1.0, 2.0]
        assert there[there > 1].cpu().numpy().tolist() == [2.0, 3.0]
        drawn = [
            torch.rand(3, device="cuda", generator=torch.Generator("cuda").manual_seed(7))
            for _ in range(2)
        ]
        assert torch.equal(*drawn)
        assert torch.tensor([1, 2], device="cuda").is_cuda
        home = torch.empty(4)
        home.copy_(there)
        assert home.tolist() == [0.0, 1.0, 2.0, 3.0]
    with pytest.raises(RuntimeError, match="outlived"):
        there + 1


def test_parameters_stay_the_same_objects_on_their_way() -> None:
    with playing():
        layer = nn.Linear(2, 2)
        weight = layer.weight
        assert layer.to("cuda").weight is weight
        assert weight.is_cuda
        assert isinstance(weight, nn.Parameter)
        layer(torch.ones(1, 2, device="cuda")).sum().backward()
        assert weight.grad is not None
        assert weight.grad.is_cuda


def test_recording_computes_nothing_and_forbids_waits() -> None:
    with playing() as play:
        value, norm = torch.ones(2, device="cuda"), nn.BatchNorm1d(2).to("cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream("cuda")):
            doubled = value.mul_(2) + 1
            norm(torch.rand(4, 2, device="cuda"))
            with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
                float(value.sum())
            with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
                value + torch.ones(2).to("cuda")
        assert value.tolist() == [1.0, 1.0]
        assert norm.get_buffer("num_batches_tracked").tolist() == 0
        for _ in range(2):
            graph.replay()
        assert value.tolist() == [4.0, 4.0]
        assert doubled.tolist() == [5.0, 5.0]
        assert norm.get_buffer("num_batches_tracked").tolist() == play.replays == 2


# --- training -------------------------------------------------------------------------------------

DATA, RECIPE = pictures(), LONG


def trained(
    stepping: str,
    recipe: Recipe = RECIPE,
    device: str = "cuda",
    dropout: float = 0.0,
    net: nn.Module | None = None,
) -> tuple[dict[str, Tensor], History]:
    net = network(dropout) if net is None else net
    history = fit(net, DATA, recipe, generator=streams, device=device, stepping=stepping)
    return {name: value.cpu() for name, value in net.state_dict().items()}, history


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adadelta"])
def test_steps_on_the_gpu_are_those_of_the_cpu(optimizer: str) -> None:
    """To the bit, one by one as well as recorded and replayed; but Adadelta takes no rate that is a
    tensor on a CPU.
    """
    recipe, exact = RECIPE.replace(optimizer=optimizer), optimizer != "adadelta"
    with rounding() if exact else nullcontext():
        here, _ = trained("eager", recipe, "cpu")
    with playing() as play:
        eager, one = trained("eager", recipe)
        assert not play.replays
        graph, other = trained("graph", recipe)
        assert play.replays == 9
    assert (one.stepping, other.stepping) == ("eager", "graph")
    assert one.losses == other.losses
    for name, value in eager.items():
        assert torch.equal(value, graph[name])
        torch.testing.assert_close(value, here[name], **({"rtol": 0, "atol": 0} if exact else {}))


def test_recorded_steps_go_on_drawing_random_numbers() -> None:
    with playing():
        eager, graph, none = (
            trained("eager", dropout=0.5)[0],
            trained("graph", dropout=0.5)[0],
            trained("eager")[0],
        )
    assert all(torch.equal(value, graph[name]) for name, value in eager.items())
    assert not torch.equal(eager["0.weight"], none["0.weight"])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_recorded_steps_go_on_where_they_stopped(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, each attempt on a GPU that has seen nothing: before the recording, within
    replayed steps, and with too few steps left for another recording.
    """
    keep_everything(monkeypatch)
    recipe = RECIPE.replace(optimizer=optimizer)

    def body(loops: Continuing) -> tuple[dict[str, bytes], History]:
        with playing():
            net = network(dropout=0.5)
            nothing = Kept({}, dict, lambda state: None)
            loop = loops.enter("fit", nothing)
            history = fit(
                net,
                DATA,
                recipe,
                generator=streams,
                device="cuda",
                stepping="graph",
                loop=loop,
            )
            left = {}
            for name, value in net.state_dict().items():
                left[name] = value.cpu().numpy().tobytes()
        return left, history

    left, count = boundaries(body, tmp_path / "counted")
    assert (count, left[1].stepping) == (15, "graph")
    for places in ([2], [8, 9], [6, 14]):
        name = "-".join(map(str, places))
        assert disturbed(body, tmp_path / name, places) == left, places


class Looking(nn.Sequential):
    """Looks at its logits, on the host, before it gives them away."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)
        return logits if float(logits.detach().sum()) < 1e6 else logits.clamp(-9, 9)


def test_writing_a_number_waits_but_not_by_a_mask() -> None:
    with playing():
        value = torch.zeros(3, device="cuda")
        torch.cuda.set_sync_debug_mode("warn")
        with pytest.warns(UserWarning, match=WAITED):
            value[1] = 2.0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value[value > 1] = 3.0
        torch.cuda.set_sync_debug_mode("default")
        assert value.tolist() == [0.0, 3.0, 0.0]


def test_a_recording_that_broke_off_is_the_last() -> None:
    """Torch is left unfit for another one."""
    with playing() as play, mock.patch.object(CUDARecorder, "broken", None):
        with mock.patch.object(play, "recorded_at_most", 3):
            _, first = trained("graph")
        _, second = trained("graph")
        assert not play.replays
    assert first.stepping == "eager (RuntimeError: out of room)"
    assert second.stepping == "eager (an earlier recording broke off: out of room)"


def test_a_step_that_waits_is_found_out_before_it_is_recorded() -> None:
    with playing() as play:
        state, history = trained("graph", net=Looking(*network()))
        assert not play.replays
        plain, _ = trained("eager")
    assert history.stepping.startswith("eager (the step waits for the device at ")
    assert "test_played_gpu.py:" in history.stepping
    assert all(torch.equal(value, plain[name]) for name, value in state.items())


TURNED = RECIPE.replace(rotation=10.0, cutout=2, label_smoothing=0.1)


@pytest.mark.parametrize("place", [None, "before_augment", "after_augment"])
@pytest.mark.parametrize(
    "recipe", [RECIPE, TURNED, RECIPE.replace(optimizer="adam", replacement=True)]
)
@pytest.mark.parametrize("stepping", ["eager", "graph"])
def test_the_host_waits_once_an_epoch(recipe: Recipe, place: str | None, stepping: str) -> None:
    """To see that the loss is finite."""
    assert DATA.labels is not None

    def counted(epochs: int) -> Counter[str]:
        hook = stamping_hook(nn.Identity(), torch.arange(70) % 5 == 0, DATA.labels)
        hooks = Hooks(**({place: hook} if place else {}))
        with waits() as places:
            fit(
                network(),
                DATA,
                recipe.replace(epochs=epochs),
                generator=streams,
                hooks=hooks,
                device="cuda",
                stepping=stepping,
            )
        return Counter(places)

    with playing():
        more = counted(3) - counted(2)
    assert more.total() == 1
    assert all("harness/learn/training.py:" in place for place in more)


def test_hooks_see_the_batch_on_the_gpu_and_its_places_on_the_cpu() -> None:
    seen: list[tuple[bool, bool, bool]] = []

    def look(batch: Batch) -> Batch:
        assert batch.labels is not None
        seen.append((batch.images.is_cuda, batch.labels.is_cuda, batch.indices.is_cuda))
        return replace(batch, images=batch.images + 0)

    with playing():
        fit(
            network(),
            DATA,
            RECIPE,
            generator=streams,
            hooks=Hooks(after_augment=look),
            device="cuda",
        )
    assert set(seen) == {(True, True, False)}


# --- every network --------------------------------------------------------------------------------

NOISE = torch.randint(0, 256, (20, 32, 32, 3), dtype=torch.uint8, generator=streams("noise"))
LARGE = ImageSet(NOISE, torch.arange(20) % 10)
SMALLER: dict[str, dict[str, Any]] = {
    "timm": {"arch": "convnext_atto"},
    "torchvision": {"arch": "mobilenet_v2"},
    **{name: {"width": 8} for name in ("preact-resnet18", "resnet18", "resnet34", "resnet50")},
}
DRAWING = {"smallvgg", "torchvision"}
"""Those with dropout, whose random numbers a GPU draws by itself."""


@pytest.mark.parametrize("name", sorted(boxed("model")))
def test_every_network_is_recorded_and_learns_what_it_does_on_the_cpu(name: str) -> None:
    """Three steps one by one, one recorded and replayed, one replayed; with dropout, what the GPU
    does one by one.
    """
    model = load_component(ComponentSpec(boxed("model")[name], SMALLER.get(name, {})))
    assert isinstance(model, Model)
    task, recipe = (
        Task("noise", 10, 32, 32, 3, 20),
        Recipe(epochs=1, batch=4, lr=0.01, precision="fp32"),
    )

    def trained(device: str, stepping: str) -> tuple[dict[str, Tensor], str]:
        net = seeded_build(model, task, 0)
        history = fit(net, LARGE, recipe, generator=streams, device=device, stepping=stepping)
        return {name: value.cpu() for name, value in net.state_dict().items()}, history.stepping

    with rounding():
        here, _ = trained("cpu", "eager")
    with playing() as play:
        there, stepping = trained("cuda", "graph")
        if name in DRAWING:
            here, _ = trained("cuda", "eager")
    assert (stepping, play.replays) == ("graph", 2)
    for tensor, value in here.items():
        assert torch.equal(value, there[tensor]), tensor


# --- every method ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stores(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]
) -> tuple[Path, Path]:
    """The grid's, computed on the CPU and on the played GPU; there, whatever can be is recorded and
    replayed.
    """
    from PIL import Image

    folder = tmp_path_factory.mktemp("played")
    Image.new("L", (16, 16), 200).save(folder / "picture.png")
    (folder / "grid.toml").write_text(GRID)
    told = {**environment, "CUDA_VISIBLE_DEVICES": "0", "BENCH_STEPPING": "graph"}
    for device in ("cpu", "cuda"):
        words = [
            folder / "grid.toml",
            "--store",
            folder / device,
            "--device",
            device,
            "--jobs",
            "2",
            "-k",
            SELECTED,
        ]
        result = subprocess.run(
            [sys.executable, "-m", "tests.kit.played_gpu", "run", *words],
            cwd=ROOT, env=told, capture_output=True, text=True, check=False, timeout=400,
        )  # fmt: skip
        assert result.returncode == 0, f"{result.stdout[-6000:]}\n{result.stderr[-2000:]}"
    return folder / "cpu", folder / "cuda"


def artefacts(store: Path) -> dict[tuple[str, str, str], Any]:
    """What stages left, by kind, key and file, without the time that they took."""
    found: dict[tuple[str, str, str], Any] = {}
    for path in sorted(store.glob("objects/*/*/*")):
        kind, key = (
            json.loads((path.parent / "manifest.json").read_text())["spec"]["stage"],
            path.parent.name,
        )
        if path.suffix == ".safetensors":
            found[kind, key, path.name] = load_file(path)
        elif path.suffix == ".json" and path.name != "manifest.json":
            found[kind, key, path.name] = json.loads(path.read_text())
            found[kind, key, path.name].get("record", {}).pop("seconds", None)
    return found


def manifests(store: Path) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text()) for path in sorted(store.glob("objects/*/*/manifest.json"))
    ]


def test_every_method_computes_on_the_gpu_what_it_does_on_the_cpu(
    stores: tuple[Path, Path],
) -> None:
    """Images to the bit, weights up to the order of sums."""
    here, there = map(artefacts, stores)
    assert here.keys() == there.keys()
    for (kind, key, name), value in here.items():
        other = there[kind, key, name]
        if name.endswith(".json"):
            assert _near(value, other), (kind, key, name, value, other)
            continue
        assert value.keys() == other.keys()
        for tensor, numbers in value.items():
            pair = numbers.float(), other[tensor].float()
            torch.testing.assert_close(
                *pair, rtol=1e-3, atol=1e-4, msg=f"{kind} {key} {name} {tensor}"
            )


def _near(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            _near(value, other[name]) for name, value in one.items()
        )
    return (
        bool(one == pytest.approx(other, rel=1e-5))
        if isinstance(one, float)
        else bool(one == other)
    )


def test_the_grid_leaves_no_method_out(stores: tuple[Path, Path]) -> None:
    ran = {
        (one["kind"], one["name"])
        for manifest in manifests(stores[1])
        if (one := manifest["spec"].get("component"))
    }
    wanted = {(kind, name) for kind in ("attack", "defense") for name in boxed(kind)}
    assert wanted - ran == {
        ("attack", "pretrained"),
        ("attack", "pretrained-clean"),
        ("defense", "none"),
        ("defense", "pretrained"),
    }


def test_plain_training_was_recorded_and_replayed(stores: tuple[Path, Path]) -> None:
    recorded = {
        manifest["spec"]["component"]["name"]
        for manifest in manifests(stores[1])
        if manifest["record"].get("stepping") == "graph"
    }
    assert recorded >= RECORDED
