"""Memory of this process."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch

MIB = 2**20


class Memory:
    """Growth of this process's peak memory from the moment of construction, in MiB.

    On Linux the kernel's peak is set back after the warm-up, so that what compilation and making
    the input took for a moment does not count. Elsewhere it does, and ``exact`` is False.
    """

    def __init__(self) -> None:
        self.exact = self.restart()
        self._before = self._field("VmRSS") if self.exact else self._usage()

    def restart(self) -> bool:
        """Forget the peak so far; False where the system cannot."""
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):
            pass  # not glibc: freed memory may stay in the process
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            return True
        except OSError:
            return False

    def now(self) -> float:
        return (self._field("VmRSS") if self.exact else self._usage()) - self._before

    def peak(self) -> float:
        return (self._field("VmHWM") if self.exact else self._usage()) - self._before

    @staticmethod
    def _field(name: str) -> float:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1]) / 1024
        raise OSError(f"/proc/self/status has no {name}")

    @staticmethod
    def _usage() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / MIB if sys.platform == "darwin" else used / 1024


class DeviceMemory:
    """The same of what torch has allocated on the GPU."""

    exact = True

    def __init__(self) -> None:
        self._before = torch.cuda.memory_allocated() / MIB

    def restart(self) -> bool:
        torch.cuda.reset_peak_memory_stats()
        return True

    def now(self) -> float:
        return torch.cuda.memory_allocated() / MIB - self._before

    def peak(self) -> float:
        return torch.cuda.max_memory_allocated() / MIB - self._before
