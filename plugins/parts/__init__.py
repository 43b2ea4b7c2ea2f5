"""Code that methods share, and the components that fill their parameters."""
