"""One file for each kind of synapse: how events reach neurons, and gradients come back."""
