"""``reset_mechanism="none"`` with the reset written out: ``mem = mem - threshold * spk``.

The output of a neuron without reset is a level, H(U - threshold), and its gradient is that of the
times at which the level switches. With the reset written out it is a spike again. The step after
it sees that: the membrane that comes in is the last one less the threshold where the neuron fired.
From then on the neuron follows the rule of an immediate reset (``snn_eventprop.hosts.step``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class LastStep(NamedTuple):
    """The last step of a neuron without reset.

    Attributes:
        membrane: U, before a reset.
        spikes: as numbers.
        after: makes U after a reset by the threshold, with the gradient of such a reset.
    """

    membrane: Tensor
    spikes: Tensor
    after: Callable[[], Tensor]

    def resets_to(self, entering: Tensor, threshold: Tensor) -> bool:
        """Whether ``entering`` is this step's membrane with the reset written out."""
        with torch.no_grad():
            reset = self.membrane - threshold * self.spikes
            return entering.shape == reset.shape and torch.equal(entering, reset)
