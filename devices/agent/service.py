"""The agent's loop: read a request, do it, answer it.  A failure is a reply and does not end it.

The replies have a file descriptor of their own.  What native libraries write to standard output
goes to standard error, so that it cannot break a reply.
"""

import base64
import os
import resource
import stat
import sys
import time
import traceback
from contextlib import contextmanager
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Tuple

from . import alarm, power, resources, runtimes, store, system, worker
from .checks import (
    Check,
    RequestError,
    as_request_error,
    bad_model,
    bad_request,
    check_fields,
    integer,
)
from .ending import ends_with
from .file_names import to_message
from .health import read_health
from .lock import device_lock
from .protocol import (
    MAX_FILE_BYTES,
    MAX_LINE_BYTES,
    Measure,
    Request,
    decode,
    encode_error,
    encode_result,
    file_digest,
    parse_request,
    request_id,
)

#: Options of every runtime but those with a process of their own: CUDA reserves far more address
#: space than it uses.
COMMON_OPTIONS: Dict[str, Check] = {"memory_limit_mib": integer(1, 1 << 24)}
#: As ``alarm.IDLE_S`` while clocks are held: of a host that is gone they must not stay so for long.
HOLDING_IDLE_S = 120.0


def main(root: Optional[str] = None, is_worker: bool = False) -> int:
    """Serve standard input until it ends or the host says quit; return the exit status.

    ``root`` is the folder that must stay as long as this agent runs, if it runs from one.
    """
    requests, replies = _take_streams()
    ends_with(os.getppid())()
    try:
        in_use = None if root is None else store.use(root)
    except (RequestError, OSError) as error:
        sys.stderr.write(f"the agent cannot use {root}: {error}\n")
        return 1
    try:
        serve(requests, replies, is_worker)
    except BrokenPipeError:
        pass  # the host has gone, and with it the reader of any reply
    finally:
        if in_use is not None:
            os.close(in_use)
    return 0


def work_main() -> int:
    """As ``main`` for a worker: what it is asked, it does in its own process."""
    return main(is_worker=True)


def serve(requests: BinaryIO, replies: BinaryIO, is_worker: bool = False) -> None:
    """Answer one reply line for each request line, in order."""
    jobs = Jobs(is_worker)
    try:
        alarm.end_process_after(jobs.idle_s)
        for line in _lines(requests):
            alarm.end_process_after(jobs.idle_s)
            reply, is_last = _answer(line, jobs)
            alarm.end_process_after(jobs.idle_s)
            replies.write(reply)
            replies.flush()
            if is_last:
                return
    finally:
        jobs.close()
        alarm.end_process_after(None)


class Jobs(object):
    """Does what requests ask; what they hold, such as clocks, is held until ``close``."""

    def __init__(self, is_worker: bool = False) -> None:
        self._is_worker = is_worker
        self._held: Optional[power.Held] = None

    @property
    def idle_s(self) -> Optional[float]:
        """How long the host may be silent; a worker's agent may for ever, and dies with it."""
        if self._is_worker:
            return None
        return alarm.IDLE_S if self._held is None else HOLDING_IDLE_S

    def do(self, request: Request) -> Dict[str, Any]:
        """Return the result of the request."""
        if request.measure is not None:
            act = work if self._is_worker else measure
            return act(request.do, request.measure)
        if request.runtime:
            return self._about(request.do, request.runtime)
        if request.do == "probe":
            return system.probe(held=self._held)
        if request.do == "hold":
            if self._held is None:
                self._held = power.hold()
            environment = system.describe(held=self._held)
            return {"environment": environment, "held": list(self._held.descriptions)}
        return {"environment": system.describe(held=self._held)} if request.do == "hello" else {}

    def close(self) -> None:
        """Put back what was held, and end what was started."""
        worker.close_all()
        if self._held is not None:
            self._held.release()
            self._held = None

    def _about(self, do: str, name: str) -> Dict[str, Any]:
        """What a runtime says about itself."""
        runtime = runtimes.get(name)
        if runtime.ISOLATED and not self._is_worker:
            return worker.ask(name, {"do": do, "runtime": name})
        alarm.end_process_after(worker.VERSION_TIMEOUT_S)
        if do == "version":
            version, problem = runtimes.version_and_problem(runtime)
            return {"version": version, "problem": problem}
        state = runtime.state()
        return {"state": None if state is None else base64.b64encode(state).decode("ascii")}


def measure(do: str, request: Measure) -> Dict[str, Any]:
    """Measure one file, or profile its layers, when no other agent measures on this device.

    From then on the kernel ends this process if the job takes longer than it may: not even the
    host's death leaves the device taken.
    """
    runtime = runtimes.get(request.runtime)
    options = _check_options(runtime, request)
    if do == "memory":
        raise bad_request("memory is told with a measurement: ask to measure with resources")
    message = dict(
        request._asdict(), do=do, rule=request.rule._asdict(), file=to_message(request.file)
    )
    given = {name: value for name, value in message.items() if value is not None}
    with device_lock() as waited_s:
        start = time.monotonic()
        if runtime.ISOLATED:
            limit_s = request.timeout_s
            alarm.end_process_after(None if limit_s is None else limit_s + worker.GRACE_S)
            result = worker.ask(request.runtime, given)
        else:
            alarm.end_process_after(request.timeout_s)
            result = _do_within_limit(do, runtime, request, dict(options))
        if do == "measure" and request.resources and runtime.processor(options) == "cpu":
            result["resources"].update(resources.of_process(given, time.monotonic() - start))
        return dict(result, waited_s=waited_s)


def work(do: str, request: Measure) -> Dict[str, Any]:
    """As ``measure`` in a worker: the agent that asks has the device.

    After an error of any kind this process ends where the GPU is lost to it: where CUDA's own error
    says so, or the runtime that is asked.
    """
    runtime = runtimes.get(request.runtime)
    options = _check_options(runtime, request)
    alarm.end_process_after(request.timeout_s)
    try:
        return _do_within_limit(do, runtime, request, options)
    except Exception as error:
        known = as_request_error(error)
        known.ends_process = known.ends_process or _is_sticky(error) or _is_broken(runtime)
        raise known from error


def _is_sticky(error: Optional[BaseException]) -> bool:
    while error is not None:
        if getattr(error, "sticky", False):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_broken(runtime: runtimes.Runtime) -> bool:
    try:
        return runtime.is_broken()
    except Exception:
        traceback.print_exc()
        return True


def _check_options(runtime: runtimes.Runtime, request: Measure) -> Dict[str, Any]:
    common = {} if runtime.ISOLATED else COMMON_OPTIONS
    return check_fields("options", request.options, dict(common, **runtime.OPTIONS))


def _do_within_limit(
    do: str, runtime: runtimes.Runtime, request: Measure, options: Dict[str, Any]
) -> Dict[str, Any]:
    runtime.load()
    _check_file(request)
    with memory_limit(options.pop("memory_limit_mib", None)):
        try:
            return _do_with(do, runtime, request, options)
        except RequestError:
            raise
        except Exception as error:
            known = runtime.failure(error)
            if known is None:
                raise
            raise known from error


def _do_with(
    do: str, runtime: runtimes.Runtime, request: Measure, options: Dict[str, Any]
) -> Dict[str, Any]:
    """The raw samples or layers, what was built and takes, and health before and after."""
    if do == "memory":
        return resources.measure_memory(runtime, request, options)
    start = time.perf_counter()
    model = runtime.prepare(request.file, request.threads, request.seed, options)
    try:
        prepare_s = time.perf_counter() - start
        before = read_health()
        if do == "tensors":
            inputs, outputs = model.tensors()
            result: Dict[str, Any] = {"inputs": _sent(inputs), "outputs": _sent(outputs)}
            after = read_health()
        elif do == "profile":
            layers: List[List[Any]] = [[name, ns] for name, ns in model.layers(request.passes)]
            result = {"layers": layers}
            after = read_health()
        else:
            taken = model.measure(request.rule, request.threads)
            after = read_health()
            told = resources.of_gpu(model)
            if request.resources:
                told.update(resources.of_runs(model, runtime.processor(options), options, taken))
            result = dict(taken._asdict(), resources=told)
        return dict(
            result,
            prepare_s=prepare_s,
            built=model.facts(),
            health_before=before,
            health_after=after,
        )
    finally:
        model.close()


def _sent(tensors: List[runtimes.TensorContent]) -> List[Dict[str, Any]]:
    """As a reply has them: the content in base64."""
    return [
        dict(one._asdict(), content=base64.b64encode(one.content).decode("ascii"))
        for one in tensors
    ]


@contextmanager
def memory_limit(limit_mib: Optional[int]) -> Iterator[None]:
    """Bound the address space of the process for one job, and lift the bound after it."""
    if limit_mib is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit, hard = limit_mib << 20, before[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _answer(line: bytes, jobs: Jobs) -> Tuple[bytes, bool]:
    """Return the reply to a line, and whether it is the last one of this process."""
    identity = ""
    try:
        message = decode(line)
        identity = request_id(message)
        request = parse_request(message)
        return encode_result(identity, jobs.do(request)), request.do == "quit"
    except Exception as error:
        known = as_request_error(error)
        return encode_error(identity, known, known.ends_process), known.ends_process


def _check_file(request: Measure) -> None:
    try:
        state = os.stat(request.file)
        if not stat.S_ISREG(state.st_mode):
            raise bad_request(f"{request.file} is not a regular file")
        if state.st_size > MAX_FILE_BYTES:
            raise bad_request(f"{request.file} has {state.st_size} bytes, above {MAX_FILE_BYTES}")
        if state.st_size == 0:
            # Nor is it read: files of /proc look empty, and some of them block whoever reads.
            raise bad_model(f"{request.file} is empty", "push the file again")
        digest = file_digest(request.file)
    except OSError as error:
        raise RequestError(
            "missing_file",
            f"{request.file} cannot be read: {error.strerror}",
            "push the file to the device before asking for its measurement",
        ) from error
    if digest != request.sha256:
        raise RequestError(
            "wrong_digest",
            f"{request.file} has the SHA-256 {digest}, the request says {request.sha256}",
            "the file changed or arrived damaged: push it again",
        )


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines; of one that is too long only so much that it is seen to be.

    It is read to its end before it is answered: the host would otherwise still be writing.
    """
    while True:
        line = stream.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES + 1)
        yield line


def _take_streams() -> Tuple[BinaryIO, BinaryIO]:
    """Return private copies of standard input and output; libraries get /dev/null and stderr."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies
