"""The device's clocks: which there are, and holding them at their highest while we measure.

Nothing is set but by ``hold``, and what it sets is put back by another process (guardian.py) as
soon as the agent ends, even by ``kill -9``.  After a power cut the governor
and a GPU's clock are the system's defaults again, but a Jetson remembers its power mode.

An NVIDIA GPU is locked to a clock that it can keep: its default applications clock, which is rated
for full load, and not the highest one, from which heat and power would soon push it away.  Where
the driver reports no default (GeForce; all GPUs, once CUDA 14 removes these clocks), it is
``HELD_SHARE`` of the highest, and what is held says so.  Whether somebody had
locked the clock before is not reported by any driver; it is free afterwards.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from . import health, jetson, lock, sysfs
from .checks import RequestError
from .commands import SYSTEM, Commands
from .guardian import READY, STEP_TIMEOUT_S

LOCK_FILE = "dshrink-clocks.lock"
#: How long the guardian of a run that has just ended may take to put things back.
LOCK_PATIENCE_S = 20.0
BEST_GOVERNOR = "performance"
GOVERNOR = "cpufreq/scaling_governor"
#: nvpmodel's number of the mode that limits nothing.
BEST_MODE = 0
GUARDIAN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guardian.py")
BY_HAND_GOVERNOR = f"echo {BEST_GOVERNOR} | sudo tee /sys/devices/system/cpu/cpu*/{GOVERNOR}"
#: About the base clock of GeForce boards; nvidia-smi takes the nearest clock that there is.
HELD_SHARE = 0.7
BY_HAND_JETSON = f"sudo nvpmodel -m {BEST_MODE} && sudo jetson_clocks"


class PowerPlan(NamedTuple):
    """What to hold: in words, what sets it, and the guardian's steps that put it back.

    ``lock_gpu`` sets the GPU's clock, where there is one, and notes in ``Held`` whether it could.
    """

    words: List[str]
    changes: List[Callable[[], None]]
    undo: List[Dict[str, Any]]
    lock_gpu: Optional[Callable[["Held"], None]] = None


class Held(object):
    """What is held until ``release``; ``descriptions`` says what, a line each.

    ``gpu_mhz`` is the clock that the GPU is locked to; None where it is not.
    """

    def __init__(
        self,
        descriptions: List[str],
        guardian: "Optional[subprocess.Popen[bytes]]" = None,
        gpu_mhz: Optional[int] = None,
    ) -> None:
        self.descriptions = descriptions
        self.gpu_mhz = gpu_mhz
        self._guardian = guardian

    def release(self) -> None:
        """Put everything back as it was, and return when that is done."""
        if self._guardian is None:
            return
        guardian, self._guardian = self._guardian, None
        assert guardian.stdin is not None
        guardian.stdin.close()
        if guardian.wait() != 0:
            sys.stderr.write(f"not everything could be put back of: {self.descriptions}\n")


def hold(root: str = "/", commands: Commands = SYSTEM, lock_path: Optional[str] = None) -> Held:
    """Set the clocks to their highest, steady, until ``release`` or the end of this process.

    Raises a ``not_permitted`` error where they may not be set, and ``device_busy`` where another
    run holds them; then nothing has changed. A GPU whose clock may not be locked is no error, for
    it need not be what is measured: then a line says so, and how to do it by hand.
    """
    # What a run puts back must not be undone by the next.
    held_file = lock.locked_file(
        lock_path or os.path.join(tempfile.gettempdir(), LOCK_FILE),
        LOCK_PATIENCE_S,
        "another run holds this device's clocks",
    )
    try:
        plan = _power_plan(root, commands)
        if not plan.undo:
            return Held(plan.words)
        held = Held(list(plan.words), _start_guardian(plan.undo, held_file))
    finally:
        os.close(held_file)  # the guardian has it too, and keeps the lock
    try:
        for change in plan.changes:
            change()
        if plan.lock_gpu is not None:
            plan.lock_gpu(held)
    except BaseException:
        held.release()
        raise
    return held


def clocks(root: str = "/", commands: Commands = SYSTEM) -> Dict[str, Any]:
    """The CPU's clocks, one entry for the cores that share one, and the GPU's.

    A Jetson's come from tegrastats, and its memory is the CPU's as well.
    """
    folders = sysfs.found(root, "sys/devices/system/cpu/cpufreq/policy*")
    folders = folders or sysfs.of_cores(root, "cpufreq")
    if jetson.is_jetson(root):
        said = health.jetson_gpu(jetson.statistics(commands, root)) or {}
    else:
        said = health.gpu(root) or {}
    return {
        "cpu": [_clock(folder) for folder in folders],
        "gpu_mhz": said.get("sm_mhz"),
        "memory_mhz": said.get("memory_mhz"),
        "gpu_max_mhz": said.get("sm_max_mhz"),
        "gpu_by_hand": by_hand_gpu(said),
    }


def by_hand_gpu(facts: Dict[str, Any]) -> Optional[str]:
    """The line that locks a GPU's clock; None where the facts are not enough for one."""
    mhz = _mhz_to_hold(facts)
    if mhz is None or not facts.get("uuid"):
        return None
    return f"sudo nvidia-smi -i {facts['uuid']} -lgc {mhz},{mhz}"


def _clock(folder: str) -> Dict[str, Any]:
    khz = {
        name: sysfs.number(os.path.join(folder, f"scaling_{name}_freq"))
        for name in ("min", "max", "cur")
    }
    mhz = {name: None if one is None else round(one / 1000.0, 1) for name, one in khz.items()}
    return {
        "cores": sysfs.read(os.path.join(folder, "related_cpus")) or None,
        "governor": sysfs.read(os.path.join(folder, "scaling_governor")) or None,
        "driver": sysfs.read(os.path.join(folder, "scaling_driver")) or None,
        "min_mhz": mhz["min"],
        "max_mhz": mhz["max"],
        "mhz": mhz["cur"],
    }


def _power_plan(root: str, commands: Commands) -> PowerPlan:
    """What to hold by a board's own tools, or of the CPU and, where there is one, the GPU."""
    if jetson.is_jetson(root):
        return _jetson_plan(commands)
    cpu, gpu = _governor_plan(root), _gpu_plan(health.gpu(root) or {}, commands)
    return PowerPlan(cpu.words, cpu.changes, gpu.undo + cpu.undo, gpu.lock_gpu)


def _gpu_plan(facts: Dict[str, Any], commands: Commands) -> PowerPlan:
    by_hand, mhz = by_hand_gpu(facts), _mhz_to_hold(facts)
    program = commands.find("nvidia-smi")
    if by_hand is None or mhz is None or program is None:
        return PowerPlan([], [], [])
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    tool = as_root + [program, "-i", facts["uuid"]]
    folder = os.path.join(tempfile.gettempdir(), "dshrink-clocks-" + uuid.uuid4().hex)
    locked = os.path.join(folder, "locked")  # the guardian frees only what was locked
    words = tool + ["-lgc", f"{mhz},{mhz}"]
    return PowerPlan(
        [],
        [],
        [{"run": tool + ["-rgc"], "if_file": locked}, {"remove": folder}],
        functools.partial(_lock_gpu, commands, words, locked, facts, by_hand),
    )


def _mhz_to_hold(facts: Dict[str, Any]) -> Optional[int]:
    """The default applications clock, else a share of the highest; see above."""
    default, most = facts.get("sm_default_mhz"), facts.get("sm_max_mhz")
    if default:
        return int(default)
    return int(HELD_SHARE * most) if most else None


def _lock_gpu(
    commands: Commands,
    words: List[str],
    locked: str,
    facts: Dict[str, Any],
    by_hand: str,
    held: Held,
) -> None:
    """Lock the clock and note that in ``held``, or why it is not possible.

    What a GPU cannot do nvidia-smi says as a warning, and ends with 0.
    """
    os.mkdir(os.path.dirname(locked), 0o700)
    Path(locked).touch()
    ended = commands.run(words, timeout_s=STEP_TIMEOUT_S)
    said = "" if ended is None else (ended.out + "\n" + ended.err).strip()
    if ended is not None and ended.status == 0 and "not supported" not in said:
        held.gpu_mhz = mhz = _mhz_to_hold(facts)
        share = "" if facts.get("sm_default_mhz") else f"{HELD_SHARE} of its highest; "
        held.descriptions.append(f"GPU clock {mhz} MHz ({share}was free)")
        return
    if ended is not None:  # else it may have been ended after it had locked the clock
        os.remove(locked)
    problem = said.splitlines()[0] if said else "it is missing, or takes too long"
    held.descriptions.append(
        f"GPU clock not held: `{' '.join(words)}` does not work: {problem}; by hand: {by_hand}"
    )


def _governor_plan(root: str) -> PowerPlan:
    was = {path: sysfs.read(path) for path in sysfs.of_cores(root, GOVERNOR)}
    if not was:
        return PowerPlan(["nothing to hold: this machine lets nobody choose its CPU clock"], [], [])
    others = {path: one for path, one in was.items() if one != BEST_GOVERNOR}
    before = "+".join(sorted(set(others.values()))) or "so already"
    return PowerPlan(
        [
            f"governor {BEST_GOVERNOR} on {len(was)} core{'s' if len(was) > 1 else ''} (was "
            f"{before})"
        ],
        [functools.partial(_set_governor, path) for path in others],
        [{"write": path, "text": one} for path, one in others.items()],
    )


def _set_governor(path: str) -> None:
    try:
        Path(path).write_text(BEST_GOVERNOR, encoding="utf-8")
    except OSError as error:
        raise _not_permitted(f"{path} cannot be set: {error.strerror}", BY_HAND_GOVERNOR) from error


def _jetson_plan(commands: Commands) -> PowerPlan:
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mode = jetson.power_mode(commands) or jetson.power_mode(commands, as_root)
    if mode is None:
        raise _not_permitted("`nvpmodel -q` does not report the power mode", BY_HAND_JETSON)
    folder = os.path.join(tempfile.gettempdir(), "dshrink-clocks-" + uuid.uuid4().hex)
    stored = os.path.join(folder, "stored")  # jetson_clocks asks before it writes over a file
    nvpmodel = as_root + [commands.find("nvpmodel") or "nvpmodel", "-m"]
    jetson_clocks = as_root + [commands.find("jetson_clocks") or "jetson_clocks"]
    to_set = [jetson_clocks + ["--store", stored], jetson_clocks]
    undo = [{"run": jetson_clocks + ["--restore", stored], "if_file": stored}]
    if mode.number != BEST_MODE:
        to_set.insert(0, nvpmodel + [str(BEST_MODE)])
        undo.append({"run": nvpmodel + [str(mode.number)]})
    changes: List[Callable[[], None]] = [functools.partial(os.mkdir, folder, 0o700)]
    changes += [functools.partial(_run, commands, words) for words in to_set]
    words = [f"nvpmodel mode {BEST_MODE} (was {mode.name})", "jetson_clocks"]
    return PowerPlan(words, changes, undo + [{"remove": folder}])


def _run(commands: Commands, words: List[str]) -> None:
    ended = commands.run(words, timeout_s=STEP_TIMEOUT_S)
    if ended is not None and ended.status == 0:
        return
    said = (ended.err or ended.out).splitlines()[-1:] if ended is not None else []
    problem = said[0] if said else "it is missing, or takes too long"
    raise _not_permitted(f"`{' '.join(words)}` does not work here: {problem}", BY_HAND_JETSON)


def _not_permitted(message: str, by_hand: str) -> RequestError:
    return RequestError(
        "not_permitted",
        message,
        f"run on the device, by hand: {by_hand}; then measure without holding the clocks",
    )


def _start_guardian(undo: List[Dict[str, Any]], held_file: int) -> "subprocess.Popen[bytes]":
    """Start the guardian; it is ready, and holds the lock, when this returns."""
    guardian = subprocess.Popen(
        [sys.executable, "-I", "-S", GUARDIAN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # ours would keep the host from seeing our end
        pass_fds=(held_file,),
        start_new_session=True,
    )
    assert guardian.stdin is not None and guardian.stdout is not None
    with guardian.stdout, suppress(BrokenPipeError):  # it has ended: nor is it ready then
        guardian.stdin.write(json.dumps(undo).encode("ascii") + b"\n")
        guardian.stdin.flush()
        if guardian.stdout.readline() == READY.encode("ascii"):
            return guardian
    guardian.kill()
    guardian.wait()
    raise RuntimeError("the guardian, which puts the clocks back, did not start; nothing was set")
