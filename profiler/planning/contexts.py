"""Which contexts the pieces are measured in."""

from __future__ import annotations

from collections.abc import Sequence

from latency_tables.contexts import CONTEXTS
from latency_tables.schema import Conditions
from profiler.errors import InvalidJobError

#: All contexts that the runtime allows.
BEST = "best"


def choose_contexts(
    asked: Sequence[str], conditions: Conditions, *, layer_profiles: bool, spans: bool = False
) -> tuple[str, ...]:
    """The contexts to measure, the simplest first; ``asked`` may hold commas, and "best" for all.

    Where nothing is asked, a GPU's pieces are measured in every context, and a CPU's in the one
    that is known to predict well: alone, but for ``spans``, whose single convolutions pay too much
    at their ends for that, in pairs. Networks of spans have no context "layers": their additions
    reach back, so that a layer's operators do not identify its span. Raises InvalidJobError for a
    context that does not exist, or is not possible.
    """
    names = [name.strip() for text in asked for name in text.split(",")]
    if not names:
        on_cpu = "pair" if spans else "isolated"
        names = [BEST if conditions.clock == "cuda_events" else on_cpu]
    # A compiled network has no operators left that could be identified.
    profiles = layer_profiles and conditions.launch != "compiled"
    able = [name for name in CONTEXTS if name != "layers" or (profiles and not spans)]
    for name in names:
        if name not in (*CONTEXTS, BEST):
            raise InvalidJobError(
                f"unknown context {name!r}; known: {', '.join((*CONTEXTS, BEST))}"
            )
        if name not in (*able, BEST):
            runtime = f"{conditions.runtime} with launch {conditions.launch}"
            why = (
                "a layer of a network of spans does not identify the span it belongs to"
                if spans
                else f"{runtime} does not report how long each layer took"
            )
            raise InvalidJobError(
                f"{why}, so there is no context {name!r}; there is {', '.join(able)}"
            )
    return tuple(name for name in able if name in names or BEST in names)
