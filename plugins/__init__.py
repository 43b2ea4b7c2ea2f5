"""The built-in components and recipes, registered as anyone else's are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import hookimpl
from plugins.recipes import RECIPES

if TYPE_CHECKING:
    from harness import Register


@hookimpl
def bench_register(register: Register) -> None:
    """Register the built-ins; targets are strings, so that nothing else is imported."""
    _register_datasets(register)
    _register_models(register)
    _register_attacks(register)
    _register_defenses(register)
    _register_metrics(register)
    _register_parts(register)
    _register_recipes(register)


def _register_datasets(register: Register) -> None:
    """Register the datasets."""
    register.dataset("celeba8", "plugins.datasets.celeba8:CelebA8")
    register.dataset("cifar10", "plugins.datasets.cifar10:Cifar10")
    register.dataset("folder", "plugins.datasets.folder:PictureFolder")
    register.dataset("gtsrb", "plugins.datasets.gtsrb:Gtsrb")
    register.dataset("imagenet-subset", "plugins.datasets.imagenet_subset:ImageNetSubset")
    register.dataset("lisa", "plugins.datasets.lisa:Lisa")
    register.dataset("mnist", "plugins.datasets.mnist:Mnist")
    register.dataset("npz", "plugins.datasets.npz:Npz")
    register.dataset("signs", "plugins.datasets.signs:Signs")
    register.dataset("stl10", "plugins.datasets.stl10:Stl10")
    register.dataset("svhn", "plugins.datasets.svhn:Svhn")
    register.dataset("tiny-imagenet", "plugins.datasets.tiny_imagenet:TinyImageNet")


def _register_models(register: Register) -> None:
    """Register the architectures."""
    register.model("cnn", "plugins.models.cnn:CNN")
    register.model("cnn4", "plugins.models.mnist_nets:CNN4")
    register.model("fc5", "plugins.models.mnist_nets:FC5")
    register.model("nin", "plugins.models.nin:NiN")
    register.model("preact-resnet18", "plugins.models.preact_resnet18:PreActResNet18")
    register.model("resnet18", "plugins.models.resnet18:ResNet18")
    register.model("resnet20", "plugins.models.resnet20:ResNet20")
    register.model("resnet32", "plugins.models.resnet20:ResNet32")
    register.model("resnet34", "plugins.models.resnet18:ResNet34")
    register.model("resnet50", "plugins.models.resnet18:ResNet50")
    register.model("small-cnn", "plugins.models.small_cnn:SmallCNN")
    register.model("smallvgg", "plugins.models.smallvgg:SmallVGG")
    register.model("timm", "plugins.models.timm_net:TimmNet", argument="arch")
    register.model("torchvision", "plugins.models.torchvision_net:TorchvisionNet", argument="arch")
    register.model("vgg11", "plugins.models.vgg:VGG11")
    register.model("vgg13", "plugins.models.vgg:VGG13")
    register.model("vgg19", "plugins.models.vgg:VGG19")
    register.model("wrn16-1", "plugins.models.wrn16_1:WRN16")


def _register_attacks(register: Register) -> None:
    """Register the attacks."""
    register.attack("badnets", "plugins.attacks.badnets:BadNets")
    register.attack("blend", "plugins.attacks.blend:Blend")
    register.attack("deck-adaptive", "plugins.attacks.deck_adaptive:DeckAdaptive")
    register.attack("dfst", "plugins.attacks.dfst:DFST")
    register.attack("filter", "plugins.attacks.filter:Filter")
    register.attack("iab", "plugins.attacks.iab:IAB")
    register.attack("invisible", "plugins.attacks.invisible:Invisible")
    register.attack("l0-invisible", "plugins.attacks.l0_invisible:L0Invisible")
    register.attack("l2-invisible", "plugins.attacks.l2_invisible:L2Invisible")
    register.attack("lba", "plugins.attacks.lba:LBA")
    register.attack("lc", "plugins.attacks.lc:LC")
    register.attack("none", "plugins.attacks.none:NoAttack")
    register.attack("patch", "plugins.attacks.patch:Patch")
    register.attack("pretrained", "plugins.attacks.pretrained:Pretrained")
    register.attack("pretrained-clean", "plugins.attacks.pretrained:PretrainedClean")
    register.attack("sig", "plugins.attacks.sig:SIG")
    register.attack("smooth", "plugins.attacks.smooth:Smooth")
    register.attack("trojan-sq", "plugins.attacks.trojan_sq:TrojanSquare")
    register.attack("trojan-wm", "plugins.attacks.trojan_wm:TrojanWatermark")
    register.attack("wanet", "plugins.attacks.wanet:WaNet")


def _register_defenses(register: Register) -> None:
    """Register the defenses."""
    register.defense("abl", "plugins.defenses.abl:ABL")
    register.defense("abs", "plugins.defenses.abs:ABS")
    register.defense("anp", "plugins.defenses.anp:ANP")
    register.defense("at", "plugins.defenses.at:AT")
    register.defense("bcu", "plugins.defenses.bcu:BCU")
    register.defense("deck", "plugins.defenses.deck:DECK")
    register.defense("dp-sgd", "plugins.defenses.dp_sgd:DPSGD")
    register.defense("fine-pruning", "plugins.defenses.fine_pruning:FinePruning")
    register.defense("ft", "plugins.defenses.ft:FT")
    register.defense("i-bau", "plugins.defenses.i_bau:IBAU")
    register.defense("k-arm", "plugins.defenses.k_arm:KArm")
    register.defense("long-training", "plugins.defenses.long_training:LongTraining")
    register.defense("mcr", "plugins.defenses.mcr:MCR")
    register.defense("moth", "plugins.defenses.moth:MOTH")
    register.defense("nad", "plugins.defenses.nad:NAD")
    register.defense("nc", "plugins.defenses.nc:NC")
    register.defense("none", "plugins.defenses.none:NoDefense")
    register.defense("pretrained", "plugins.defenses.pretrained:PretrainedDefense")
    register.defense("trap-replace", "plugins.defenses.trap_replace:TrapReplace")
    register.defense("uap", "plugins.defenses.uap:UAP")


def _register_metrics(register: Register) -> None:
    """Register the metrics."""
    register.metric("acc", "plugins.metrics.acc:Acc")
    register.metric("acc-loss", "plugins.metrics.acc_loss:AccLoss")
    register.metric("asr", "plugins.metrics.asr:ASR")
    register.metric("class-distance", "plugins.metrics.class_distance:ClassDistance")
    register.metric("fpr", "plugins.metrics.detection:FPR")
    register.metric("images", "plugins.metrics.images:Images")
    register.metric("isolation", "plugins.metrics.isolation:Isolation")
    register.metric("nc1", "plugins.metrics.nc1:NC1")
    register.metric("ra", "plugins.metrics.ra:RA")
    register.metric("record", "plugins.metrics.record:Record", argument="number")
    register.metric("robustness", "plugins.metrics.robustness:Robustness")
    register.metric("time", "plugins.metrics.time:Time")
    register.metric("tpr", "plugins.metrics.detection:TPR")
    register.metric("variants", "plugins.metrics.variants:Variants")


def _register_parts(register: Register) -> None:
    """Register the parts that fill parameters of the others."""
    register.part("clean-model", "plugins.parts.clean_model:CleanModel")
    register.part("deck-decoder", "plugins.parts.deck_decoder:DeckDecoder")
    register.part("robust-model", "plugins.parts.robust_model:RobustModel")
    register.part("steganography", "plugins.parts.steganography:Steganography")
    register.part("style-generator", "plugins.parts.style_generator:StyleGenerator")
    register.part("universal-triggers", "plugins.parts.universal_triggers:UniversalTriggers")


def _register_recipes(register: Register) -> None:
    """Register the training schedules."""
    for name, fields in RECIPES.items():
        register.recipe(name, fields)
