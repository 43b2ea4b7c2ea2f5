"""Which source text stands behind a component, and in what revision."""
