"""Checkpoints in a stage's own process: states to the bit, and loops that go on where they stopped.

Its modules are in no key: whatever goes on must end as if it had never stopped.
"""
