"""Seeds without state: each is a hash of what it is for, so adding a cell or reordering a run
changes no other.
"""

from __future__ import annotations

import hashlib

from harness.keys import canonical


def seed(replicate: int | None, dataset: str, stage: str, stream: str, component: str = "") -> int:
    """Return a seed in [0, 2**63) for one stream of random numbers, fit for
    `torch.Generator.manual_seed`.

    `replicate` is the victim's or the defense's seed, None for components that are not seeded.
    `component` is given for a component's own noise only: without it, all attacks of a replicate
    share initial weights, batch order and poisoned indices, and all defenses the same grant.
    Source: BLAKE2b (RFC 7693) of the canonical JSON of the five.
    """
    coordinates = canonical([replicate, dataset, stage, stream, component])
    return int.from_bytes(hashlib.blake2b(coordinates, digest_size=8).digest(), "big") >> 1
