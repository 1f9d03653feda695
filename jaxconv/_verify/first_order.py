"""First derivatives: forward and reverse mode against differences, and against each other."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .compare import Outcome, compare, merge
from .differences import Slopes, chunks
from .function import Leaf, leaf_at, missing_mode
from .pulled import Pulled, gather, pull
from .report import TOGETHER, Kink, Row
from .sample import Sample, named_kinks


@dataclasses.dataclass
class First:
    """What the checks of first derivatives leave for others.

    Attributes:
        rows: their rows.
        kinks: where there is no derivative.
        pulled: for each leaf of the arguments, what J'u may be at its sampled entries.
        along: the same along the sample's directions.
        forward, reverse: whether the mode exists.
        gradients: J'u by reverse mode, `(cotangents, entries)`; None where that is missing.
        trusted: reverse mode exists and agrees with the differences.
    """

    rows: list[Row]
    kinks: list[Kink]
    pulled: list[Pulled]
    along: Pulled
    forward: bool
    reverse: bool
    gradients: np.ndarray | None
    trusted: bool


def first_order(sample: Sample) -> First:
    """Every check of first derivatives but the closed form's."""
    function, rows = sample.function, _values(sample)
    first, ones = np.zeros_like(function.point), np.ones_like(sample.centre)
    forward, fault = _mode("forward", lambda: sample.jvp(function.point, first))
    rows += fault
    reverse, fault = _mode("reverse", lambda: sample.vjp(function.point, ones))
    kinks, pulled = [], []
    for leaf, entries in zip(function.arguments, sample.entries, strict=True):
        part, outcome, found = _one_leaf(sample, leaf, entries, forward)
        pulled.append(part)
        kinks += found
        if forward:
            rows.append(_row(sample, "forward", leaf.name, outcome, leaf))
    directions = sample.slopes(list(sample.directions))
    along = pull(directions, sample.cotangents)
    if forward:
        rows.append(_forward_along(sample, directions))
    rows += fault
    gradients = None
    if reverse:
        vectors = [sample.vjp(function.point, u) for u in sample.cotangents]
        gradients = np.reshape(vectors, (len(vectors), function.point.size))
        rows += entry_rows(sample, "reverse", gradients, pulled, range(len(pulled)))
        rows.append(along_row(sample, "reverse", gradients, along))
        if forward:
            rows.append(_adjoint(sample, gradients))
    trusted = reverse and not any(r.check == "reverse" and r.verdict == "WRONG" for r in rows)
    return First(rows, kinks, pulled, along, forward, reverse, gradients, trusted)


def _values(sample: Sample) -> list[Row]:
    """fn itself has to be finite."""
    rows = []
    for leaf in sample.function.outputs:
        values = sample.centre[leaf.span]
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            names = ", ".join(f"{values[i]} at {list(leaf.entry(leaf.start + i))}" for i in bad[:3])
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            note = f"fn gives {names}{more}: no derivative can be checked there"
            rows.append(Row("values", "finite", leaf.name, "WRONG", len(bad), np.inf, note=note))
    return rows


def _mode(name: str, derivative: Callable[[], Any]) -> tuple[bool, list[Row]]:
    """Whether fn has a mode, and the row that says why not.

    What fails in another way than by not being there is a mistake in one of fn's own rules.
    """
    try:
        derivative()
    except Exception as error:
        return False, [failure(name, error)]
    return True, []


def failure(check: str, error: Exception) -> Row:
    """The row of a derivative that raised."""
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text if len(text) <= 240 else text[:237] + '...'}"
    if missing_mode(error):
        return Row(check, "differences", "", "none", note=f"fn has no such mode ({said})")
    return Row(check, "differences", "", "WRONG", 0, np.inf, note=f"raised {said}")


def _one_leaf(
    sample: Sample, leaf: Leaf, entries: np.ndarray, forward: bool
) -> tuple[Pulled, Outcome, list[Kink]]:
    """Slopes along the sampled entries of an argument; forward mode is compared on the way."""
    parts, outcomes, kinks = [], [], []
    for part in chunks(len(entries), len(sample.centre)):
        some = [int(index) for index in entries[part]]
        found = sample.slopes(some)
        parts.append(pull(found, sample.cotangents))
        kinks += named_kinks(sample, entries[part], found)
        if forward:
            got = np.stack([sample.jvp(sample.function.point, _unit(sample, i)) for i in some])
            outcome = _against(sample, got, found, sample.floor(leaf))
            outcomes.append(_shifted(outcome, some))
    return gather(parts, len(sample.cotangents)), merge(outcomes), kinks


def _unit(sample: Sample, index: int) -> np.ndarray:
    vector = np.zeros_like(sample.function.point)
    vector[index] = 1.0
    return vector


def _shifted(outcome: Outcome, entries: list[int]) -> Outcome:
    """The position of a comparison in the flat vectors of the arguments and the outputs."""
    if not outcome.at:
        return outcome
    return outcome._replace(at=(entries[outcome.at[0]], outcome.at[1]))


def _against(sample: Sample, got: np.ndarray, found: Slopes, floor: float) -> Outcome:
    """Derivatives of every live output against slopes."""
    live = sample.live
    rtol, atol = sample.limits.relative(analytic=False), sample.limits.atol
    low, high = found.low[:, live], found.high[:, live]
    compared = compare(
        got[:, live], low, high, found.error[:, live], rtol=rtol, atol=atol, floor=floor
    )
    outcome = compared.worst()
    if not outcome.at:
        return outcome
    return outcome._replace(at=(outcome.at[0], int(np.flatnonzero(live)[outcome.at[1]])))


def _row(
    sample: Sample, check: str, argument: str, outcome: Outcome, leaf: Leaf | None = None
) -> Row:
    """A row of forward mode, whose worst entry has an output."""
    entry, output = None, ""
    if outcome.at:
        target = leaf_at(sample.function.outputs, outcome.at[1])
        output = f"{target.name}{list(target.entry(outcome.at[1])) or ''}"
        entry = leaf.entry(outcome.at[0]) if leaf else None
    return Row(
        check,
        "differences",
        argument,
        "WRONG" if outcome.wrong else "ok",
        outcome.compared,
        outcome.error,
        sample.limits.relative(analytic=False),
        entry,
        output,
        outcome.got,
        outcome.expected,
        outcome.note,
    )


def _forward_along(sample: Sample, found: Slopes) -> Row:
    got = np.stack([sample.jvp(sample.function.point, v) for v in sample.directions])
    return _row(sample, "forward", TOGETHER, _against(sample, got, found, sample.floor()))


def entry_rows(
    sample: Sample, check: str, gradients: np.ndarray, pulled: list[Pulled], leaves: Iterable[int]
) -> list[Row]:
    """Gradients `(cotangents, all entries)` against differences, at the sampled entries of each of
    these arguments."""
    rtol, rows = sample.limits.relative(analytic=False), []
    for i in leaves:
        leaf, entries = sample.function.arguments[i], sample.entries[i]
        outcome = _pulled(sample, gradients[:, entries], pulled[i], leaf)
        entry = leaf.entry(int(entries[outcome.at[1]])) if outcome.at else None
        rows.append(gradient_row(check, "differences", leaf.name, entry, outcome, rtol))
    return rows


def along_row(sample: Sample, check: str, gradients: np.ndarray, along: Pulled) -> Row:
    """The same for all arguments together, along random vectors."""
    with np.errstate(invalid="ignore"):
        got = gradients @ np.stack(sample.directions).T
    outcome = _pulled(sample, got, along, None)
    rtol = sample.limits.relative(analytic=False)
    return gradient_row(check, "differences", TOGETHER, None, outcome, rtol)


def _pulled(sample: Sample, got: np.ndarray, pulled: Pulled, leaf: Leaf | None) -> Outcome:
    outcomes = []
    for k, one in enumerate(got):
        outcome = sample.against(pulled, k, one, leaf).worst()
        outcomes.append(outcome._replace(at=(k, *outcome.at) if outcome.at else ()))
    return merge(outcomes)


def gradient_row(
    check: str,
    against: str,
    argument: str,
    entry: tuple[int, ...] | None,
    outcome: Outcome,
    rtol: float,
) -> Row:
    """A row about a gradient, summed over outputs with dy."""
    return Row(
        check,
        against,
        argument,
        "WRONG" if outcome.wrong else "ok",
        outcome.compared,
        outcome.error,
        rtol,
        entry,
        "",
        outcome.got,
        outcome.expected,
        outcome.note,
    )


def _adjoint(sample: Sample, gradients: np.ndarray) -> Row:
    """<J v, u> = <v, J'u>: the two modes belong to one matrix."""
    outcomes, rtol = [], sample.limits.relative(analytic=True)
    for v in sample.directions:
        tangent = np.where(sample.live, sample.jvp(sample.function.point, v), 0.0)
        for u, gradient in zip(sample.cotangents, gradients, strict=True):
            with np.errstate(invalid="ignore"):
                left, right = tangent * u, v * gradient
            size = max(np.abs(left).sum(), np.abs(right).sum(), sample.floor())
            outcomes.append(
                compare(
                    np.array([left.sum()]),
                    np.array([right.sum()]),
                    np.array([right.sum()]),
                    rtol=rtol,
                    atol=sample.limits.atol,
                    floor=float(size),
                ).worst()
            )
    outcome = merge(outcomes)
    return gradient_row("adjoint: <Jv,u>", "<v,J'u>", TOGETHER, None, outcome, rtol)
