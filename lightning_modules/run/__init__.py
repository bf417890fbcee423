"""One run of fit: its parser, folder, checkpoints, logs and figures."""
