"""The pictures of the documentation, one module for each, drawn by docs/gallery.py."""
