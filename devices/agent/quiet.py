"""Keep a one-thread measurement away from neighbours on the same physical core.

A core's two hardware threads share its units: whoever runs on the other one (on a cloud machine,
another tenant) slows this one by a third, and no counter of the operating system shows it.  A loop
of fixed length does: it takes its time, or nearly twice that.  So the calmest core is looked for
before the clock runs, and between samples the loop tells whether it has stayed calm.
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
#: A core that is calm in less than this share of its probes is waited for, so often and so long.
CALM_SHARE = 0.5
PATIENCE = 1
PAUSE_S = 0.03


class Neighbourhood(object):
    """The cores that this process may use, and the shortest probe seen on any of them."""

    def __init__(self, system: Any = os, clock: Any = time) -> None:
        self._system = system
        self._clock = clock
        self._allowed = _affinity(system)
        self._shortest = float("inf")

    def calm(self) -> bool:
        """Whether nobody slows the current core just now."""
        return self._is_calm(self._probe())

    def settle(self) -> Optional[int]:
        """Move the calling thread to the calmest core and return it; None where that is not known.

        Waits a little while no core is calm, then takes the best one all the same.
        """
        if len(self._allowed) < 2:
            return None
        try:
            best = self._calmest()
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

    def _calmest(self) -> int:
        for attempt in range(PATIENCE + 1):
            if attempt:
                self._clock.sleep(PAUSE_S)
            shares = self._shares()
            best = max(shares, key=lambda core: (shares[core], -core))
            if shares[best] >= CALM_SHARE:
                break
        return best

    def _shares(self) -> Dict[int, float]:
        """How often each core is calm, judged after all are probed: the last may be the fastest."""
        probes = {}
        for core in self._allowed[:MOST_CORES]:
            self._pin([core])
            probes[core] = [self._probe() for _ in range(PROBES)]
        return {
            core: sum(self._is_calm(one) for one in found) / float(len(found))
            for core, found in probes.items()
        }

    def _probe(self) -> float:
        start = self._clock.perf_counter()
        for _ in range(LOOPS):
            pass
        took = self._clock.perf_counter() - start
        self._shortest = min(self._shortest, took)
        return float(took)

    def _is_calm(self, took: float) -> bool:
        return took <= TOLERANCE * self._shortest

    def _pin(self, cores: Iterable[int]) -> None:
        self._system.sched_setaffinity(0, cores)


def _affinity(system: Any) -> List[int]:
    try:
        return sorted(system.sched_getaffinity(0))
    except (AttributeError, OSError):
        return []
