"""What a network takes beside time: memory while it is loaded and run, and the energy of a run.

All of it is found behind the timed samples, and nothing that goes wrong here fails their
measurement: what is not known is left out.  A GPU's memory is always told.  A process's own is
found in a fresh one that loads this network alone: in the one that measures, earlier networks have
left memory that the next one takes again.  That takes seconds, and energy a window of its own, so
both are told only where they are asked for.
"""

import sys
import traceback
from statistics import median
from typing import Any, Dict

from . import energy, memory, worker
from .protocol import Measure
from .runtimes import Prepared, Runtime
from .timing import Timing

#: Runs whose memory counts: the first finds what is made when it is first needed.
RUNS = 3
#: Slower runs would keep the device for too long.
SLOWEST_RUN_S = 5.0
#: What a fresh process may take, and what it must leave of the time limit.
PATIENCE_S = 60.0
MARGIN_S = 5.0


def of_gpu(model: Prepared) -> Dict[str, Any]:
    """The GPU's memory that a model holds, where its runtime tells it."""
    count = model.facts().get("device_memory_bytes")
    return {"peak_memory_bytes": count, "memory_source": model.MEMORY_SOURCE} if count else {}


def of_runs(
    model: Prepared, processor: str, options: Dict[str, Any], taken: Timing
) -> Dict[str, Any]:
    """The energy of one run; runs from a cold cache have none, as emptying it takes energy too."""
    run_s = median(taken.device_ns or taken.wall_ns) / 1e9
    if not model.RUNS_HERE or options.get("cache") == "cold" or run_s > SLOWEST_RUN_S:
        return {}
    try:
        meter = energy.meter(processor)
        joules = None if meter is None else energy.of_one_run(model.run, run_s, meter)
    except Exception:  # the runs failed, or something in /sys surprises us
        traceback.print_exc()
        return {}
    return {} if meter is None or joules is None else dict(meter.facts(), energy_j=joules)


def of_process(message: Dict[str, Any], spent_s: float) -> Dict[str, Any]:
    """What a fresh worker says of its own memory with the file of a checked request to measure.

    ``spent_s`` is how much of the request's time limit is gone.
    """
    limit_s, patience_s = message.get("timeout_s"), PATIENCE_S
    if limit_s is not None:
        patience_s = min(patience_s, limit_s - spent_s - MARGIN_S)
    if patience_s <= 0:
        return {}
    try:
        return worker.ask_fresh(message["runtime"], dict(message, do="memory"), patience_s)
    except Exception as error:
        sys.stderr.write(f"the memory of {message['file']} is not known: {error}\n")
        return {}


def measure_memory(runtime: Runtime, request: Measure, options: Dict[str, Any]) -> Dict[str, Any]:
    """This process's memory with the file; it has loaded the runtime, and no network before."""
    peak = memory.PeakMemory()
    model = runtime.prepare(request.file, request.threads, request.seed, options)
    try:
        loading = peak.growth_bytes()
        peak.restart()
        model.run(RUNS)
        running = peak.growth_bytes()
    finally:
        model.close()
    told = {"peak_memory_bytes": running, "loading_memory_bytes": loading}
    known: Dict[str, Any] = {name: count for name, count in told.items() if count is not None}
    return dict(known, memory_source=peak.source) if known else {}
