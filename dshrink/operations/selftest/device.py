"""Test a device: what it is, what its runtimes compute, how it is timed, a table of each precision.

What was found is written after each check, so that nothing of it is lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from devices.environment import Environment
from devices.errors import AgentError, DevicesError
from devices.inventory import Device, connect, load_inventory
from devices.preflight import Preflight, probe
from dshrink.errors import DshrinkError
from dshrink.limits import MOST_SECONDS, require_within
from dshrink.operations.profile import profile_network
from dshrink.operations.selftest.asking import AskedDevice
from dshrink.operations.selftest.check import Check, SelfTestError, State
from dshrink.operations.selftest.network import selftest_features, selftest_network
from dshrink.operations.selftest.outputs import check_outputs
from dshrink.operations.selftest.result import SelfTest, page_of
from dshrink.operations.selftest.times import (
    LOAD_S,
    check_agent,
    check_host_clock,
    check_launch,
    check_load,
    check_plain_loop,
    check_second_timer,
)
from dshrink.operations.study import OpenProgress, no_bar
from dshrink.pieces.specs import shrunk_spec
from dshrink.progress import OnProgress
from dshrink.schemas import json_document
from dshrink.version import __version__
from latency_tables.files import scratch_folder, write_atomically
from latency_tables.predictor import predict
from latency_tables.schema import Conditions
from latency_tables.trust import verdict_line
from profiler.errors import ProfilerError, SessionError
from profiler.runtimes import file_precision, processor_of, traits, traits_of
from profiler.target import Target, check_supported, conditions_of, first_runtime, support_of
from profiler.workloads import build_onnx

#: Measuring a table ends after so many seconds.
TABLE_LIMIT_S = 120.0
#: Networks of a table that take no part in its estimate: as few as may be.
HOLD_OUT = 8
#: Images in what is compared, few enough that the outputs can be sent.
FEW = 2
#: The networks whose outputs are compared, by mask and padding; all but the first without a head.
NETWORKS = {
    "original": ("1111", "repad"),
    "features": ("1111", "repad"),
    "features, merged": ("0000", "repad"),
    "features, merged with bias maps": ("0000", "bias_map"),
}
#: Ways to launch whose outputs are compared.
LAUNCHES = ("plain", "cuda_graph")
REPORT, DATA = "selftest.md", "selftest.json"
#: Of a finding that quotes the device so much is kept.
LONGEST_FINDING = 1000
#: What this host computes and writes files with.
PACKAGES = ("onnxruntime", "torch", "onnx", "numpy")
_ERRORS = (DevicesError, ProfilerError, DshrinkError)
#: The device cannot be reached, or used at all: no other check could be made.
ENDING = (
    *("unreachable", "permission_denied", "host_key", "no_python", "old_python"),
    *("start_failed", "disk_full", "not_permitted", "protocol_version"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTestRequest:
    """What to test; all runtimes and precisions of the device where these are None.

    With a ``table_limit_s`` of 0 no table is measured.
    """

    device: str
    folder: Path
    runtime: str | None = None
    precision: str | None = None
    load_s: float = LOAD_S
    table_limit_s: float = TABLE_LIMIT_S

    def __post_init__(self) -> None:
        if self.table_limit_s != 0:
            require_within("time-limit", self.table_limit_s, 1, MOST_SECONDS)


def selftest_device(
    request: SelfTestRequest,
    *,
    progress: OpenProgress = no_bar,
    on_check: Callable[[Check], None] = lambda check: None,
) -> SelfTest:
    """Test a device; write ``selftest.md`` and ``selftest.json`` into the folder.

    ``on_check`` is called with each check as it is made. One that cannot be made is one that
    failed, with the reason; the others are made all the same, but for those of a runtime that
    does not start, or took longer than its time limit. Tables resume where an earlier run ended.
    Raises DevicesError for a device that is not in the inventory or cannot be reached (any more),
    SelfTestError for one without the runtime.
    """
    device = load_inventory().get(request.device)
    preflight = probe(device)
    with (
        scratch_folder(request.folder) as files,
        closing(AskedDevice(connect(device))) as asked,
    ):
        test = _Test(
            request=request,
            device=device,
            preflight=preflight,
            asked=asked,
            files=files,
            progress=progress,
            on_check=on_check,
        )
        return test.run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A check to be made of a runtime; ``name`` and ``of`` are the check's."""

    name: str
    of: str
    runtime: str
    make: Callable[[OnProgress], Check]


@dataclass(kw_only=True)
class _Test:
    """A self-test under way."""

    request: SelfTestRequest
    device: Device
    preflight: Preflight
    asked: AskedDevice
    files: Path
    progress: OpenProgress
    on_check: Callable[[Check], None]
    checks: list[Check] = field(default_factory=list)
    #: Runtimes that are installed, and do not start, or hang.
    unusable: set[str] = field(default_factory=set)

    def run(self) -> SelfTest:
        """Make all checks, those that concern the whole device first."""
        self._found(_environment(self.preflight))
        with self.progress("load the network"):
            self.network = selftest_network()
            self.features = selftest_features()
        every = self._conditions(self.asked.environment)
        steps = [*self._of_outputs(every), *self._of_times(every), *self._of_tables(every)]
        for number, step in enumerate(steps, start=1):
            if step.runtime in self.unusable:
                continue
            with self.progress(f"{number} of {len(steps)}: {step.name}") as update:
                update(0, 1, step.of)
                self._found(self._made(step, update))
        return self._write(complete=True)

    def _made(self, step: _Step, update: OnProgress) -> Check:
        try:
            return step.make(update)
        except _ERRORS as error:
            kind = error.type if isinstance(error, AgentError) else ""
            if kind in ENDING:
                raise
            if kind in ("missing_runtime", "timeout"):
                self.unusable.add(step.runtime)
            if kind == "missing_runtime":
                return self._without(step.runtime, str(error))
            return Check(name=step.name, of=step.of, state="failed", finding=str(error))

    def _without(self, runtime: str, reason: str) -> Check:
        """A runtime that cannot be tested: a fault of the one that the device is measured with."""
        is_needed = runtime == (self.request.runtime or first_runtime(self.device))
        state: State = "failed" if is_needed else "skipped"
        return Check(name="runtime", of=runtime, state=state, finding=reason)

    def _found(self, check: Check) -> None:
        if len(check.finding) > LONGEST_FINDING:
            check = replace(check, finding=f"{check.finding[:LONGEST_FINDING]} ...")
        self.checks.append(check)
        self.on_check(check)
        self._write(complete=False)

    def _write(self, *, complete: bool) -> SelfTest:
        result = SelfTest(
            device=self.device.name,
            title=self.device.title,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            dshrink_version=__version__,
            packages={name: version(name) for name in PACKAGES},
            complete=complete,
            checks=tuple(self.checks),
            probe=self.preflight.found,
        )
        folder = self.request.folder
        write_atomically(folder / DATA, json.dumps(json_document(result), indent=2) + "\n")
        write_atomically(folder / REPORT, page_of(result))
        return result

    def _conditions(self, environment: Environment) -> list[Conditions]:
        """Each runtime that is there in each precision; the others are noted as skipped.

        Raises SelfTestError where what is asked for can be had on no device of this kind.
        """
        wanted = [self.request.runtime] if self.request.runtime else list(self.device.runtimes)
        targets: dict[str, list[Target]] = {}
        reasons: dict[str, str] = {}
        for runtime in wanted:
            try:
                targets[runtime] = list(self._targets(runtime))
            except SessionError as error:
                reasons[runtime] = str(error)
        if not targets:
            raise SelfTestError(reasons[wanted[0]])
        found: list[Conditions] = []
        for runtime in wanted:
            try:
                for target in targets.get(runtime, ()):
                    found.append(conditions_of(self.device, environment, target))
            except SessionError as error:
                reasons[runtime] = str(error)
            if runtime in reasons:
                self._found(self._without(runtime, reasons[runtime]))
        return found

    def _targets(self, runtime: str) -> Iterator[Target]:
        target = Target(device=self.device.name, runtime=runtime)
        able = traits(runtime, support_of(self.device, runtime).processor)
        asked = self.request.precision
        precisions = [asked] if asked else self.device.precisions
        for precision in precisions:
            if asked or precision in able.precisions:
                one = replace(target, precision=precision)
                check_supported(self.device, one)
                yield one

    def _of_outputs(self, every: Sequence[Conditions]) -> Iterator[_Step]:
        for conditions in every:
            able = traits_of(conditions)
            for launch in LAUNCHES if able.gives_tensors else ():
                if launch in able.launches:
                    yield self._outputs(replace(conditions, launch=launch, batch=FEW))

    def _outputs(self, conditions: Conditions) -> _Step:
        def make(_: OnProgress) -> Check:
            # ONNX Runtime has int8 of its own, and computes the rest in fp32.
            here = "int8" if conditions.precision == "int8" else "fp32"
            return check_outputs(
                self.asked,
                conditions,
                {name: self._file(name, FEW, file_precision(conditions)) for name in NETWORKS},
                {name: self._file(name, FEW, here) for name in NETWORKS},
            )

        of = f"{conditions.runtime} {conditions.precision} {conditions.launch}"
        return _Step(name="outputs", of=of, runtime=conditions.runtime, make=make)

    def _of_times(self, every: Sequence[Conditions]) -> Iterator[_Step]:
        if not every:
            return
        firsts = {one.runtime: one for one in reversed(every)}
        for conditions in reversed(firsts.values()):
            alone = replace(conditions, batch=1)  # where launching takes the largest share
            yield self._step("agent", alone, lambda c, f: check_agent(self.asked, c, f))
            if "cuda_graph" in traits_of(alone).launches:
                yield self._step("launch", alone, lambda c, f: check_launch(self.asked, c, f))
        first = every[0]
        second = firsts.get("trtexec")
        if processor_of(first) == "gpu" and first.runtime != "trtexec":
            yield self._step("host clock", first, lambda c, f: check_host_clock(self.asked, c, f))
        if first.runtime == "tensorrt" and second is not None:
            yield self._step(
                "second timer", first, lambda c, f: check_second_timer(self.asked, c, second, f)
            )
        elif first.runtime == "onnxruntime" and self._is_here(first):
            yield self._step("second timer", first, lambda c, f: check_plain_loop(self.asked, c, f))
        yield self._step("load", first, self._load)

    def _is_here(self, conditions: Conditions) -> bool:
        """Whether this process has the runtime that the device has: another version is no timer."""
        is_same = conditions.runtime_version == version(conditions.runtime)
        return is_same and self.device.connection == "local"

    def _load(self, conditions: Conditions, file: Path) -> Check:
        return check_load(self.asked, conditions, file, seconds=self.request.load_s)

    def _step(
        self, name: str, conditions: Conditions, check: Callable[[Conditions, Path], Check]
    ) -> _Step:
        """A check of the original network under these conditions."""

        def make(_: OnProgress) -> Check:
            types = file_precision(conditions)
            return check(conditions, self._file("original", conditions.batch, types))

        of = f"{conditions.runtime} {conditions.precision}"
        return _Step(name=name, of=of, runtime=conditions.runtime, make=make)

    def _of_tables(self, every: Sequence[Conditions]) -> Iterator[_Step]:
        """Of the first runtime alone: a table is what takes long."""
        for conditions in every if self.request.table_limit_s else ():
            if conditions.runtime == every[0].runtime:
                of = f"{conditions.runtime} {conditions.precision}"
                make = partial(self._table, conditions)
                yield _Step(name="table", of=of, runtime=conditions.runtime, make=make)

    def _table(self, conditions: Conditions, update: OnProgress) -> Check:
        self.asked.release()
        name = f"table_{conditions.runtime}_{conditions.precision}"
        result = profile_network(
            self.network,
            self.request.folder / name,
            Target(
                device=self.device.name,
                runtime=conditions.runtime,
                precision=conditions.precision,
            ),
            hold_out=HOLD_OUT,
            time_limit=self.request.table_limit_s,
            on_progress=update,
        )
        table, failed = result.table, result.session.failed
        whole_ms = predict(table, table.forms.base).latency_ms
        figures = {"network_ms": whole_ms, "failed": float(failed)}
        if table.hold_out is not None:
            figures["mape_percent"] = table.hold_out.mape_percent
        return Check(
            name="table",
            of=f"{conditions.runtime} {conditions.precision}, batch {conditions.batch}",
            state="failed" if failed else "passed" if table.fit_for_search else "noted",
            finding=f"{verdict_line(table)}; the network takes {whole_ms:.4g} ms; "
            f"{result.session.counts}",
            figures=figures,
        )

    def _file(self, network: str, batch: int, precision: str) -> Path:
        """The ONNX file of one of ``NETWORKS``, written where it is missing."""
        mask, padding = NETWORKS[network]
        part = "whole" if network == "original" else "features"
        file = self.files / f"{part}-{mask}-{padding}-batch{batch}-{precision}.onnx"
        if not file.exists():
            whole = self.network if network == "original" else self.features
            spec = shrunk_spec(whole, mask, segments="blocks", padding=padding)
            write_atomically(file, build_onnx(spec, batch=batch, precision=precision))
        return file


def _environment(preflight: Preflight) -> Check:
    """What a probe says of the device."""
    wrong, known = preflight.problems, preflight.advice
    return Check(
        name="environment",
        of=preflight.device.name,
        state="failed" if wrong else "noted" if known else "passed",
        finding="; ".join((*wrong, *known)) or "nothing found that would disturb a measurement",
    )
