"""Confining a process to its scratch folder, with the means of the Linux kernel (Landlock).

A process in which a model is judged needs to write nowhere else and to connect to nobody. Taken
away from it, what it was asked stays with it: no file, socket or signal tells the process that asks
the same model again.
"""

from __future__ import annotations

import sys
from pathlib import Path

JUDGING = frozenset({"evaluate", "recheck", "measure"})
"""Kinds of stages that hold a model and what it is judged by: their processes are confined."""
SINK = Path("/dev/null")


def confine(scratch: Path) -> bool:
    """Let this process, from now on, write below `scratch` only, connect to and listen on no
    network, and signal only itself and what it starts. Tell whether the system can do that: Linux
    from 5.13 on, the network from 6.7 and signals from 6.12 on.

    Files may be read as before, and what is open already stays open.
    """
    if sys.platform != "linux":
        return False
    import landlockpy as landlock  # here, since there is none elsewhere

    try:
        if not landlock.supported():
            return False
    except landlock.LandlockError:  # a container may forbid the question
        return False
    access = landlock.AccessFS
    writing = (
        access.WRITE_FILE
        | access.TRUNCATE
        | access.REMOVE_DIR
        | access.REMOVE_FILE
        | access.MAKE_CHAR
        | access.MAKE_DIR
        | access.MAKE_REG
        | access.MAKE_SOCK
        | access.MAKE_FIFO
        | access.MAKE_BLOCK
        | access.MAKE_SYM
        | access.REFER
    )
    scopes = landlock.Scope.ABSTRACT_UNIX_SOCKET | landlock.Scope.SIGNAL
    network = landlock.AccessNet.BIND_TCP | landlock.AccessNet.CONNECT_TCP
    with landlock.Ruleset(handled_fs=writing, handled_net=network, scoped=scopes) as rules:
        rules.allow_path(scratch, writing)
        rules.allow_path(SINK, access.WRITE_FILE)
        rules.restrict()
    return True
