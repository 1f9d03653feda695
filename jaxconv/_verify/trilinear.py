"""A convolution's three projections in NumPy, for any geometry, also a mistaken one.

    T(x, w, y) = sum over n, o, g, i, s, a of x[n, (g, i), s*stride + a*dilation - low]
                                            * w[(g, o), i, a] * y[n, (g, o), s]

Leaving out one array gives the gradient with respect to it. Sizes need not fit each other: what
would be read outside of an array is 0, which is what a derivation with a slip in it does too.
Arrays are channels first with one batch axis. Nothing is compiled, so that many slips can be tried.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

Ints = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Steps:
    """How windows move: one int per spatial axis, and the number of groups.

    Attributes:
        stride, dilation, low: as in `Geometry`, `low` being the padding before the first element.
        groups: blocks of channels.
    """

    stride: Ints
    dilation: Ints
    low: Ints
    groups: int = 1


def _overlaps(sizes: tuple[Ints, Ints, Ints], steps: Steps) -> Iterator[tuple[Ints, Ints, Ints]]:
    """For each tap: its index, and the slices of x and of y that meet under it."""
    spatial, window, output = sizes
    for taps in itertools.product(*(range(k) for k in window)):
        reads, outputs = [], []
        for axis, a in enumerate(taps):
            s, offset = steps.stride[axis], a * steps.dilation[axis] - steps.low[axis]
            first = max(0, -(offset // s))  # the least i with i*s + offset >= 0
            last = min(output[axis] - 1, (spatial[axis] - 1 - offset) // s)
            count = max(last - first + 1, 0)
            begin = first * s + offset if count else 0
            reads.append(slice(begin, begin + (count - 1) * s + 1 if count else 0, s))
            outputs.append(slice(first if count else 0, last + 1 if count else 0))
        yield taps, tuple(reads), tuple(outputs)


def project(
    result: str, arrays: dict[str, np.ndarray], sizes: dict[str, Ints], steps: Steps
) -> np.ndarray:
    """The projection onto `result`.

    Args:
        result: `"x"`, `"w"` or `"y"`.
        arrays: the two others.
        sizes: the full shapes of all three.
        steps: how windows move.
    """
    blocks = {name: _grouped(name, sizes[name], steps.groups) for name in "xwy"}
    whole = {name: array.reshape(blocks[name]) for name, array in arrays.items()}
    whole[result] = np.zeros(blocks[result])
    axes = "pqr"[: len(sizes["w"]) - 2]
    specs = {"x": f"ngi{axes}", "w": "goi", "y": f"ngo{axes}"}
    first, second = (name for name in "xwy" if name != result)
    spec = f"{specs[first]},{specs[second]}->{specs[result]}"
    spatial = (sizes["x"][2:], sizes["w"][2:], sizes["y"][2:])
    for tap, reads, outputs in _overlaps(spatial, steps):
        met = {"x": reads, "w": tap, "y": outputs}
        at = {name: (slice(None),) * 3 + index for name, index in met.items()}
        whole[result][at[result]] += np.einsum(
            spec, whole[first][at[first]], whole[second][at[second]]
        )
    return whole[result].reshape(sizes[result])


def _grouped(name: str, shape: Ints, groups: int) -> Ints:
    """The shape with the grouped axis split: (n, g, c, ...) for images, (g, o, i, ...) for w."""
    if name == "w":
        return (groups, shape[0] // groups, *shape[1:])
    return (shape[0], groups, shape[1] // groups, *shape[2:])
