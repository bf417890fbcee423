"""Methods that train the reference network: the same parameters, data and loss, other gradients.

Each method is a file. Its library is imported only when the method is chosen.
"""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["eventprop", "snntorch", "norse", "eprop", "eprop-random", "paralif"]
METHODS: tuple[str, ...] = get_args(Method)
