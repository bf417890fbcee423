"""The host libraries: their neurons with event-based gradients, and how models are swapped."""
