"""What ships in the box: the built-in components and recipes, registered as anyone else's are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import hookimpl
from plugins.recipes import RECIPES

if TYPE_CHECKING:
    from harness.introspect.register import Register


@hookimpl
def bench_register(register: Register) -> None:
    """Register the built-ins; targets are strings, so that nothing else is imported."""
    register.dataset("npz", "plugins.datasets.npz:Npz")
    register.dataset("signs", "plugins.datasets.signs:Signs")

    register.model("resnet18", "plugins.models.resnet18:ResNet18")
    register.model("resnet20", "plugins.models.resnet20:ResNet20")
    register.model("small-cnn", "plugins.models.small_cnn:SmallCNN")

    register.attack("badnets", "plugins.attacks.badnets:BadNets")
    register.attack("blend", "plugins.attacks.blend:Blend")
    register.attack("none", "plugins.attacks.none:NoAttack")
    register.attack("sig", "plugins.attacks.sig:SIG")
    register.attack("wanet", "plugins.attacks.wanet:WaNet")

    register.defense("anp", "plugins.defenses.anp:ANP")
    register.defense("bcu", "plugins.defenses.bcu:BCU")
    register.defense("fine-pruning", "plugins.defenses.fine_pruning:FinePruning")
    register.defense("ft", "plugins.defenses.ft:FT")
    register.defense("nad", "plugins.defenses.nad:NAD")
    register.defense("none", "plugins.defenses.none:NoDefense")

    register.metric("acc", "plugins.metrics.acc:Acc")
    register.metric("asr", "plugins.metrics.asr:ASR")
    register.metric("images", "plugins.metrics.images:Images")
    register.metric("ra", "plugins.metrics.ra:RA")
    register.metric("time", "plugins.metrics.time:Time")

    for name, fields in RECIPES.items():
        register.recipe(name, fields)
