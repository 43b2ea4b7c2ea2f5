"""The price of images by which `images` compares the costs of defenses."""

from __future__ import annotations

FORWARD = 3
"""Images that a forward pass alone may see for the price of one forward and backward."""
