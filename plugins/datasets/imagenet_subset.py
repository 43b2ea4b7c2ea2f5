"""Some classes of ImageNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from plugins.datasets.listing import SUFFIXES, shown, some_pictures, suffix
from plugins.datasets.pictures import Labelled, PictureFiles, Size, middle
from plugins.datasets.placed import Arrays

IMAGENETTE = (
    "n01440764",  # tench
    "n02102040",  # English springer
    "n02979186",  # cassette player
    "n03000684",  # chain saw
    "n03028079",  # church
    "n03394916",  # French horn
    "n03417042",  # garbage truck
    "n03425413",  # gas pump
    "n03445777",  # golf ball
    "n03888257",  # parachute
)
FIRST_TWELVE = (
    "n01440764",  # tench
    "n01443537",  # goldfish
    "n01484850",  # great white shark
    "n01491361",  # tiger shark
    "n01494475",  # hammerhead
    "n01496331",  # electric ray
    "n01498041",  # stingray
    "n01514668",  # cock
    "n01514859",  # hen
    "n01518878",  # ostrich
    "n01530575",  # brambling
    "n01531178",  # goldfinch
)
WordNetId = Annotated[str, Field(pattern=r"^n\d{8}$")]


class ImageNetSubset(PictureFiles):
    """ImageNet, or some of its classes, from a folder for each class, resized to squares.

    The root holds `train/<WordNet ID>/` and `val/<WordNet ID>/`, as torchvision's `ImageNet` and
    Imagenette have them; the official validation pictures are the test set. Labels are the places
    in the list of classes, or without a list the folders of `train` in the order of their names.
    """

    citation = "Deng et al., ImageNet: A Large-Scale Hierarchical Image Database, CVPR 2009"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # DECK's early version counts 9,469 + 3,925 pictures of ten classes: those of Imagenette, in
        # whose folders they are to be read. The ten classes of BCU's ImageNet10 are not known.
        "imagenet10": {"classes": IMAGENETTE},
        # Trap and Replace takes the first twelve in the order of their IDs, squeezed to 256 x 256
        # with PIL's default filter; the 5 % of the hold-out stay in the training set.
        "imagenet12": {
            "classes": FIRST_TWELVE,
            "size": 256,
            "crop": "none",
            "resample": "bicubic",
            "pool": 780,
            "pool_in_train": True,
        },
    }
    called: ClassVar[str] = "imagenet-subset"
    home: ClassVar[str] = "imagenet"
    place: ClassVar[str] = "train"
    source: ClassVar[str] = (
        "unpack ImageNet (image-net.org) or Imagenette so that train/<WordNet ID>/ and "
        "val/<WordNet ID>/ lie there; torchvision's ImageNet(root, split) does it with the "
        "official archives"
    )

    classes: tuple[WordNetId, ...] = ()
    """WordNet IDs of the classes, in the order of their labels; none: all folders of train"""
    size: Size = 224
    """height and width in pixels that pictures are resized to"""
    crop: Literal["middle", "none"] = "middle"
    """what is resized: the largest square in the middle, or the whole picture, squeezed"""
    test_set: bool = True
    """read the validation pictures as test set; false: training pictures alone, which is enough for
    a source of pictures
    """

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(self.classes) == 1 or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: list two or more WordNet IDs, each once")
        return self

    def settings(self) -> str:
        """See `Placed.settings`."""
        classes = " ".join(self.class_names())
        return f"{self.size} {self.resample} {self.crop} {self.test_set} {classes}"

    def count_classes(self) -> int:
        """Count the WordNet IDs."""
        return len(self.class_names())

    def class_names(self) -> Sequence[str]:
        """Return the WordNet IDs."""
        if self.classes:
            return self.classes
        folder = self.folder / self.place
        names = [entry.name for entry in shown(folder) if entry.is_dir()]
        if len(names) < 2:
            raise ValueError(f"{folder} has {len(names)} folders of classes")
        return names

    def pairs(self) -> tuple[list[Labelled], list[Labelled]]:
        """List pictures in the order of label and name."""
        train = self._labelled("train")
        if self.test_set:
            return train, self._labelled("val")
        return train, []

    def make(self) -> Arrays:
        """Decode all pictures."""
        train, test = self.pairs()
        cut = middle if self.crop == "middle" else None
        return self.decoded_pairs(train, test, self.size, 3, cut)

    def _labelled(self, split: str) -> list[Labelled]:
        folder = self.folder / split
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}")
        names = self.class_names()
        self._refuse_others(split, names)
        pairs = []
        for label, name in enumerate(names):
            for path in some_pictures(folder / name):
                pairs.append((path, label))
        return pairs

    def _refuse_others(self, split: str, names: Sequence[str]) -> None:
        """Raise ValueError for what lies beside the folders of the classes and would be missed."""
        folder = self.folder / split
        for entry in shown(folder):
            stem, _, end = entry.name.rpartition(".")
            if end == "tar" and not (folder / stem).is_dir():
                if stem in names or not self.classes:
                    raise ValueError(f"{entry.path} is not unpacked to a folder {stem}")
            elif entry.is_dir():
                if entry.name not in names and not self.classes:
                    raise ValueError(f"{entry.path} is a class that train has not")
            elif suffix(entry.name) in SUFFIXES:
                raise ValueError(f"{entry.path} lies beside the folders of the classes")
