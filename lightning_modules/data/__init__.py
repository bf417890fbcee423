"""Spike data: files, packed arrays, batches, augmentation."""
