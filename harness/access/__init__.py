"""The grants of attacks, defenses, parts and metrics, and the context that all of them have."""
