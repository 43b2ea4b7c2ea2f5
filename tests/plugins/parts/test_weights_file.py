"""Weights that somebody else wrote."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from plugins.parts.weights_file import (
    fill,
    in_torch_order,
    only_tensors,
    read_state,
    read_tensors,
    renamed,
    sizes_without,
)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))


def write(kind: str, path: Path, state: dict[str, Tensor]) -> None:
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "npz":
        with path.open("wb") as stream:
            np.savez(stream, **{name: value.numpy() for name, value in state.items()})
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "torch")


@pytest.mark.parametrize("kind", ["safetensors", "npz", "torch", "torch-1.5"])
def test_each_format_is_told_by_its_content(kind: str, tmp_path: Path) -> None:
    state = net().state_dict()
    write(kind, tmp_path / "weights.bin", state)
    found = read_tensors(tmp_path / "weights.bin")
    assert set(found) == set(state)
    assert all(torch.equal(found[name], value) for name, value in state.items())


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_file_is_not_run(new: bool, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"weight": Trap(sprung)}, tmp_path / "evil.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(
        ValueError, match=r"evil\.pt holds the object \S*mkdir, which only code could restore"
    ):
        read_tensors(tmp_path / "evil.pt")
    assert not sprung.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"torch\.nn\.\S+, which only code.*state_dict\(\)"):
        read_tensors(tmp_path / "net.pt")


def test_objects_in_an_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", weights=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"odd\.npz: .*need no unpickling"):
        read_tensors(tmp_path / "odd.npz")


def test_a_program_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(
            torch.jit.trace(net().eval(), torch.rand(1, 2, 3, 3)), str(tmp_path / "net.pt")
        )
    with pytest.raises(
        ValueError, match=r"holds a TorchScript program, which only code could restore"
    ):
        read_tensors(tmp_path / "net.pt")


@pytest.mark.parametrize(
    "content",
    [b"", b"no tensors", pickle.dumps({"weight": np.ones(3)}), b"\x08\0\0\0\0\0\0\0{damaged"],
)
def test_what_is_no_file_of_tensors_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "file"))) as caught:
        read_tensors(tmp_path / "file")
    assert "only code could restore" not in str(caught.value)


@pytest.mark.parametrize("kind", ["safetensors", "npz", "torch", "torch-1.5"])
@pytest.mark.parametrize("harm", ["cut", "overwritten"])
def test_a_damaged_file_is_told_from_one_with_code(kind: str, harm: str, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    write(kind, path, net().state_dict())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if harm == "cut" else bytes(200) + content[200:])
    with pytest.raises(ValueError, match="damaged"):
        read_tensors(path)


def test_the_state_within_a_checkpoint(tmp_path: Path) -> None:
    state = net().state_dict()
    path = tmp_path / "last.pt"
    torch.save({"epoch": 3, "nets": {"victim": state, "lr": 0.1}}, path)
    assert set(read_tensors(path, "nets.victim")) == set(state)
    for entry, told in {
        "": "epoch, nets",
        "nets": "lr",
        "net": "epoch, nets",
        "epoch": "a int",
    }.items():
        with pytest.raises(ValueError, match=told):
            read_tensors(path, entry)


def test_names_are_changed_by_rules_for_whole_names() -> None:
    one, two, three = torch.zeros(1), torch.ones(1), torch.ones(2)
    state = {"module.conv.weight": one, "module.fc.bias": two, "aux": three}
    rules = {r"module\.conv\.(.*)": r"stem.\1", r"module\.fc\.(.*)": r"head.\1", "aux": ""}
    assert renamed(state, rules, Path("w")) == {"stem.weight": one, "head.bias": two}
    assert renamed(state, {}, Path("w")) == state


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"mod": "x"}, "'mod' fits no tensor; the file has module.a, module.b"),
        ({r".*\.a": "x", r"module\..": "y"}, "both fit 'module.a'"),
        ({r"module\.(.)": "same"}, "'module.a' and 'module.b' would both be called 'same'"),
        ({"(": "x"}, "no regular expression"),
        ({"module.(.)": r"\2"}, "cannot follow from 'module.(.)': invalid group reference 2"),
        ({"module.(?P<last>.)": r"\g<first>"}, "unknown group name 'first'"),
    ],
)
def test_rules_that_cannot_be_meant(rules: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        renamed({"module.a": torch.zeros(1), "module.b": torch.zeros(1)}, rules, Path("w"))


def test_kernels_of_tensorflow() -> None:
    conv, linear = nn.Conv2d(2, 5, 3), nn.Linear(6, 4)
    kernels = {
        "conv": conv.weight.detach().permute(2, 3, 1, 0),
        "linear": linear.weight.detach().T,
        "bias": torch.arange(3),
    }
    found = in_torch_order(kernels, "hwio")
    assert torch.equal(found["conv"], conv.weight)
    assert torch.equal(found["linear"], linear.weight)
    assert torch.equal(found["bias"], torch.arange(3))
    assert in_torch_order(kernels, "oihw") == kernels


def test_a_net_takes_what_fits_and_no_batch_counter_is_asked_for() -> None:
    state = {
        name: value
        for name, value in net().state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    other = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))
    fill(other, state, Path("w"))
    assert torch.equal(other[0].weight, state["0.weight"])


def test_what_does_not_fit_is_named() -> None:
    state = net().state_dict()
    lacking = {name: value for name, value in state.items() if name != "0.weight"} | {
        "first.weight": state["0.weight"]
    }
    with pytest.raises(
        ValueError,
        match=r"w does not fit Sequential: it lacks 0\.weight; it has first\.weight, .*ren",
    ):
        fill(net(), lacking, Path("w"))
    with pytest.raises(ValueError, match=r"size mismatch for 0\.weight"):
        fill(net(), state | {"0.weight": torch.zeros(1, 2, 3, 3)}, Path("w"))


@pytest.mark.parametrize(
    "change", [lambda value: value / 0, lambda value: value + 0j, Tensor.to_sparse]
)
def test_values_that_no_network_can_have_are_named(change: Callable[[Tensor], Tensor]) -> None:
    state = net().state_dict()
    with pytest.raises(
        ValueError, match=r"w holds something other than finite real numbers, .*, in 0\.weight$"
    ):
        fill(net(), state | {"0.weight": change(state["0.weight"])}, Path("w"))


# --- checkpoints of the field ---------------------------------------------------------------------


@pytest.mark.parametrize("new", [True, False])
def test_numpy_beside_weights_needs_no_code(new: bool, tmp_path: Path) -> None:
    state = net().state_dict()
    content = {
        "model": state,
        "best": np.float64(0.93),
        "flag": np.bool_(True),
        "indices": np.arange(5),
        "names": np.array(["a", "b"]),
        "odd": np.array([{}, None], dtype=object),
    }
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    found = read_tensors(tmp_path / "w.pt", "model")
    assert all(torch.equal(found[name], value) for name, value in state.items())
    with pytest.raises(ValueError, match=r'w\.pt holds more than a state \(.*entry = "model"'):
        read_tensors(tmp_path / "w.pt")


@pytest.mark.parametrize("kind", ["float32", ">f8", "int64", "bool", "float16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numpy_are_weights_too(kind: str, order: Any, tmp_path: Path) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=kind, order=order)
    torch.save({"weight": array, "empty": np.empty((0, 2))}, tmp_path / "w.pt")
    found = read_tensors(tmp_path / "w.pt")
    assert np.array_equal(found["weight"].numpy(), array)
    assert found["empty"].shape == (0, 2)


def test_code_that_hides_in_an_array_is_not_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    hidden = np.array([Trap(sprung)], dtype=object)
    torch.save({"weight": hidden}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt holds the object \S*mkdir"):
        read_tensors(tmp_path / "evil.pt")
    assert not sprung.exists()


def test_stray_numbers_are_dropped_by_rename(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    state = net().state_dict()
    torch.save({**state, "epoch": 3, "best_acc": np.float64(0.9), "args.lr": 0.1}, path)
    with pytest.raises(ValueError, match=r"w\.pt .*\(epoch, best_acc, args\.lr\): drop each with"):
        read_tensors(path)
    rules = {"epoch|best_acc": "", r"args\.lr": ""}
    found = only_tensors(renamed(read_state(path), rules, path), path)
    assert set(found) == set(state)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"module.": ""}, r"'module\.(.*)' = '\1' is one for all that begin with it"),
        ({"mod": "x"}, r"'mod(.*)' = 'x\1' is one for"),
        ({"other": ""}, "A rule matches a whole name"),
    ],
)
def test_a_rule_for_a_beginning_is_told_what_matches(rules: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        renamed({"module.a": torch.zeros(1)}, rules, Path("some/w.pt"))
    assert str(caught.value).startswith("some/w.pt: rename: ")


def test_the_rule_for_a_prefix_is_told() -> None:
    state = {f"net.module.{name}": value for name, value in net().state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(r"network ('net\.module\.(.*)' = '\1'), or")):
        fill(net(), state, Path("w"))


def test_a_wrong_number_of_classes_is_told_with_the_remedy() -> None:
    state = net().state_dict()
    ten = state | {"3.weight": torch.zeros(10, 3), "3.bias": torch.zeros(10)}
    with pytest.raises(ValueError, match=r"w does not fit .*: it tells 10 .*say classes = 10 in"):
        fill(net(), ten, Path("w"), classes=4)
    with pytest.raises(ValueError, match="size mismatch"):
        fill(net(), ten | {"0.bias": torch.zeros(7)}, Path("w"), classes=4)
    assert sizes_without(ten, 4) == [10]
    assert sizes_without(ten, 10) == []
    assert sizes_without({"0.weight": state["0.weight"]}, 4) == [3]
    assert sizes_without({"bias": torch.zeros(3)}, 4) == []


@pytest.mark.parametrize("kind", ["torch", "torch-1.5", "npz", "safetensors"])
@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_wrong_names_the_file(kind: str, seed: int, tmp_path: Path) -> None:
    """Bytes are overwritten at random: it is read, or refused by name."""
    path = tmp_path / "weights"
    write(kind, path, net().state_dict())
    content = bytearray(path.read_bytes())
    draw = np.random.default_rng(seed)
    for place in draw.integers(0, len(content), 12):
        content[place] = draw.integers(256)
    path.write_bytes(content)
    reason = ""
    try:
        read_tensors(path)
    except ValueError as error:
        reason = str(error)
    assert reason == "" or str(path) in reason
