"""From which batch size on a network's throughput hardly grows."""

from __future__ import annotations

from collections.abc import Mapping

#: Two doublings of the batch that bring less than this factor brought nothing.
GROWTH = 1.05
#: Two doublings.
FOURFOLD = 4


def saturated_from(throughput_fps: Mapping[int, float]) -> int | None:
    """The smallest batch from which four times as many images bring less than 5 % more throughput.

    Where four times the batch was not measured, the next larger one counts. None where throughput
    still grows, or too few batch sizes were measured to know.
    """
    batches = sorted(throughput_fps)
    for batch in batches:
        larger = next((one for one in batches if one >= FOURFOLD * batch), None)
        if larger and throughput_fps[larger] < GROWTH * throughput_fps[batch]:
            return batch
    return None
