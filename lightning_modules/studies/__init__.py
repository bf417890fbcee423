"""Several runs: seeds, folds, methods, and their reports."""
