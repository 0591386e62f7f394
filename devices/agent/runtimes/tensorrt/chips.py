"""Which GPUs go with which versions of TensorRT, and which of them compute in int8.

TensorRT itself says it late and badly: after minutes of building, or by ending the process.  The
first and last versions are those of NVIDIA's release notes and support matrices:

- "8.5 will be the last release supporting Kepler (SM 3.x)", Maxwell and Pascal went with 8.x:
  release notes 8.5.2; 10.0 and later are "compiled to support SM 7.0 or higher" (matrix 10.1);
- "Volta support (7.0) has been removed starting with 10.5": release notes 10.5.0;
- Hopper (9.0) and Ada (8.9) came with CUDA 11.8 and 8.5, Orin (8.7) with JetPack 5 and 8.4;
- "supports Blackwell GPUs": 10.8.0; Thor in 10.10 (DRIVE OS); GB300, B300 and DGX Spark in 10.14.1.

A GPU that is newer than this table is let through.
"""

import re
from typing import Any, Dict, NamedTuple, Optional, Tuple

from ...checks import missing_runtime

Version = Tuple[int, int]

#: The oldest TensorRT that the agent supports: JetPack 4.6's.
OLDEST: Version = (8, 2)
#: Compute capabilities whose multipliers know no int8; TensorRT has no kernels for them.
WITHOUT_INT8 = ((3, 0), (3, 5), (3, 7), (5, 0), (5, 2), (5, 3), (6, 0), (6, 2))


class Chip(NamedTuple):
    """A kind of GPU, with the first and the last TensorRT (major, minor) that know it."""

    name: str
    first: Version = OLDEST
    last: Optional[Version] = None


CHIPS: Dict[Tuple[int, int], Chip] = {
    (3, 5): Chip("Kepler", last=(8, 5)),
    (3, 7): Chip("Kepler (K80)", last=(8, 5)),
    (5, 0): Chip("Maxwell", last=(8, 6)),
    (5, 2): Chip("Maxwell", last=(8, 6)),
    (5, 3): Chip("Maxwell (Jetson Nano, TX1)", last=(8, 6)),
    (6, 0): Chip("Pascal (P100)", last=(8, 6)),
    (6, 1): Chip("Pascal", last=(8, 6)),
    # JetPack 4.6 is the last one for it, and has 8.2.
    (6, 2): Chip("Pascal (Jetson TX2)", last=(8, 2)),
    (7, 0): Chip("Volta (V100)", last=(10, 4)),
    (7, 2): Chip("Volta (Jetson Xavier)", last=(10, 4)),
    (7, 5): Chip("Turing"),
    (8, 0): Chip("Ampere (A100)"),
    (8, 6): Chip("Ampere"),
    (8, 7): Chip("Ampere (Jetson Orin)", first=(8, 4)),
    (8, 9): Chip("Ada", first=(8, 5)),
    (9, 0): Chip("Hopper", first=(8, 5)),
    (10, 0): Chip("Blackwell (B200)", first=(10, 8)),
    (10, 1): Chip("Blackwell (Thor)", first=(10, 10)),
    (10, 3): Chip("Blackwell (B300)", first=(10, 14)),
    (11, 0): Chip("Blackwell (Thor)", first=(10, 10)),
    (12, 0): Chip("Blackwell (RTX 50)", first=(10, 8)),
    (12, 1): Chip("Blackwell (GB10)", first=(10, 14)),
}


def check(gpu: Any, version: str, precision: str = "fp32") -> None:
    """Raise ``missing_runtime`` where this GPU (a ``GpuInfo``) and TensorRT version do not fit.

    Or where the GPU cannot compute in the precision that is asked for.
    """
    found = numbers(version)
    capability = tuple(gpu.compute_capability)
    if found < OLDEST:
        raise missing_runtime(
            f"TensorRT {version} is older than {_text(OLDEST)}, the oldest that dshrink supports",
            f"install TensorRT {_range(CHIPS.get(capability))}",
        )
    chip = CHIPS.get(capability)
    if chip is not None and not chip.first <= found <= (chip.last or found):
        shown = ".".join(map(str, capability))
        raise missing_runtime(
            f"{gpu.name} is a {chip.name} (compute capability {shown}), which TensorRT {version} "
            f"does not support: it needs TensorRT {_range(chip)}",
            f"install TensorRT {_range(chip)}",
        )
    if precision == "int8" and capability in WITHOUT_INT8:
        raise missing_runtime(
            f"{gpu.name} has no int8 arithmetic",
            "measure it in fp32 or fp16",
        )


def numbers(version: str) -> Version:
    """Major and minor number of a version such as "8.5.3.1"; (0, 0) for what is none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def _range(chip: Optional[Chip]) -> str:
    if chip is None or (chip.last is None and chip.first == OLDEST):
        return f"{_text(OLDEST)} or newer"
    if chip.last is None:
        return f"{_text(chip.first)} or newer"
    if chip.first == chip.last:
        return _text(chip.last)
    return f"{_text(chip.first)} to {_text(chip.last)}"


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
