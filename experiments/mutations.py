"""Deliberate slips, one at a time, and the test that catches each: are the tests worth anything?

    python experiments/mutations.py [--only WORD] [--workers 2]

Each slip is one replacement in one file of a copy of this checkout. The test named beside it must
then fail, having passed before (an unharmed copy is tried first). The table says what was broken
and which test saw it; the exit code is 1 if any slip went unseen.
"""

import argparse
import concurrent.futures
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mutation_slips import SLIPS, Slip
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parent.parent
COPIED = ("jaxconv", "tests", "experiments", "pyproject.toml", "README.md", "LICENSE", ".ci")


class Outcome(NamedTuple):
    """What became of one slip.

    Attributes:
        slip: the slip.
        caught: whether its test failed.
        said: the last line that pytest printed.
    """

    slip: Slip
    caught: bool
    said: str


def copy_checkout(to: Path) -> Path:
    """A copy of what the tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "results", ".*_cache")
            shutil.copytree(source, to / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, to / name)
    return to


def stale(slips: Iterable[Slip]) -> list[Slip]:
    """Slips whose old text does not occur exactly once in their file any more."""
    return [slip for slip in slips if (ROOT / slip.file).read_text().count(slip.old) != 1]


def apply(slip: Slip, checkout: Path) -> None:
    """Replace the slip's old text."""
    path = checkout / slip.file
    path.write_text(path.read_text().replace(slip.old, slip.new))


def run_tests(checkout: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Pytest's exit code on these tests, and its output."""
    command = [sys.executable, "-m", "pytest", "--full", "-q", "-x", "-p", "no:cacheprovider"]
    ran = subprocess.run([*command, *tests], cwd=checkout, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


def try_slip(slip: Slip) -> Outcome:
    """Break a copy and run the slip's test in it: exit code 1 of pytest is a failed test."""
    with tempfile.TemporaryDirectory() as directory:
        checkout = copy_checkout(Path(directory))
        apply(slip, checkout)
        code, output = run_tests(checkout, [slip.test])
    return Outcome(slip, code == 1, output.strip().splitlines()[-1])


def check_unharmed(slips: list[Slip]) -> bool:
    """Whether every named test exists and passes where nothing is broken."""
    with tempfile.TemporaryDirectory() as directory:
        checkout = copy_checkout(Path(directory))
        code, output = run_tests(checkout, sorted({slip.test for slip in slips}))
    if code:
        print(output, file=sys.stderr)
    return code == 0


def table(outcomes: list[Outcome]) -> Table:
    """What was broken, and who saw it."""
    found = Table(title="Deliberate slips and the tests that catch them")
    for column in ("slip", "where", "caught by"):
        found.add_column(column, overflow="fold")
    for slip, caught, said in outcomes:
        name = slip.test.removeprefix("tests/")
        seen = name if caught else f"NOT by {name}: {said}"
        found.add_row(escape(slip.what), slip.file, escape(seen))
    return found


def main(argv: list[str] | None = None) -> int:
    """Try all slips; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="slips whose description or file has this word")
    parser.add_argument("--workers", type=int, default=2, help="slips tried at the same time")
    args = parser.parse_args(argv)
    slips = [slip for slip in SLIPS if args.only in slip.what or args.only in slip.file]
    if not slips:
        print(f"mutations: no slip has {args.only!r} in it", file=sys.stderr)
        return 2
    for slip in stale(slips):
        print(f"mutations: not once in {slip.file}: {slip.old}", file=sys.stderr)
    if stale(slips):
        return 1
    if not check_unharmed(slips):
        print("mutations: the named tests must pass before anything is broken", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 150)
    with concurrent.futures.ThreadPoolExecutor(args.workers) as pool:
        tried = pool.map(try_slip, slips)
        outcomes = list(track(tried, "slips", len(slips), console=Console(stderr=True)))
    console.print(table(outcomes))
    missed = sum(not outcome.caught for outcome in outcomes)
    console.print(f"{len(outcomes)} slips, {len(outcomes) - missed} caught, {missed} not")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
