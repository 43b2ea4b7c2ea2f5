"""The speed of the harness on one GPU, beside what the GPU could do: epochs, evaluation, small
victims at once, a whole grid.

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

from harness.learn import predict
from harness.learn.augmentation import Resident, send
from harness.learn.training import fit
from plugins.attacks.badnets import BadNets

ROOT = Path(__file__).parents[2]
COPY = 2**30
"""Bytes that are copied to see how fast memory is."""
EPOCH_GOAL = 0.6
"""Seconds of an epoch of ResNet-18 on one H200."""


def ceilings(bench: Bench) -> Iterator[Figure]:
    """Measure what products, convolutions and copies alone reach."""
    products = product_rate(bench)
    bench.peak["matmul"] = products
    yield Figure("bf16 matrix product", products / 1e12, "TFLOP/s")
    rates = {}
    for channels, size in ((64, 32), (128, 16), (256, 8), (512, 4)):
        rates[f"{channels} at {size}"] = convolution_rate(bench, channels, size)
    # The stages of a ResNet have the same work each.
    together = 4 / sum(1 / rate for rate in rates.values())
    bench.peak["conv"] = together
    yield Figure(
        "bf16 3x3 convolutions, forward and backward",
        together / 1e12,
        "TFLOP/s",
        note=", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in rates.items()),
    )
    count = COPY if bench.cuda else 2**20
    source = torch.randint(0, 256, (count,), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.best(lambda: target.copy_(source))
    yield Figure("copy on the device", 2 * count / seconds / 1e9, "GB/s")


def product_rate(bench: Bench) -> float:
    """Return the floating-point operations a second of matrix products."""
    side = 8192 if bench.cuda else 256
    left = torch.randn(side, side, dtype=torch.bfloat16, device=bench.device)
    right = torch.randn(side, side, dtype=torch.bfloat16, device=bench.device)
    return 2 * side**3 / bench.best(lambda: left @ right)


def convolution_rate(bench: Bench, channels: int, size: int) -> float:
    """Return the floating-point operations a second of convolutions, forward and backward."""
    batch = 512 if bench.cuda else 4

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(*shape, dtype=torch.bfloat16, device=bench.device)
        return values.contiguous(memory_format=torch.channels_last).requires_grad_()

    images = drawn(batch, channels, size, size)
    weight = drawn(channels, channels, 3, 3)

    def both_ways() -> None:
        outputs = nn.functional.conv2d(images, weight, padding=1)
        torch.autograd.grad(outputs, (images, weight), outputs.detach())

    return 6 * batch * size**2 * channels**2 * 9 / bench.best(both_ways)


def epochs(bench: Bench) -> Iterator[Figure]:
    """Time epochs of a ResNet-18, the ways of stepping in turn."""
    data = bench.pictures(bench.options.images)
    with FlopCounterMode(display=False) as counter:
        bench.network().eval()(torch.zeros(1, 3, 32, 32))
    work = 3 * counter.get_total_flops() * len(data)
    ways = ("eager", "graph", "compiled") if bench.cuda else ("eager",)
    first: dict[str, list[float]] = {way: [] for way in ways}
    later: dict[str, list[float]] = {way: [] for way in ways}
    used: dict[str, str] = {}
    recipe = RECIPE.replace(epochs=2 if bench.options.quick else 4)
    for _ in range(1 if bench.options.quick else 2):
        for way in ways:
            model = bench.network().to(bench.device)
            marks = [time.perf_counter()]
            history = fit(
                model,
                data,
                recipe,
                generator=stream,
                device=bench.device,
                stepping=way,
                count=lambda images, marks=marks: marks.append(time.perf_counter()),
            )
            spans = [end - start for start, end in itertools.pairwise(marks)]
            first[way].append(spans[0])
            later[way] += spans[1:]
            used[way] = history.stepping
    bench.details["epochs"] = {"first": first, "later": later, "stepping": used, "operations": work}
    for way in ways:
        seconds = statistics.median(later[way])
        beginnings = ", ".join(f"{span:.3g}" for span in first[way])
        note = f"first epochs {beginnings} s; was {used[way]}"
        if bench.peak:
            products = work / seconds / bench.peak["matmul"]
            convolutions = work / seconds / bench.peak["conv"]
            note = f"{products:.0%} of products', {convolutions:.0%} of convolutions' rate; {note}"
        reached = seconds <= EPOCH_GOAL if bench.whole else None
        goal = f"{EPOCH_GOAL} s"
        yield Figure(f"epoch of ResNet-18, {way}", seconds, "s", goal, reached, note)
        yield Figure(f"the same, {way}", len(data) / seconds, "images/s")


def data_path(bench: Bench) -> Iterator[Figure]:
    """Time the cutting of an epoch's batches, parameters drawn on the CPU included."""
    data = bench.pictures(bench.options.images).to(bench.device)
    resident = Resident(data.images, RECIPE)
    draw = stream("augment")

    def cut() -> None:
        order = torch.randperm(len(data), generator=draw)
        batches = order.to(bench.device, non_blocking=True).split(RECIPE.batch)
        drawn = [resident.draw(len(places), draw) for places in batches]
        for places, moves in zip(batches, send(drawn, bench.device), strict=True):
            resident.take(places, moves)

    cut()
    seconds = statistics.median(bench.seconds(cut) for _ in range(5))
    note = f"{1e6 * seconds / len(data):.3g} ms for 1,000 images"
    yield Figure("data path, a whole epoch", seconds, "s", note=note)


def evaluation(bench: Bench) -> Iterator[Figure]:
    """Time clean and triggered test images: 10,000 and 9,000 beside 50,000 training images."""
    count = max(10, bench.options.images // 5)
    images = bench.pictures(count).images
    triggered = images[: count * 9 // 10]
    model = bench.network().to(bench.device)
    trigger = BadNets().trigger(TASK)

    def both() -> None:
        predict(model, images, device=bench.device, classes=10)
        predict(model, triggered, trigger=trigger, device=bench.device, classes=10)

    both()
    seconds = statistics.median(bench.seconds(both) for _ in range(3))
    yield Figure(f"evaluation, {count + len(triggered):,} images in fp32", seconds, "s")


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
    options = read_options()
    if options.device == "cpu":
        torch.set_num_threads(1)  # as stages have
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options, Path(name))
        figures = measure(bench)
    device = device_name(bench)
    report = {
        "device": device,
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        },
        "settings": {key: value for key, value in vars(options).items() if key != "output"},
        "seconds": time.monotonic() - began,
        "figures": figures,
        "details": bench.details,
    }
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    target = options.output or ROOT / "results" / "speed" / f"{slug}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=1, default=str) + "\n")
    print(f"{report['seconds']:.0f} s; written to {target}")


def measure(bench: Bench) -> list[dict[str, Any]]:
    """Measure the sections that were asked for, and print their lines."""
    figures: list[dict[str, Any]] = []
    for section in bench.options.only:
        try:
            for figure in SECTIONS[section](bench):
                figures.append({"section": section, **asdict(figure)})
                print(line(figure), flush=True)
        except Exception:
            failure = traceback.format_exc()
            figures.append({"section": section, "failed": failure})
            print(f"{section} FAILED\n{failure}", flush=True)
    return figures


def device_name(bench: Bench) -> str:
    """Return what the device calls itself."""
    if bench.cuda:
        return torch.cuda.get_device_name(bench.device)
    return platform.processor() or platform.machine()


def line(figure: Figure) -> str:
    """Lay out a figure for the terminal."""
    verdict = ""
    if figure.reached is not None:
        verdict = f"  [goal {figure.goal}: {'met' if figure.reached else 'NOT MET'}]"
    start = f"{figure.name:48} {figure.value:12.4g} {figure.unit:13}"
    return f"{start}{verdict}  {figure.note}".rstrip()


def numbers(text: str) -> list[int]:
    """Read numbers between commas."""
    return [int(word) for word in text.split(",")]


def words(text: str) -> list[str]:
    """Read words between commas."""
    return text.split(",")


def read_options() -> argparse.Namespace:
    """Read from the command line how much to do."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sections = ",".join(SECTIONS)
    file = Path(__file__).with_name("gpu.toml")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--device", default=device, help="cuda or cpu (default: a GPU's)")
    add("--only", type=words, default=list(SECTIONS), help=f"of {sections}")
    add("--quick", action="store_true", help="fewer rounds and epochs")
    budget = "seconds of the grid after which it is stopped (default: 600)"
    add("--budget", type=float, default=600, help=budget)
    add("--images", type=int, default=50000, help="training images of an epoch (default: 50,000)")
    add("--width", type=int, default=64, help="channels of ResNet-18's first stage (default: 64)")
    add("--victims", type=int, default=16, help="small victims of each measurement (default: 16)")
    add("--jobs", type=numbers, default=[1, 2, 4, 8], help="how many at a time (default: 1,2,4,8)")
    service = "small victims under NVIDIA's multi-process service too, which is started"
    add("--mps", action="store_true", help=service)
    add("--grid", type=Path, default=file, help="the grid (default: gpu.toml)")
    add("--grid-jobs", type=int, default=4, help="stages at a time in the grid (default: 4)")
    add("--output", type=Path, help="the file (default: results/speed/<gpu>.json)")
    options = parser.parse_args()
    unknown = sorted(set(options.only) - set(SECTIONS))
    if unknown:
        parser.error(f"--only {','.join(unknown)}: known are {sections}")
    return options


if __name__ == "__main__":
    main()
