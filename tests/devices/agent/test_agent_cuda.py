from __future__ import annotations

import ast
import ctypes
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_cuda import EXPORTED, FOLDER, FakeCuda, simulated
from pythons import needs

from devices.agent import cuda, nvml, system, timing
from devices.agent.cuda import (
    GpuError,
    clocks,
    find_gpu,
    gpu_problem,
    libcuda,
    open_gpu,
    through_pycuda,
)
from devices.agent.cuda.clocks import EventClocks
from devices.agent.protocol import Rule

SOURCE = Path(cuda.__file__).parent
US = 1000


@pytest.fixture(autouse=True)
def as_new(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(libcuda.LIBRARY_VARIABLE, raising=False)
    simulated().reset()
    find_gpu.cache_clear()
    yield
    find_gpu.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    """Make a library (or the error of loading it) what ctypes finds as libcuda."""
    real = ctypes.CDLL

    def load(name: str, *arguments: Any, **options: Any) -> Any:
        if "libcuda" not in str(name):
            return real(name, *arguments, **options)
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr(libcuda.ctypes, "CDLL", load)


def hide_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycuda", "pycuda.driver", "pycuda.autoinit"):
        monkeypatch.setitem(sys.modules, name, None)


def install_pycuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    hide_pycuda(monkeypatch)  # undone, that leaves none of the three
    for name in ("pycuda", "pycuda.driver", "pycuda.autoinit"):
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("pycuda.driver")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A driver of CUDA 12.4, and no pycuda."""
    found = FakeCuda()
    install(monkeypatch, found)
    hide_pycuda(monkeypatch)
    return found


@pytest.fixture(params=["libcuda", "pycuda"])
def gpu(request: pytest.FixtureRequest, monkeypatch, library: FakeCuda) -> Iterator[Any]:
    """The GPU, through each of the two."""
    if request.param == "pycuda":
        install_pycuda(monkeypatch)
    with closing(open_gpu()) as opened:
        assert opened.binding == request.param
        yield opened


def test_bytes_come_back_from_the_gpu_as_they_went(gpu) -> None:
    pointer = gpu.alloc(4)
    assert pointer > 1 << 32  # cut to an int it would be another
    for content in (b"abcd", bytearray(b"efgh"), memoryview(b"ijkl")):
        gpu.to_device(pointer, content)
        assert gpu.to_host(pointer, 4) == bytes(content)
    assert gpu.to_host(pointer + 1, 2) == b"jk"


def test_a_copy_to_the_gpu_is_waited_for(library) -> None:
    with closing(open_gpu()) as gpu:
        gpu.to_device(gpu.alloc(1), b"x")
        copied = library.calls.index("cuMemcpyHtoD_v2")
        assert library.calls[copied + 1] == "cuCtxSynchronize"


@pytest.mark.parametrize("on_stream", [True, False])
def test_memory_is_filled_with_a_byte(gpu, on_stream: bool) -> None:
    pointer, stream = gpu.alloc(8), gpu.stream()
    gpu.fill(pointer, 0xAB, 8)
    gpu.fill(pointer, 0x01, 3, stream if on_stream else None)
    gpu.synchronize(stream)
    assert gpu.to_host(pointer, 8) == b"\x01" * 3 + b"\xab" * 5


def test_what_the_gpu_is_said_in_facts(gpu) -> None:
    info = gpu.info
    assert (info.name, info.compute_capability) == ("Simulated H200", (9, 0))
    assert (info.driver_cuda, info.memory_bytes) == ("12.4", 4096 << 20)
    assert info.l2_bytes == 64 << 10
    assert info.uuid == simulated().gpu.uuid


def test_memory_that_is_taken_is_not_free_until_it_is_given_back(gpu) -> None:
    before = gpu.memory_free_bytes()
    pointer = gpu.alloc(1 << 20)
    assert gpu.memory_free_bytes() == before - (1 << 20)
    gpu.free(pointer)
    assert gpu.memory_free_bytes() == before


def test_too_much_memory_is_told_from_other_errors(gpu) -> None:
    with pytest.raises(GpuError) as caught:
        gpu.alloc(1 << 40)
    error = caught.value
    assert (error.code, error.name) == (2, "CUDA_ERROR_OUT_OF_MEMORY")
    assert error.out_of_memory and not error.sticky
    assert "out of memory" in str(error) and "cuMemAlloc" in str(error)
    gpu.free(gpu.alloc(1))  # and the GPU goes on


def test_what_was_freed_or_never_was_allocated_cannot_be_used(gpu) -> None:
    pointer = gpu.alloc(16)
    gpu.free(pointer)
    for act in (
        lambda: gpu.free(pointer),
        lambda: gpu.to_host(pointer, 1),
        lambda: gpu.to_device(pointer, b"x"),
        lambda: gpu.fill(pointer, 0, 1),
    ):
        with pytest.raises(GpuError) as caught:
            act()
        assert caught.value.code == 1 and not caught.value.sticky
    with pytest.raises(GpuError):
        gpu.to_host(gpu.alloc(4), 5)


def test_events_time_what_the_stream_did_between_them(gpu) -> None:
    stream, first, last = gpu.stream(), gpu.event(), gpu.event()
    simulated().host_ns_per_launch(1 * US)
    gpu.record(first, stream)
    simulated().launch(stream, 1500 * US)
    simulated().launch(stream, 500 * US)
    gpu.record(last, stream)
    gpu.synchronize(stream)
    # The first launch reaches an idle stream after one launch time.
    assert gpu.elapsed_ms(first, last) == pytest.approx(2.001)


def test_an_event_that_was_never_recorded_has_no_time(gpu) -> None:
    with pytest.raises(GpuError) as caught:
        gpu.elapsed_ms(gpu.event(), gpu.event())
    assert caught.value.code == 400 and not caught.value.sticky


def test_an_event_that_nobody_waited_for_is_not_ready(gpu) -> None:
    stream, first, last = gpu.stream(), gpu.event(), gpu.event()
    gpu.record(first, stream)
    simulated().launch(stream, 10 * US)
    gpu.record(last, stream)
    with pytest.raises(GpuError) as caught:
        gpu.elapsed_ms(first, last)
    assert caught.value.name == "CUDA_ERROR_NOT_READY"


def adder(gpu: Any, stream: int) -> tuple[int, Callable[[], None]]:
    """A counter on the GPU, and what enqueues adding 1 to it."""
    pointer = gpu.alloc(1)
    gpu.to_device(pointer, b"\0")

    def add() -> None:
        simulated().write(pointer, bytes([simulated().read(pointer, 1)[0] + 1]))

    return pointer, lambda: simulated().launch(stream, 5 * US, add)


def test_a_graph_does_what_was_captured_each_time_it_is_launched(gpu) -> None:
    stream = gpu.stream()
    pointer, enqueue = adder(gpu, stream)
    launch = gpu.capture(stream, lambda: [enqueue(), enqueue(), enqueue()])
    assert gpu.to_host(pointer, 1) == b"\0"  # captured, not done
    before = simulated().gpu.launches
    for _ in range(2):
        launch()
    gpu.synchronize(stream)
    assert gpu.to_host(pointer, 1) == b"\6"
    assert simulated().gpu.launches == before + 2  # of the host's


def test_a_capture_that_fails_inside_leaves_the_stream_as_it_was(gpu, library) -> None:
    stream = gpu.stream()
    pointer, enqueue = adder(gpu, stream)

    def fail() -> None:
        enqueue()
        raise KeyError("a library failed")

    with pytest.raises(KeyError):
        gpu.capture(stream, fail)
    # A wait inside invalidates the capture: the driver's error is what is seen.
    with pytest.raises(GpuError, match="CAPTURE_UNSUPPORTED") as caught:
        gpu.capture(stream, lambda: gpu.synchronize(stream))
    assert caught.value.code == 900 and not caught.value.sticky
    assert library.open_graphs == 0
    enqueue()
    gpu.synchronize(stream)
    assert gpu.to_host(pointer, 1) == b"\1"


def test_a_capture_that_was_invalidated_in_silence_is_no_graph(gpu, library) -> None:
    stream = gpu.stream()

    def swallow() -> None:
        with pytest.raises(GpuError):
            gpu.synchronize(stream)

    with pytest.raises(GpuError) as caught:
        gpu.capture(stream, swallow)
    assert caught.value.code == 901
    assert library.open_graphs == 0


def test_an_error_that_stays_says_that_the_process_is_lost(gpu) -> None:
    stream = gpu.stream()
    pointer = gpu.alloc(4)
    simulated().launch(stream, 1, lambda: simulated().read(0xDEAD, 1))
    with pytest.raises(GpuError) as caught:
        gpu.synchronize(stream)
    assert (caught.value.code, caught.value.name) == (700, "CUDA_ERROR_ILLEGAL_ADDRESS")
    assert caught.value.sticky
    with pytest.raises(GpuError) as caught:
        gpu.to_host(pointer, 4)
    assert caught.value.sticky
    gpu.close()  # without complaint


def test_closing_gives_everything_back_once(gpu, library) -> None:
    stream = gpu.stream()
    gpu.alloc(10)
    gpu.event()
    gpu.capture(stream, lambda: simulated().launch(stream, 1))
    gpu.close()
    gpu.close()
    assert simulated().memory == {} and simulated().gpu.events == {}
    assert list(simulated().gpu.streams) == [0]
    assert library.open_graphs == 0 and simulated().gpu.retained == 0


def test_pycuda_leaves_no_context_pushed(monkeypatch, library) -> None:
    driver = install_pycuda(monkeypatch)
    opened = open_gpu()
    assert len(driver._state["contexts"]) == 1
    opened.close()
    assert driver._state["contexts"] == []


# Drivers and machines

OLDEST = 10020


def test_the_driver_of_cuda_10_2_has_all_that_is_needed(monkeypatch) -> None:
    library = FakeCuda(OLDEST)
    install(monkeypatch, library)
    hide_pycuda(monkeypatch)
    with closing(open_gpu()) as gpu:
        stream = gpu.stream()
        pointer, enqueue = adder(gpu, stream)
        gpu.capture(stream, enqueue)()
        gpu.synchronize(stream)
        assert gpu.to_host(pointer, 1) == b"\1"
        assert gpu.info.driver_cuda == "10.2"
    assert "cuGraphInstantiate" in library.calls
    assert "cuGraphInstantiateWithFlags" not in library.calls


def test_a_newer_driver_instantiates_graphs_with_flags(monkeypatch, library) -> None:
    with closing(open_gpu()) as gpu:
        stream = gpu.stream()
        gpu.capture(stream, lambda: simulated().launch(stream, 1))
    assert "cuGraphInstantiateWithFlags" in library.calls
    assert "cuGraphInstantiate" not in library.calls


def test_only_functions_that_every_driver_exports_are_named() -> None:
    named = set(libcuda._FUNCTIONS)
    assert named <= set(EXPORTED)
    newer = {name for name in named if EXPORTED[name][1] > OLDEST}
    assert newer == {"cuGraphInstantiateWithFlags"}


def test_a_machine_without_the_library_has_no_gpu(monkeypatch) -> None:
    install(monkeypatch, OSError("libcuda.so.1: cannot open shared object file"))
    assert find_gpu() is None
    with pytest.raises(GpuError, match="cannot open shared object file") as caught:
        open_gpu()
    assert caught.value.code is None and not caught.value.sticky


def test_a_driver_without_a_device_has_no_gpu(library) -> None:
    simulated().gpu.count = 0
    assert find_gpu() is None
    with pytest.raises(GpuError, match="CUDA_ERROR_NO_DEVICE") as caught:
        open_gpu()
    assert caught.value.code == 100


@pytest.mark.parametrize(
    "broken",
    [SimpleNamespace(), SimpleNamespace(cuInit=lambda flags: 999), object(), ValueError("odd")],
)
def test_a_broken_library_has_no_gpu(monkeypatch, broken: Any) -> None:
    install(monkeypatch, broken)
    assert find_gpu() is None


@pytest.mark.parametrize("function", ["cuInit", "cuDeviceGet", "cuDeviceGetName"])
def test_a_device_that_cannot_be_asked_is_no_gpu_and_says_why(library, function: str) -> None:
    assert gpu_problem() is None
    library.fail[function] = 999
    assert find_gpu() is None
    assert gpu_problem() == f"{function}: CUDA_ERROR_UNKNOWN (unknown error)"


@pytest.mark.parametrize("how", ["fails", "is lacking"])
def test_what_nothing_depends_on_need_not_be_answered(library, monkeypatch, how: str) -> None:
    """Neither a GPU without a UUID is hidden, nor one without a size of its L2 cache."""
    if how == "fails":
        library.fail["cuDeviceGetUuid"] = 801
    else:
        monkeypatch.setitem(EXPORTED, "cuDeviceGetUuid", ([], 99000))
    monkeypatch.setattr(library, "lacking", {libcuda.L2_CACHE_SIZE})
    info = find_gpu()
    assert info is not None and (info.uuid, info.l2_bytes) == ("", None)
    assert info.name == "Simulated H200" and info.memory_bytes > 0
    with closing(open_gpu()) as gpu:
        assert gpu.info == info
    assert nvml.read(info.uuid) == {}


def test_a_jetson_is_not_told_to_run_what_it_does_not_have(tmp_path: Path) -> None:
    assert "nvidia-smi" in cuda.gpu_advice(str(tmp_path))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R32 (release), REVISION: 7.1")
    assert "group `video`" in cuda.gpu_advice(str(tmp_path))
    assert "nvidia-smi" not in cuda.gpu_advice(str(tmp_path))


def test_a_machine_that_shows_no_gpu_tells_why(library) -> None:
    library.fail["cuInit"] = 100
    assert system.gpu() is None
    problem = system.gpu_problem()
    assert problem is not None and "cuInit: CUDA_ERROR_NO_DEVICE (no CUDA-capable" in problem
    library.fail.clear()
    find_gpu.cache_clear()
    assert system.gpu() is not None and system.gpu_problem() is None


def test_looking_for_the_gpu_makes_no_context_and_imports_no_runtime(library) -> None:
    info = find_gpu()
    assert info is not None and info.name == "Simulated H200"
    assert "cuDevicePrimaryCtxRetain" not in library.calls
    asked = len(library.calls)
    assert find_gpu() is info and len(library.calls) == asked  # once a process


def test_another_library_can_be_named(monkeypatch) -> None:
    asked = []
    monkeypatch.setenv(libcuda.LIBRARY_VARIABLE, "/opt/compat/libcuda.so.1")

    def load(name: str) -> Any:
        asked.append(name)
        raise OSError("not there")

    monkeypatch.setattr(libcuda.ctypes, "CDLL", load)
    assert find_gpu() is None
    assert asked == ["/opt/compat/libcuda.so.1"]


def test_a_code_that_the_driver_cannot_name_is_still_said(library) -> None:
    library.fail["cuMemAlloc_v2"] = 888
    with (
        closing(open_gpu()) as gpu,
        pytest.raises(GpuError, match="cuMemAlloc_v2: CUDA_ERROR_888") as caught,
    ):
        gpu.alloc(1)
    assert caught.value.code == 888


# pycuda


@pytest.mark.parametrize("problem", ["import fails", "too old"])
def test_a_pycuda_that_does_not_serve_is_passed_over(monkeypatch, library, problem: str) -> None:
    driver = install_pycuda(monkeypatch)
    if problem == "too old":
        monkeypatch.delattr(driver.Device, "retain_primary_context")
    else:
        monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    assert through_pycuda.load() is None
    with closing(open_gpu()) as gpu:
        assert gpu.binding == "libcuda"


def test_a_text_of_pycuda_that_the_driver_never_says_is_kept(monkeypatch, library) -> None:
    driver = install_pycuda(monkeypatch)
    with closing(open_gpu()) as gpu:

        def refuse(count: int) -> None:
            raise driver.LogicError("cuMemAlloc failed: something new")

        monkeypatch.setattr(driver, "mem_alloc", refuse)
        with pytest.raises(GpuError, match="LogicError") as caught:
            gpu.alloc(1)
        assert caught.value.code is None

        def refuse_memory(count: int) -> None:
            raise driver.MemoryError("cuMemAlloc failed: kein Speicher")

        monkeypatch.setattr(driver, "mem_alloc", refuse_memory)
        with pytest.raises(GpuError) as caught:
            gpu.alloc(1)
        assert caught.value.out_of_memory


def test_a_stream_of_somebody_else_is_refused_by_pycuda(monkeypatch, library) -> None:
    install_pycuda(monkeypatch)
    with closing(open_gpu()) as gpu, pytest.raises(GpuError) as caught:
        gpu.synchronize(0x1234)
    assert caught.value.code == 400


def test_autoinit_is_never_imported_and_importing_it_would_fail(monkeypatch) -> None:
    install_pycuda(monkeypatch)
    with pytest.raises(AssertionError, match="autoinit was imported"):
        importlib.import_module("pycuda.autoinit")
    for file in SOURCE.glob("*.py"):
        strings = (n.value for n in ast.walk(ast.parse(file.read_text())) if _is_text(n))
        assert "pycuda.autoinit" not in list(strings)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


# Clocks

RULE = Rule(
    warmup_s=0.001,
    warmup_cap_s=1.0,
    window_s=0.0005,
    sample_s=0.002,
    min_samples=5,
    min_total_s=0.0,
    cap_s=5.0,
)


class VirtualClocks(EventClocks):
    """On the host's simulated clock, so that nothing depends on this machine."""

    def wall_ns(self) -> int:
        return simulated().host_ns()


def work(stream: int, cost_ns: int, cold_ns: int = 0) -> Callable[[int], None]:
    def run(times: int) -> None:
        for _ in range(times):
            simulated().launch(stream, cost_ns, cold_ns=cold_ns)

    return run


def test_a_sample_has_the_device_s_time_and_the_host_s(gpu) -> None:
    stream = gpu.stream()
    simulated().host_ns_per_launch(5 * US)
    taken = VirtualClocks(gpu, stream).take(work(stream, 50 * US), 20)
    assert taken.device_ns == 20 * 50 * US  # the first launch is hidden behind the run before
    assert taken.enqueue_ns == 20 * 5 * US
    assert (taken.cpu_ns, taken.disturbed) == (0, False)
    assert taken.wall_ns >= taken.device_ns


def test_work_that_the_host_cannot_launch_fast_enough_is_seen_as_such(gpu) -> None:
    stream = gpu.stream()
    simulated().host_ns_per_launch(40 * US)
    taken = VirtualClocks(gpu, stream).take(work(stream, 10 * US), 10)
    assert taken.enqueue_ns == 10 * 40 * US
    assert taken.enqueue_ns > 0.8 * taken.device_ns


def test_a_queue_that_is_full_is_not_taken_for_a_slow_host(gpu) -> None:
    stream = gpu.stream()

    def run(times: int) -> None:
        work(stream, 100 * US)(times)
        if times > 1:  # no place left in the queue: the host waits for the GPU
            simulated().gpu.now_ns += times * 100 * US

    taken = VirtualClocks(gpu, stream).take(run, 10)
    assert taken.enqueue_ns == 10 * simulated().host_ns_per_launch()


def test_a_measurement_by_events_takes_blocks_of_the_length_that_the_rule_wants(gpu) -> None:
    stream = gpu.stream()
    found = timing.measure(work(stream, 40 * US), RULE, VirtualClocks(gpu, stream))
    assert found.runs_per_sample == 50  # 2 ms
    assert found.device_ns is not None and set(found.device_ns) == {40 * US}
    assert found.enqueue_ns is not None and set(found.enqueue_ns) == {4 * US}
    assert found.cpu_ns is None and found.stopped == "interval"
    assert simulated().memory == {}  # nothing to flush


def test_a_cold_run_has_an_empty_cache_and_the_fill_is_not_timed(gpu) -> None:
    stream = gpu.stream()
    run = work(stream, 40 * US, cold_ns=25 * US)
    hot = timing.measure(run, RULE, VirtualClocks(gpu, stream))
    cold = timing.measure(run, RULE, VirtualClocks(gpu, stream, cold=True))
    assert hot.device_ns is not None and set(hot.device_ns) == {40 * US}
    assert cold.device_ns is not None
    assert all(65 * US <= one <= 70 * US for one in cold.device_ns)
    assert simulated().memory == {}  # what flushed is given back


def test_no_cold_run_waits_for_its_launch(gpu) -> None:
    """A queue is empty after each wait: what is launched then reaches an idle GPU."""
    stream = gpu.stream()
    simulated().host_ns_per_launch(5 * US)
    cold = VirtualClocks(gpu, stream, cold=True)
    for runs in (1, clocks.COLD_BATCH, clocks.COLD_BATCH + 1):
        assert cold.take(work(stream, 50 * US), runs).device_ns == runs * 50 * US
    cold.release()


def test_what_flushes_has_twice_the_cache_s_size_at_least(gpu, monkeypatch) -> None:
    stream = gpu.stream()
    cold = VirtualClocks(gpu, stream, cold=True)
    cold.settle()
    cold.settle()
    assert [len(one) for one in simulated().memory.values()] == [2 * gpu.info.l2_bytes]
    cold.release()
    monkeypatch.setattr(clocks, "UNKNOWN_L2_BYTES", 1 << 20)
    gpu.info = gpu.info._replace(l2_bytes=None)
    cold.settle()
    assert [len(one) for one in simulated().memory.values()] == [2 << 20]
    cold.release()


def test_many_cold_runs_wait_now_and_then(gpu) -> None:
    stream = gpu.stream()
    cold = VirtualClocks(gpu, stream, cold=True)
    before = len(simulated().gpu.events)
    taken = cold.take(work(stream, 40 * US), 3 * clocks.COLD_BATCH + 1)
    assert len(simulated().gpu.events) - before == 2 * clocks.COLD_BATCH
    assert taken.device_ns >= (3 * clocks.COLD_BATCH + 1) * 40 * US
    cold.release()
    assert len(simulated().gpu.events) == before


def test_a_failure_in_a_run_is_the_driver_s_own(gpu) -> None:
    stream = gpu.stream()

    def run(times: int) -> None:
        simulated().launch(stream, 1, lambda: simulated().write(1, b"x"))

    with pytest.raises(GpuError) as caught:
        timing.measure(run, RULE, VirtualClocks(gpu, stream))
    assert caught.value.sticky


# In a process of its own, as a worker is

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from devices.agent import cuda
from devices.agent.cuda.clocks import EventClocks
import simulated_gpu
gpu = cuda.open_gpu()
stream = gpu.stream()
launch = gpu.capture(stream, lambda: simulated_gpu.launch(stream, 30000))
def run(times):
    for _ in range(times):
        launch()
taken = EventClocks(gpu, stream).take(run, 10)
print(gpu.binding, cuda.find_gpu().name, taken.device_ns)
"""


@pytest.mark.parametrize("binding", ["pycuda", "libcuda"])
@pytest.mark.parametrize("python", [pytest.param(sys.executable, id="this"), needs("3.6")])
def test_a_worker_s_python_finds_the_simulated_gpu(python: str, binding: str) -> None:
    root = Path(cuda.__file__).parents[3]
    environment = {"PYTHONPATH": str(FOLDER), "SIMULATED_GPU_BINDING": binding}
    done = subprocess.run(
        [python, "-B", "-c", PROGRAM, str(root)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [binding, "Simulated", "H200", "300000"]
