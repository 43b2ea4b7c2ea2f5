"""The store of results: objects, their manifests, notes on failures."""
