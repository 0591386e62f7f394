"""The agent on the device, asked for one thing at a time: a latency, or what a file computes."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from devices.agent.protocol import MAX_TENSOR_BYTES, Rule
from devices.connection import Agent, Connection, PushedFile
from devices.environment import Environment
from devices.errors import AgentLostError
from devices.records import RecordError, check_facts, checked
from devices.reports import Built, TensorReport, TensorsReport
from dshrink.operations.selftest.check import SelfTestError
from latency_tables.schema import Conditions
from profiler.planning.jobs import FileJob, measure_request, timeout_s
from profiler.replies import Samples, parse_result
from profiler.runtimes import traits_of

Array = npt.NDArray[Any]
#: How much longer than the device itself the host waits for a job.
GRACE_S = 30.0
#: Types of a tensor's elements that can be compared.
ELEMENTS = ("float16", "float32", "float64")
#: A tensor here has four dimensions; numpy takes no more than 64.
MOST_DIMENSIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """What a runtime read and computed in one run, by the tensors' names, and what it built."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    built: Mapping[str, Any]


class AskedDevice:
    """A device behind a connection, with one agent at a time; a lost one is replaced.

    Raises AgentError for what the device, or the link to it, cannot do, and MeasurementError or
    SelfTestError for answers without sense.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._agent: Agent | None = None
        self._pushed: dict[Path, PushedFile] = {}
        #: The engine that was built last of a file by a runtime in a precision: what is compared
        #: is one build, and a build may take minutes.
        self._engines: dict[tuple[Path, str, str], str] = {}

    @property
    def environment(self) -> Environment:
        return self._running().environment

    def close(self) -> None:
        """End the agent and take from the device what was brought there."""
        self.release()
        self._connection.close()

    def release(self) -> None:
        """End the agent; the next question starts another one."""
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()

    def measure(
        self,
        file: Path,
        conditions: Conditions,
        rule: Rule,
        *,
        engine: str = "",
        resources: bool = False,
    ) -> Samples:
        """The samples of a file; ``engine`` is the digest of one that another runtime built."""
        request = self._request(file, conditions, rule, engine, resources=resources)
        found = parse_result(self._ask(request, rule, conditions), do="measure")
        assert isinstance(found, Samples)
        self._keep(file, conditions, found.built)
        return found

    def compute(self, file: Path, conditions: Conditions, rule: Rule) -> Computed:
        """What a file reads and computes under these conditions."""
        request = {**self._request(file, conditions, rule), "do": "tensors"}
        said = self._ask(request, rule, conditions)
        built = said.get("built")
        if not isinstance(built, dict):
            built = {}
        try:
            report: TensorsReport = checked(TensorsReport, said, "tensors")
            check_facts(Built, built, "built")
        except RecordError as error:
            raise SelfTestError(
                f"what the agent says of the tensors is not valid: {error}"
            ) from None
        self._keep(file, conditions, built)
        return Computed(
            inputs={one["name"]: _array(one) for one in report["inputs"]},
            outputs={one["name"]: _array(one) for one in report["outputs"]},
            built=built,
        )

    def _request(
        self,
        file: Path,
        conditions: Conditions,
        rule: Rule,
        engine: str = "",
        *,
        resources: bool = False,
    ) -> dict[str, Any]:
        if file not in self._pushed:
            (self._pushed[file],) = self._connection.push([file])
        engine = engine or self._engines.get(_engine_of(file, conditions), "")
        options = {"engine_sha256": engine} if engine else {}
        job = FileJob(id=file.name, kind="network", label=file.name, file=file)
        return measure_request(
            job, self._pushed[file], conditions, rule, options, resources=resources
        )

    def _keep(self, file: Path, conditions: Conditions, built: Mapping[str, Any]) -> None:
        if engine := built.get("engine_sha256"):
            self._engines[_engine_of(file, conditions)] = engine

    def _ask(
        self, request: Mapping[str, Any], rule: Rule, conditions: Conditions
    ) -> dict[str, Any]:
        limit_s = timeout_s(rule, builds=traits_of(conditions).builds)
        try:
            return self._running().request({**request, "timeout_s": limit_s}, limit_s + GRACE_S)
        except AgentLostError:
            self.release()
            raise

    def _running(self) -> Agent:
        if self._agent is None:
            self._agent = self._connection.start_agent()
        return self._agent


def _engine_of(file: Path, conditions: Conditions) -> tuple[Path, str, str]:
    return file, conditions.runtime, conditions.precision


def _array(report: TensorReport) -> Array:
    """The tensor in float64. Raises SelfTestError where its content is not what it says."""
    name, shape = report["name"], report["shape"]
    if len(shape) > MOST_DIMENSIONS:
        raise SelfTestError(f"tensor {name!r} has {len(shape)} dimensions")
    if report["element"] not in ELEMENTS:
        raise SelfTestError(f"tensor {name!r} is of the type {report['element']}")
    kind = np.dtype(report["element"])
    try:
        content = base64.b64decode(report["content"], validate=True)
    except ValueError:
        content = b""
    is_shape = all(0 < size <= MAX_TENSOR_BYTES for size in shape)
    if not is_shape or math.prod(shape) * kind.itemsize != len(content):
        raise SelfTestError(
            f"tensor {name!r} has {len(content)} bytes, and the shape {shape} of {kind}"
        )
    with np.errstate(invalid="ignore"):  # a NaN that signals, as memory may hold
        return np.frombuffer(content, kind.newbyteorder("<")).reshape(shape).astype(np.float64)
