"""Who may import whom: the packages' order is a rule that only a test keeps."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import devices
import dshrink
import latency_tables
import profiler

PACKAGES = {
    package.__name__: Path(str(package.__file__)).parent
    for package in (devices, dshrink, latency_tables, profiler)
}
SIBLINGS = frozenset(PACKAGES)
TORCH = frozenset({"torch", "torchvision", "timm"})
#: What only the command line may know: everything else returns results.
SCREEN = frozenset({"dshrink.cli", "typer", "rich"})
AGENT = "devices.agent"


def modules() -> Iterator[tuple[str, Path]]:
    """Each module's dotted name and its file."""
    for package, folder in PACKAGES.items():
        for file in sorted(folder.rglob("*.py")):
            parts = [package, *file.relative_to(folder).with_suffix("").parts]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


MODULES = dict(modules())
BENCHMARKS = sorted(Path(__file__).parents[1].glob("benchmarks/*.py"))


def imports(source: str, module: str, is_package: bool) -> set[str]:
    """The modules that a source imports anywhere, inside of functions too, by absolute name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            found |= _named(".".join([*base, *filter(None, [node.module])]), node.names)
    return found


def imports_by_name(source: str) -> set[str]:
    """What ``importlib.import_module`` is asked for, where the source says it."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    asked = (c.args[0] for c in calls if ast.unparse(c.func).endswith("import_module") and c.args)
    names = {str(one.value) for one in asked if isinstance(one, ast.Constant)}
    return {name for name in names if not name.startswith(".")}


def _named(base: str, names: Iterable[ast.alias]) -> set[str]:
    """``from package import module`` imports both."""
    return {base} | {f"{base}.{name.name}" for name in names}


def forbidden(module: str) -> frozenset[str]:
    """The packages that a module must not import."""
    package = module.split(".")[0]
    if package == "dshrink":
        if module == "dshrink.__main__" or _within(module, "dshrink.cli"):
            return frozenset()
        if module == "dshrink" or _within(module, "dshrink.operations"):
            return SCREEN
        alone = TORCH if _within(module, "dshrink.search") else frozenset()
        return frozenset({"profiler", "devices"}) | alone | SCREEN
    if package == "profiler":
        return frozenset({"dshrink"})
    others = SIBLINGS - {package}
    return others | TORCH | {"numpy"} if package == "devices" else others | TORCH


def wrong_ways(source: str, module: str, is_package: bool = False) -> list[str]:
    """What the source of a module must not import and does."""
    found = imports(source, module, is_package)
    if not _within(module, f"{AGENT}.runtimes") and not _within(module, f"{AGENT}.cuda"):
        # A runtime imports its own library, by name, when it is asked for.
        found |= imports_by_name(source)
    wrong = {name for name in found if any(_within(name, one) for one in forbidden(module))}
    if _within(module, AGENT):
        wrong |= {name for name in found if not _within(name, AGENT) and not _is_standard(name)}
        # The agent's folder goes by another name on a device.
        wrong |= {name for name in _absolute(source) if not _is_standard(name)}
    return sorted(wrong)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _is_standard(name: str) -> bool:
    return name.split(".")[0] in sys.stdlib_module_names


def _absolute(source: str) -> set[str]:
    """The import statements that are not relative."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_the_wrong_way(module: str) -> None:
    file = MODULES[module]
    assert wrong_ways(file.read_text(), module, file.name == "__init__.py") == []


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside of functions and for annotations alone count too."""
    graph = {
        module: {
            name
            for name in imports(file.read_text(), module, file.name == "__init__.py")
            if name in MODULES and not _within(module, name)
        }
        for module, file in MODULES.items()
    }
    assert len(graph) > 200
    assert list(TopologicalSorter(graph).static_order())  # a circle is a CycleError that names it


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.name)
def test_benchmarks_use_operations_and_not_the_command_line(file: Path) -> None:
    found = imports(file.read_text(), f"benchmarks.{file.stem}", False)
    assert not [name for name in found if any(_within(name, one) for one in SCREEN)]


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        (
            "dshrink.network.chain",
            "from profiler.planning.jobs import Job",
            ["profiler.planning.jobs", "profiler.planning.jobs.Job"],
        ),
        ("dshrink.network.chain", "def f():\n    import devices.errors", ["devices.errors"]),
        ("dshrink.network.chain", "import latency_tables.io, torch", []),
        ("dshrink.cli.bench", "import profiler.session, devices, torch", []),
        ("dshrink.operations.bench", "import profiler.session", []),
        ("dshrink.operations.bench", "import dshrink.cli.console", ["dshrink.cli.console"]),
        ("dshrink.fronts", "from rich import table", ["rich", "rich.table"]),
        ("dshrink.search.greedy", "import torch.nn", ["torch.nn"]),
        ("dshrink.search.greedy", "import devices", ["devices"]),
        ("profiler.planning.jobs", "import devices, latency_tables.io", []),
        ("profiler.planning.jobs", "import dshrink.network.models", ["dshrink.network.models"]),
        ("latency_tables.io", "import numpy", []),
        ("latency_tables.io", "import torch", ["torch"]),
        ("latency_tables.io", "import importlib\nimportlib.import_module('timm')", ["timm"]),
        ("latency_tables.io", "import profiler", ["profiler"]),
        ("devices.errors", "import numpy", ["numpy"]),
        ("devices.errors", "import latency_tables", ["latency_tables"]),
        ("devices.agent.timing", "from ..errors import X", ["devices.errors", "devices.errors.X"]),
        ("devices.agent.timing", "from .protocol import Rule\nimport os", []),
        ("devices.agent.timing", "import devices.agent.health", ["devices.agent.health"]),
        ("devices.agent.timing", "import requests", ["requests"]),
        ("devices.agent.timing", "from importlib import import_module as i", []),
        ("devices.agent.timing", "import importlib\nimportlib.import_module('cv2')", ["cv2"]),
        ("devices.agent.runtimes.x", "import onnxruntime", ["onnxruntime"]),
        ("devices.agent.runtimes.x", "import importlib\nimportlib.import_module('numpy')", []),
        ("devices.agent.cuda.x", "import importlib\nimportlib.import_module('pycuda.driver')", []),
        ("devices.agent_process", "from devices.agent.checks import X", []),
        ("dshrink.clipping", "import profiler", ["profiler"]),
    ],
)
def test_the_check_sees_a_wrong_import_and_lets_a_right_one_pass(
    module: str, source: str, wrong: list[str]
) -> None:
    assert wrong_ways(source, module) == wrong


def test_every_package_is_looked_at() -> None:
    for name in (*SIBLINGS, AGENT, "dshrink.search", "dshrink.cli.main", "dshrink.merge.verify"):
        assert name in MODULES


def loaded_after(code: str, *arguments: str) -> set[str]:
    """The top-level modules that a fresh Python holds after running this code."""
    report = "import sys; sys.stdout.write('\\n' + ' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.rsplit("\n", 1)[1].split()}


def importing(package: str) -> str:
    found = [m for m in MODULES if _within(m, package) and not m.endswith("__main__")]
    return f"import {', '.join(found)}"


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("dshrink.search", TORCH | {"devices", "profiler"}),
        ("dshrink.operations.search", TORCH | {"devices", "profiler"}),
        ("latency_tables", TORCH | (SIBLINGS - {"latency_tables"})),
        ("devices", TORCH | {"numpy"} | (SIBLINGS - {"devices"})),
        ("profiler", TORCH | {"dshrink"}),
    ],
)
def test_what_a_package_imports_imports_nothing_forbidden_either(
    package: str, absent: frozenset[str]
) -> None:
    loaded = loaded_after(importing(package))
    assert package.split(".")[0] in loaded
    assert not loaded & absent


def test_help_is_shown_without_torch() -> None:
    code = (
        "import sys\nfrom dshrink.cli.main import main\ntry:\n    main()\nexcept SystemExit as e:"
    )
    code += "\n    assert not e.code, e.code"
    loaded = loaded_after(code, "--help")
    assert "typer" in loaded
    assert not loaded & (
        TORCH | {"onnxruntime", "pandas", "matplotlib", "scipy", "numpy", "msgspec"}
    )
