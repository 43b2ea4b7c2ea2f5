"""The files that stages leave in the store and find in their inputs, by name."""

from __future__ import annotations

MODEL_FILE = "model.safetensors"
"""The state of a network: a victim's, a defended model's, a part's."""
TRIGGER_FILE = "trigger.safetensors"
"""The state of a trigger."""
TRUTH_FILE = "truth.json"
"""The label table and what the attack recorded."""
POISONED_FILE = "poisoned.safetensors"
"""Of `poison`: the poisoned set. Of `export`: which images of the training set are poisoned."""
TRAINING_FILE = "training.safetensors"
"""The training set as an in-training defense receives it."""
IMAGES_FILE = "images.safetensors"
"""Images that were granted."""
RESULT_FILE = "result.json"
"""A defense's verdict and record; of a part, its record."""
STREAM_FILE = "stream.npy"
"""Test images, clean and triggered, mixed: all that the process of an evaluated model gets."""
SAMPLE_FILE = "sample.npy"
"""Some images of a stream, in other company: a second process asks the model about them."""
PLACES_FILE = "places.safetensors"
"""The truth about a stream: true and mapped labels, where in it each test image is, and where the
images of the sample are.
"""
ANSWERS_FILE = "answers.safetensors"
"""A model's answers to a stream, image by image."""
AGAIN_FILE = "again.safetensors"
"""A model's answers to the sample, given by another process."""
ROWS_FILE = "rows.json"
"""Scores of metrics: name -> {sub-name or "": value}."""
ARRAYS_FILE = "arrays.safetensors"
"""Arrays that a metric kept beside its numbers."""
PANEL_FILE = "panel.safetensors"
"""Images with and without a trigger."""
PANEL_FACTS_FILE = "panel.json"
"""The description of the images of a panel."""

VARIANT = "variant."
"""Begins the names of further triggers' places and images."""
BESIDE_PLACES = frozenset({"labels", "mapped", "sample"})
"""Tensors of a PLACES_FILE that are not the places of one set of images."""

SPLITS = ("train", "pool", "validation", "test")
"""Parts of a dataset, see `split_file`."""

# Files of one object that are copied together.
MODEL = (MODEL_FILE,)
TRUTH = (TRIGGER_FILE, TRUTH_FILE)
POISON = (TRIGGER_FILE, TRUTH_FILE, POISONED_FILE)
DEFENDED = (MODEL_FILE, RESULT_FILE)
TRAINING = (TRAINING_FILE,)
IMAGES = (IMAGES_FILE,)
RESULT = (RESULT_FILE,)
STREAM = (STREAM_FILE,)
SAMPLE = (SAMPLE_FILE,)
PLACES = (PLACES_FILE,)
ANSWERS = (ANSWERS_FILE,)
AGAIN = (AGAIN_FILE,)
MEASURED = (ROWS_FILE, ARRAYS_FILE)


def split_file(split: str) -> str:
    """Name the file that stage `data` leaves for `train`, `pool`, `validation` or `test`."""
    return f"{split}.safetensors"
