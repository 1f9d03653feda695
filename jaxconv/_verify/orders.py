"""Second and higher derivatives, in every mixture of modes, against differences of lower ones.

Of s(x) = <f(x), u> the derivatives along v_1, v_2, ... but the last one are

    D^n s [v_1, ..., v_(n-1), .]        a vector like the arguments,

and each way to it is a row of modes, innermost first: `fwd` turns a scalar or a vector into its
derivative along the next v, `rev` a scalar into its gradient, and a vector G into that of <G, v>.
By symmetry all of them give the same.
"""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .compare import CANCELLED, Outcome, compare, merge
from .differences import random_direction, slopes
from .first_order import First, failure, gradient_row
from .function import Function, leaf_at
from .report import Row
from .sample import Sample

#: What stands in the table for the whole vector.
EVERY = "all"
#: Pairs of a cotangent and directions that each way is tried with.
TRIALS = 2


def way(function: Function, modes: tuple[str, ...]) -> Callable[..., Any]:
    """`(z, u, *v) -> D^n s [v..., .]`, by these modes, innermost first."""

    def derivative(z: Any, u: Any, *vectors: Any) -> Any:
        current, is_vector = (lambda x: jnp.vdot(function.flat(x), u)), False
        along = iter(vectors)
        for mode in modes:
            current = _step(mode, current, is_vector, along)
            is_vector = is_vector or mode == "rev"
        return current(z)

    return derivative


def _step(mode: str, inner: Callable[[Any], Any], is_vector: bool, along: Any) -> Any:
    if mode == "rev" and not is_vector:
        return jax.grad(inner)
    v = next(along)
    if mode == "fwd":
        return lambda x: jax.jvp(inner, (x,), (v,))[1]
    return jax.grad(lambda x: jnp.vdot(inner(x), v))


def higher_orders(sample: Sample, first: First, order: int, seed: int) -> list[Row]:
    """The rows of orders 2 to `order`."""
    if not (first.reverse and sample.function.point.size and sample.live.any()):
        return []
    rng = np.random.default_rng([seed, 2])
    point = sample.function.point
    trials = [
        (u, [random_direction(rng, point) for _ in range(order - 1)])
        for u in sample.cotangents[:TRIALS]
    ]
    rows: list[Row] = []
    lower = sample.vjp
    for n in range(2, order + 1):
        found, best = _one_order(sample, n, lower, [(u, v[: n - 1]) for u, v in trials])
        rows += found
        if best is None:
            break
        lower = best
    return rows


def _one_order(
    sample: Sample, n: int, lower: Callable[..., Any], trials: list[tuple[np.ndarray, list[Any]]]
) -> tuple[list[Row], Callable[..., Any] | None]:
    """The rows of one order, and a derivative of that order that is right, if there is one."""
    known = [_differences(sample, lower, u, v) for u, v in trials]
    ways, rows = {}, []
    for modes in itertools.product(("fwd", "rev"), repeat=n):
        if "rev" in modes:
            name = f"order {n}: {' over '.join(reversed(modes))}"
            derivative = way(sample.function, modes)
            fault = _fault(sample, name, derivative, trials[0])
            rows += fault
            ways.update({} if fault else {name: derivative})
    if not ways:
        return rows, None
    # Compiled together, which costs little more than one of them alone.
    together = sample.function.compiled(lambda *given: [way(*given) for way in ways.values()])
    values = zip(*(together(sample.function.point, u, *v) for u, v in trials), strict=True)
    rows += [_row(sample, n, name, got, known) for name, got in zip(ways, values, strict=True)]
    right = [name for name in ways if {r.check: r.verdict for r in rows}[name] == "ok"]
    return rows, sample.function.compiled(ways[right[0]]) if right else None


def _fault(sample: Sample, name: str, derivative: Callable[..., Any], trial: Any) -> list[Row]:
    """The row that says why a way does not exist."""
    u, v = trial
    run = derivative if sample.function.eager else functools.partial(jax.eval_shape, derivative)
    try:
        run(*(jnp.asarray(vector) for vector in (sample.function.point, u, *v)))
    except Exception as error:
        return [failure(name, error)]
    return []


def _differences(sample: Sample, lower: Callable[..., Any], u: Any, v: list[Any]) -> Any:
    """Of the derivative of one order less: its slopes along the last vector, their errors, which of
    them are none, and how large it is itself, or the values it is made of."""

    def gradient(z: np.ndarray) -> np.ndarray:
        return lower(z, u, *v[:-1])

    size = sample.size * np.abs(u).max(initial=0)
    found = slopes(gradient, sample.function.point, [v[-1]], size)
    sizes = np.maximum(np.abs(gradient(sample.function.point)), size)
    return found.right[0], found.error[0], found.kink[0], sizes


def _row(sample: Sample, n: int, name: str, got: Iterable[np.ndarray], known: list[Any]) -> Row:
    function, outcomes, left_out = sample.function, [], 0
    rtol = sample.limits.relative(analytic=False, order=n)
    for value, (expected, unsure, kink, lower) in zip(got, known, strict=True):
        left_out = max(left_out, int(kink.sum()))
        kept = np.flatnonzero(~kink)
        for leaf in function.arguments:
            own = kept[(kept >= leaf.start) & (kept < leaf.start + leaf.size)]
            outcome = compare(
                value[own],
                expected[own],
                expected[own],
                unsure[own],
                rtol=rtol,
                atol=sample.limits.atol,
                floor=CANCELLED * lower[leaf.span].max(initial=0) / sample.unit(leaf),
            ).worst()
            outcomes.append(outcome._replace(at=(int(own[outcome.at[0]]),) if outcome.at else ()))
    outcome: Outcome = merge(outcomes)
    argument, entry = EVERY, None
    if outcome.wrong:
        leaf = leaf_at(function.arguments, outcome.at[0])
        argument, entry = leaf.name, leaf.entry(outcome.at[0])
    row = gradient_row(name, "differences", argument, entry, outcome, rtol)
    if left_out and not row.note:
        return row._replace(note=f"{left_out} entries left out, whose gradient has a kink")
    return row
