"""What the skins of the host libraries share."""

from __future__ import annotations

import inspect


def host_signature(host: type, own: type, names: tuple[str, ...]) -> inspect.Signature:
    """The host's constructor arguments followed by ours, for ``help``, IDEs and parsers."""
    shown = list(inspect.signature(host.__init__).parameters.values())[1:]  # type: ignore[misc]
    own_parameters = inspect.signature(own.__init__).parameters  # type: ignore[misc]
    ours = [own_parameters[name] for name in names]
    end = len(shown)
    if shown and shown[-1].kind is inspect.Parameter.VAR_KEYWORD:
        end -= 1
    return inspect.Signature([*shown[:end], *ours, *shown[end:]])


def nonnegative(name: str, value: float) -> float:
    """``value`` as a float; ValueError unless it is 0 or positive."""
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or a positive number, got {value!r}")
    return float(value)
