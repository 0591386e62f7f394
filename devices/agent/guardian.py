"""Put a device's clocks back when nobody holds them any more.

A process of its own, so that it does so even after the agent was killed.  Its standard input is a
pipe whose other end the agent alone holds: one line with the steps to take, and then nothing until
its end, which comes with the agent's own, however that ends.  Started by its path; it imports
nothing of ours, for the agent's folder may be gone by then.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import Any, Dict

#: jetson_clocks waits until a board has been up for a minute.
STEP_TIMEOUT_S = 120.0
READY = "ready\n"


def main() -> int:
    """Wait for the end of standard input, then take the steps; 1 where one of them failed."""
    # Whoever ends the run (Ctrl-C, a closed terminal) must not end who cleans up after it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    steps = json.loads(sys.stdin.readline() or "[]")
    sys.stdout.write(READY)
    sys.stdout.flush()
    sys.stdin.read()
    status = 0
    for step in steps:
        try:
            _take(step)
        except (OSError, subprocess.SubprocessError):
            status = 1
    return status


def _take(step: Dict[str, Any]) -> None:
    """Do a step: write a text to a path, run a command if a file is there, or remove a folder."""
    if "write" in step:
        with open(step["write"], "w", encoding="utf-8") as stream:
            stream.write(step["text"])
    elif "run" in step and os.path.exists(step.get("if_file", "/")):
        nothing = subprocess.DEVNULL
        subprocess.run(
            step["run"],
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            check=True,
            timeout=STEP_TIMEOUT_S,
        )
    elif "remove" in step:
        shutil.rmtree(step["remove"], ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
