"""TensorRT through its own ``trtexec``: for devices with the binary alone, and as a cross-check.

It builds an engine, then times it in a second process, so that a timing starts from a loaded engine
whether it was built now or before.  trtexec cannot follow our stopping rule: it runs for a length
chosen from the rule, and each of its runs is a sample.  Its wall clock is not exported; the GPU's
time stands for it.
"""

import os
from typing import Any, Dict, List, Optional, Tuple

from .. import chips, engines, timing
from ..checks import JobError
from ..cuda import find_gpu
from ..protocol import Rule
from . import Prepared, Runtime, tensorrt_inspect, trtexec_flags, trtexec_output
from .external_data import refuse_external_data
from .trtexec_process import PATH_VARIABLE, USUAL_PATH, Binary, Said, find, say_version

LAYERS = "layers.json"


class Trtexec(Runtime):
    """Engines that ``trtexec`` builds and times.

    The binary has a process of its own already.  It is driven from a worker still, so that the time
    limit of a job ends the worker, and with it the binary, and not the agent.
    """

    ISOLATED = True
    OPTIONS = engines.OPTIONS

    def __init__(self) -> None:
        self._binary: Optional[str] = None
        self._version: Optional[trtexec_flags.Version] = None
        self._timing_cache: Optional[bytes] = None

    def is_installed(self) -> bool:
        """Whether there is a binary."""
        return find() is not None

    def version(self) -> Optional[str]:
        """The TensorRT version that it says; None where there is none that we can drive."""
        try:
            self.load()
        except JobError:
            return None
        return None if self._version is None else ".".join(map(str, self._version))

    def load(self) -> None:
        """Find the binary and ask for its version, once."""
        if self._version is not None:
            return
        binary = find()
        if binary is None:
            raise JobError(
                "missing_runtime",
                f"no trtexec on the PATH, at {USUAL_PATH} or in ${PATH_VARIABLE}",
                f"install TensorRT's binaries, or set {PATH_VARIABLE} to the path of trtexec",
            )
        said = say_version(binary)
        version = trtexec_output.version(said)
        if version is None:
            raise JobError(
                "missing_runtime",
                f"{binary} --help does not say which TensorRT it is: {said.strip()[:300]!r}",
                "check that its libraries are found: run it by hand",
            )
        if not trtexec_flags.OLDEST <= version < trtexec_flags.UNKNOWN:
            raise JobError(
                "missing_runtime",
                f"{binary} is of TensorRT {'.'.join(map(str, version))}; its flags are not known",
                "versions 8.2 to 11 can be driven",
            )
        self._binary, self._version = binary, version

    def prepare(self, file: str, threads: int, seed: int, options: Dict[str, Any]) -> Prepared:
        """Build the engine, or take the one that this run built before.  Threads mean nothing."""
        assert self._binary is not None and self._version is not None
        if options.get("cache", "hot") == "cold":
            raise JobError(
                "bad_request",
                "trtexec cannot empty the cache between runs",
                "ask for cache hot, or for the runtime tensorrt",
            )
        refuse_external_data(file)
        gpu = find_gpu()
        if gpu is not None:  # where we see none, trtexec will say what it sees
            chips.check(gpu, self.version() or "", options.get("precision", "fp32"))
        binary = Binary(self._binary, self._version, os.path.dirname(file))
        try:
            memory_bytes = None if gpu is None else gpu.memory_bytes
            workspace_mib = trtexec_flags.workspace_mib(memory_bytes)
            model = Engine(binary, file, options, workspace_mib, self._timing_cache)
            model.provide()
        except BaseException:
            binary.close()
            raise
        self._timing_cache = model.timing_cache
        return model

    def state(self) -> Optional[bytes]:
        """The timing cache after the last build that used one."""
        return self._timing_cache


class Engine(Prepared):
    """An engine in a file, timed and profiled by runs of the binary."""

    def __init__(
        self,
        binary: Binary,
        file: str,
        options: Dict[str, Any],
        workspace_mib: int,
        timing_cache: Optional[bytes] = None,
    ) -> None:
        self.timing_cache = timing_cache
        self._workspace_mib = workspace_mib
        self._binary = binary
        self._file = file
        self._options = options
        self._precision: str = options.get("precision", "fp32")
        self._launch: str = options.get("launch", "plain")
        self._engine = ""
        #: Some builds of 8.2 lack the flag that asks for them.
        self._tells_layers = True
        self._flags: Dict[str, Any] = {
            "launch": self._launch,
            "data_transfers": False,
            "spin_wait": True,
            "tf32": False,
            "workspace_mib": workspace_mib,
        }
        self._facts: Dict[str, Any] = {"flags": self._flags}

    def provide(self) -> None:
        """Have an engine, of this run or built now."""
        wanted = self._options.get("engine_sha256")
        is_first = not self._options.get("build", 0)
        plan = engines.load(self._file, wanted) if is_first and wanted is not None else None
        reused = plan is not None
        if plan is None:
            plan = self._build(is_first)
            if is_first:
                engines.save(self._file, plan)
        self._engine = self._binary.place("run.engine")
        with open(self._engine, "wb") as stream:
            stream.write(plan)
        self._facts.update(
            engine_reused=reused,
            engine_bytes=len(plan),
            engine_sha256=engines.digest_of(plan),
        )

    def measure(self, rule: Rule, threads: int) -> timing.Timing:
        """Time the engine once, for a length chosen from the rule."""
        binary = self._binary
        words = trtexec_flags.time(
            binary.version,
            self._engine,
            self._launch,
            rule,
            binary.place("times.json"),
        )
        said = self._run(words, f"to time {self._file}", "times.json")
        trtexec_output.check_options(said.text, self._launch)
        self._learn(said)
        warmup_ms = rule.warmup_s * 1000
        runs = trtexec_output.runs(said.written["times.json"], said.text, warmup_ms)
        device_ns = [one.compute_ns for one in runs]
        return timing.Timing(
            wall_ns=list(device_ns),
            cpu_ns=None,
            runs_per_sample=1,
            dropped=0,
            disturbed=0,
            warmup_s=rule.warmup_s,
            stopped="trtexec",
            device_ns=device_ns,
            enqueue_ns=[one.enqueue_ns for one in runs],
        )

    def layers(self, passes: int) -> List[Tuple[str, List[int]]]:
        """Each layer with one time for all passes: medians, or means in old versions."""
        binary = self._binary
        words = trtexec_flags.profile(
            binary.version,
            self._engine,
            passes,
            binary.place("profile.json"),
        )
        said = self._run(words, f"to profile {self._file}", "profile.json")
        self._learn(said)
        return [(name, [ns]) for name, ns in trtexec_output.layers(said.written["profile.json"])]

    def facts(self) -> Dict[str, Any]:
        """What was built, by trtexec's own words."""
        return dict(self._facts, flags=dict(self._flags))

    def close(self) -> None:
        """Remove all but the run's engine, which lies beside its model."""
        self._binary.close()

    def _build(self, is_first: bool) -> bytes:
        binary = self._binary
        made = binary.place("made.engine")
        cache = self._start_cache() if is_first else None
        if cache is None:
            self._flags["timing_cache"] = "none"
        self._flags.update(trtexec_flags.io(binary.version, self._precision))
        words = trtexec_flags.build(
            binary.version, self._file, made, self._precision, self._workspace_mib, cache
        )
        said = binary.run(words, f"to build {self._file}")
        seconds = trtexec_output.build_s(said.text)
        if seconds is not None:
            self._facts["build_s"] = seconds
        if not os.path.exists(made):
            raise trtexec_output.error(said.text, 0, f"to save the engine of {self._file}")
        if cache is not None and os.path.exists(cache):
            self.timing_cache = _content(cache)
        plan = _content(made)
        os.remove(made)
        return plan

    def _start_cache(self) -> str:
        """A private copy of the timing cache, the last build's or the host's, for it to add to."""
        ours = self._binary.place("timing.cache")
        content = self.timing_cache
        if content is None:
            content = engines.timing_cache(self._options)
        self._flags["timing_cache"] = "used" if content else "new" if content == b"" else "lost"
        if content:
            with open(ours, "wb") as stream:
                stream.write(content)
        return ours

    def _run(self, words: List[str], what: str, writes: str) -> Said:
        """Run the engine, which writes that file, and the layers' where the binary can."""
        if self._tells_layers:
            wanted = [f"{trtexec_flags.LAYER_INFO}={self._binary.place(LAYERS)}"]
            try:
                return self._binary.run(words + wanted, what, (writes, LAYERS))
            except trtexec_output.UnknownOptionError as error:
                if error.options != [trtexec_flags.LAYER_INFO]:
                    raise
            self._tells_layers = self._flags["layer_info"] = False
        return self._binary.run(words, what, (writes,))

    def _learn(self, said: Said) -> None:
        """Facts of a run: the GPU, its memory, the engine's layers."""
        told = {
            "gpu": trtexec_output.gpu(said.text),
            "device_memory_bytes": trtexec_output.device_memory_bytes(said.text),
        }
        self._facts.update({name: value for name, value in told.items() if value is not None})
        if not self._tells_layers:
            return
        found = tensorrt_inspect.inspect(said.written[LAYERS])
        has_products = any(layer.multiplies for layer in found.layers)
        tensorrt_inspect.check(found, self._precision, has_products)
        if found.precision:
            self._facts["precision"] = found.precision
            self._facts["precision_layers"] = found.precision_layers
        self._facts["tactics"] = found.tactics


def _content(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()
