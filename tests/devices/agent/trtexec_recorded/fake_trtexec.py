"""A strict stand-in for ``trtexec``: the flags, defaults, words and files of one version.

Run by tests as the binary. ``FAKE_TRTEXEC_VERSION`` is the version; ``FAKE_TRTEXEC_CALLS`` a file
to which each call's arguments are added as JSON; ``FAKE_TRTEXEC_FAULT`` what goes wrong. The flags
are those of ``sampleOptions.cpp`` of each release, written down apart from the agent's own table.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

MAJOR, MINOR, PATCH = (int(part) for part in os.environ["FAKE_TRTEXEC_VERSION"].split("."))
release = (MAJOR, MINOR)
fault = os.environ.get("FAKE_TRTEXEC_FAULT", "")

#: name -> (first version, first version without it); those that a piece's measurement may need.
KNOWN = {
    "--onnx": ((8, 0), None),
    "--saveEngine": ((8, 0), None),
    "--loadEngine": ((8, 0), None),
    "--explicitBatch": ((8, 0), (10, 0)),
    "--workspace": ((8, 0), (10, 0)),
    "--memPoolSize": ((8, 4), None),
    "--minTiming": ((8, 0), (10, 0)),
    "--avgTiming": ((8, 0), None),
    "--noTF32": ((8, 0), None),
    "--fp16": ((8, 0), (11, 0)),
    "--int8": ((8, 0), (11, 0)),
    "--inputIOFormats": ((8, 0), None),
    "--outputIOFormats": ((8, 0), None),
    "--stronglyTyped": ((9, 1), None),
    "--builderOptimizationLevel": ((8, 6), None),
    "--profilingVerbosity": ((8, 2), None),
    "--nvtxMode": ((8, 0), (10, 0)),
    "--timingCacheFile": ((8, 0), None),
    "--noBuilderCache": ((8, 0), None),
    "--buildOnly": ((8, 0), (8, 6)),
    "--skipInference": ((8, 6), None),
    "--streams": ((8, 0), None),
    "--infStreams": ((8, 6), None),
    "--iterations": ((8, 0), None),
    "--duration": ((8, 0), None),
    "--warmUp": ((8, 0), None),
    "--avgRuns": ((8, 0), None),
    "--noDataTransfers": ((8, 0), None),
    "--includeDataTransfers": ((11, 0), None),
    "--useSpinWait": ((8, 0), None),
    "--noSpinWait": ((11, 0), None),
    "--useCudaGraph": ((8, 0), None),
    "--noCudaGraph": ((11, 0), None),
    "--separateProfileRun": ((8, 0), None),
    "--exportTimes": ((8, 0), None),
    "--exportProfile": ((8, 0), None),
    "--exportLayerInfo": ((8, 2), None),
    "--verbose": ((8, 0), None),
}
LAYERS = ["t1/Conv + t2/Clip", "Reformatting CopyNode for Input Tensor 0 to t3/Conv", "t3/Conv"]
STAMP = "[11/21/2026-09:00:00]"


def number() -> str:
    """The version as the first and the last line give it."""
    if MAJOR >= 10:
        text = f"v{MAJOR * 10000 + MINOR * 100 + PATCH}"
        return f"[TensorRT {text}]" + (" [b43]" if release >= (10, 7) else "")
    return f"[TensorRT v{MAJOR * 1000 + MINOR * 100 + PATCH}]"


def info(text: str) -> None:
    sys.stdout.write(f"{STAMP} [I] {text}\n")


def warn(text: str) -> None:
    sys.stdout.write(f"{STAMP} [W] {text}\n")


def failed(*lines: str) -> None:
    """Say what went wrong as it does, and end."""
    sys.stdout.flush()
    for line in lines:
        sys.stderr.write(f"{STAMP} [E] {line}\n")
    sys.stderr.flush()
    sys.stdout.write(f"&&&& FAILED TensorRT.trtexec {number()} # {' '.join(sys.argv)}\n")
    sys.stdout.flush()
    raise SystemExit(1)


def knows(name: str) -> bool:
    if name not in KNOWN or name == fault.partition("unknown:")[2]:
        return False
    since, without = KNOWN[name]
    return since <= release and (without is None or release < without)


def parsed() -> dict[str, str]:
    options = {}
    for word in sys.argv[1:]:
        name, _, value = word.partition("=")
        options[name] = value
    unknown = [name for name in options if not knows(name)]
    if unknown:
        sys.stdout.write("=== Model Options ===\n")
        failed(*(f"Unknown option: {name} {options[name]}" for name in unknown))
    for name in ("--iterations", "--duration", "--warmUp"):
        if name in options:
            int(options[name])  # old versions: std::stoi
    return options


def enabled(is_on: bool) -> str:
    return "Enabled" if is_on else "Disabled"


def say_options(options: dict[str, str]) -> dict[str, bool]:
    """Print what will be done, and return it."""
    if release >= (11, 0):
        done = {
            "Data transfers": "--includeDataTransfers" in options,
            "Spin-wait": "--noSpinWait" not in options,
            "CUDA Graph": "--noCudaGraph" not in options,
        }
        for name in ("--noDataTransfers", "--useSpinWait", "--useCudaGraph"):
            if name in options:
                warn(f"{name} is deprecated.")
    else:
        done = {
            "Data transfers": "--noDataTransfers" not in options,
            "Spin-wait": "--useSpinWait" in options,
            "CUDA Graph": "--useCudaGraph" in options,
        }
    if fault == "transfers":
        done["Data transfers"] = True
    info("=== Inference Options ===")
    info(f"Duration: {options['--duration']}s (+ {options['--warmUp']}ms warm up)")
    info("ExposeDMA: Disabled")
    for name, is_on in done.items():
        info(f"{name}: {enabled(is_on)}")
    info("Time Refit: Disabled")
    return done


def precision_of(options: dict[str, str]) -> str:
    if release >= (11, 0):
        return os.environ.get("FAKE_TRTEXEC_FILE_TYPE", "fp32")  # what the file says
    wanted = "int8" if "--int8" in options else "fp16" if "--fp16" in options else "fp32"
    return "fp32" if fault == "ignores precision" else wanted


def build(options: dict[str, str]) -> dict[str, Any]:
    if fault == "parse":
        failed(
            "[TRT] ModelImporter.cpp:773: While parsing node number 0 [Foo -> 'y']:",
            "[TRT] ModelImporter.cpp:777: ERROR: No importer registered for op: Foo",
            "Failed to parse onnx file",
            "Parsing model failed",
            "Failed to create engine from model or file.",
            "Engine set up failed",
        )
    if fault == "memory":
        failed(
            "[TRT] 2: [virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory "
            "(Requested size was 8589934592 bytes.)",
            "Engine could not be created from network",
            "Building engine failed",
            "Failed to create engine from model or file.",
            "Engine set up failed",
        )
    if fault == "old gpu":
        failed(
            "[TRT] IBuilder::buildSerializedNetwork: Error Code 9: API Usage Error (Target GPU SM "
            "70 is not supported by this TensorRT release.)",
            "Engine could not be created from network",
            "Building engine failed",
            "Failed to create engine from model or file.",
            "Engine set up failed",
        )
    if fault == "other":
        failed(
            "[TRT] 10: Could not find any implementation for node t1/Conv.", "Engine set up failed"
        )
    workspace = options.get("--workspace") or options.get("--memPoolSize", "").partition(":")[2]
    engine = {
        "version": list(release),
        "precision": precision_of(options),
        "workspace": workspace,
        "io": [options.get("--inputIOFormats"), options.get("--outputIOFormats")],
        "tf32": "--noTF32" not in options,
        "verbosity": options.get("--profilingVerbosity"),
        "onnx": Path(options["--onnx"]).read_bytes().hex()[:32],
    }
    cache = options.get("--timingCacheFile")
    if cache is not None and "--noBuilderCache" not in options:
        before = Path(cache).read_text() if Path(cache).exists() else ""
        engine["hits"] = len(before.splitlines())
        Path(cache).write_text(before + "timed\n")
    info("Engine built in 3.25 sec.")
    if "--saveEngine" in options and fault != "does not save":
        Path(options["--saveEngine"]).write_text(json.dumps(engine))
    return engine


def load(options: dict[str, str]) -> dict[str, Any]:
    try:
        engine: dict[str, Any] = json.loads(Path(options["--loadEngine"]).read_text())
        assert engine["version"] == list(release)
    except (OSError, ValueError, AssertionError):
        failed(
            "Error[1]: [runtime.cpp::parsePlan::455] Error Code 1: Serialization (...)",
            "Engine deserialization failed",
            "Got invalid engine!",
            "Inference set up failed",
        )
    info("[TRT] Loaded engine size: 13 MiB")
    return engine


def times(options: dict[str, str], is_graph: bool) -> str:
    """Runs of a quarter of a millisecond; versions before 8.5 write those of the warm-up too."""
    warmup_ms = int(options["--warmUp"])
    count = max(int(options["--iterations"]), 5)
    starts = [warmup_ms + 0.5 * n for n in range(count)]
    if release < (8, 5):
        starts = [0.5 * n for n in range(min(3, warmup_ms))] + starts
    lines = []
    for start in starts:
        # The warm-up is slower, and must not count.
        compute = 0.25 if start >= warmup_ms else 99.0
        run = {
            "startEnqMs": start - 0.01,
            "endEnqMs": start,
            "startH2dMs": start,
            "endH2dMs": start,
            "startComputeMs": start,
            "endComputeMs": start + compute,
            "startD2hMs": start + compute,
            "endD2hMs": start + compute,
            "h2dMs": 0,
            "computeMs": compute,
            "d2hMs": 0,
            "latencyMs": compute,
        }
        if release < (8, 5):
            run["endToEndMs"] = compute
        lines.append(
            "{ " + ", ".join(f'"{name}" : {value:g}' for name, value in run.items()) + " }"
        )
    return "[\n  " + "\n, ".join(lines) + "\n]\n"


def profile(runs: int) -> str:
    """Layers of 0.1 ms and more; the first run is ten times as slow, and is in the mean."""
    lines = [f'{{ "count" : {runs} }}']
    for index, name in enumerate(LAYERS):
        each_ms = 0.1 * index + 0.1
        total_ms = (runs + 9) * each_ms
        median = f', "medianMs" : {each_ms:g}' if release >= (8, 5) else ""
        lines.append(
            f'{{ "name" : "{name}", "timeMs" : {total_ms:g}, "averageMs" : '
            f'{total_ms / runs:g}{median}, "percentage" : -nan }}'
        )
    return "[\n  " + "\n, ".join(lines) + "\n]\n"


def layer_info(engine: dict[str, Any]) -> str:
    if engine["verbosity"] != "detailed":
        return json.dumps({"Layers": LAYERS, "Bindings": ["image", "result"]})
    kind = {"fp32": "FP32", "fp16": "FP16", "int8": "Int8"}[engine["precision"]]
    tensor = {"Location": "Device", "Dimensions": [1, 8, 10, 10]}
    tensor["Format/Datatype"] = f"Row major linear {kind} format"
    layers = [
        {
            "Name": name,
            "LayerType": "Reformat" if name.startswith("Reformat") else "CaskConvolution",
            "Inputs": [{"Name": f"in{index}", **tensor}],
            "Outputs": [{"Name": f"out{index}", **tensor}],
            "ParameterType": "Reformat" if name.startswith("Reformat") else "Convolution",
            "TacticName": f"sm75_xmma_fprop_{kind.lower()}_{index}",
            "TacticValue": f"0x{index:x}",
        }
        for index, name in enumerate(LAYERS)
    ]
    text = json.dumps({"Layers": layers, "Bindings": ["image", "result"]})
    if release == (8, 6):  # issue 2779 of NVIDIA/TensorRT
        text = text.replace('"TacticName": "', '"TacticName": "\x01\x1f')
    return text


def export(options: dict[str, str], flag: str, content: str) -> None:
    if flag in options and fault != f"no {flag}":
        damaged = content[: len(content) // 2] if fault == f"damaged {flag}" else content
        Path(options[flag]).write_text(damaged)


def say_graph() -> None:
    """What it says of recording a graph."""
    if fault == "graph":
        warn(
            "The built TensorRT engine contains operations that are not permitted under CUDA graph "
            "capture mode."
        )
        if release >= (11, 0):
            warn(
                "CUDA graph capture failed. The inference will be launched without using CUDA "
                "graph."
            )
        else:
            warn(
                "The specified --useCudaGraph flag has been ignored. The inference will be "
                "launched without using CUDA graph launch."
            )
    elif release >= (11, 0):
        info("Successfully captured CUDA graph for the current execution context. When profiling ")


def main() -> None:
    if fault == "mute":
        raise SystemExit(0)
    sys.stdout.write(f"&&&& RUNNING TensorRT.trtexec {number()} # {' '.join(sys.argv)}\n")
    if "--help" in sys.argv:
        sys.stdout.write("=== Model Options ===\n")
        raise SystemExit(0)
    with Path(os.environ["FAKE_TRTEXEC_CALLS"]).open("a") as stream:
        stream.write(json.dumps(sys.argv[1:]) + "\n")
    options = parsed()
    if ("--onnx" in options) == ("--loadEngine" in options):
        failed("Model missing or format not recognized")
    done = say_options(options)
    if fault == "hang":
        with Path(os.environ["FAKE_TRTEXEC_FIFO"]).open("w") as fifo:
            fifo.write("here\n")
            fifo.flush()
            signal.pause()
    if fault == "crash":
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "old driver":
        warn(
            "[TRT] CUDA initialization failure with error: 35. Please check your CUDA installation"
        )
        failed("Failed to create engine from model or file.", "Engine set up failed")
    if fault == "no gpu":
        failed("Cuda failure: no CUDA-capable device is detected")
    info("Selected Device: NVIDIA TITAN Fake")
    engine = build(options) if "--onnx" in options else load(options)
    info(
        "[TRT] [MemUsageChange] TensorRT-managed allocation in IExecutionContext creation: "
        "CPU +0, GPU +80, now: CPU 0, GPU 266 (MiB)"
    )
    if done["CUDA Graph"]:
        say_graph()
    export(options, "--exportLayerInfo", layer_info(engine))
    export(options, "--exportTimes", times(options, done["CUDA Graph"]))
    export(options, "--exportProfile", profile(int(options["--iterations"])))
    info(
        "Enqueue Time: min = 0.0101 ms, max = 0.02 ms, mean = 0.012 ms, median = 0.0125 ms, "
        "percentile(99%) = 0.02 ms"
    )
    sys.stdout.write(f"&&&& PASSED TensorRT.trtexec {number()} # {' '.join(sys.argv)}\n")


if __name__ == "__main__":
    main()
