"""PyTorch operators: schemas, shapes for tracing, autograd. Kernels register themselves here."""
