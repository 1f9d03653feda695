"""`phases`: a strided problem as one of stride 1, on the residues of x modulo the stride.

Position `Q*s + r - low` of x meets tap `j*s + r` of w alone, so with residues as channels, x' of
`c_i * s` channels and w' of `ceil(k/s)` taps (zeros where there is no tap),

    conv(x, w, stride=s)    =  conv(x', w')                     space to depth
    input_grad(y, w)        =  depth to space of input_grad(y, w')
    kernel_grad(x, y)       =  the same of kernel_grad(x', y)

Where channels are many the input gradient is taken residue by residue, each with the taps that it
has. XLA:CPU's convolution with a dilated input, the usual form of that gradient, multiplies mostly
zeros, in 3-D one element after the other.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from .._form import Problem, Shape
from .._geometry import Geometry
from ._algorithm import Algorithm
from ._frame import Frame, blocks, framed, quotients, solve

#: Most input channels, in all or of each of several groups, for which residues become channels of
#: an input gradient in spite of taps that are zero.
FEW_CHANNELS, FEW_OF_GROUP = 24, 12
#: Of so many channels that are summed, channels first and last, products weigh more: the most input
#: channels then.
MANY_SUMMED, FEW_OF_MANY = (192, 128), 12
#: Input channels, at most, of windows that become 3x3 as tiles of more channels; and more than so
#: many that are summed, and positions at least.
FEW_IN_TILES, LEAST_IN_TILES, LEAST_TILED = 64, 32, 196
#: Where no tap is zero: so many times as many positions in all residues as there are, at most, for
#: them to be channels; of fewer input channels or products they always are.
MOST_SURPLUS, MANY_OF_EVEN, LEAST_OF_EVEN = 1.1, 64, 5e7
#: Most residues that are computed one after the other: compile time grows with them.
MOST_RESIDUES = 16


def output(problem: Problem, x: Array, w: Array) -> Array:
    """conv(x, w, stride=s) = conv(x', w')."""
    x, w = _image_to_depth(problem, x), _kernel_to_depth(problem, w)
    return solve(problem, "output", _deep(problem.form.geometry), x, w)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """x' = input_grad(y, w'), and depth to space."""
    geometry = problem.form.geometry
    if _is_one_by_one(problem):
        return _by_residues(problem, y, w)
    leads = _leads(geometry)
    w = _kernel_to_depth(problem, w, leads)
    deep = _deep(geometry)
    starts, counts = zip(*(quotients(geometry, *pair) for pair in enumerate(leads)), strict=True)
    ends = zip(deep.spatial, starts, counts, strict=True)
    padding = tuple((start, read - start - count) for read, start, count in ends)
    deep = dataclasses.replace(deep, spatial=counts, padding=padding)
    return _image_to_space(problem, solve(problem, "input_grad", deep, y, w), leads)


def kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """w' = kernel_grad(x', y), and depth to space."""
    x = _image_to_depth(problem, x)
    return _kernel_to_space(
        problem, solve(problem, "kernel_grad", _deep(problem.form.geometry), x, y)
    )


def refuses(problem: Problem) -> str | None:
    """It is written for strides, without groups, and without dilation on a strided axis."""
    geometry = problem.form.geometry
    if geometry.groups > 1 and problem.projection != "input_grad":
        return f"it has no {problem.projection} of groups"
    if geometry.stride == (1,) * geometry.rank:
        return "no axis has a stride"
    if any(s > 1 and d > 1 for s, d in zip(geometry.stride, geometry.dilation, strict=True)):
        return "an axis has both stride and dilation"
    return None


ALGORITHM = Algorithm(
    "phases", {"output": output, "input_grad": input_grad, "kernel_grad": kernel_grad}, refuses
)


def _is_one_by_one(problem: Problem) -> bool:
    """Whether residues are computed one after the other, each with the taps that it has and at the
    positions that x has: where they would be multiplied by zeros else, or thrown away."""
    geometry = problem.form.geometry
    _, inputs, outputs = blocks(problem.form, problem.shapes, "input_grad")
    if math.prod(geometry.stride) > MOST_RESIDUES:
        return False
    if all(k % s == 0 for k, s in zip(geometry.window, geometry.stride, strict=True)):
        counts = (quotients(geometry, *pair)[1] for pair in enumerate(_leads(geometry)))
        held = math.prod(counts) * math.prod(geometry.stride)
        surplus = held / math.prod(geometry.spatial)
        products = math.prod((problem.shapes[0][0], inputs, outputs, *geometry.output))
        products *= math.prod(geometry.window)
        return surplus > MOST_SURPLUS and inputs >= MANY_OF_EVEN and products >= LEAST_OF_EVEN
    if geometry.groups > 1:
        return inputs > FEW_OF_GROUP
    some = inputs <= FEW_IN_TILES and outputs > LEAST_IN_TILES
    if _taps(geometry) == (3, 3) and some and math.prod(geometry.output) >= LEAST_TILED:
        return False  # Winograd's tiles take them.
    many = MANY_SUMMED[problem.form.layout.channels_last]
    return inputs > (FEW_OF_MANY if outputs >= many else FEW_CHANNELS)


def deepened(problem: Problem) -> Problem:
    """The problem of stride 1 that an output or a kernel gradient becomes."""
    form, volume = problem.form, math.prod(problem.form.geometry.stride)
    layout, geometry, (x, other) = form.layout, _deep(form.geometry), problem.shapes
    image = layout.image((x[0],), layout.channels(x) * volume, geometry.spatial)
    if problem.projection == "output":
        c_o, c_i, _ = layout.split_kernel(other)
        other = layout.kernel(c_o, c_i * volume, geometry.window)
    form = dataclasses.replace(form, geometry=geometry, algorithm="auto")
    return dataclasses.replace(problem, form=form, shapes=(image, other))


def _taps(geometry: Geometry) -> tuple[int, ...]:
    """Taps of w' on each axis: ceil(k / s)."""
    return tuple(-(-k // s) for k, s in zip(geometry.window, geometry.stride, strict=True))


def _deep(geometry: Geometry) -> Geometry:
    """The geometry of x' and w'."""
    taps = _taps(geometry)
    reach = ((k - 1) * d for k, d in zip(taps, geometry.dilation, strict=True))
    spatial = tuple(m + r for m, r in zip(geometry.output, reach, strict=True))
    ones, none = (1,) * geometry.rank, ((0, 0),) * geometry.rank
    return Geometry(spatial, taps, ones, none, geometry.dilation, geometry.groups)


def _image_frames(geometry: Geometry, first: int) -> list[Frame]:
    """The part of x that is in x'."""
    sizes = zip(geometry.padding, _deep(geometry).spatial, geometry.stride, strict=True)
    return [Frame(first + axis, -low, n * s) for axis, ((low, _), n, s) in enumerate(sizes)]


def _image_to_depth(problem: Problem, x: Array) -> Array:
    first = problem.form.layout.first_spatial(x.ndim)
    x = framed(x, _image_frames(problem.form.geometry, first))
    return _to_depth(problem, x, first)


def _leads(geometry: Geometry) -> list[int]:
    """Zeros in front of the taps of each axis with which x begins with a block of residues, so that
    none are thrown away; none where w' would have more taps."""
    leads = []
    for k, s, (low, _) in zip(geometry.window, geometry.stride, geometry.padding, strict=True):
        lead = -low % s
        leads.append(lead if -(-(k + lead) // s) == -(-k // s) else 0)
    return leads


def _image_to_space(problem: Problem, x: Array, leads: Sequence[int]) -> Array:
    geometry, groups = problem.form.geometry, problem.form.geometry.groups
    first = problem.form.layout.first_spatial(x.ndim)
    blocks = x.shape[first : first + geometry.rank]
    if problem.form.layout.channels_last and groups > 1:  # Residues are within each group.
        by_group = x.reshape(*x.shape[:-1], groups, math.prod(geometry.stride), -1)
        x = jnp.swapaxes(by_group, -2, -3).reshape(x.shape)
    pads = zip(geometry.padding, leads, geometry.stride, strict=True)
    begins = ((low + lead) % s for (low, _), lead, s in pads)
    sizes = zip(begins, geometry.spatial, strict=True)
    own = [Frame(first + axis, *frame) for axis, frame in enumerate(sizes)]
    return framed(_to_space(problem, x, first, blocks), own)


def _kernel_to_depth(problem: Problem, w: Array, leads: Sequence[int] | None = None) -> Array:
    geometry, first = problem.form.geometry, _first_tap(problem)
    sizes = zip(leads or (0,) * geometry.rank, _taps(geometry), geometry.stride, strict=True)
    frames = [Frame(first + axis, -lead, k * s) for axis, (lead, k, s) in enumerate(sizes)]
    return _to_depth(problem, framed(w, frames), first)


def _kernel_to_space(problem: Problem, w: Array) -> Array:
    geometry, first = problem.form.geometry, _first_tap(problem)
    w = _to_space(problem, w, first, _taps(geometry))
    return framed(w, [Frame(first + axis, 0, k) for axis, k in enumerate(geometry.window)])


def _first_tap(problem: Problem) -> int:
    """The first axis of a kernel's window."""
    return 0 if problem.form.layout.channels_last else 2


def _order(problem: Problem, first: int, axes: int) -> list[int]:
    """How the axes of split space, blocks and residues by turns, are ordered as depth: residues
    before the input channels where these come last, behind them where they come first."""
    rank = problem.form.geometry.rank
    lead, rest = range(first), range(first + 2 * rank, axes)
    blocks = range(first, first + 2 * rank, 2)
    residues = [at + 1 for at in blocks]
    if problem.form.layout.channels_last:
        return [*lead, *blocks, *residues, *rest]
    return [*lead, *residues, *blocks, *rest]


def _to_depth(problem: Problem, array: Array, first: int) -> Array:
    """Axes of `blocks * s` elements become axes of blocks, and s times as many channels."""
    stride = problem.form.geometry.stride
    rank, volume = len(stride), math.prod(stride)
    spatial = array.shape[first : first + rank]
    split = [size for n, s in zip(spatial, stride, strict=True) for size in (n // s, s)]
    array = array.reshape(*array.shape[:first], *split, *array.shape[first + rank :])
    array = array.transpose(_order(problem, first, array.ndim))
    blocks = tuple(n // s for n, s in zip(spatial, stride, strict=True))
    return array.reshape(_deep_shape(problem, array.shape, first, blocks, volume))


def _deep_shape(
    problem: Problem, ordered: Shape, first: int, blocks: Sequence[int], volume: int
) -> Shape:
    """The shape with residues merged into the input channels, from that of the ordered axes."""
    rank = len(blocks)
    if problem.form.layout.channels_last:
        channels, *rest = ordered[first + 2 * rank :]
        return (*ordered[:first], *blocks, volume * channels, *rest)
    *lead, channels = ordered[:first]
    return (*lead, channels * volume, *blocks, *ordered[first + 2 * rank :])


def _to_space(problem: Problem, array: Array, first: int, blocks: Sequence[int]) -> Array:
    """The inverse of `_to_depth`."""
    stride = problem.form.geometry.stride
    rank, volume = len(stride), math.prod(stride)
    if problem.form.layout.channels_last:
        channels, *rest = array.shape[first + rank :]
        shape = (*array.shape[:first], *blocks, *stride, channels // volume, *rest)
    else:
        *lead, channels = array.shape[:first]
        shape = (*lead, channels // volume, *stride, *blocks, *array.shape[first + rank :])
    array = array.reshape(shape)
    order = _order(problem, first, array.ndim)
    array = array.transpose([order.index(at) for at in range(array.ndim)])
    merged = (n * s for n, s in zip(blocks, stride, strict=True))
    return array.reshape(*array.shape[:first], *merged, *array.shape[first + 2 * rank :])


def _by_residues(problem: Problem, y: Array, w: Array) -> Array:
    """`x[Q*s + r - low] = sum_j y[Q - j] w[j*s + r]` for one residue after the other, interleaved.

    The positions `t = p + i*s` of one `p` are those of `r = (p + low) mod s`. The first of them has
    `Q = (p + low) // s`, which is what the stride-1 gradient has for low padding.
    """
    geometry, window = problem.form.geometry, _first_tap(problem)
    first, rank = problem.form.layout.first_spatial(y.ndim), geometry.rank
    counts = tuple(-(-n // s) for n, s in zip(geometry.spatial, geometry.stride, strict=True))

    def residue(at: Sequence[int]) -> Array:
        strides = [slice(None)] * w.ndim
        starts = []
        pads = zip(at, geometry.padding, geometry.stride, strict=True)
        for axis, (p, (low, _), s) in enumerate(pads):
            start, r = divmod(p + low, s)
            starts.append(start)
            strides[window + axis] = slice(r, None, s)
        part = w[tuple(strides)]
        taps = part.shape[window : window + rank]
        reach = [(k - 1) * d for k, d in zip(taps, geometry.dilation, strict=True)]
        ends = zip(geometry.output, counts, starts, reach, strict=True)
        padding = tuple((start, m - n - start + e) for m, n, start, e in ends)
        plain = Geometry(counts, taps, (1,) * rank, padding, geometry.dilation, geometry.groups)
        return solve(problem, "input_grad", plain, y, part)

    def interleaved(at: tuple[int, ...]) -> Array:
        if len(at) == rank:
            return residue(at)
        axis, s = first + len(at), geometry.stride[len(at)]
        x = jnp.stack([interleaved((*at, p)) for p in range(s)], axis + 1)
        return lax.collapse(x, axis, axis + 2)

    own = [Frame(first + axis, 0, size) for axis, size in enumerate(geometry.spatial)]
    return framed(interleaved(()), own)
