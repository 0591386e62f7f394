"""Keep a one-thread measurement on an idle physical core.

A core's two hardware threads share its units: whoever runs on the other one (on a cloud machine,
another tenant) slows this one by a third, and no counter of the operating system shows it.  A loop
of fixed length does: it takes its time, or nearly twice that.  So the most idle core is looked for
before the clock runs, and between samples the loop shows whether it has stayed idle.
"""

import os
import time
from contextlib import suppress
from typing import Any, Dict, Iterable, List, Optional

LOOPS = 1500
#: A probe is disturbed when it takes this much longer than the shortest one of this process.
TOLERANCE = 1.2
#: Probes a core, when a core is chosen: about 2 ms.
PROBES = 60
MOST_CORES = 8
#: A core that is idle in less than this share of its probes is waited for, so often and so long.
IDLE_SHARE = 0.5
PATIENCE = 1
PAUSE_S = 0.03


class Neighbourhood(object):
    """The cores that this process may use, and the shortest probe seen on any of them."""

    def __init__(self, system: Any = os, clock: Any = time) -> None:
        self._system = system
        self._clock = clock
        try:
            self._allowed: List[int] = sorted(system.sched_getaffinity(0))
        except (AttributeError, OSError):
            self._allowed = []
        self._shortest = float("inf")

    def is_idle(self) -> bool:
        """Whether nobody slows the current core just now."""
        return self._is_idle(self._probe())

    def settle(self) -> Optional[int]:
        """Move the calling thread to the most idle core and return it; None where not known.

        Waits a little while no core is idle, then takes the best one all the same.
        """
        if len(self._allowed) < 2:
            return None
        try:
            best = self._most_idle()
            self._pin([best])
        except OSError:
            # A system that refuses once (a policy, a core that has gone) is left alone from now on.
            self.release()
            self._allowed = []
            return None
        return best

    def release(self) -> None:
        """Allow all cores again."""
        if len(self._allowed) > 1:
            with suppress(OSError):
                self._pin(self._allowed)

    def _most_idle(self) -> int:
        for attempt in range(PATIENCE + 1):
            if attempt:
                self._clock.sleep(PAUSE_S)
            shares = self._shares()
            best = max(shares, key=lambda core: (shares[core], -core))
            if shares[best] >= IDLE_SHARE:
                break
        return best

    def _shares(self) -> Dict[int, float]:
        """How often each core is idle, found after all are probed: the last may be the fastest."""
        probes = {}
        for core in self._allowed[:MOST_CORES]:
            self._pin([core])
            probes[core] = [self._probe() for _ in range(PROBES)]
        return {
            core: sum(self._is_idle(one) for one in found) / float(len(found))
            for core, found in probes.items()
        }

    def _probe(self) -> float:
        start = self._clock.perf_counter()
        for _ in range(LOOPS):
            pass
        took = self._clock.perf_counter() - start
        self._shortest = min(self._shortest, took)
        return float(took)

    def _is_idle(self, took: float) -> bool:
        return took <= TOLERANCE * self._shortest

    def _pin(self, cores: Iterable[int]) -> None:
        self._system.sched_setaffinity(0, cores)
