import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from small_network import restless_device, run

SCRIPT = Path(__file__).with_name("small_network.py")


def test_killed_five_times_a_run_ends_with_one_accepted_reply_a_job_and_round(
    tmp_path: Path,
) -> None:
    rng = random.Random(2026)
    for kill in range(5):
        command = [sys.executable, str(SCRIPT), str(tmp_path), str(kill)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            # Each line is one job about to start: the kill lands anywhere in the work after it.
            for _ in range(rng.randint(1, 25)):
                child.stdout.readline()
            child.kill()
        assert child.returncode == -9
    killed = (tmp_path / "journal.jsonl").read_bytes()
    assert killed

    result = run(tmp_path, restless_device(99))
    journal = (tmp_path / "journal.jsonl").read_bytes()
    # Nothing that was measured before is lost, but for the line that the last kill cut.
    assert journal.startswith(killed[: killed.rindex(b"\n") + 1])
    replies: Counter[tuple[str, int]] = Counter()
    for line in map(json.loads, journal.splitlines()):
        if line["line"] == "reply":
            replies[line["job"], line["round"]] += 1
        if line["line"] == "discard":
            replies.subtract((job, line["round"]) for job in line["jobs"])
    assert result.reused > 0
    assert result.measured > 0
    assert set((+replies).values()) == {1}
    for name, measurement in result.measurements.items():
        if not measurement.given_up:
            assert all(replies[name, number] == 1 for number in range(3)), name
