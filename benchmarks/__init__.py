"""Grids and programs that measure; a package, since a library installs another of this name."""
