"""A GPU played by the CPU: what would fail on CUDA for being on the wrong device fails here, in
CUDA's words.

Tensors on it have values, but all who ask take them to be on `cuda:0`. Operators that mix them with
tensors of the CPU, and generators of the wrong device, raise. Where the host would wait for the
device, torch's debug mode tells; also of large copies out of memory that is not page-locked, for
which CUDA waits though torch does not say so. Graphs are recorded and replayed as CUDA does it:
recording computes nothing and forbids waits, replaying knows addresses only.

Not played: kernels (numbers are the CPU's), the order of streams, memory, autocast, compilers,
libraries that ask for pointers, and what is left of a recording that broke off. `python -m
tests.kit.played_gpu` is `bench` on a machine that has this GPU, if CUDA_VISIBLE_DEVICES names it;
with `--device cpu` it computes as the played GPU would: in fp32, with learning rates that are
tensors.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

aten = torch.ops.aten

ENTRY = "tests.kit.played_gpu:main"
GPU = torch.device("cuda", 0)
THERE = ("cuda", "meta")
"""What the GPU is called where tensors are made: by Python, and by torch, which takes `Far` for one
without data.
"""
STAGED = 2**16
"""Bytes that the driver takes out of any memory without waiting, if it is told not to."""
WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Marks of operators of which the host must know the result, or its size."""
JOINING = {aten.cat.default, aten.stack.default, aten.gather.default, aten.index_select.default}
"""Operators that take not even a number from the CPU."""
CROSSING = {aten.copy_.default, aten._to_copy.default}
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
LIBRARY = (str(Path(torch.__file__).parent), __file__)

Generator = torch.Generator


class Far(Tensor):
    """A tensor on the played GPU; `near` has its values."""

    near: Tensor
    of: ClassVar[Playing | None] = None
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor, requires_grad: bool = False) -> Self:
        shell = torch.empty_strided(near.shape, near.stride(), dtype=near.dtype, device="meta")
        made = Tensor._make_subclass(cls, shell, requires_grad)
        made.near = near
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Far({self.near!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            made = memo[id(self)] = Far(self.near.clone(), self.requires_grad)
            if getattr(self, "_is_param", False):
                made._is_param = True  # type: ignore[attr-defined]
        found: Tensor = memo[id(self)]
        return found

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # where torch goes past modes, as it does to detach what becomes a parameter
        if cls.of is None:
            raise RuntimeError(f"{func}: a tensor of the played GPU has outlived it")
        return cls.of.__torch_dispatch__(func, types, args, kwargs)


class FarGenerator(Generator):
    """Stands for `torch.Generator`: one of the GPU draws what one of the CPU does, but is of use
    there only.
    """

    known: ClassVar[dict[int, Self]] = {}
    """The GPU's, by address: operators are given an object of their own for a generator."""

    def __new__(cls, device: torch.device | str = "cpu") -> Self:
        made = super().__new__(cls)
        if torch.device(device).type == "cuda":
            cls.known[made._cdata] = made
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU if self._cdata in self.known else torch.device("cpu")


class Playing(TorchDispatchMode):
    """The GPU: what all operators go through while it is played."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = FarGenerator("cuda").manual_seed(0)
        self.debug = 0
        """As of `torch.cuda.set_sync_debug_mode`."""
        self.graph: Graph | None = None
        """What is being recorded."""
        self.replays = 0
        self.recorded_at_most: int | None = None
        """Operators after which a recording breaks off."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        flat, shape = tree_flatten((tuple(args), dict(kwargs or {})))
        far = [item for item in flat if isinstance(item, Far)]
        target = (kwargs or {}).get("device")
        if not far and (target is None or torch.device(target).type not in THERE):
            if any(
                isinstance(item, Generator) and item._cdata in FarGenerator.known for item in flat
            ):
                raise RuntimeError(
                    f"Expected a 'cpu' device type for generator but found 'cuda' ({func})"
                )
            return func(*args, **(kwargs or {}))
        self._check(func, args, flat)
        there = isinstance(args[0], Far) if func is aten.copy_.default else bool(far)
        there = there if target is None else torch.device(target).type in THERE
        self._wait(func, args, kwargs or {}, there)
        near_args, near_kwargs = tree_unflatten(
            [item.near if isinstance(item, Far) else item for item in flat], shape
        )
        if target is not None:
            near_kwargs.update(device=torch.device("cpu"), pin_memory=False)
            near_kwargs = {
                name: value for name, value in near_kwargs.items() if name in _names(func)
            }
        if self.graph is not None and there:
            self.graph.before((near_args, near_kwargs))
        with self.drawing(func):
            result = func(*near_args, **near_kwargs)
        if self.graph is not None and there:
            self.graph.after(func, near_args, near_kwargs, result)
        known = {
            id(item.near if isinstance(item, Far) else item): item
            for item in flat
            if isinstance(item, Tensor)
        }
        return tree_map(
            lambda item: known[id(item)] if id(item) in known else _shown(item, there), result
        )

    def _check(self, func: Any, args: Sequence[Any], flat: Sequence[Any]) -> None:
        """Raise what CUDA raises where devices are mixed."""
        for item in flat:
            if isinstance(item, Generator) and item._cdata not in FarGenerator.known:
                raise RuntimeError(
                    f"Expected a 'cuda' device type for generator but found 'cpu' ({func})"
                )
        here = [item for item in flat if isinstance(item, Tensor) and not isinstance(item, Far)]
        assert not any(item.is_meta for item in here), (
            f"{func}: torch has made a tensor without values: not played"
        )
        if func in CROSSING:
            return
        if func in INDEXING:
            if not isinstance(args[0], Far):
                raise RuntimeError(
                    "indices should be either on cpu or on the same device as the indexed tensor "
                    f"(cpu) ({func})"
                )
            here = [
                item for item in args[2:3] if isinstance(item, Tensor) and not isinstance(item, Far)
            ]
        # numbers on the CPU are taken along, but cannot be written to
        wrong = [
            item
            for item in here
            if item.ndim or func in JOINING or (item is args[0] and _writes(func))
        ]
        if wrong:
            seen = ", ".join(str(tuple(item.shape)) for item in wrong)
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu! ({func}; on the CPU: {seen})"
            )

    def _wait(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], there: bool) -> None:
        """Tell that the host waits, in debug mode; raise it while recording."""
        waits = not WAITING.isdisjoint(func.tags)
        if func in CROSSING:
            source = args[1] if func is aten.copy_.default else args[0]
            asked = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            if there and not isinstance(source, Far) and source.numel():
                staged = source.nbytes <= STAGED and self.graph is None
                waits = not asked or not (staged or getattr(source, "pinned", False))
            elif not there:
                waits = isinstance(source, Far) and not asked
        elif func in INDEXING:
            by = [item for item in args[1] if item is not None]
            masks = [item for item in by if item.dtype in (torch.bool, torch.uint8)]
            number = len(args) > 2 and not isinstance(args[2], Far)
            waits = number or bool(masks) or not all(isinstance(item, Far) for item in by)
            # one mask and a number are filled in where they are
            waits = waits and not (number and len(by) == len(masks) == 1 and isinstance(by[0], Far))
        if waits and self.graph is not None:
            raise RuntimeError(
                f"CUDA error: operation not permitted when stream is capturing ({func})"
            )
        if waits and self.debug:
            frame = sys._getframe(2)
            while frame.f_back is not None and frame.f_code.co_filename.startswith(LIBRARY):
                frame = frame.f_back
            told = f"called a synchronizing CUDA operation ({func})"
            warnings.warn_explicit(told, UserWarning, frame.f_code.co_filename, frame.f_lineno)

    @contextmanager
    def drawing(self, func: Any) -> Iterator[None]:
        """Take the random numbers that operators draw by themselves from the GPU's generator."""
        if torch.Tag.nondeterministic_seeded not in func.tags:
            yield
            return
        host, kept = torch.default_generator, torch.default_generator.get_state()
        host.set_state(self.generator.get_state())
        try:
            yield
        finally:
            self.generator.set_state(host.get_state())
            host.set_state(kept)


class Asking(TorchFunctionMode):
    """Names the GPU by its number, and makes tensors of Python's values on the CPU: else torch asks
    for a driver.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map(_numbered, (tuple(args), dict(kwargs or {})))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == GPU:
            del kwargs["device"]
            return func(*args, **kwargs).to(GPU)
        if func is Tensor.new_tensor and isinstance(args[0], Far):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(GPU)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]), *args[2:])
        if (
            func is Tensor.__setitem__
            and isinstance(args[0], Far)
            and isinstance(args[2], (int, float))
        ):
            args = (*args[:2], torch.tensor(args[2], dtype=args[0].dtype))
        return func(*args, **kwargs)


class Graph:
    """Stands for `torch.cuda.CUDAGraph`: the operators of a step, carried out again on the same
    memory.
    """

    def __init__(self, play: Playing) -> None:
        self.play = play
        self.kept: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self.steps: list[tuple[Any, Any, Any, list[Tensor | None]]] = []

    def before(self, given: Any) -> None:
        """Remember all memory that comes up: operators do not tell of all they write (BatchNorm's
        averages).
        """
        for storage in map(Tensor.untyped_storage, _tensors(given)):
            self.kept.setdefault(storage._cdata, (storage, storage.clone()))

    def after(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Remember where results have to be: those that lie in memory of their own."""
        if len(self.steps) == self.play.recorded_at_most:
            raise RuntimeError("out of room")
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        own = [
            None if tensor.untyped_storage()._cdata in given else tensor
            for tensor in _tensors(result)
        ]
        self.steps.append((func, args, kwargs, own))

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Stand for `torch.cuda.graph`. Afterwards memory is as it was: recording computes
        nothing.
        """
        drawn = self.play.generator.get_state()
        self.play.graph = self
        try:
            yield
        finally:
            self.play.graph = None
            self.play.generator.set_state(drawn)
            for storage, before in self.kept.values():
                storage.copy_(before)
            self.kept.clear()

    def replay(self) -> None:
        """Do it all again."""
        self.play.replays += 1
        with torch.no_grad(), _disable_current_modes():
            for func, args, kwargs, own in self.steps:
                with self.play.drawing(func):
                    found = _tensors(func(*args, **kwargs))
                for old, new in zip(own, found, strict=True):
                    if old is not None:
                        old.copy_(new)


def _numbered(item: Any) -> Any:
    return (
        GPU if isinstance(item, (str, torch.device)) and str(item) in ("cuda", "cuda:0") else item
    )


def _shown(item: Any, there: bool) -> Any:
    return Far(item) if there and isinstance(item, Tensor) else item


def _tensors(tree: Any) -> list[Tensor]:
    return [item for item in tree_flatten(tree)[0] if isinstance(item, Tensor)]


@functools.cache
def _names(func: Any) -> set[str]:
    return {argument.name for argument in func._schema.arguments}


@functools.cache
def _writes(func: Any) -> bool:
    first = func._schema.arguments[0].alias_info
    return first is not None and first.is_write


def _pinned(tensor: Tensor) -> Tensor:
    if isinstance(tensor, Far):
        raise RuntimeError(
            "cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned"
        )
    made = tensor.clone()
    made.pinned = True  # type: ignore[attr-defined]
    return made


@contextmanager
def playing() -> Iterator[Playing]:
    """Play a GPU; what is on it in the end is lost."""
    play = Playing()
    stream = SimpleNamespace(wait_stream=lambda other: None)
    cuda: dict[str, Any] = {
        "CUDAGraph": lambda: Graph(play),
        "Stream": lambda device: stream,
        "_lazy_init": lambda: None,
        "current_device": lambda: 0,
        "current_stream": lambda device: stream,
        "default_generators": (play.generator,),
        "device_count": lambda: 1,
        "empty_cache": lambda: None,
        "get_device_capability": lambda device: (7, 5),
        "get_device_name": lambda device=None: "played",
        "get_sync_debug_mode": lambda: play.debug,
        "graph": lambda graph, stream: graph.recorded(),
        "is_available": lambda: True,
        "is_current_stream_capturing": lambda: play.graph is not None,
        "is_initialized": lambda: True,
        "max_memory_reserved": lambda device: 0,
        "set_sync_debug_mode": lambda mode: setattr(
            play, "debug", {"default": 0, "warn": 1}.get(mode, mode)
        ),
        "stream": lambda chosen: nullcontext(),
        "synchronize": lambda device: None,
    }
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    with (
        mock.patch.multiple(torch.cuda, **cuda),
        mock.patch.object(torch, "Generator", FarGenerator),
        mock.patch.object(Tensor, "pin_memory", _pinned),
        mock.patch("torch.optim.optimizer._foreach_supported_types", [Tensor, nn.Parameter, Far]),
        mock.patch("torch.utils._foreach_utils._foreach_supported_types", [Tensor, Far]),
    ):
        # parameters stay the objects that they are when a module moves, as they do on the way to
        # CUDA
        torch.__future__.set_swap_module_params_on_conversion(True)
        Far.of = play
        try:
            with Asking(), play:
                yield play
        finally:
            Far.of = None
            FarGenerator.known.clear()
            torch.__future__.set_swap_module_params_on_conversion(swapping)


@contextmanager
def rounding() -> Iterator[None]:
    """Compute on the CPU as the played GPU does: in fp32 unless told, with learning rates that are
    tensors.
    """
    from harness.learn.optimiser import Optimiser

    slow = mock.patch.multiple(
        torch.cpu, _is_avx512_bf16_supported=lambda: False, _is_amx_tile_supported=lambda: False
    )
    with (
        slow,
        mock.patch.object(
            Optimiser, "__init__", functools.partialmethod(Optimiser.__init__, rate_tensor=True)
        ),
    ):
        yield


def main(task: Mapping[str, Any]) -> None:
    """Run a stage, in its own process."""
    from harness.run import worker

    with rounding() if task["device"] == "cpu" else playing():
        worker.main(task)


if __name__ == "__main__":
    from harness import cli
    from harness.run import state

    with mock.patch.object(state, "Options", functools.partial(state.Options, entry=ENTRY)):
        sys.exit(cli.main())
