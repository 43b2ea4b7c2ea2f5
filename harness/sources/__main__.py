"""`python -m harness.sources [PACKAGE ...]`: keep the lists of blessed texts."""

from __future__ import annotations

import sys

from harness.sources.bless import main

if __name__ == "__main__":
    sys.exit(main())
