"""The stage kinds: one file for each body, run in a child process, and the heads that plans read.

Heads are `stage`, `artefacts`, `payloads`, `splits`: they load neither torch nor numpy. Every
other module is the body of the stage kind of its name, or helps bodies.
"""
