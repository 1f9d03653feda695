"""Slips inside of a convolution that fn performs.

For each convolution and each of its operands the gradient is computed again with the slip in it,
and what that changes is sent on to the argument. So the slip is found behind any other operations,
also where it is made in a later layer than the wrong gradient belongs to.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from .slips import Case, regroupings
from .traced import Convolution
from .trilinear import Ints, Steps, project

#: Multiplications that all slips of one operand may cost together.
BUDGET = 2e9
Arrays = dict[str, np.ndarray]


class Slip(NamedTuple):
    """One thing done wrong.

    Attributes:
        text: what it is called.
        kind: slips of different kinds may be made together.
        change: operands and steps to those with the slip in them.
        after: what is done to the result.
    """

    text: str
    kind: str
    change: Callable[[Arrays, Steps], tuple[Arrays, Steps]] = lambda arrays, steps: (arrays, steps)
    after: Callable[[np.ndarray], np.ndarray] = lambda result: result


def convolution_slip(case: Case) -> str:
    """The first slip that explains the gradient, or two of them together; `""` if none."""
    traced = case.traced
    if traced is None or not traced.convolutions:
        return ""
    everywhere = zip(traced.convolutions, traced.arrays(case.u), strict=True)
    for at, (one, arrays) in enumerate(everywhere):
        for wanted in one.arrays[:2]:
            given = {name: array for name, array in arrays.items() if name != wanted}
            right = project(wanted, given, one.sizes, one.steps)
            if not traced.spread(at, wanted, right)[case.leaf.span].any():
                continue  # the argument does not come in here
            for text, wrong in _mistaken(one, wanted, given):
                change = traced.spread(at, wanted, wrong - right)[case.leaf.span]
                if case.explained_by(case.true + change):
                    return text
    return ""


def _mistaken(one: Convolution, wanted: str, given: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Every slip's name and result: single slips first, then pairs."""
    singles = list(_slips(one, wanted))
    pairs = [
        pair
        for pair in itertools.combinations(singles, 2)
        if len({slip.kind for slip in pair}) == 2
    ]
    window = one.sizes["w"][2:]
    work = float(np.prod(one.sizes["y"])) * np.prod(window) * one.sizes["w"][1]
    tries = int(BUDGET / max(work, 1))
    for slips in [*((slip,) for slip in singles), *pairs][:tries]:
        arrays, steps = given, one.steps
        for slip in slips:
            arrays, steps = slip.change(arrays, steps)
        result = project(wanted, arrays, one.sizes, steps)
        for slip in slips:
            result = slip.after(result)
        yield ", and ".join(slip.text for slip in slips), result
    if wanted == "x":
        text = "correlation where full convolution is due: dy is correlated with the kernel"
        yield from ((text, result) for result in _correlations(one, given))


def _slips(one: Convolution, wanted: str) -> Iterator[Slip]:
    """The single slips, the likeliest first."""
    yield from _rotations(one, wanted)
    yield from _steps(one)
    yield from _groups(one, wanted)
    yield from _swaps(one, wanted)


# Rotations.


def _rotations(one: Convolution, wanted: str) -> Iterator[Slip]:
    rank = len(one.steps.stride)
    everywhere = tuple(range(2, rank + 2))
    runs = [everywhere, *((axis,) for axis in everywhere if rank > 1)]
    for axes in runs:
        if all(one.sizes["w"][axis] == 1 for axis in axes):
            continue
        along = "" if axes == everywhere else f" along axis {axes[0] - 2} of the window"

        def flip(array: np.ndarray, axes: Ints = axes) -> np.ndarray:
            return np.flip(array, axes)

        if wanted == "x":
            yield Slip(f"kernel not rotated{along}", "rotation", _changed("w", flip))
        elif wanted == "y":
            text = f"kernel rotated{along}, where plain correlation is due"
            yield Slip(text, "rotation", _changed("w", flip))
        else:
            text = f"kernel not rotated: its gradient comes out rotated by 180 degrees{along}"
            yield Slip(text, "rotation", after=flip)
            text = f"dy rotated{along}, where plain correlation with dy is due"
            yield Slip(text, "rotation", _changed(one.arrays[2], flip))


def _changed(name: str, change: Callable[[np.ndarray], np.ndarray]):
    """A slip in one operand."""

    def apply(arrays: Arrays, steps: Steps) -> tuple[Arrays, Steps]:
        return {**arrays, name: change(arrays[name])}, steps

    return apply


# Strides, dilations, padding.


def _steps(one: Convolution) -> Iterator[Slip]:
    ones = (1,) * len(one.steps.stride)
    if one.steps.stride != ones:
        yield _moved("stride not re-inserted", "stride", stride=ones)
    if one.steps.dilation != ones:
        yield _moved("dilation left out", "dilation", dilation=ones)
    shifts = sorted(itertools.product((0, -1, 1), repeat=len(ones)), key=_uneven)
    for shift in shifts[1:]:
        low = tuple(p + more for p, more in zip(one.steps.low, shift, strict=True))
        text = f"padding off by one: right for a low padding of {low}, not {one.steps.low}"
        # Pairs are tried of even shifts alone, lest there be hundreds.
        kind = "padding" if len(set(shift)) == 1 else ""
        yield _moved(text, kind, low=low)
    if any(one.steps.low):
        yield _moved("padding left out", "padding", low=(0,) * len(ones))


def _uneven(shift: Ints) -> tuple[int, int]:
    return len(set(shift)), sum(map(abs, shift))


def _moved(text: str, kind: str, **changes: Ints) -> Slip:
    return Slip(text, kind, lambda a, steps: (a, dataclasses.replace(steps, **changes)))


# Channels.


def _groups(one: Convolution, wanted: str) -> Iterator[Slip]:
    groups = one.steps.groups
    if groups == 1:
        return
    axes = {"x": 1, "w": 0, "y": 1}
    for name in (*(other for other in "wyx" if other != wanted), wanted):
        what = {"x": "the image's channels", "w": "the kernel's output channels"}.get(
            name, "the output's channels"
        )
        if name == one.arrays[2]:
            what = "the channels of dy"
        for how, index in regroupings(one.sizes[name][axes[name]], groups):

            def regroup(array: np.ndarray, index: np.ndarray = index, axis: int = axes[name]):
                return np.take(array, index, axis)

            if name == wanted:
                text = f"groups mixed: the channels of the gradient are {how}"
                yield Slip(text, "groups", after=regroup)
            else:
                yield Slip(f"groups mixed: {what} are {how}", "groups", _changed(name, regroup))
    if wanted == "x":
        text = "groups mixed: every group gets the gradients of all of them"
        yield Slip(text, "groups", after=lambda result: _summed(result, groups))


def _summed(result: np.ndarray, groups: int) -> np.ndarray:
    split = result.reshape(result.shape[0], groups, -1, *result.shape[2:])
    return np.broadcast_to(split.sum(axis=1, keepdims=True), split.shape).reshape(result.shape)


def _swaps(one: Convolution, wanted: str) -> Iterator[Slip]:
    """Kernels that are square in channels or in space look the same transposed."""
    shape = one.sizes["w"]
    for axes, what in (((0, 1), "channel"), ((2, 3), "spatial")):
        if len(shape) > axes[1] and shape[axes[0]] == shape[axes[1]] > 1:

            def swap(array: np.ndarray, axes: Ints = axes) -> np.ndarray:
                return np.swapaxes(array, *axes)

            text = f"axes transposed: the kernel's {what} axes are exchanged"
            if wanted == "w":
                yield Slip(text, "swap", after=swap)
            else:
                yield Slip(text, "swap", _changed("w", swap))


# A correlation with the kernel in place of a full convolution with the rotated one.


def _correlations(one: Convolution, given: Arrays) -> Iterator[np.ndarray]:
    """dy as an image and the kernel as it is: whole, or only where the kernel fits inside."""
    steps, w = one.steps, given["w"]
    groups, rank = steps.groups, len(steps.stride)
    split = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    turned = np.swapaxes(split, 1, 2).reshape(-1, split.shape[1], *w.shape[2:])
    sizes = {"x": one.sizes["y"], "w": turned.shape, "y": one.sizes["x"]}
    plain = dataclasses.replace(steps, stride=(1,) * rank, low=(0,) * rank)
    whole = project("y", {"x": given["y"], "w": turned}, sizes, plain)
    yield whole
    fitting = [
        m - d * (k - 1)
        for m, d, k in zip(one.sizes["y"][2:], steps.dilation, w.shape[2:], strict=True)
    ]
    if min(fitting) > 0:
        inside = whole[(..., *(slice(size) for size in fitting))]
        for centred in (False, True):
            pads = [
                ((n - size) // 2 if centred else 0, -(-(n - size) // 2) if centred else n - size)
                for n, size in zip(one.sizes["x"][2:], fitting, strict=True)
            ]
            if min(map(min, pads)) >= 0:
                yield np.pad(inside, [(0, 0), (0, 0), *pads])
