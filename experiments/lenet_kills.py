"""A training run killed again and again, beside one that is left alone: same weights, bit for bit.

    python experiments/lenet_kills.py [--kills 10] [--draw 0] [options of lenet.py]

Each time `lenet.py --resume` is started, killed with SIGKILL at a moment drawn at random, and
started again; the moments fall while it loads and compiles, between two steps, while it writes a
checkpoint. In the end it is left alone, and its weights' SHA-256 is compared with the other run's.

Exit code: 0 if the weights are the same, 1 if not, 2 if a run fails.
"""

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

SCRIPT = Path(__file__).parent / "lenet.py"
#: What is waited for, and the seconds after it within which a kill falls; in turn.
MOMENTS = (("", 3.0), ("epoch", 0.5), ("going on", 2.5), ("epoch", 0.5), ("epoch", 0.5))


class Killed(NamedTuple):
    """One start and its end.

    Attributes:
        seconds: from the start to the kill.
        lines: what was printed until then.
        code: the exit code, -9 if it was killed.
    """

    seconds: float
    lines: list[str]
    code: int


def train(out: Path, options: list[str]) -> str:
    """A run to its end: the SHA-256 of its weights."""
    command = [sys.executable, str(SCRIPT), *options, "--out", str(out), "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^weights ([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        raise RuntimeError(done.stderr.strip() or done.stdout)
    return found[1]


def kill(out: Path, options: list[str], awaited: str, seconds: float) -> Killed:
    """Start or go on with a run, and kill it so long after a line that begins like that."""
    command = [sys.executable, "-u", str(SCRIPT), *options, "--out", str(out), "--resume"]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    lines = []
    while awaited and process.stdout and (line := process.stdout.readline()):
        lines.append(line.rstrip())
        if line.startswith((awaited, "starting")):
            break
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    took = time.perf_counter() - began
    rest, _ = process.communicate()
    return Killed(took, lines + rest.splitlines(), process.returncode)


def describe(killed: Killed) -> str:
    """How far a start came, in words."""
    if killed.code != -signal.SIGKILL:
        return f"was at its end before, exit code {killed.code}"
    place = next((line for line in killed.lines if line.startswith(("going on", "start"))), "")
    damage = [line for line in killed.lines if "is damaged" in line]
    done = re.findall(r"^epoch +(\d+)/", "\n".join(killed.lines), re.MULTILINE)
    words = [*damage, place or "still loading", f"epoch {done[-1]} done" if done else "no epoch"]
    return "; ".join(words)


def main(arguments: list[str] | None = None) -> int:
    """Kill and go on, print the log, compare."""
    parser = argparse.ArgumentParser(
        prog="lenet_kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--draw", type=int, default=0, help="seed of the moments")
    given, options = parser.parse_known_args(arguments)
    draw, ends = random.Random(given.draw), []
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "killed"
        try:
            alone = train(Path(directory) / "alone", options)
            print(f"left alone              weights {alone}")
            for number in range(given.kills):
                awaited, most = MOMENTS[number % len(MOMENTS)]
                ends.append(kill(out, options, awaited, draw.uniform(0, most)))
                print(f"kill {number + 1:2} after {ends[-1].seconds:5.2f} s   {describe(ends[-1])}")
            last = train(out, options)
        except RuntimeError as error:
            print(f"lenet_kills: {error}", file=sys.stderr)
            return 2
    count = sum(end.code == -signal.SIGKILL for end in ends)
    print(f"killed {count} times, then left alone: weights {last}")
    print("the same, bit for bit" if last == alone else "NOT the same")
    return 0 if last == alone else 1


if __name__ == "__main__":
    sys.exit(main())
