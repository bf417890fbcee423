"""Backends: the same scalar equations, executed by different compilers."""
