from __future__ import annotations

from harness.learn.task import Task


def test_a_task_s_images_are_channels_first() -> None:
    assert Task("pictures", 10, 16, 12, 3, 100).image_shape == (3, 16, 12)
