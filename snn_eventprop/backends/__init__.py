"""Backends register their kernels on the operators when they are imported."""

from __future__ import annotations

from . import cpu, cuda  # noqa: F401
