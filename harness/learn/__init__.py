"""Images, training, poisoning and evaluation: the only room of the host with torch at module level.

`recipes` is the exception within it: it is pure settings, and imports no torch.
"""
