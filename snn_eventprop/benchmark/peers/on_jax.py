"""What methods on JAX share: as many threads as torch has, timing, a readout in closed form."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from ..cases import TAU_SYN

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or its memory is all of it
if hasattr(os, "sched_setaffinity"):
    # XLA takes a thread for each processor it may run on.
    _free = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, _free[: torch.get_num_threads()])

import jax
import jax.numpy as jnp


def timed(
    loss: Callable[..., Any], step: Callable[..., Any], *arguments: Any
) -> tuple[float, float, Any]:
    """Seconds of ``loss`` and of ``step``, which includes it, and what ``step`` returned."""
    start = perf_counter()
    jax.block_until_ready(loss(*arguments))
    middle = perf_counter()
    result = jax.block_until_ready(step(*arguments))
    return middle - start, perf_counter() - middle, result


def cross_entropy(logits: Any, target: Any) -> Any:
    """Mean over samples, of logits ``[B, classes]``."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1)
    return -chosen.mean()


def response(time: Any, duration: float, tau_mem: float) -> Any:
    """(1/T) integral over t..T of exp(-s/T) times the membrane after one spike at ``time``."""
    rest = duration - time

    def decayed(tau: float) -> Any:
        rate = 1 / tau + 1 / duration
        return (1 - jnp.exp(-rest * rate)) / rate

    scale = TAU_SYN / (tau_mem - TAU_SYN) / duration
    return jnp.exp(-time / duration) * scale * (decayed(tau_mem) - decayed(TAU_SYN))
