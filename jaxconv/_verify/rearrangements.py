"""Slips that show in the numbers alone: something flipped, regrouped or shifted.

The true gradient is taken of changed data (another argument flipped, dy regrouped) or changed
itself, and compared with what came. Nothing needs to be known of what the function does; where it
performs a convolution, `convolutions` knows more and is asked first.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from .function import Leaf
from .slips import Case, regroupings, same, spans

#: Axes up to this long are tried as channels.
MOST_CHANNELS = 64
#: A shifted gradient must agree in at least so many entries.
LEAST_OVERLAP = 4
Change = Callable[[np.ndarray], np.ndarray]
Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


def rearranged_slip(case: Case) -> str:
    """A flip, or channels in the wrong order: of the gradient, of dy, or of another argument."""
    for slip, how, change in _changes(case, case.leaf):
        if case.explained_by(change(case.true.reshape(case.leaf.shape))):
            return f"{slip}: the right gradient, but {how}"
    if case.gradient is None:
        return ""
    ones = case.gradient(case.function.point, np.ones_like(case.u))
    if case.explained_by(ones[case.leaf.span]):
        return "dy left out: right where every entry of dy is 1"
    for text, values in _of_changed_data(case, case.gradient):
        if case.explained_by(values[case.leaf.span]):
            return text
    return ""


def moved_slip(case: Case) -> str:
    """The true gradient, one element further along some axes; what was moved in is not compared."""
    true, got = (values.reshape(case.leaf.shape) for values in (case.true, case.got))
    moves = itertools.product(*((0, 1, -1) if n > 1 else (0,) for n in true.shape))
    for move in sorted(moves, key=np.count_nonzero):
        pairs = list(zip(move, true.shape, strict=True))
        here = tuple(slice(max(m, 0), n + min(m, 0)) for m, n in pairs)
        moved = true[tuple(slice(max(-m, 0), n + min(-m, 0)) for m, n in pairs)]
        kept = got[here]
        # A gradient that is the same everywhere is its own neighbour.
        if kept.size >= LEAST_OVERLAP and same(kept, moved) and not same(true[here], moved):
            axes = ", ".join(f"{m:+d} along axis {axis}" for axis, m in enumerate(move) if m)
            return f"padding off by one: the gradient is moved by {axes}"
    return ""


def _of_changed_data(case: Case, gradient: Gradient) -> Iterator[tuple[str, np.ndarray]]:
    """The true gradient for each change of dy or of another argument."""
    point, outputs = case.function.point, case.function.outputs
    for leaf in outputs:
        name = "dy" if len(outputs) == 1 else leaf.name.replace("output", "dy", 1)
        for slip, how, change in _changes(case, leaf):
            u = _changed(case.u, leaf, change)
            yield f"{slip}: right if {name} were {how}", gradient(point, u)
    for leaf in case.function.arguments:
        if leaf != case.leaf:
            for slip, how, change in _changes(case, leaf):
                z = _changed(point, leaf, change)
                yield f"{slip}: right if {leaf.name} were {how}", gradient(z, case.u)


def _changed(vector: np.ndarray, leaf: Leaf, change: Change) -> np.ndarray:
    vector = vector.copy()
    vector[leaf.span] = change(vector[leaf.span].reshape(leaf.shape)).ravel()
    return vector


def _changes(case: Case, leaf: Leaf) -> Iterator[tuple[str, str, Change]]:
    """What may be done to an array: the slip, how it is done, and doing it."""
    # Which axes of a convolution are spatial is known, and their flips have been tried.
    if not (case.traced and case.traced.convolutions):
        yield from _flips(leaf.shape)
    yield from _transpositions(leaf.shape)
    yield from _regroupings(leaf.shape)


def _flips(shape: tuple[int, ...]) -> Iterator[tuple[str, str, Change]]:
    """Along each run of neighbouring axes."""
    for first, end in spans(len(shape)):
        if all(n > 1 for n in shape[first:end]):
            axes = tuple(range(first, end))
            how = f"flipped along axes {', '.join(map(str, axes))}"
            yield "kernel not rotated", how, lambda a, axes=axes: np.flip(a, axes)


def _transpositions(shape: tuple[int, ...]) -> Iterator[tuple[str, str, Change]]:
    for one, other in itertools.combinations(range(len(shape)), 2):
        if shape[one] == shape[other] > 1:
            how = f"given with axes {one} and {other} exchanged"
            yield "axes transposed", how, lambda a, i=one, j=other: np.swapaxes(a, i, j)


def _regroupings(shape: tuple[int, ...]) -> Iterator[tuple[str, str, Change]]:
    for axis, n in enumerate(shape):
        for groups in range(2, min(n, MOST_CHANNELS) + 1):
            if n % groups == 0:
                for how, index in regroupings(n, groups):
                    done = f"given with its channels (axis {axis}, {groups} groups) {how}"
                    yield "groups mixed", done, lambda a, i=index, at=axis: np.take(a, i, at)
