"""What all slips share: the case that is looked at, and when two gradients are the same."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from .function import Function, Leaf
from .traced import Traced

#: A slip fits if it explains all but this part of the gradient.
FIT = 1e-6


@dataclasses.dataclass(frozen=True)
class Case:
    """A wrong gradient and all that is known about the right one.

    Attributes:
        function: the map.
        leaf: the argument's leaf whose gradient is wrong.
        u: the cotangent that it was computed for.
        got, true: the wrong and the true gradient of the leaf, flat.
        whole: the true gradient of all arguments, flat; zero outside of the leaf if not known.
        gradient: the true gradient as a function of arguments and cotangent, or None.
        traced: the function from inside, or None.
    """

    function: Function
    leaf: Leaf
    u: np.ndarray
    got: np.ndarray
    true: np.ndarray
    whole: np.ndarray
    gradient: Callable[[np.ndarray, np.ndarray], np.ndarray] | None
    traced: Traced | None

    def explained_by(self, values: np.ndarray) -> bool:
        """Whether a slip's result is what came, and is not just the true gradient again."""
        values = values.ravel()
        return same(self.got, values) and not same(self.true, values)


def same(a: np.ndarray, b: np.ndarray, tolerance: float = FIT) -> bool:
    """Equal up to a part of the largest entry of either."""
    if a.shape != b.shape:
        return False
    size = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    return bool(np.abs(a - b).max(initial=0) <= tolerance * size)


def spans(rank: int) -> Iterator[tuple[int, int]]:
    """Runs of neighbouring axes, as `(first, end)`, the longest last."""
    for width in range(1, rank + 1):
        for first in range(rank - width + 1):
            yield first, first + width


def regroupings(channels: int, groups: int) -> Iterator[tuple[str, np.ndarray]]:
    """Ways to get the blocks of channels wrong: what is done, and which channel is read where."""
    width = channels // groups
    index = np.arange(channels)
    if width > 1:
        yield "interleaved", index.reshape(groups, width).T.ravel()
        yield "interleaved", index.reshape(width, groups).T.ravel()
    for block in range(1, groups):
        yield f"moved on by {block} group(s)", np.roll(index, -block * width)
    if groups > 2:
        yield "in opposite order", index.reshape(groups, width)[::-1].ravel()
    yield "all taken from the first group", np.tile(index[:width], groups)
