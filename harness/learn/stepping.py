"""The ways to carry out a training step: operation by operation, or recorded once and replayed.

On a GPU a small step is over sooner than Python can ask for its hundreds of kernels. Recorded as a
CUDA graph, all of them are one launch; through torch.compile first, there are fewer of them. Either
way the same arithmetic is done in the same order up to rounding, so the choice is in no key;
manifests say what was used.

Only the step itself is recorded (forward, loss, backward, optimiser). Batches are made outside, by
Python, so hooks that make them may do what they like; a method whose hooks run within a step steps
operation by operation.
"""

from __future__ import annotations

import itertools
import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from harness.learn.hooks import Batch

Stepping = Literal["eager", "graph", "compiled"]
"""Operation by operation; a CUDA graph; a CUDA graph of what torch.compile made of the network."""

VARIABLE = "BENCH_STEPPING"
"""The environment variable that says auto, eager, graph or compiled, for stages on a GPU."""

GRAPH_FROM = 100
"""Steps of a run from which recording pays: it costs about a second at most."""
COMPILE_FROM = 30_000
"""Steps of a run from which compiling pays: seconds where the compiler's cache on disk knows the
network, up to a minute where not, against some tenths of a millisecond for each step. An estimate:
benchmarks/speed/gpu.py measures both.
"""

WAITED = "called a synchronizing CUDA operation"
"""The words of torch's debug mode for a wait."""

WARM = 3
"""Steps made before recording: they create the optimiser's state, and let libraries choose their
algorithms.
"""

Work = Callable[["Batch"], Tensor]


def choose(asked: str, device: torch.device, steps: int, repeatable: bool) -> Stepping:
    """Return what `asked` ("auto", or one of `Stepping`) means for a run of so many steps. Raises
    ValueError for other words.

    auto is what `$BENCH_STEPPING` says, else a matter of length. A CPU gains nothing by either:
    there, what comes from auto is eager. Runs that must repeat bit for bit are not compiled unless
    asked, since the compiler picks kernels by how long they took.
    """
    chosen = os.environ.get(VARIABLE, "auto") if asked == "auto" else asked
    if chosen not in ("auto", *get_args(Stepping)):
        raise ValueError(f'stepping must be "auto", "eager", "graph" or "compiled", not {chosen!r}')
    if asked == "auto" and device.type != "cuda":
        return "eager"
    if chosen != "auto":
        return cast(Stepping, chosen)
    if steps >= COMPILE_FROM and not repeatable:
        return "compiled"
    return "graph" if steps >= GRAPH_FROM else "eager"


def recordable(model: nn.Module) -> bool:
    """Tell whether nothing is attached to the network that Python must run at every step: hooks of
    modules or parameters.
    """
    of_modules = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_parameters = ("_backward_hooks", "_post_accumulate_grad_hooks")
    for module in model.modules():
        if any(getattr(module, name, None) for name in of_modules):
            return False
    for parameter in model.parameters():
        if any(getattr(parameter, name, None) for name in of_parameters):
            return False
    return True


class Recorder(Protocol):
    """A recorder of work, which gives it back as something to call."""

    def warm(self, work: Callable[[], Tensor]) -> Tensor:
        """Do it, where it will be recorded; what it returned."""
        ...

    @property
    def hindrance(self) -> str | None:
        """The reason why the work that was warmed last cannot be recorded, if that is known."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], object]:
        """Return a way to do it again with the same tensors. Recording itself computes nothing."""
        ...


@cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which steps are recorded: one, because libraries keep working memory for
    every stream they saw.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class CUDARecorder:
    """The recorder of CUDA graphs, on a stream of its own, as CUDA requires."""

    broken: ClassVar[str | None] = None
    """The reason why a recording of this process broke off: torch cannot be relied on to make
    another one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = _aside(device)
        self.hindrance: str | None = None

    def warm(self, work: Callable[[], Tensor]) -> Tensor:
        """See `Recorder.warm`. The host waits for nothing, unless work does."""
        outside = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream), waits() as places:
            result = work()
        outside.wait_stream(self.stream)
        self.hindrance = self.broken or (
            f"the step waits for the device at {places[0]}" if places else None
        )
        return result

    def record(self, work: Callable[[], None]) -> Callable[[], object]:
        """See `Recorder.record`. Waits for the device, once."""
        graph = torch.cuda.CUDAGraph()
        # the outer stream: where recording fails, torch may leave the inner one current
        outside = torch.cuda.stream(torch.cuda.current_stream(self.device))
        try:
            with outside, torch.cuda.graph(graph, stream=self.stream):
                work()
        except Exception as error:
            CUDARecorder.broken = f"an earlier recording broke off: {error}"
            raise
        return graph.replay


@contextmanager
def waits() -> Iterator[list[str]]:
    """Note each place, as `file:line`, in which the host waits for a GPU, as far as torch tells;
    known at the end.
    """
    before, places = torch.cuda.get_sync_debug_mode(), list[str]()
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("warn")  # which says that it is a prototype
            warnings.simplefilter("always")
            yield places
    finally:
        torch.cuda.set_sync_debug_mode(before)
        for one in seen:
            if WAITED in str(one.message):
                places.append(f"{one.filename}:{one.lineno}")
            else:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


class Replayed:
    """Steps on batches: the first ones done, then one recorded and replayed for every batch of that
    size.

    Batches of another size (the last of an epoch), and images that gradients should flow out of,
    take the `plain` way. So do all if recording fails, or if the step turns out to wait for the
    device, or to use or change what only Python sees: random numbers drawn on the host, plain
    attributes of modules. No step is lost then, since recording computes nothing; but after a
    recording that broke off, torch may refuse to draw random numbers, which ends the run, and may
    keep memory that it could give back.
    """

    def __init__(self, plain: Work, work: Work, model: nn.Module, recorder: Recorder) -> None:
        self.plain, self.work, self.model, self.recorder = plain, work, model, recorder
        self.warm = 0
        self.problem: str | None = None
        """The reason why steps are not replayed."""
        self._batch: Batch | None = None
        self._loss = torch.empty(0)
        self._replay: Callable[[], object] | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Carry out one step; return its loss, which the next step may overwrite."""
        if self.problem is not None or batch.images.requires_grad or not self._fits(batch):
            return self.plain(batch)
        if self.warm < WARM:
            return self._warmed(batch)
        if self._replay is None and not self._record(batch):
            return self.plain(batch)
        assert self._batch is not None
        assert self._replay is not None
        self._fill(batch)
        self._replay()
        return self._loss

    @property
    def recorded(self) -> bool:
        """True if steps are replayed by now."""
        return self._replay is not None

    def _fits(self, batch: Batch) -> bool:
        """Tell whether a batch is like the first, labels included."""
        if self._batch is None:
            labels = None if batch.labels is None else batch.labels.clone()
            self._batch = replace(batch, images=batch.images.detach().clone(), labels=labels)
        return _like(self._batch.images, batch.images) and _like(self._batch.labels, batch.labels)

    def _fill(self, batch: Batch) -> None:
        assert self._batch is not None
        self._batch.images.copy_(batch.images)
        if self._batch.labels is not None and batch.labels is not None:
            self._batch.labels.copy_(batch.labels)

    def _warmed(self, batch: Batch) -> Tensor:
        before = host_state(self.model)
        loss = self.recorder.warm(lambda: self.work(batch))
        self.warm += 1
        if host_state(self.model) != before:
            self.problem = (
                "the step draws random numbers on the host, or changes attributes of modules"
            )
        elif self.warm == WARM:
            self.problem = self.recorder.hindrance
        return loss

    def _record(self, batch: Batch) -> bool:
        assert self._batch is not None
        static = self._batch

        def step() -> None:
            self._loss = self.work(static)

        try:
            self._replay = self.recorder.record(step)
        except Exception as error:  # whatever a network does that cannot be recorded
            self.problem = f"{type(error).__name__}: {error}"
        return self._replay is not None


def _like(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and one.dtype == other.dtype


def host_state(model: nn.Module) -> tuple[Any, ...]:
    """Return all that a step could depend on beside tensors of the device: generators of the host,
    plain attributes.
    """
    plain = []
    for number, module in enumerate(model.modules()):
        for name, value in vars(module).items():
            if isinstance(value, bool | int | float | str):
                plain.append((number, name, value))
    drawn = np.random.get_state(legacy=False)["state"]
    return (
        random.getstate(),
        drawn["pos"],
        drawn["key"].tobytes(),
        torch.random.get_rng_state().numpy().tobytes(),
        plain,
        [
            (id(tensor), tensor.requires_grad)
            for tensor in itertools.chain(model.parameters(), model.buffers())
        ],
    )


class Compiled:
    """A network through torch.compile, for batches of one size; where that does not work, the
    network itself.

    The whole network has to be one graph, with its backward pass, before any of it runs: a failure
    leaves no trace.
    """

    def __init__(self, model: nn.Module, backend: str = "inductor") -> None:
        self.model = model
        self.problem: str | None = None
        """The reason why the network runs as it is."""
        self._proven = False

        def forward(images: Tensor) -> Tensor:
            return cast(Tensor, model(images))

        self._call: Callable[[Tensor], Tensor] = torch.compile(
            forward, fullgraph=True, dynamic=False, backend=backend
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Logits."""
        if self._proven:
            return self._call(images)
        # Private to torch, and heavy: only runs that compile import it.
        import torch._functorch.config as settings

        eager = {"force_non_lazy_backward_lowering": True}
        known = {name: value for name, value in eager.items() if hasattr(settings, name)}
        try:
            with settings.patch(known):
                logits = self._call(images)
        except Exception as error:  # a compiler that is not there, a network that it does not take
            self.problem, self._call = f"{type(error).__name__}: {error}", self.model
            logits = self._call(images)
        self._proven = True
        return logits
