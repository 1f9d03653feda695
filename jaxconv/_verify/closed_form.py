"""The closed form: what it returned, and how it compares with reverse mode and differences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from .compare import Compared, Outcome, compare, merge
from .diagnosis import Wrong, wrong_shape, wrong_values
from .first_order import First, along_row, entry_rows, gradient_row
from .function import Leaf
from .report import Row
from .sample import Sample, columns

#: Entries that differ from reverse mode and are looked at for a kink, so many at a time.
DOUBTFUL = 64
#: All entries of an argument this large are differenced where reverse mode cannot be trusted.
ALL_ENTRIES = 2000
CHECK = "closed form"


class Returned(NamedTuple):
    """What a closed form gave for one cotangent.

    Attributes:
        values: for each leaf of the arguments its gradient, flat, or None.
        rows: what is wrong with the others.
        notes: for each leaf what is to be said, or `""`.
    """

    values: list[np.ndarray | None]
    rows: list[Row]
    notes: list[str]


def closed_form_rows(sample: Sample, closed_form: Callable[..., Any], first: First) -> list[Row]:
    """Every check of a closed form."""
    function = sample.function
    if not sample.cotangents:
        return []
    args = function.unflatten(jax.numpy.asarray(function.point))
    returned = []
    for u in sample.cotangents:
        given = closed_form(*args, function.cotangent(u))
        returned.append(_read(sample, given, len(args)))
        if any(row.verdict == "WRONG" for row in returned[-1].rows):
            break
    rows, known = list(returned[-1].rows), []
    for i, leaf in enumerate(function.arguments):
        grads = [one.values[i] for one in returned if one.values[i] is not None]
        if len(grads) == len(returned):
            known.append(np.stack(grads))
            rows += _leaf_rows(sample, first, i, leaf, known[-1], returned[0].notes[i])
    if len(known) == len(function.arguments) and known:
        rows.append(along_row(sample, CHECK, np.concatenate(known, axis=1), first.along))
    return rows


def _leaf_rows(
    sample: Sample, first: First, i: int, leaf: Leaf, got: np.ndarray, note: str
) -> list[Row]:
    """A leaf's gradients `(cotangents, entries)`, first against reverse mode, which knows all."""
    rows = []
    if first.trusted and first.gradients is not None:
        outcome = _all_entries(sample, leaf, got, first.gradients[: len(got), leaf.span])
        rtol = sample.limits.relative(analytic=True)
        entry = leaf.entry(leaf.start + outcome.at[1]) if outcome.at else None
        rows.append(gradient_row(CHECK, "reverse", leaf.name, entry, outcome, rtol))
    whole = np.zeros((len(got), sample.function.point.size))
    whole[:, leaf.span] = got
    rows += entry_rows(sample, CHECK, whole, first.pulled, [i])
    rows = [row._replace(note=row.note or note) for row in rows]
    if all(row.verdict == "ok" for row in rows):
        return rows
    likely = wrong_values(sample, first, Wrong(leaf, got[0]))
    return [row._replace(likely=likely) if row.verdict == "WRONG" else row for row in rows]


def _all_entries(sample: Sample, leaf: Leaf, got: np.ndarray, true: np.ndarray) -> Outcome:
    """Every entry against reverse mode; at a kink any slope is as good as the one chosen there."""
    rtol, atol = sample.limits.relative(analytic=True), sample.limits.atol
    floor = sample.floor(leaf)
    compared = [
        compare(g, t, t, rtol=rtol, atol=atol, floor=floor) for g, t in zip(got, true, strict=True)
    ]
    doubtful = np.flatnonzero(np.any([one.wrong for one in compared], axis=0))
    gaps = np.abs(got[:, doubtful] - true[:, doubtful]).max(axis=0, initial=0)
    doubtful = doubtful[np.argsort(-gaps)]
    for start in range(0, len(doubtful), DOUBTFUL):
        some = doubtful[start : start + DOUBTFUL]
        if _settle(sample, leaf, compared, some):
            break
    outcomes = []
    for k, one in enumerate(compared):
        worst = one.worst()
        outcomes.append(worst._replace(at=(k, *worst.at) if worst.at else ()))
    return merge(outcomes)


def _settle(sample: Sample, leaf: Leaf, compared: list[Compared], entries: np.ndarray) -> bool:
    """At entries with a kink, compare with its slopes instead; whether any stays wrong."""
    pulled = columns(sample, leaf.start + entries, sample.cotangents[: len(compared)])
    for k, one in enumerate(compared):
        slopes = sample.against(pulled, k, one.got[entries], leaf)
        kink = pulled.kink[k]
        for own, other in zip(one, slopes, strict=True):
            own[entries[kink]] = other[kink]
    return any(one.wrong[entries].any() for one in compared)


# Reading what came.


def _read(sample: Sample, given: Any, count: int) -> Returned:
    """One gradient per argument, each with the structure and the shapes of its argument."""
    function = sample.function
    values: list[np.ndarray | None] = [None] * len(function.arguments)
    notes = [""] * len(function.arguments)
    if count == 1 and not isinstance(given, (tuple, list)):
        given = (given,)  # the one gradient itself
    if not isinstance(given, (tuple, list)) or len(given) != count:
        return Returned(values, [_wrong_number(given, count)], notes)
    args, rows = function.unflatten(function.point), []
    for position, (gradient, argument) in enumerate(zip(given, args, strict=True)):
        own = [i for i, place in enumerate(function.argument_of) if place == position]
        if gradient is None and own:
            rows += [
                Row(CHECK, "", function.arguments[i].name, "not given", note="None was returned")
                for i in own
            ]
            continue
        found, tree = jax.tree.flatten(gradient)
        if tree != jax.tree.structure(argument):
            rows.append(_wrong_structure(function.arguments, own, tree, argument))
            continue
        for i, value in zip(own, found, strict=True):
            leaf = function.arguments[i]
            array = np.asarray(value)
            fault = _wrong_array(sample, leaf, array)
            if fault:
                rows.append(fault)
                continue
            values[i] = array.astype(np.float64).ravel()
            if array.dtype != np.float64:
                notes[i] = f"the closed form returned {array.dtype}"
    return Returned(values, rows, notes)


def _fault(against: str, argument: str, note: str, likely: str = "") -> Row:
    return Row(CHECK, against, argument, "WRONG", 0, np.inf, note=note, likely=likely)


def _wrong_number(given: Any, count: int) -> Row:
    what = f"{len(given)} gradients" if isinstance(given, (tuple, list)) else type(given).__name__
    return _fault(
        "number", "", f"returned {what}; needed is a tuple of {count}, one gradient per argument"
    )


def _wrong_structure(leaves: tuple[Leaf, ...], own: list[int], tree: Any, argument: Any) -> Row:
    name = leaves[own[0]].name if own else ""
    return _fault(
        "structure",
        name,
        f"returned the structure {tree}; needed is that of the argument, "
        f"{jax.tree.structure(argument)}",
    )


def _wrong_array(sample: Sample, leaf: Leaf, array: np.ndarray) -> Row | None:
    if array.dtype == object or array.dtype.kind in "USc":
        return _fault("type", leaf.name, f"returned dtype {array.dtype}; needed are real numbers")
    if array.shape != leaf.shape:
        likely = wrong_shape(sample, leaf, array.shape)
        note = f"returned shape {array.shape}; needed is the argument's, {leaf.shape}"
        return _fault("shape", leaf.name, note, likely)
    return None
