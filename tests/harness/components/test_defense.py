from __future__ import annotations

from harness.components import Context, Defense, Task


def test_a_defense_works_everywhere_unless_it_says_otherwise() -> None:
    assert Defense().compatible(Context(Task("pictures", 10, 16, 12, 3, 100))) is None


def test_a_defense_is_granted_what_it_needs() -> None:
    class Blind(Defense):
        needs = frozenset({"victim"})

    assert Blind().grants() == {"victim"}
    assert Defense().grants() == {"victim", "clean-labelled"}
