"""The source text behind a component, and its revision."""
