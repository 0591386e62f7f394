"""Commands that are run again and again until they are killed: ``COMMANDS.json SECONDS``.

COMMANDS.json holds lists of words, which are run by turns. Each line on standard input starts a
child that does so, whose number is printed, and when it has ended how. A child begins as a fresh
process does that has imported everything, which would take longer than what is to be killed. The
disk is slow: a file takes so many SECONDS to get there.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import NoReturn

import onnxruntime
import torch

from dshrink.cli.main import app
from dshrink.network.tracing import import_timm
from dshrink.operations import figures, finetune, merge
from latency_tables import files

IMPORTED = (onnxruntime, import_timm(), figures, finetune, merge)
really = os.fsync


def run_for_ever(commands: list[list[str]], seconds: float) -> NoReturn:
    def slow(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            time.sleep(seconds)
        really(descriptor)

    os.fsync = slow
    files._clear_up.cache_clear()
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        for words in cycle(commands):
            app(words, standalone_mode=False)
    raise AssertionError


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main() -> None:
    torch.set_num_threads(1)
    commands, seconds = json.loads(Path(sys.argv[1]).read_text()), float(sys.argv[2])
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            run_for_ever(commands, seconds)
        say(child)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
