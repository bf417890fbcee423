"""One run: its folder, checkpoints, logs, figures and messages."""
