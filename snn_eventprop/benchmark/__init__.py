"""``python -m snn_eventprop.benchmark``: a training step of ours and of peers, timed."""
