"""Small published sets of single picture files, in the layouts of the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training images (uint8 NHWC), training labels, test images, test labels."""

IDS = ("n01440764", "n02102040", "n03888257")
"""WordNet IDs, in their order"""
LISA_HEADER = (
    "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;"
    "Lower right corner Y;Occluded,On another road;Origin file;Origin frame number;Origin track;"
    "Origin track frame number"
)


def drawn(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Return random pictures, uint8 (count, size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def save(image: np.ndarray, path: Path) -> None:
    """Write a picture without loss, whatever its name ends with: Pillow goes by the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="PNG")


def write_celeba(root: Path) -> Pairs:
    """Write 20 + 10 pictures of 64 x 64 as torchvision has CelebA, and 2 for validation."""
    images = drawn(32, 64)
    bits = np.array([(n % 8 // 4, n % 4 // 2, n % 2) for n in range(32)])
    names = ["Bald", "Heavy_Makeup", "Male", "Mouth_Slightly_Open", "Smiling", "Young"]
    parts = [0] * 20 + [1] * 2 + [2] * 10
    base = root / "celeba"
    attributes = ["32", " ".join(names) + " "]
    partition = []
    for number, image in enumerate(images):
        name = f"{number + 1:06}.jpg"
        save(image, base / "img_align_celeba" / name)
        makeup, smile, opened = np.where(bits[number] == 1, 1, -1)
        attributes.append(f"{name} -1 {makeup:2} -1 {opened:2} {smile:2}  1")
        partition.append(f"{name} {parts[number]}")
    (base / "list_attr_celeba.txt").write_text("\n".join(attributes) + "\n")
    (base / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    labels = np.arange(32) % 8
    return images[:20], labels[:20], images[22:], labels[22:]


def write_tiny_imagenet(root: Path, each: int = 4) -> Pairs:
    """Write the folder tiny-imagenet-200 with three classes, `each` + 2 pictures a class."""
    train = drawn(3 * each, 64, seed=1)
    test = drawn(6, 64, seed=2)
    root.mkdir(parents=True, exist_ok=True)
    (root / "wnids.txt").write_text("\n".join([IDS[2], IDS[0], IDS[1]]) + "\n")
    (root / "words.txt").write_text(
        f"{IDS[0]}\ttench, Tinca tinca\n{IDS[2]}\tparachute, chute\nn00001740\tentity\n"
    )
    for number, image in enumerate(train):
        name = IDS[number // each]
        save(image, root / "train" / name / "images" / f"{name}_{number % each}.JPEG")
    for name in IDS:
        boxes = [f"{name}_{number}.JPEG\t0\t0\t62\t62\n" for number in range(each)]
        (root / "train" / name / f"{name}_boxes.txt").write_text("".join(boxes))
    rows = []
    for number, image in enumerate(test):
        save(image, root / "val" / "images" / f"val_{number}.JPEG")
        rows.append(f"val_{number}.JPEG\t{IDS[number % 3]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    save(test[0], root / "test" / "images" / "test_0.JPEG")
    return train, np.arange(3 * each) // each, test, np.arange(6) % 3


def write_imagenet(root: Path, size: int = 224, each: int = 3) -> Pairs:
    """Write `each` + 1 square pictures of three classes in a folder for each class."""
    train = drawn(3 * each, size, seed=3)
    test = drawn(3, size, seed=4)
    for number, image in enumerate(train):
        name = IDS[number // each]
        save(image, root / "train" / name / f"{name}_{number}.JPEG")
    for number, image in enumerate(test):
        save(image, root / "val" / IDS[number] / f"ILSVRC2012_val_{number:08}.JPEG")
    return train, np.arange(3 * each) // each, test, np.arange(3)


def write_lisa(root: Path, counts: Sequence[int] = (40, 20, 20, 3), track: int = 5) -> np.ndarray:
    """Write signs of four kinds, each 8 x 8 in a frame of two, and return them in their order.

    The kinds are yield, stop, merge and dip; `track` neighbouring signs are views of one.
    """
    signs = drawn(sum(counts), 8, seed=5)
    rows = [LISA_HEADER]
    video = "vid0/frameAnnotations-vid_cmp2.avi_annotations"
    number = 0
    for tag, count in zip(("yield", "stop", "merge", "dip"), counts, strict=True):
        for view in range(count):
            frame = f"{video}/frame_{number // 2}.png"
            left = 4 + 16 * (number % 2)
            rows.append(
                f"{frame};{tag};{left};3;{left + 8};11;0,0;vid0/vid_cmp2.avi;{number};"
                f"{tag}_{view // track}.avi;{view % track}"
            )
            number += 1
    for first in range(0, len(signs), 2):
        frame_pixels = np.zeros((16, 40, 3), np.uint8)
        for place, sign in enumerate(signs[first : first + 2]):
            left = 4 + 16 * place
            frame_pixels[3:11, left : left + 8] = sign
        save(frame_pixels, root / video / f"frame_{first // 2}.png")
    (root / "allAnnotations.csv").write_text("\n".join(rows) + "\n")
    return signs
