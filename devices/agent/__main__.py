"""Start the agent from wherever its folder was copied to.

Kept to syntax that every Python reads, so that one that is too old can say so instead of failing on
the first f-string.
"""

# mypy: ignore-errors
# Annotations are among what a Python that is too old does not read.

import importlib
import os
import sys

OLDEST = (3, 6)
#: What the agent can be started for: the module and function that do it, and how many folders are
#: given with it.
MODES = {
    "serve": (".service", "main", (0, 1)),
    "work": (".service", "work_main", (0,)),
    "receive": (".store", "receive_main", (1,)),
    "remove": (".store", "remove_main", (1,)),
}
USAGE = (
    "usage: agent [serve [ROOT] | work | receive ROOT | remove ROOT], with ROOT an absolute path\n"
)


def load_as_package(folder):
    """Make the folder importable as ``agent`` without putting any folder on ``sys.path``.

    Started by path, Python puts this folder first on ``sys.path``, where ``timing`` or ``health``
    would hide other people's modules of that name.
    """
    import importlib.util

    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != folder]
    init = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(
        "agent", init, submodule_search_locations=[folder]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["agent"] = package
    spec.loader.exec_module(package)
    return "agent"


def read_arguments(arguments):
    """Return the mode and the folders given with it; None where the arguments make no sense."""
    mode, roots = (arguments or ["serve"])[0], arguments[1:]
    is_known = mode in MODES and len(roots) in MODES[mode][2]
    if is_known and all(os.path.isabs(root) for root in roots):
        return mode, roots
    return None


def main():
    """Return the exit status: 2 for arguments that make no sense, 3 where Python is too old."""
    if sys.version_info < OLDEST:
        sys.stderr.write(
            "the agent needs Python %d.%d or newer, %s is %d.%d: name another one for this device\n"
            % (OLDEST + (sys.executable,) + tuple(sys.version_info[:2]))
        )
        return 3
    given = read_arguments(sys.argv[1:])
    if given is None:
        sys.stderr.write(USAGE)
        return 2
    mode, roots = given
    package = __package__ or load_as_package(os.path.dirname(os.path.abspath(__file__)))
    module, function, _ = MODES[mode]
    return getattr(importlib.import_module(package + module), function)(*roots)


if __name__ == "__main__":
    sys.exit(main())
