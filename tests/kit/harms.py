"""Grids with defenses that break the rules: `tests/probes/hostile.py` in each of its ways."""

from __future__ import annotations

import json

HARMS = {
    "raise": "a defense that does not work",
    "exit": "exit code 3",
    "kill": "(3 times)",
    "hang": "no result after",
    "nothing": "`defend` returned NoneType",
    "number": "`defend` returned int",
    "empty": "neither a model nor a verdict",
    "nan-model": "not finite",
    "wrong-shape": "(8, 3)",
    "nan-record": "a finite number is expected",
    "strange-suspects": "training-set",
    "hidden-state": "inner.",
    "training-set": "'training-set' was not declared",
    "oracle": "'oracle' was not declared",
    "unlabelled": "'clean-unlabelled' was not declared",
    "unknown-part": "no parameter 'teacher'",
    "forge": "left no file in its out folder",
    "fifo-record": "record.json is no plain file",
    "endless-record": "record.json is a link",
    "fifo-progress": "nobody waited for the pipe",
    "linked-out": "out: is a link",
    "score-in-record": "a name of the verdict's",
    "strange-name": "control characters",
    "strange-message": "half a character: ?, and ?[2Ja lot a lot",
    "alter-inputs": "its inputs were altered while it worked: clean/images.safetensors",
    "kill-server": "sent signal 9 to process",
    "stop-server": "its host process died (3 times)",
}
"""Each way of doing harm, and what the reason must say."""

HARMLESS = ("snoop", "leave-globals")

GREEDY = {
    "flood": "",
    "offspring": "",
    "threads": "",
    "deaf": "",
    "closed": "",
    "no-rights": "",
    "other-task": "",
    "many-files": "more than 10,000 files",
    "deep-folders": "levels deep",
    "pipe": "only plain files",
    "strange-file": "control characters",
    "bytes-file": "",
    "no-scratch": "",
    "open-files": "",
    "memory": "MemoryError",
    "recursion": "recursion",
    "system-exit": "",
    "interrupt": "",
    "segfault": "signal 11",
    "kill-group": "(3 times)",
    "lies": "its record is not as it should be",
    "long-record": "nested too deeply",
}
"""Ways of `tests/probes/greedy.py`, and what the reason must say; where that is empty, the cell may
have its numbers, or any reason.
"""

HEAD = """
[[dataset]]
name = "signs"
train = 300
test = 100
pool = 60
[[model]]
name = "small-cnn"
width = 4
[[attack]]
name = "badnets"
[training]
recipe = "signs"
epochs = 1
[[metric]]
name = "acc"
[[metric]]
name = "asr"
[[defense]]
name = "none"
[[defense]]
name = "ft"
epochs = 1
"""


def hostile(how: str, name: str = "hostile", **more: object) -> str:
    """Write the entry of a defense of the probes in one of its ways."""
    extra = "".join(f"{key} = {json.dumps(str(value))}\n" for key, value in more.items())
    return f'[[defense]]\nname = "{name}"\nas = "{how}"\nhow = "{how}"\n{extra}'
