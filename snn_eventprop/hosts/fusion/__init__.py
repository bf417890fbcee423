"""Loops over time in a model, run layer by layer on the engine: ``swap(model, fuse=True)``."""
