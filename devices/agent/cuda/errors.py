"""What a CUDA call that failed says, in the driver's own words."""

from typing import Optional

OUT_OF_MEMORY = 2
#: After one of these every later call of the process fails as well: only a new process helps.
#: (uncorrectable ECC error, illegal address, launch timeout, assert, hardware stack error, illegal
#: instruction, misaligned address, invalid address space, invalid program counter, launch failed)
STICKY = (214, 700, 702, 710, 714, 715, 716, 717, 718, 719)


class GpuError(Exception):
    """A call failed: ``code`` and ``name`` are the driver's ("CUDA_ERROR_OUT_OF_MEMORY").

    ``code`` is None where no driver was asked, or where pycuda does not let it be known.
    """

    def __init__(self, call: str, code: Optional[int], name: str, said: str = "") -> None:
        super(GpuError, self).__init__(f"{call}: {name}" + (f" ({said})" if said else ""))
        self.call = call
        self.code = code
        self.name = name

    @property
    def sticky(self) -> bool:
        """Whether the process can do nothing on the GPU any more."""
        return self.code in STICKY

    @property
    def out_of_memory(self) -> bool:
        """Whether a smaller model would have fitted."""
        return self.code == OUT_OF_MEMORY
