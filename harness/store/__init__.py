"""Where results are kept: objects, their manifests, notes on failures."""
