"""From a grid's cells to stages with keys: what each cell needs, and what of it the store holds."""
