"""Defenses that break the rules, each in one way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness import Access, Defense, Result


class Hostile(Defense):
    """Do harm."""

    how: str = "raise"
    """which harm"""
    where: str = ""
    """a path, where the harm needs one"""

    def defend(self, access: Access) -> object:
        return getattr(self, "do_" + self.how.replace("-", "_"))(access)

    def do_raise(self, access):
        raise RuntimeError("a defense that does not work")

    def do_exit(self, access):
        os._exit(3)

    def do_kill(self, access):
        os.kill(os.getpid(), signal.SIGKILL)

    def do_kill_server(self, access):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

    def do_stop_server(self, access):
        import ctypes

        ctypes.CDLL(None).kill(os.getppid(), int(signal.SIGSTOP))  # unseen by the audit hook
        time.sleep(60)

    def do_forge(self, access):
        record = {"status": "ok", "seconds": 0.0, "peak_memory": 0, "opened": []}
        (access.scratch.parent / "record.json").write_text(json.dumps(record))
        os._exit(0)

    def do_fifo_record(self, access):
        os.mkfifo(access.scratch.parent / "record.json")
        os._exit(0)

    def do_endless_record(self, access):
        (access.scratch.parent / "record.json").symlink_to("/dev/zero")
        os._exit(0)

    def do_fifo_progress(self, access):
        os.mkfifo(access.scratch.parent / "progress.json")
        time.sleep(1.5)
        raise RuntimeError("nobody waited for the pipe")

    def do_linked_out(self, access):
        out = access.scratch.parent / "out"
        out.rmdir()
        out.symlink_to(access.scratch)
        return access.victim()

    def do_score_in_record(self, access):
        return Result(model=access.victim(), record={"score": 1.0})

    def do_acc_in_record(self, access):
        return Result(model=access.victim(), record={"acc": 100.0})

    def do_strange_name(self, access):
        return Result(model=access.victim(), record={"pruned\x1b[2J": 1.0})

    def do_strange_message(self, access):
        raise RuntimeError("half a character: \ud800, and \x1b[2J" + "a lot " * 10**6)

    def do_alter_inputs(self, access):
        (access.scratch.parent / "inputs" / "clean" / "images.safetensors").write_bytes(b"other")
        return access.victim()

    def do_poison_siblings(self, access):
        """Wait for another stage to work beside this one, and spoil what it was given."""
        for _ in range(200):
            for path in access.scratch.parent.parent.glob("*/inputs/victim/*"):
                if access.scratch.parent not in path.parents:
                    path.write_bytes(b"poison")
                    return access.victim()
            time.sleep(0.05)
        return access.victim()

    def do_hang(self, access):
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import time; time.sleep(600)",
                "grandchild-of-a-hostile-defense",
            ]
        )
        while True:
            time.sleep(0.1)

    def do_nothing(self, access):
        return None

    def do_number(self, access):
        return 7

    def do_empty(self, access):
        return Result()

    def do_nan_model(self, access):
        model = access.victim()
        next(model.parameters()).data.fill_(float("nan"))
        return model

    def do_wrong_shape(self, access):
        from torch import nn

        return nn.Sequential(access.victim(), nn.Linear(10, 3))

    def do_nan_record(self, access):
        return Result(model=access.victim(), record={"spread": float("nan")})

    def do_strange_suspects(self, access):
        return Result(flagged=True, suspects=[0])

    def do_hidden_state(self, access):
        from torch import nn

        class Shift(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner, self.by = inner, 5.0

            def forward(self, images):
                return self.inner(images).roll(1, 1)

        return Shift(access.victim())

    def do_fill_disk(self, access):
        with (access.scratch / "junk").open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
                file.flush()

    def do_training_set(self, access):
        access.training_set()

    def do_oracle(self, access):
        access.oracle()

    def do_unlabelled(self, access):
        access.unlabelled()

    def do_unknown_part(self, access):
        access.part("teacher")

    def do_open(self, access):
        for path in Path(self.where).rglob("*"):
            if path.is_file():
                path.read_bytes()
                return access.victim()
        raise RuntimeError("nothing found")

    def do_open_tensors(self, access):
        from safetensors.torch import load_file

        for path in Path(self.where).rglob("*.safetensors"):
            load_file(path)
            return access.victim()
        raise RuntimeError("nothing found")

    def do_siblings(self, access):
        """Wait for another stage to work beside this one, and look into its folder."""
        for _ in range(200):
            for path in access.scratch.parent.parent.glob("*/inputs/*/*"):
                if access.scratch.parent not in path.parents:
                    path.read_bytes()
                    return access.victim()
            time.sleep(0.05)
        return access.victim()

    def do_snoop(self, access):
        """Print everything that an honest look around finds: task, scratch, environment, process,
        objects in reach.
        """
        import gc

        here = Path.cwd()
        root = here if (here / "task.json").exists() else here.parent
        files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        texts = [path.read_text(errors="replace") for path in root.rglob("*.json")]
        process = [Path("/proc/self/environ").read_text(), Path("/proc/self/cmdline").read_text()]
        descriptors = [
            str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()
        ]
        objects = sorted({type(item).__name__ for item in gc.get_objects()})
        found = {
            "files": files,
            "texts": texts,
            "environ": dict(os.environ),
            "process": process,
            "descriptors": descriptors,
            "argv": sys.argv,
            "cwd": str(Path.cwd()),
            "objects": [
                name
                for name in objects
                if "Oracle" in name or "Poisoned" in name or "Store" in name
            ],
            "access": sorted(vars(access)) + sorted(access._files),
        }
        print("SNOOPED " + json.dumps(found))
        return access.victim()

    def do_leave_globals(self, access):
        import random

        import torch

        torch.manual_seed(1)
        random.seed(1)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        os.environ["PATH"] = ""
        return access.victim()
