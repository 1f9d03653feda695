"""Which known slip explains a wrong gradient; `""` where none does.

A slip is named only if making it, on the true gradient, gives exactly what came. The slips are in
`convolutions`, `rearrangements` and `shapes`; here is the order in which they are tried, and those
that need no structure: factors, sums for means.
"""

from typing import NamedTuple

import numpy as np

from .convolutions import convolution_slip
from .first_order import First
from .function import Leaf
from .rearrangements import moved_slip, rearranged_slip
from .sample import Sample, columns
from .shapes import shape_slip
from .slips import Case, same, spans

#: Without reverse mode the true gradient comes from differences, of arguments up to this size.
DIFFERENCED = 2000
#: Wrong only from this digit on: rounding, not a formula.
ROUNDING = 1e-5


class Wrong(NamedTuple):
    """A gradient that is not right: of which argument, and its flat values for the sample's first
    cotangent."""

    leaf: Leaf
    values: np.ndarray


def wrong_values(sample: Sample, first: First, wrong: Wrong) -> str:
    """The slip that turns the true gradient into this one."""
    case = _case(sample, first, wrong)
    if case is None or not np.isfinite(case.got).all() or not np.isfinite(case.true).all():
        return ""
    if same(case.got, case.true, ROUNDING):
        return "rounding: it agrees to five digits, as if something were computed in float32"
    for slip in (_factor, _other_argument, convolution_slip, rearranged_slip, moved_slip, _part):
        if text := slip(case):
            return text
    return ""


def wrong_shape(sample: Sample, leaf: Leaf, shape: tuple[int, ...]) -> str:
    """The slip that a shape betrays."""
    traced = sample.traced
    return shape_slip(sample.function, leaf, shape, traced.convolutions if traced else ())


def _case(sample: Sample, first: First, wrong: Wrong) -> Case | None:
    """What is needed to try slips; None where the true gradient is not to be had."""
    leaf, u, traced = wrong.leaf, sample.cotangents[0], sample.traced
    gradient = sample.vjp if first.trusted else traced.gradient if traced else None
    if gradient is not None:
        true = gradient(sample.function.point, u)
    elif leaf.size <= DIFFERENCED:
        pulled = columns(sample, leaf.start + np.arange(leaf.size), (u,))
        true = np.zeros(sample.function.point.size)
        true[leaf.span] = (pulled.low[0] + pulled.high[0]) / 2
    else:
        return None
    return Case(sample.function, leaf, u, wrong.values, true[leaf.span], true, gradient, traced)


def _factor(case: Case) -> str:
    """A constant factor, with its meaning."""
    if not case.got.any():
        return "left out: the gradient is zero everywhere" if case.true.any() else ""
    factor = _ratio(case.got, case.true)
    if not factor or not same(case.got, factor * case.true):
        return ""
    for value, text in {
        2.0: "factor 2: twice what is right",
        0.5: "factor 1/2: half of what is right",
        -1.0: "sign: the negative of what is right",
    }.items():
        if abs(factor - value) <= 1e-6:
            return text
    for name, times in (
        ("sum instead of mean: {} times what is right", factor),
        ("mean instead of sum: 1/{} of what is right", 1 / factor),
    ):
        count = round(times)
        if count > 2 and abs(times - count) <= 1e-6 * count and count in _counts(case):
            return name.format(count)
    # A single number is always some multiple of another.
    return f"constant factor {factor:.6g}" if case.true.size > 1 else ""


def _ratio(a: np.ndarray, b: np.ndarray) -> float:
    """The c for which `c * b` comes nearest to `a`; 0 if b is. Squares would overflow first."""
    size = np.abs(b).max(initial=0)
    if not size:
        return 0.0
    unit = b / size
    return float(np.sum(a * (unit / np.sum(unit * unit)))) / float(size)


def _counts(case: Case) -> set[int]:
    """What a mean may be over: products of neighbouring axes of any array or window."""
    shapes = {leaf.shape for leaf in (*case.function.arguments, *case.function.outputs)}
    if case.traced:
        shapes |= case.traced.shapes
    return {int(np.prod(shape[a:b])) for shape in shapes for a, b in spans(len(shape))}


def _other_argument(case: Case) -> str:
    """Gradients in another order."""
    for leaf in case.function.arguments:
        if leaf != case.leaf and leaf.size == case.leaf.size:
            other = case.whole[leaf.span]
            if same(case.got, other) and not same(case.true, other):
                return f"gradients in another order: this is the one of {leaf.name}"
    return ""


def _part(case: Case) -> str:
    """A multiple of the argument itself, as a norm in the objective adds."""
    x = case.function.point[case.leaf.span]
    gap = case.got - case.true
    factor = _ratio(gap, x)
    if x.size < 2 or not factor or not same(gap, factor * x):
        return ""
    if case.u.size == 1:
        factor /= float(case.u[0])
    return (
        f"off by {factor:.6g} * {case.leaf.name}: a term like lambda*|{case.leaf.name}|^2 is left "
        f"out or has the wrong factor (its derivative is 2*lambda*{case.leaf.name}: factor 2)"
    )
