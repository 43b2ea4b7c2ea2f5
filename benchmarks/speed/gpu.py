"""What one GPU makes of the harness, beside what it could do: epochs, evaluation, small victims at
once, a whole grid.

    python benchmarks/speed/gpu.py

One call, no network. Prints lines as it goes and writes results/speed/<gpu>.json. A section that
fails is printed and the others still run; the grid comes last and is stopped after `--budget`
seconds of its own. Random pictures, but for the grid, which takes cifar10.npz where $BENCH_DATA has
it. The same script runs on a CPU, with less to say.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gpu_bench import RECIPE, TASK, Bench, Figure, stream
from gpu_runs import grid, small
from gpu_waits import methods, waiting
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harness.learn.augmentation import Resident, send
from harness.learn.evaluation import predict
from harness.learn.training import fit
from plugins.attacks.badnets import BadNets

ROOT = Path(__file__).parents[2]
COPY = 2**30
"""Bytes that are copied to see how fast memory is."""


def ceilings(bench: Bench) -> Iterator[Figure]:
    """What products, convolutions and copies alone reach."""
    side, batch = (8192, 512) if bench.cuda else (256, 4)
    left, right = (
        torch.randn(side, side, dtype=torch.bfloat16, device=bench.device) for _ in range(2)
    )
    bench.peak["matmul"] = 2 * side**3 / bench.best(lambda: left @ right)
    yield Figure("bf16 matrix product", bench.peak["matmul"] / 1e12, "TFLOP/s")
    rates = {}
    for channels, size in ((64, 32), (128, 16), (256, 8), (512, 4)):
        shape = {"device": bench.device, "dtype": torch.bfloat16}
        images = torch.randn(batch, channels, size, size, **shape).contiguous(
            memory_format=torch.channels_last
        )
        weight = torch.randn(channels, channels, 3, 3, **shape).contiguous(
            memory_format=torch.channels_last
        )
        images.requires_grad_(), weight.requires_grad_()

        def both(x: Tensor = images, w: Tensor = weight) -> None:
            y = nn.functional.conv2d(x, w, padding=1)
            torch.autograd.grad(y, (x, w), y.detach())

        rates[f"{channels} at {size}"] = 6 * batch * size**2 * channels**2 * 9 / bench.best(both)
    bench.peak["conv"] = 4 / sum(
        1 / rate for rate in rates.values()
    )  # the stages of a ResNet have the same work each
    told = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in rates.items())
    yield Figure(
        "bf16 3x3 convolutions, forward and backward",
        bench.peak["conv"] / 1e12,
        "TFLOP/s",
        note=told,
    )
    source = torch.randint(
        0, 256, (COPY if bench.cuda else 2**20,), dtype=torch.uint8, device=bench.device
    )
    target = torch.empty_like(source)
    yield Figure(
        "copy on the device",
        2 * len(source) / bench.best(lambda: target.copy_(source)) / 1e9,
        "GB/s",
    )


def epochs(bench: Bench) -> Iterator[Figure]:
    """Epochs of a ResNet-18, the ways of stepping in turn."""
    data, network = bench.pictures(bench.asked.images), bench.network()
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, 32, 32))
    work = 3 * counter.get_total_flops() * len(data)
    ways = ("eager", "graph", "compiled") if bench.cuda else ("eager",)
    first: dict[str, list[float]] = {way: [] for way in ways}
    later: dict[str, list[float]] = {way: [] for way in ways}
    said: dict[str, str] = {}
    recipe = RECIPE.replace(epochs=2 if bench.asked.quick else 4)
    for _ in range(1 if bench.asked.quick else 2):
        for way in ways:
            model, marks = bench.network().to(bench.device), [time.perf_counter()]
            history = fit(
                model, data, recipe, generator=stream, device=bench.device, stepping=way,
                count=lambda images, marks=marks: marks.append(time.perf_counter()),
            )  # fmt: skip
            spans = [end - start for start, end in itertools.pairwise(marks)]
            first[way].append(spans[0])
            later[way] += spans[1:]
            said[way] = history.stepping
    bench.details["epochs"] = {"first": first, "later": later, "stepping": said, "operations": work}
    for way in ways:
        middle = statistics.median(later[way])
        note = f"first epochs {', '.join(f'{one:.3g}' for one in first[way])} s; was {said[way]}"
        if bench.peak:
            matmul, conv = (work / middle / bench.peak[kind] for kind in ("matmul", "conv"))
            note = f"{matmul:.0%} of products', {conv:.0%} of convolutions' rate; {note}"
        yield Figure(
            f"epoch of ResNet-18, {way}",
            middle,
            "s",
            "0.6 s",
            middle <= 0.6 if bench.whole else None,
            note,
        )
        yield Figure(f"the same, {way}", len(data) / middle, "images/s")


def data_path(bench: Bench) -> Iterator[Figure]:
    """Cutting an epoch's batches, parameters drawn on the CPU included."""
    data = bench.pictures(bench.asked.images).to(bench.device)
    resident, moves = Resident(data.images, RECIPE), stream("augment")

    def cut() -> None:
        here = torch.randperm(len(data), generator=moves)
        there = here.to(bench.device, non_blocking=True).split(RECIPE.batch)
        drawn = send([resident.draw(len(part), moves) for part in there], bench.device)
        for places, one in zip(there, drawn, strict=True):
            resident.take(places, one)

    cut()
    taken = statistics.median(bench.seconds(cut) for _ in range(5))
    yield Figure(
        "data path, a whole epoch",
        taken,
        "s",
        note=f"{1e6 * taken / len(data):.3g} ms for 1,000 images",
    )


def evaluation(bench: Bench) -> Iterator[Figure]:
    """Clean and triggered test images: 10,000 and 9,000 beside 50,000 training images."""
    count = max(10, bench.asked.images // 5)
    images, model = bench.pictures(count).images, bench.network().to(bench.device)
    trigger = BadNets().trigger(TASK)
    triggered = images[: count * 9 // 10]

    def both() -> None:
        predict(model, images, device=bench.device, classes=10)
        predict(model, triggered, trigger=trigger, device=bench.device, classes=10)

    both()
    taken = statistics.median(bench.seconds(both) for _ in range(3))
    yield Figure(f"evaluation, {count + len(triggered):,} images in fp32", taken, "s")


SECTIONS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "ceilings": ceilings,
    "epochs": epochs,
    "waits": waiting,
    "methods": methods,
    "data": data_path,
    "evaluation": evaluation,
    "small": small,
    "grid": grid,
}


def main() -> None:
    asked = options()
    if asked.device == "cpu":
        torch.set_num_threads(1)  # as stages have
    began = time.monotonic()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(asked, Path(name))
        for section in asked.only:
            try:
                for figure in SECTIONS[section](bench):
                    found.append({"section": section, **asdict(figure)})
                    print(line(figure), flush=True)
            except Exception:
                found.append({"section": section, "failed": traceback.format_exc()})
                print(f"{section} FAILED\n{traceback.format_exc()}", flush=True)
    told = (
        torch.cuda.get_device_name(bench.device)
        if bench.cuda
        else platform.processor() or platform.machine()
    )
    report = {
        "device": told,
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        },
        "settings": {key: value for key, value in vars(asked).items() if key != "output"},
        "seconds": time.monotonic() - began,
        "figures": found,
        "details": bench.details,
    }
    slug = re.sub(r"[^a-z0-9]+", "-", told.lower()).strip("-")
    target = asked.output or ROOT / "results" / "speed" / f"{slug}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=1, default=str) + "\n")
    print(f"{report['seconds']:.0f} s; written to {target}")


def line(figure: Figure) -> str:
    """For the terminal."""
    verdict = (
        ""
        if figure.reached is None
        else f"  [goal {figure.goal}: {'met' if figure.reached else 'NOT MET'}]"
    )
    return (
        f"{figure.name:48} {figure.value:12.4g} {figure.unit:13}{verdict}  {figure.note}".rstrip()
    )


def options() -> argparse.Namespace:
    """How much to do."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    add = parser.add_argument
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cuda or cpu (default: a GPU's)",
    )
    add(
        "--only",
        type=lambda text: text.split(","),
        default=list(SECTIONS),
        help=f"of {','.join(SECTIONS)}",
    )
    add("--quick", action="store_true", help="fewer rounds and epochs")
    add(
        "--budget",
        type=float,
        default=600,
        help="seconds of the grid after which it is stopped (default: 600)",
    )
    add("--images", type=int, default=50000, help="training images of an epoch (default: 50,000)")
    add("--width", type=int, default=64, help="channels of ResNet-18's first stage (default: 64)")
    add("--victims", type=int, default=16, help="small victims of each measurement (default: 16)")
    add("--jobs", type=numbers, default=[1, 2, 4, 8], help="how many at a time (default: 1,2,4,8)")
    add(
        "--mps",
        action="store_true",
        help="small victims under NVIDIA's multi-process service too, which is started",
    )
    add(
        "--grid",
        type=Path,
        default=Path(__file__).with_name("gpu.toml"),
        help="the grid (default: gpu.toml)",
    )
    add("--grid-jobs", type=int, default=4, help="stages at a time in the grid (default: 4)")
    add("--output", type=Path, help="the file (default: results/speed/<gpu>.json)")
    asked = parser.parse_args()
    if unknown := set(asked.only) - set(SECTIONS):
        parser.error(f"--only {','.join(sorted(unknown))}: known are {','.join(SECTIONS)}")
    return asked


if __name__ == "__main__":
    main()
