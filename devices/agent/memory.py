"""The most memory that this process holds while something happens, above what it held before.

Linux keeps the peak of a process's resident memory (VmHWM), and lets the process itself bring it
down to what is held now.  The peak of ``getrusage`` is not used: a process inherits that of the one
which started it.  What an earlier network leaves in an allocator is used by the next one and makes
no new memory resident, so the growth is right in a process that has loaded none before.
"""

from typing import Optional

from . import sysfs

RESET_PEAK = "5"


class PeakMemory(object):
    """Watches this process from when it is made; ``folder`` is its place in /proc."""

    source = "vmhwm"

    def __init__(self, folder: str = "/proc/self") -> None:
        self._folder = folder
        self._base = self._bytes("VmRSS")
        self._hidden_below = 0
        self.restart()

    def restart(self) -> None:
        """Forget the peak until now; where the kernel forbids that, lower ones are not seen."""
        try:
            with open(self._folder + "/clear_refs", "w", encoding="ascii") as stream:
                stream.write(RESET_PEAK)
            self._hidden_below = 0
        except OSError:
            self._hidden_below = self._bytes("VmHWM") or 0

    def growth_bytes(self) -> Optional[int]:
        """The peak since the restart above what was held at first; None where it is not known."""
        peak = self._bytes("VmHWM")
        if peak is None or self._base is None or peak <= max(self._hidden_below, self._base):
            return None
        return peak - self._base

    def _bytes(self, name: str) -> Optional[int]:
        kib = sysfs.fields(self._folder + "/status", ":").get(name, "").partition(" ")[0]
        return int(kib) << 10 if kib.isdigit() else None
