from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness import Access
from harness.errors import Paused, Unfit
from harness.keeping import continuing as stage_loops
from harness.keeping import loops
from harness.keeping.continuing import CHECKPOINTS, PAUSE, RESUME, Continuing
from harness.learn import Batch, Extra, ImageSet
from tests.kit.continued import Stopping, boundaries, disturbed, hand_over, keep_everything
from tests.kit.learned import CLEAN, Tiny, pictures, stage_context

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _however_short(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_everything(monkeypatch)


def access_with(continuing: Continuing) -> Access:
    return Access(dataclasses.replace(stage_context(), continuing=continuing), CLEAN, {})


def everywhere(work: Callable[[Access], Any], folder: Path, times: int = 2) -> int:
    """Stop work at every boundary, and at every one and another; return how many there are."""

    def body(continuing: Continuing) -> Any:
        access = access_with(continuing)
        return [work(access), access.images_processed, dict(access.record)]

    left, count = boundaries(body, folder / "undisturbed")
    for place in range(1, count + 1):
        places = [place]
        if times == 2:
            places.append(min(count, place + 1 + place % 3))
        found = disturbed(body, folder / str(place), places)
        assert repr(found) == repr(left), f"stopped at {places} of {count}"
    return count


def test_a_loop_goes_on_with_all_that_it_keeps(tmp_path: Path) -> None:
    def work(access: Access) -> Any:
        torch.manual_seed(0)
        values = torch.zeros(3)
        draws = access.generator("draws")
        books: dict[str, Any] = {"seen": []}
        for step in access.steps(5, keep={"values": values, "books": books}):
            values += torch.rand(3, generator=draws)
            books["seen"].append((step, float(torch.rand(()))))
            access.record["last"] = float(values.sum())
            access.tick(images=2)
        return values.tolist(), books

    assert everywhere(work, tmp_path) == 5


def by_break(access: Access, books: list[int]) -> None:
    for step in access.steps(6, keep={"books": books}):
        books.append(step)
        if step == 2:
            break


def by_return(access: Access, books: list[int]) -> None:
    for step in access.steps(6, keep={"books": books}):
        books.append(step)
        for _ in range(3):
            if step == 2:
                return


def out_of_a_block(access: Access, books: list[int]) -> None:
    for step in access.steps(6, keep={"books": books}):
        with contextlib.nullcontext():
            books.append(step)
            try:
                if step == 2:
                    break
            finally:
                books.append(-1)


def after_an_exception(access: Access, books: list[int]) -> None:
    for step in access.steps(6, keep={"books": books}):
        books.append(step)
        try:
            books[2 if step == 2 else 100] += 1
        except IndexError:
            continue
        break


def beside_others(access: Access, books: list[int]) -> None:
    for step, _ in zip(access.steps(6, keep={"books": books}), itertools.repeat(0), strict=False):
        books.append(step)
        if step == 2:
            break


LEFT = (by_break, by_return, out_of_a_block, after_an_exception, beside_others)


@pytest.mark.parametrize("leave", LEFT)
def test_a_loop_that_was_left_early_is_left_again(
    leave: Callable[[Access, list[int]], None], tmp_path: Path
) -> None:
    def work(access: Access) -> Any:
        books: list[int] = []
        leave(access, books)
        after: list[int] = [len(books)]
        for step in access.steps(3, keep={"after": after}):
            after.append(step * 2)
        return books, after

    assert everywhere(work, tmp_path) == 6


def test_a_loop_may_say_that_a_step_is_its_last(tmp_path: Path) -> None:
    ran: list[int] = []

    def work(access: Access) -> Any:
        books: list[int] = []
        steps = access.steps(6, keep={"books": books})
        for step in steps:
            ran.append(step)
            books.append(step)
            if step == 2:
                steps.end()
        after: list[int] = [len(books)]
        for step in access.steps(3, keep={"after": after}):
            after.append(step * 2)
        return books, after

    assert everywhere(work, tmp_path) == 6
    # The second loop finds the first one ended: none of its iterations is run again.
    ran.clear()
    disturbed(lambda continuing: work(access_with(continuing)), tmp_path / "watched", [5])
    assert ran == [0, 1, 2]


def test_a_loop_that_raised_raises_again(tmp_path: Path) -> None:
    raised = []

    def work(access: Access) -> Any:
        books: list[int] = []
        try:
            for step in access.steps(6, keep={"books": books}):
                books.append(step)
                if step == 3:
                    raise ValueError("too many")
        except ValueError:
            raised.append(len(books))
            books.append(-1)
        after: list[int] = []
        for step in access.steps(3, keep={"books": books, "after": after}):
            after.append(step * 2)
        return books, after

    everywhere(work, tmp_path)
    assert set(raised) == {4}


def test_loops_within_loops(tmp_path: Path) -> None:
    def work(access: Access) -> Any:
        values = torch.ones(2)
        books: list[Any] = []
        draws = access.generator("draws")
        for outer in access.steps(3, keep={"values": values, "books": books}):
            values *= 2
            for inner in access.steps(2, keep={"values": values}):
                values += torch.rand(2, generator=draws) + inner
            part = access.generator("part")
            for _ in access.steps(2, keep={"values": values, "part": part}):
                values -= torch.rand(2, generator=part)
                if outer == 1:
                    break
            books.append(values.tolist())
        return books

    assert everywhere(work, tmp_path) == 3 + 6 + 5


def test_loops_within_short_iterations_are_covered_by_the_outer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "LONG", 1000.0)

    def work(access: Access) -> Any:
        values = torch.ones(2)
        for _ in access.steps(3, keep={"values": values}):
            for inner in access.steps(2, keep={"values": values}):
                values *= 2 + inner
        return values.tolist()

    # Those of the first iteration can be kept: nothing has to be known before them.
    assert everywhere(work, tmp_path) == 3 + 2


def picture_set() -> ImageSet:
    return pictures(37)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 3},
        {"epochs": 2, "drop_last": True, "optimizer": "adam", "schedule": "cosine"},
        {"epochs": 2, "replacement": True, "optimizer": "adadelta"},
        {"epochs": 2, "shuffle": False, "optimizer": "adamw", "clip_norm": 0.5},
    ],
    ids=["plain", "drop_last", "replacement", "in order"],
)
def test_fit_goes_on_from_every_step(
    settings: dict[str, Any], before: bool, tmp_path: Path
) -> None:
    """Also with a hook that draws, trains parameters of its own and changes the number of images,
    upon which further moves are drawn in the middle of an epoch.
    """

    def work(access: Access) -> Any:
        torch.manual_seed(3)
        net = Tiny().build(access.task)
        net.append(nn.Dropout(0.2))
        shift = nn.Parameter(torch.zeros(1))
        noise = access.generator("noise")
        ended: list[int] = []

        def change(batch: Batch) -> Batch:
            drawn = torch.rand(batch.images.shape, generator=noise)
            images = batch.images + shift + 0.1 * drawn
            count = len(images) - batch.step % 3
            return dataclasses.replace(
                batch,
                images=images[:count],
                labels=None if batch.labels is None else batch.labels[:count],
            )

        hooks: dict[str, Any] = {}
        if before:
            adding = Extra([shift], {"lr": 0.01}, zero_grad=False)
            hooks = {"before_augment": change, "extra": [adding]}
        history = access.fit(
            net,
            picture_set(),
            access.recipe.replace(batch=8, crop=1, flip=True, rotation=10.0, **settings),
            after_epoch=ended.append,
            keep={"ended": ended},
            **hooks,
        )
        values = [value.double().sum().item() for value in net.state_dict().values()]
        return values, shift.tolist(), history, ended, net.training

    count = everywhere(work, tmp_path)
    assert count == settings["epochs"] * (4 if "drop_last" in settings else 5)


def test_fits_one_after_another_and_in_a_loop(tmp_path: Path) -> None:
    def work(access: Access) -> Any:
        torch.manual_seed(3)
        net = Tiny().build(access.task)
        access.fit(net, picture_set(), epochs=1)
        losses: list[Any] = []
        for _ in access.steps(2, keep={"net": net, "losses": losses}):
            losses.append(access.fit(net, picture_set(), epochs=1, batch=20).losses)
            losses.append(access.fit(access.fresh_model(), picture_set(), epochs=1).losses)
        return [value.double().sum().item() for value in net.state_dict().values()], losses

    everywhere(work, tmp_path)


def learned(net: nn.Module, mask: torch.Tensor, step: int) -> torch.Tensor:
    """Return a loss that depends on the step."""
    inputs = torch.rand(8, 3, generator=torch.Generator().manual_seed(step))
    loss: torch.Tensor = (net(inputs + mask) - inputs.sum(1, keepdim=True)).square().mean()
    return loss


def linear() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def with_masks_in_a_list(access: Access) -> Any:
    net = linear()
    masks = [torch.zeros(3, requires_grad=True), torch.zeros(1, requires_grad=True)]
    adam = torch.optim.Adam(masks, lr=0.1)
    for step in access.steps(6, keep={"masks": masks, "adam": adam}):
        adam.zero_grad()
        (learned(net, masks[0], step) * (1 + masks[1]).sum()).backward()
        adam.step()
    return [mask.tolist() for mask in masks]


def with_a_mask_in_a_table(access: Access) -> Any:
    net = linear()
    mask = torch.zeros(3, requires_grad=True)
    books: dict[str, Any] = {"mask": mask, "best": None}
    adam = torch.optim.Adam([mask], lr=0.1)
    for step in access.steps(6, keep={"books": books, "adam": adam}):
        adam.zero_grad()
        learned(net, mask, step).backward()
        adam.step()
        if step == 2:
            books["best"] = mask.detach()  # follows the mask, for better or worse
    return mask.tolist(), books["best"].tolist()


def with_gradients_that_add_up(access: Access) -> Any:
    net = linear()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in access.steps(7, keep={"net": net, "sgd": sgd}):
        learned(net, torch.zeros(3), step).backward()
        if step % 3 == 2:
            sgd.step()
            sgd.zero_grad()
    return [[each.tolist(), each.grad.tolist()] for each in net.parameters()]


def with_parts_that_are_frozen(access: Access) -> Any:
    net = linear()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for step in access.steps(7, keep={"net": net, "sgd": sgd}):
        if step == 3:
            net[0].requires_grad_(False)
        sgd.zero_grad()
        learned(net, torch.zeros(3), step).backward()
        sgd.step()
    return [[each.tolist(), each.requires_grad] for each in net.parameters()]


def with_a_group_that_is_added(access: Access) -> Any:
    net = linear()
    sgd = torch.optim.SGD(net[0].parameters(), lr=0.1, momentum=0.9)
    for step in access.steps(7, keep={"net": net, "sgd": sgd}):
        if step == 2:
            sgd.add_param_group({"params": net[2].parameters(), "lr": 0.05})
        sgd.zero_grad()
        learned(net, torch.zeros(3), step).backward()
        sgd.step()
    return [each.tolist() for each in net.parameters()]


def with_buffers_that_come_late(access: Access) -> Any:
    net = linear()
    for step in access.steps(6, keep={"net": net}):
        if step == 1:
            net.register_buffer("seen", torch.zeros(3), persistent=False)
        if step >= 1:
            net.seen = net.seen + torch.rand(3)
    return net.seen.tolist()


ALIKE = (
    with_masks_in_a_list,
    with_a_mask_in_a_table,
    with_gradients_that_add_up,
    with_parts_that_are_frozen,
    with_a_group_that_is_added,
    with_buffers_that_come_late,
)


@pytest.mark.parametrize("work", ALIKE)
def test_what_variables_and_optimisers_refer_to_is_what_comes_back(
    work: Callable[[Access], Any], tmp_path: Path
) -> None:
    assert everywhere(work, tmp_path) >= 6


def test_what_hooks_freeze_in_a_fit_stays_frozen(tmp_path: Path) -> None:
    def work(access: Access) -> Any:
        torch.manual_seed(3)
        net = Tiny().build(access.task)
        first = next(net.parameters())

        def freeze(epoch: int) -> None:
            first.requires_grad_(epoch != 0)

        access.fit(net, picture_set(), epochs=3, batch=20, after_epoch=freeze)
        flags = [parameter.requires_grad for parameter in net.parameters()]
        return [value.double().sum().item() for value in net.state_dict().values()], flags

    assert everywhere(work, tmp_path) == 6


def test_what_cannot_be_kept_is_said_when_the_loop_begins(tmp_path: Path) -> None:
    """Of every loop, not of the first one alone."""
    access = access_with(Continuing())
    assert list(access.steps(1, keep={"best": [1]})) == [0]
    for _ in range(2):
        with pytest.raises(TypeError, match=r'keep\["best"\]: a set cannot be kept'):
            next(iter(access.steps(3, keep={"best": {"labels": {1, 2}}})))


class Moody:
    """Cannot say what its state is, from some moment on."""

    broken = False

    def state_dict(self) -> dict[str, int]:
        if self.broken:
            raise RuntimeError("no state today")
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


def late_size(access: Access, books: dict[str, Any], moody: Moody) -> None:
    books["size"] = torch.zeros(2).shape


def late_record(access: Access, books: dict[str, Any], moody: Moody) -> None:
    access.record["seen"] = {1, 2}  # type: ignore[assignment]


def late_error(access: Access, books: dict[str, Any], moody: Moody) -> None:
    moody.broken = True


TROUBLE = {
    late_size: 'loop steps: keep["books"]: a Size cannot be kept',
    late_record: "loop steps: access.record: a set cannot be kept",
    late_error: 'loop steps: keep["moody"]: no state today',
}


@pytest.mark.parametrize("late", TROUBLE)
@pytest.mark.parametrize("at", [3, None], ids=["at a checkpoint", "at the end of the loop"])
def test_what_comes_late_and_cannot_be_kept_costs_the_checkpoints_and_not_the_stage(
    late: Callable[[Access, dict[str, Any], Moody], None],
    at: int | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    continuing = Stopping(tmp_path, at)
    access = access_with(continuing)
    moody, books = Moody(), {"size": None}
    seen = []
    for step in access.steps(5, keep={"books": books, "moody": moody}):
        seen.append(step)
        if step == 1:
            late(access, books, moody)
    assert list(access.steps(2, keep={"seen": seen})) == [0, 1]
    assert seen == [0, 1, 2, 3, 4]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint: {TROUBLE[late]}")
    assert said[0].endswith("it starts over if it is stopped")
    assert not continuing.keeps
    assert not (tmp_path / CHECKPOINTS).exists()


def test_nothing_is_written_where_nothing_is_to_be_kept(tmp_path: Path) -> None:
    access = access_with(Continuing(tmp_path, 0.0))
    assert list(access.steps(3)) == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []


def test_the_host_can_ask_for_a_pause(tmp_path: Path) -> None:
    continuing = Continuing(tmp_path, 300.0)
    access = access_with(continuing)
    seen: list[int] = []

    def work() -> None:
        for step in access.steps(1000, keep={"seen": seen}):
            seen.append(step)
            if step == 4:
                (tmp_path / PAUSE).touch()
            continuing._looked = 0.0  # however quick the steps are

    with pytest.raises(Paused):
        work()
    assert len(seen) == 5
    about = json.loads((tmp_path / CHECKPOINTS / "1" / "about.json").read_text())
    assert about["place"] == f"step {len(seen) + 1} of 1,000"
    assert continuing.place == ""


def test_a_checkpoint_is_written_when_its_time_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    continuing = Continuing(tmp_path, 50.0)
    clock = continuing._began
    monkeypatch.setattr(stage_loops.time, "monotonic", lambda: clock)
    written = []
    for _ in access_with(continuing).steps(20):
        clock += 20.0
        written.append(newest(tmp_path))
    assert written == [0, 0, 0] + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3 + [6] * 2


def newest(folder: Path) -> int:
    place = folder / CHECKPOINTS
    return max((int(path.name) for path in place.iterdir() if path.name.isdecimal()), default=0)


def test_a_state_that_is_too_large_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage_loops, "LIMIT", 1000)
    continuing = Stopping(tmp_path, 2)
    access = access_with(continuing)
    assert list(access.steps(5, keep={"large": torch.zeros(10_000)})) == [0, 1, 2, 3, 4]
    assert "more than the 1,000 that are kept: it starts over" in capsys.readouterr().out
    assert not (tmp_path / CHECKPOINTS).exists()


def test_a_full_disk_costs_the_checkpoint_and_not_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage_loops.os, "link", full)
    access = access_with(Stopping(tmp_path, 2))
    assert list(access.steps(5)) == [0, 1, 2, 3, 4]
    assert "No space left on device" in capsys.readouterr().out
    assert newest(tmp_path) == 0


def kept(folder: Path) -> Path:
    """Return the scratch folder of an attempt that goes on from another one's second boundary."""
    with pytest.raises(Paused):
        for _ in access_with(Stopping(made(folder / "0"), 2)).steps(3, keep={"x": torch.zeros(2)}):
            pass
    hand_over(folder / "0", made(folder / "1"))
    return folder / "1"


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


HARMS: dict[str, Callable[[Path], object]] = {
    "state.json is cut off": lambda at: (at / "state.json").write_text('{"format": 1'),
    "no state.json": lambda at: (at / "state.json").unlink(),
    "format": lambda at: (at / "state.json").write_text('{"format": 9, "entries": {}}'),
    "tensors are cut off": lambda at: (at / "0.safetensors").write_bytes(b"short"),
    "no tensors": lambda at: (at / "0.safetensors").unlink(),
    "environment": lambda at: (at / "about.json").write_text('{"environment": {"threads": 2}}'),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_does_not_fit_is_unfit(harm: str, tmp_path: Path) -> None:
    scratch = kept(tmp_path)
    HARMS[harm](scratch / RESUME)
    continuing = Stopping(scratch, None)

    def work() -> None:
        continuing.resume(dict)
        list(access_with(continuing).steps(3, keep={"x": torch.zeros(2)}))

    with pytest.raises(Unfit):
        work()


def test_other_things_to_keep_are_unfit(tmp_path: Path) -> None:
    continuing = Stopping(kept(tmp_path), None)
    continuing.resume(dict)
    with pytest.raises(Unfit, match="loop steps: it holds x, where y is kept now"):
        list(access_with(continuing).steps(3, keep={"y": torch.zeros(2)}))
