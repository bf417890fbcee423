"""Neurons of the hosts, or ours in their place, with vectors of constants where NIR wants them."""

from __future__ import annotations

import torch


def leaky(snn, **options):
    vectors = {"beta": torch.full((5,), 0.9), "threshold": torch.ones(5)}
    return snn.Leaky(**vectors, init_hidden=True, **options)


def synaptic(snn, **options):
    vectors = {"alpha": torch.full((5,), 0.8), "beta": torch.full((5,), 0.9)}
    return snn.Synaptic(**vectors, threshold=torch.ones(5), init_hidden=True, **options)


def rleaky(snn):
    return snn.RLeaky(beta=0.9, linear_features=5, init_hidden=True)


def rleaky_one_to_one(snn):
    return snn.RLeaky(beta=0.9, V=torch.full((5,), 0.3), all_to_all=False, init_hidden=True)


def rsynaptic(snn):
    return snn.RSynaptic(alpha=0.8, beta=0.9, linear_features=5, init_hidden=True)


def per_neuron(norse, size: int = 5):
    ramp = torch.linspace(0.8, 1.2, size)
    return norse.LIFParameters(
        tau_syn_inv=200 * ramp, tau_mem_inv=100 / ramp, v_th=0.2 * ramp,
        v_leak=torch.zeros(size), v_reset=torch.zeros(size),
    )  # fmt: skip
