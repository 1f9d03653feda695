"""Slips that show in a wrong shape.

Along one axis: n elements in, a window of k taps `dilation` apart, m elements out. The gradient
with respect to the input has n elements, `(m - 1)*stride + dilation*(k - 1) + 1` before it is
cropped to them; a correlation of dy with the kernel has `m - dilation*(k - 1)`, and a dy whose
stride was not re-inserted gives `m + dilation*(k - 1)`.
"""

import itertools
from collections.abc import Iterator

from .function import Function, Leaf
from .traced import Convolution
from .trilinear import Ints

CORRELATION = "correlation where full convolution is due"


def shape_slip(
    function: Function, leaf: Leaf, got: Ints, convolutions: tuple[Convolution, ...]
) -> str:
    """What a gradient of shape `got` for `leaf` looks like; `""` if like nothing known."""
    if len(got) > len(leaf.shape):
        return _unsummed(leaf.shape, got)
    if len(got) != len(leaf.shape):
        return ""
    for one in convolutions:
        for text in _of_convolution(one, leaf.shape, got):
            return text
    if not convolutions and (text := _of_plain_correlation(function, leaf, got)):
        return text
    for other in function.arguments:
        if other.name != leaf.name and other.shape == got:
            return f"gradients in another order: this is the shape of {other.name}"
    if sorted(got) == sorted(leaf.shape):
        return "axes transposed"
    if all(abs(a - b) <= 2 for a, b in zip(got, leaf.shape, strict=True)):
        return "padding off by one"
    return ""


def _unsummed(want: Ints, got: Ints) -> str:
    """Whether axes are left that a bias, say, has to be summed over."""
    for axes in itertools.combinations(range(len(got)), len(want)):
        if tuple(got[axis] for axis in axes) == want:
            rest = [axis for axis in range(len(got)) if axis not in axes]
            return f"not summed over axes {', '.join(map(str, rest))}"
    return ""


def _of_plain_correlation(function: Function, leaf: Leaf, got: Ints) -> str:
    """A correlation that fn writes out itself: m = n - k + 1, so that m - k + 1 = 2m - n."""
    for output in function.outputs:
        if len(output.shape) == len(got):
            axes = list(zip(leaf.shape, output.shape, got, strict=True))
            if all(g in (n, 2 * m - n) for n, m, g in axes):
                return CORRELATION
    return ""


def _of_convolution(one: Convolution, want: Ints, got: Ints) -> Iterator[str]:
    """What the geometry of one of fn's convolutions says."""
    for name in one.arrays[:2]:
        order, rank = one.orders[name], len(one.steps.stride)
        if len(want) < rank + 2 and name == "w":
            continue
        # Images may have any number of batch axes: counted from the end they agree.
        axes = [axis - rank - 2 for axis in order]
        if any(-axis > len(want) for axis in axes[1:]):
            continue
        channels, *spatial = (axes[1], *axes[2:])
        wanted, found = (tuple(shape[a] for a in spatial) for shape in (want, got))
        if wanted != one.sizes[name][2:] or want[channels] != one.sizes[name][1]:
            continue
        groups = one.steps.groups
        if name == "w" and groups > 1 and got[channels] == groups * want[channels]:
            yield "groups mixed: the gradient has the input channels of all groups"
        if found != wanted:
            yield from _image(one, found) if name != "w" else _kernel(one, found)
    return


def _image(one: Convolution, got: Ints) -> Iterator[str]:
    """The gradient of an image: a full convolution of dy with the rotated kernel."""
    steps = one.steps
    inputs, window, outputs = (one.sizes[name][2:] for name in "xwy")
    axes = list(zip(inputs, window, outputs, steps.stride, steps.dilation, strict=True))
    reach = [d * (k - 1) for _, k, _, _, d in axes]
    if got == tuple(m - r for (_, _, m, _, _), r in zip(axes, reach, strict=True)):
        yield CORRELATION
    compact = tuple(m + r for (_, _, m, _, _), r in zip(axes, reach, strict=True))
    full = tuple((m - 1) * s + r + 1 for (_, _, m, s, _), r in zip(axes, reach, strict=True))
    cropped = [
        tuple(max(size - 2 * low, 0) for size, low in zip(sizes, steps.low, strict=True))
        for sizes in (compact, full)
    ]
    if max(steps.stride) > 1 and got in (compact, cropped[0]):
        yield "stride not re-inserted"
    if got == cropped[1]:
        yield "the last elements, which no window reads, are missing: their gradient is 0"
    off = [abs(g - n) for g, n in zip(got, inputs, strict=True)]
    if max(off) <= 2:
        yield "padding off by one"
    if got == full:
        yield "padding not cropped off again"
    if got == outputs:
        yield "it has the shape of dy"


def _kernel(one: Convolution, got: Ints) -> Iterator[str]:
    """The gradient of a kernel: the image correlated with dy, which the stride spreads out."""
    steps = one.steps
    inputs, window, outputs = (one.sizes[name][2:] for name in "xwy")
    axes = list(zip(inputs, outputs, steps.low, strict=True))
    compact = [tuple(n + pad * low - m + 1 for n, m, low in axes) for pad in (0, 2)]
    if max(steps.stride) > 1 and got in compact:
        yield "stride not re-inserted"
    if max(steps.dilation) > 1 and got == tuple(
        d * (k - 1) + 1 for d, k in zip(steps.dilation, window, strict=True)
    ):
        yield "dilation left out: only every tap's own element is wanted"
    if max(abs(g - k) for g, k in zip(got, window, strict=True)) <= 2:
        yield "padding off by one"
