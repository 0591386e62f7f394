"""An engine in a file that ``trtexec`` builds, times and profiles, each in a process of its own."""

import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from ... import timing
from ...protocol import Rule
from .. import Options, Prepared
from ..tensorrt import engines, inspection
from . import flags, output
from .process import Binary, Said

LAYERS = "layers.json"


class Engine(Prepared):
    """An engine in a file, timed and profiled by runs of the binary."""

    RUNS_HERE = False
    MEMORY_SOURCE = "trtexec"

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
        wanted = Options.of(options)
        self._precision, self._launch = wanted.precision, wanted.launch
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
        is_first = not self._options.get("build", 0)
        plan = engines.load(self._file, self._options.get("engine_sha256"))
        reused = plan is not None
        if plan is None:
            plan = self._build(is_first)
            engines.save(self._file, plan)
        self._engine = self._binary.place("run.engine")
        Path(self._engine).write_bytes(plan)
        self._facts.update(
            engine_reused=reused, engine_bytes=len(plan), engine_sha256=engines.digest_of(plan)
        )

    def measure(self, rule: Rule, threads: int) -> timing.Timing:
        """Time the engine once, for a length chosen from the rule."""
        times = self._binary.place("times.json")
        words = flags.time(self._binary.version, self._engine, self._launch, rule, times)
        said = self._run(words, f"to time {self._file}", "times.json")
        output.check_options(said.text, self._launch)
        self._learn(said)
        runs = output.runs(said.written["times.json"], said.text, rule.warmup_s * 1000)
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
        written = self._binary.place("profile.json")
        words = flags.profile(self._binary.version, self._engine, passes, written)
        said = self._run(words, f"to profile {self._file}", "profile.json")
        self._learn(said)
        return [(name, [ns]) for name, ns in output.layers(said.written["profile.json"])]

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
        self._flags.update(flags.io(binary.version, self._precision))
        words = flags.build(
            binary.version, self._file, made, self._precision, self._workspace_mib, cache
        )
        said = binary.run(words, f"to build {self._file}")
        seconds = output.build_s(said.text)
        if seconds is not None:
            self._facts["build_s"] = seconds
        if not os.path.exists(made):
            raise output.error(said.text, 0, f"to save the engine of {self._file}")
        if cache is not None and os.path.exists(cache):
            self.timing_cache = Path(cache).read_bytes()
        plan = Path(made).read_bytes()
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
            Path(ours).write_bytes(content)
        return ours

    def _run(self, words: List[str], what: str, writes: str) -> Said:
        """Run the engine, which writes that file, and the layers' where the binary can."""
        if self._tells_layers:
            wanted = [f"{flags.LAYER_INFO}={self._binary.place(LAYERS)}"]
            try:
                return self._binary.run(words + wanted, what, (writes, LAYERS))
            except output.UnknownOptionError as error:
                if error.options != [flags.LAYER_INFO]:
                    raise
            self._tells_layers = self._flags["layer_info"] = False
        return self._binary.run(words, what, (writes,))

    def _learn(self, said: Said) -> None:
        """Facts of a run: the GPU, its memory, the engine's layers."""
        facts = {
            "gpu": output.gpu(said.text),
            "device_memory_bytes": output.device_memory_bytes(said.text),
        }
        self._facts.update({name: value for name, value in facts.items() if value is not None})
        if not self._tells_layers:
            return
        found = inspection.inspect(said.written[LAYERS])
        self._facts["precision_note"] = inspection.check(found, self._precision)
        if found.precision:
            self._facts["precision"] = found.precision
            self._facts["precision_layers"] = found.precision_layers
        self._facts["tactics"] = found.tactics
