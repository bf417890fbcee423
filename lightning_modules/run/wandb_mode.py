"""Weights & Biases without a login prompt, and without waiting for an absent network."""

from __future__ import annotations

import netrc
import os
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

_TIMEOUT = 3.0  # s


def settle() -> str:
    """Choose W&B's mode before it starts, and print it unless it is online.

    ``WANDB_MODE`` is kept if it is set. Otherwise it becomes ``offline`` if there is no API key or
    the server cannot be reached; ``wandb sync`` uploads these runs later.
    """
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not _has_key(url):
        reason = "no API key (WANDB_API_KEY or `wandb login`)"
    elif not _reachable(url):
        reason = f"{url} cannot be reached"
    else:
        return "online"
    os.environ["WANDB_MODE"] = "offline"
    print(f"Weights & Biases: {reason}; logging offline, upload later with `wandb sync`")
    return "offline"


def _has_key(url: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        keys = netrc.netrc(os.environ.get("NETRC"))
        return keys.authenticators(urlsplit(url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _reachable(url: str) -> bool:
    """Whether the server, or the proxy in front of it, accepts a connection."""
    scheme = urlsplit(url).scheme
    target = urlsplit(getproxies().get(scheme) or url)
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        socket.create_connection((target.hostname or "", port), timeout=_TIMEOUT).close()
    except OSError:
        return False
    return True
