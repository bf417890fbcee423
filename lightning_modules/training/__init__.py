"""Training of a network: loss, optimiser, metrics, and the rules of the published recipe."""
