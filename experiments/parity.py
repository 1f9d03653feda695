"""Random calls of jaxconv against torch and scipy: values, gradients, second order, refusals.

    python experiments/parity.py --n 2000 [--seed 0] [--only conv] [--index 17]

A configuration is one call with random shapes, options and numbers, in float64 (some are complex,
some integer). Its peer computes the same without a line of jaxconv: torch for the layers, scipy for
`correlate` and `convolve`. With y = f(x, ...) and random u, v of fitting shapes, three things are
compared:

    forward         y, and indices where there are any (these exactly)
    gradients       g = J'u, one for each array
    second order    the gradient of <g, v> with respect to every array and to u

The last is a Hessian-vector product of <f, u>, with u among the variables, so that linear functions
have something to show as well. scipy has no gradients; its functions are linear in each array, so
they are called on every unit array instead. torch differentiates all of its functions twice. Where
it lacks an option, its other functions compute the same: `pad`, sums as convolutions with ones.
Every fifth configuration is an unusual call, which one side or both may refuse; where only one
does, or the values differ by decision, jaxconv's docstring must have the words that say so.

Exit code: 0 if all agree to 1e-10, 1 if not, 2 for bad input. Without torch, scipy's part alone.
"""

import argparse
import io
import itertools
import math
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy
from parity_calls import FUNCTIONS, Call, Draw, torch
from parity_cases import CASES
from rich import box
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

import jaxconv as jc

TOLERANCE = 1e-10
#: Operands are of order 1. What is 0 in exact arithmetic has no largest entry to compare with.
SMALLEST_SCALE = 1e-3
CASE_EVERY = 5
STAGES = ("forward", "gradients", "second order")
OUR_REFUSALS = (ValueError, TypeError)
PEER_REFUSALS = (ValueError, TypeError, RuntimeError, IndexError, ZeroDivisionError)
SCIPYS = ("correlate", "convolve")


# Both sides of one call.


class Results(NamedTuple):
    """All that one side computes."""

    forward: tuple[np.ndarray, ...]
    gradients: tuple[np.ndarray, ...] = ()
    second: tuple[np.ndarray, ...] = ()


def ask_us(call: Call, u: np.ndarray, v: list[np.ndarray]) -> Results:
    def forward(*arrays):
        y, exact = call.ours(*arrays)
        if (y.shape, y.dtype) != (u.shape, u.dtype):
            raise OtherResultError(f"{y.dtype} {y.shape}, not {u.dtype} {u.shape}")
        return y, exact

    def gradients(arrays, u):
        y, pull, exact = jax.vjp(forward, *arrays, has_aux=True)
        return pull(u), (y, *exact)

    @jax.jit
    def everything(arrays, u, v):
        first, pull, values = jax.vjp(gradients, arrays, u, has_aux=True)
        of_arrays, of_u = pull(v)
        return values, first, (*of_arrays, of_u)

    if call.differentiable:
        results = everything(call.arrays, u, tuple(v))
    else:
        y, exact = jax.jit(forward)(*call.arrays)
        results = (y, *exact), (), ()
    return Results(*(tuple(np.asarray(value) for value in part) for part in results))


class OtherResultError(Exception):
    """A result of another shape or dtype than the peer's."""


def ask_torch(call: Call, draw: Draw) -> tuple[Results, np.ndarray, list[np.ndarray]]:
    """Torch's results, and the u and v that they are for.

    Torch's gradients of complex functions are the conjugates of JAX's: with L = Re(sum u y), here
    L = Re(sum dL/dx dx), there the conjugate of dL/dx.
    """
    arrays = [torch.tensor(array, requires_grad=call.differentiable) for array in call.arrays]
    y, exact = call.peer(*arrays)
    values = (to_numpy(y), *map(to_numpy, exact))
    u = draw.normal(values[0].shape, values[0].dtype)
    v = [draw.normal(array.shape, array.dtype) for array in call.arrays]
    if not call.differentiable:
        return Results(values), u, v
    cotangent = torch.tensor(u.conj(), requires_grad=True)
    options: Any = {"create_graph": True, "materialize_grads": True}
    first = torch.autograd.grad(y, arrays, cotangent, **options)
    pairs = [(g, torch.tensor(w)) for g, w in zip(first, v, strict=True) if g.requires_grad]
    second = torch.autograd.grad(
        [g for g, _ in pairs], [*arrays, cotangent], [w for _, w in pairs], **options
    )
    of_arrays = (to_numpy(g).conj() for g in second[:-1])
    gradients = tuple(to_numpy(g).conj() for g in first)
    return Results(values, gradients, (*of_arrays, to_numpy(second[-1]))), u, v


def to_numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().resolve_conj().numpy()


def ask_scipy(call: Call, draw: Draw) -> tuple[Results, np.ndarray, list[np.ndarray]]:
    """scipy's results; derivatives of a function that is real-linear in x and in k."""
    x, k = call.arrays

    def f(x, k):
        return call.peer(x, k)[0]

    y = f(x, k)
    u = draw.normal(y.shape, y.dtype)
    v = [draw.normal(array.shape, array.dtype) for array in call.arrays]
    if not call.differentiable:
        return Results((y,)), u, v
    gradients = pulled(lambda e: f(e, k), x, u), pulled(lambda e: f(x, e), k, u)
    # <g, v> = Re(sum u (f(v_x, k) + f(x, v_k))).
    second = (
        pulled(lambda e: f(e, v[1]), x, u),
        pulled(lambda e: f(v[0], e), k, u),
        f(v[0], k) + f(x, v[1]),
    )
    return Results((y,), gradients, second), u, v


def pulled(linear: Callable[[np.ndarray], np.ndarray], at: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The g with Re(sum g e) = Re(sum u linear(e)) for every e of `at`'s shape and dtype."""
    g = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        unit = np.zeros_like(at)
        unit[index] = 1
        g[index] = np.sum(u * linear(unit)).real
        if at.dtype.kind == "c":
            g[index] -= 1j * np.sum(u * linear(1j * unit)).real
    return g


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference over the largest entry; infinite where NaN, infinities, integers or
    shapes differ."""
    if got.shape != want.shape or (got.dtype.kind in "iub") != (want.dtype.kind in "iub"):
        return math.inf
    if got.dtype.kind in "iub":
        return 0.0 if np.array_equal(got, want) else math.inf
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return math.inf
    if not finite.any():
        return 0.0
    difference = np.abs(got[finite] - want[finite]).max()
    scale = max(np.abs(want[finite]).max(), SMALLEST_SCALE)
    return float(difference / scale) if np.isfinite(difference) else math.inf


# A configuration's outcome, and their sum.


class Outcome(NamedTuple):
    """What came of one configuration: differences of the three stages, or why there are none.

    `other` is a result of another shape or dtype, `crash` an error that refuses nothing.
    """

    function: str
    number: int
    case: str | None
    text: str
    refused_by_peer: str | None = None
    refused_by_us: str | None = None
    differences: tuple[float, ...] = ()
    values: int = 0
    other: str = ""
    crash: str = ""

    @property
    def computed(self) -> bool:
        """Whether both sides computed something that was compared."""
        return bool(self.differences or self.other)

    @property
    def differs(self) -> bool:
        """Whether any of it is beyond the tolerance."""
        return bool(self.other) or max(self.differences, default=0) > TOLERANCE

    @property
    def decided(self) -> bool:
        """Whether other values are a decision."""
        return self.case is not None and CASES[self.function][self.case].differs

    @property
    def fault(self) -> str:
        """Why this configuration fails the check; empty where it does not."""
        if self.crash:
            return self.crash
        if not self.computed:  # a case is judged as a whole
            sides = f"peer {self.refused_by_peer!r}, jaxconv {self.refused_by_us!r}"
            return "" if self.case else f"refused by {sides}"
        if not self.differs or self.decided:
            return ""
        stages = zip(STAGES, self.differences, strict=False)
        return self.other or ", ".join(f"{name} {value:.1e}" for name, value in stages)


def configuration(name: str, index: int, seed: int, case: str | None = None) -> tuple[Call, Draw]:
    """The configuration of this number."""
    draw = Draw(seed, name, index, case)
    return FUNCTIONS[name][0](draw, CASES[name][case].change if case else None), draw


def case_of(name: str, index: int) -> str | None:
    """Which case this configuration is, case by case, or None."""
    if index % CASE_EVERY:
        return None
    names = [*CASES[name]]
    return names[index // CASE_EVERY % len(names)]


def examine(name: str, index: int, seed: int) -> Outcome:
    """Ask both sides, compare."""
    case = case_of(name, index)
    call, draw = configuration(name, index, seed, case)
    outcome = Outcome(name, index, case, call.text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = (ask_scipy if call.scipy else ask_torch)(call, draw)
    except PEER_REFUSALS as error:
        theirs = None
        outcome = outcome._replace(refused_by_peer=str(error).partition("\n")[0])
    try:
        if theirs is None:
            jax.eval_shape(call.ours, *call.arrays)
            return outcome
        want, u, v = theirs
        return compare(outcome, ask_us(call, u, v), want)
    except OUR_REFUSALS as error:
        return outcome._replace(refused_by_us=str(error))
    except OtherResultError as error:
        return outcome._replace(other=str(error))
    except Exception as error:
        return outcome._replace(crash=f"{type(error).__name__}: {error}")


def compare(outcome: Outcome, got: Results, want: Results) -> Outcome:
    parts = list(zip(got, want, strict=True))
    if any(len(ours) != len(peers) for ours, peers in parts):
        return outcome._replace(other="another number of results")
    differences = tuple(
        max((relative(a, b) for a, b in zip(ours, peers, strict=True)), default=0.0)
        for ours, peers in parts
    )
    values = sum(array.size for part in want for array in part)
    return outcome._replace(differences=differences, values=values)


class Tally:
    """All outcomes of one function."""

    def __init__(self, function: str, outcomes: list[Outcome]):
        self.function, self.outcomes = function, outcomes
        self.computed = [outcome for outcome in outcomes if outcome.computed]

    def worst(self, stage: int) -> float | None:
        """The largest difference in a stage, where a difference is no decision."""
        found = [
            outcome.differences[stage]
            for outcome in self.computed
            if len(outcome.differences) > stage and not outcome.decided
        ]
        return max(found, default=None)

    def refusals(self) -> tuple[int, int, int]:
        """How many were refused by the peer alone, by us alone, by both."""
        sides = [
            (outcome.refused_by_peer is not None, outcome.refused_by_us is not None)
            for outcome in self.outcomes
        ]
        return sides.count((True, False)), sides.count((False, True)), sides.count((True, True))

    def of_case(self, case: str) -> "Tally":
        """The outcomes of one case alone."""
        return Tally(self.function, [outcome for outcome in self.outcomes if outcome.case == case])


class Unusual(NamedTuple):
    """What came of one case of a function."""

    function: str
    case: str
    by: str
    times: int
    stated: str

    @property
    def fault(self) -> bool:
        """Whether the two sides part, and the docstring does not say so."""
        return self.by in ("peer", "jaxconv", "other values") and not is_stated(
            self.function, self.stated
        )


def is_stated(function: str, words: str) -> bool:
    """Whether a docstring has these words, wherever its lines break; `name: words` says whose."""
    owner, separator, rest = words.partition(": ")
    if separator and hasattr(jc, owner):
        function, words = owner, rest
    text = " ".join((getattr(jc, function).__doc__ or "").split())
    return bool(words) and words in text


def unusual(tally: Tally) -> Iterator[Unusual]:
    """One row for each case and each thing that came of it."""
    for name, entry in CASES[tally.function].items():
        part = tally.of_case(name)
        peer, us, both = part.refusals()
        differing = sum(outcome.differs for outcome in part.computed) if entry.differs else 0
        counts = {
            "peer": peer, "jaxconv": us, "both": both, "other values": differing,
            "neither": len(part.computed) - differing,
        }  # fmt: skip
        for by, count in counts.items():
            if count:
                yield Unusual(tally.function, name, by, count, entry.stated)


def run(names: Sequence[str], n: int, seed: int, tick: Callable[[], None]) -> list[Tally]:
    """Configurations of each function until n are computed, shared out by weight."""
    weights = [FUNCTIONS[name][1] for name in names]
    ends = [n * total // sum(weights) for total in itertools.accumulate(weights)]
    tallies = []
    for name, start, end in zip(names, [0, *ends], ends, strict=False):
        outcomes: list[Outcome] = []
        computed = 0
        while computed < end - start and len(outcomes) < 2 * (end - start) + 100:
            outcomes.append(examine(name, len(outcomes), seed))
            if outcomes[-1].computed:
                computed += 1
                tick()
        tallies.append(Tally(name, outcomes))
    return tallies


# What is printed.


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}" if value else "0"


def summary(tallies: list[Tally]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="agreement", title_justify="left")
    table.add_column("function")
    heads = ["configurations", "values", *STAGES, "refused by peer", "by us", "by both"]
    for head in [*heads, f"differences > {TOLERANCE:.0e}"]:
        table.add_column(head, justify="right")
    total = Tally("all", [outcome for tally in tallies for outcome in tally.outcomes])
    for tally in [*tallies, total]:
        table.add_row(
            tally.function,
            str(len(tally.computed)),
            str(sum(outcome.values for outcome in tally.computed)),
            *(number(tally.worst(stage)) for stage in range(3)),
            *map(str, tally.refusals()),
            str(sum(bool(outcome.fault) for outcome in tally.outcomes)),
            end_section=tally is tallies[-1],
        )
    return table


def who_refuses_what(rows: list[Unusual]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="who refuses what", title_justify="left")
    for head in ("function", "case", "refused by", "times", "jaxconv's docstring"):
        table.add_column(head, justify="right" if head == "times" else "left")
    for row in rows:
        if row.by in ("peer", "jaxconv", "other values"):
            words = "NOT STATED" if row.fault else row.stated
            by = "neither, other values" if row.by == "other values" else row.by
            table.add_row(row.function, row.case, by, str(row.times), words)
    return table


def together(rows: list[Unusual], by: str) -> Iterator[str]:
    """Cases in which the sides agree, function by function."""
    for function, group in itertools.groupby(rows, key=lambda row: row.function):
        found = [f"{row.case} ({row.times})" for row in group if row.by == by]
        if found:
            yield f"  {function}: {', '.join(found)}"


def versions() -> str:
    peers = [f"torch {torch.__version__}"] if torch is not None else []
    found = [f"jax {jax.__version__}", *peers, f"scipy {scipy.__version__}"]
    return ", ".join([*found, f"NumPy {np.__version__}", f"Python {platform.python_version()}"])


def show(table: Table) -> None:
    """A table for a terminal, or for a file: without colours, trailing blanks or a narrow width."""
    if sys.stdout.isatty():
        Console().print(table)
        return
    page = io.StringIO()
    Console(file=page, width=170, color_system=None).print(table)
    print("\n".join(line.rstrip() for line in page.getvalue().splitlines()))


def report(tallies: list[Tally], seed: int) -> bool:
    """Print the tables and what is wrong; true if nothing is."""
    rows = [row for tally in tallies for row in unusual(tally)]
    show(summary(tallies))
    show(who_refuses_what(rows))
    for by, title in (("both", "Refused by both"), ("neither", "Unusual, and computed by both")):
        lines = [*together(rows, by)]
        if lines:
            print(f"{title}:", *lines, "", sep="\n")
    faults = [outcome for tally in tallies for outcome in tally.outcomes if outcome.fault]
    for outcome in faults:
        print(f"DIFFERENCE: {outcome.fault}\n  {outcome.text}")
        command = f"python experiments/parity.py --seed {seed} --only {outcome.function}"
        print(f"  {command} --index {outcome.number}")
    unstated = [row for row in rows if row.fault]
    for row in unstated:
        print(f"NOT STATED: {row.function}, {row.case}: {row.by}; needed: {row.stated!r}")
    computed = sum(len(tally.computed) for tally in tallies)
    print(
        f"Configurations computed: {computed}. Differences beyond {TOLERANCE:.0e}: {len(faults)}."
    )
    print(f"Cases in which the sides part and the docstring does not say so: {len(unstated)}.")
    return not faults and not unstated


@contextmanager
def settings(optimise: bool) -> Iterator[None]:
    """float64, and no costly passes of XLA unless asked for: compiling takes most of the time."""
    before = jax.config.read("jax_disable_most_optimizations")
    threads = torch.get_num_threads() if torch is not None else 0
    jax.config.update("jax_disable_most_optimizations", not optimise)
    if torch is not None:
        torch.set_num_threads(1)  # tiny arrays
    try:
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
        if torch is not None:
            torch.set_num_threads(threads)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the configurations asked for; the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if torch is None and args.only not in (None, *SCIPYS):
        parser.error(f"--only {args.only} needs torch, which is not installed")
    if args.index is not None and (args.only is None or args.index < 0):
        parser.error("--index is the number of a configuration, 0 or more, with --only NAME")
    names: list[str] = [args.only] if args.only else [*FUNCTIONS]
    _print_head(args)
    if torch is None:
        names = [name for name in names if name in SCIPYS]
    with settings(args.optimise):
        if args.index is not None:
            return _one(names[0], args.index, args.seed)
        console = Console(stderr=True)
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("configurations", total=args.n)
            tallies = run(names, args.n, args.seed, lambda: progress.advance(task))
        return 0 if report(tallies, args.seed) else 1


def _print_head(args: argparse.Namespace) -> None:
    """The command and what it ran on."""
    given = [f"--n {args.n}"] if args.index is None else []
    given += [f"--seed {args.seed}", *([f"--only {args.only}"] if args.only else [])]
    given += [f"--index {args.index}"] if args.index is not None else []
    print("$ python experiments/parity.py", *given, *(["--optimise"] if args.optimise else []))
    print(versions())
    if torch is None:
        print("torch is not installed: scipy's part only.")
    how = "as users do" if args.optimise else "without XLA's costly passes (--optimise: with them)"
    print(f"float64, complex128 and whole numbers; compiled {how}.\n")


def _one(name: str, index: int, seed: int) -> int:
    """Print a single configuration and what came of it."""
    outcome = examine(name, index, seed)
    print(outcome.text)
    if outcome.case:
        print(f"case: {outcome.case}")
    for side, message in (("peer", outcome.refused_by_peer), ("jaxconv", outcome.refused_by_us)):
        if message is not None:
            print(f"refused by {side}: {message}")
    for stage, difference in zip(STAGES, outcome.differences, strict=False):
        print(f"{stage}: {number(difference)}")
    print(f"DIFFERENCE: {outcome.fault}" if outcome.fault else "no fault")
    return 1 if outcome.fault else 0


def _parser() -> argparse.ArgumentParser:
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="parity", description=summary)
    parser.add_argument("--n", type=_positive, default=2000, help="configurations to compute")
    parser.add_argument("--seed", type=int, default=0, help="of shapes, options and numbers")
    parser.add_argument("--only", choices=[*FUNCTIONS], help="one function")
    parser.add_argument("--index", type=int, help="a single configuration of it")
    parser.add_argument("--optimise", action="store_true", help="compile as users do; slower")
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())
