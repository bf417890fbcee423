"""The reference network, its training step, and the published recipe."""
