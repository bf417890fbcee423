"""Training with Lightning: data, model, entry points."""
