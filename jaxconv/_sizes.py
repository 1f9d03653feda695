"""Sizes, receptive fields and costs of single operations: integers only, no arrays.

All that is known about convolutions and pools before a number is looked at. The rules themselves
are in `_geometry`, which the functions share with those that compute. Whole networks, for which
algorithms are chosen, too, are in `_summary`.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, SupportsIndex

from . import _check
from ._check import Pairs
from ._geometry import (
    Ints,
    conv_geometry,
    extents,
    pool_geometry,
    resolve_padding,
    transpose_geometry,
)
from ._layout import Layout
from ._types import Padding, PerAxis


def conv_output_shape(
    spatial: Sequence[SupportsIndex],
    window: Sequence[SupportsIndex],
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
) -> Ints:
    """Spatial sizes of `conv`'s output: `floor((n + low + high - d*(k-1) - 1) / s) + 1` per axis.

    Args:
        spatial: input sizes, one int per axis.
        window: kernel sizes, one int per axis, at least 1.
        stride, padding, dilation: as in `jaxconv.conv`.

    Returns:
        One int per axis.

    Raises:
        ValueError: a bad value, or a window larger than the padded input.
        TypeError: something that is no int.

    Source: notes, section 3.

    >>> conv_output_shape((8, 8), (3, 5), padding=(0, 1), stride=(3, 4))
    (2, 2)
    """
    return conv_geometry(*_parse(spatial, window, stride, padding, dilation), source="input").output


def conv_transpose_output_shape(
    spatial: Sequence[SupportsIndex],
    window: Sequence[SupportsIndex],
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    dilation: PerAxis = 1,
) -> Ints:
    """Spatial sizes of `conv_transpose`'s output.

    `(m - 1)*s - low - high + d*(k-1) + output_padding + 1` per axis, for `m` input elements;
    with `same` padding, `m*s` (plus `output_padding`).

    Args:
        spatial: sizes of the transposed convolution's input, one int per axis, at least 1.
        window, stride, padding, dilation: as in `jaxconv.conv_transpose`.
        output_padding: elements added at the high end, below `max(stride, dilation)`.

    Returns:
        One int per axis.

    Raises:
        ValueError: a bad value, or a padding larger than the output.
        TypeError: something that is no int.

    >>> conv_transpose_output_shape((4, 4), (3, 3), stride=2, padding=1, output_padding=1)
    (8, 8)
    """
    sizes, taps, steps, pairs, spread = _parse(spatial, window, stride, padding, dilation)
    extra = _check.per_axis("output_padding", output_padding, len(taps), 0)
    return transpose_geometry(sizes, taps, steps, pairs, extra, spread, source="spatial").spatial


def pool_output_shape(
    spatial: Sequence[SupportsIndex],
    window: Sequence[SupportsIndex],
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> Ints:
    """Spatial sizes of a pooling's output: `conv_output_shape`, rounded up in ceil mode.

    Args:
        spatial: input sizes, one int per axis.
        window: window sizes, one int per axis, at least 1.
        stride: as in `jaxconv.max_pool`; None means the window.
        padding, dilation: as in `jaxconv.max_pool`.
        ceil_mode: count a last window that reaches beyond the padding, if it starts before it.

    Returns:
        One int per axis.

    Raises:
        ValueError: a bad value, or a window that does not fit.
        TypeError: something that is no int.

    >>> pool_output_shape((4, 4), (2, 3), stride=(2, 3), padding=(0, 1))
    (2, 2)
    """
    stride = window if stride is None else stride
    parsed = _parse(spatial, window, stride, padding, dilation)
    return pool_geometry(*parsed, _check.flag("ceil_mode", ceil_mode))[0].output


def _parse(
    spatial: Any, window: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[Ints, Ints, Ints, str | Pairs, Ints]:
    taps = _check.sizes("window", window, 1)
    rank = len(taps)
    sizes = _check.sizes("spatial", spatial)
    if len(sizes) != rank:
        raise ValueError(f"spatial must have one size per axis of window {taps}; got {sizes}")
    return (
        sizes,
        taps,
        _check.per_axis("stride", stride, rank, 1),
        _check.padding("padding", padding, rank),
        _check.per_axis("dilation", dilation, rank, 1),
    )


class ReceptiveField(NamedTuple):
    """What one output of a stack of layers sees, one int per axis.

    Attributes:
        size: input elements spanned by one output.
        jump: input elements between neighbouring outputs.
        start: input position of the first element that output 0 sees (negative: in the padding).
    """

    size: Ints
    jump: Ints
    start: Ints


def receptive_field(layers: Iterable[Sequence[Any]]) -> ReceptiveField:
    """The receptive field of a stack of convolutions and poolings.

    From `size = jump = 1, start = 0`, each layer does `size += d*(k-1)*jump`,
    `start -= low*jump`, `jump *= s`, in this order.

    Args:
        layers: the layers, first one first, each `(window, stride, padding, dilation)` with the
            last three optional; windows are sequences, the rest as in `jaxconv.conv`.

    Returns:
        A `ReceptiveField`, sizes in input elements.

    Raises:
        ValueError: no layers, layers of different rank, a bad value, or `same` padding with a
            stride, whose low padding depends on the input's size.
        TypeError: something that is no int.

    Source: notes, section 6.

    >>> receptive_field([((2, 2), 1, 0, 1), ((2, 2), 1, 0, 1)])
    ReceptiveField(size=(3, 3), jump=(1, 1), start=(0, 0))
    """
    if not isinstance(layers, Iterable) or getattr(layers, "ndim", 1) == 0:
        raise TypeError(f"layers must be a sequence of layers; got {_check.describe(layers)}")
    parsed = [_parse_layer(number, layer) for number, layer in enumerate(layers)]
    ranks = sorted({len(window) for window, *_ in parsed})
    if len(ranks) != 1:
        raise ValueError(f"layers must be one or more of the same rank; got ranks {ranks}")
    field = element(ranks[0])
    for window, stride, pairs, dilation in parsed:
        field = through(field, extents(window, dilation), stride, tuple(low for low, _ in pairs))
    return field


def element(rank: int) -> ReceptiveField:
    """What one element of the input sees: itself."""
    return ReceptiveField((1,) * rank, (1,) * rank, (0,) * rank)


def through(field: ReceptiveField, extent: Ints, stride: Ints, low: Ints) -> ReceptiveField:
    """What an output sees of windows over something that sees `field`."""
    grown = (
        (size + (span - 1) * jump, jump * s, start - before * jump)
        for size, jump, start, span, s, before in zip(*field, extent, stride, low, strict=True)
    )
    return ReceptiveField(*zip(*grown, strict=True))


def apart(field: ReceptiveField, stride: Ints) -> ReceptiveField | None:
    """With elements moved `stride` apart, as a transposed convolution does; what comes between them
    sees nothing. None where a step would be a fraction of an element."""
    if any(jump % s for jump, s in zip(field.jump, stride, strict=True)):
        return None
    return field._replace(jump=tuple(j // s for j, s in zip(field.jump, stride, strict=True)))


def union(one: ReceptiveField | None, other: ReceptiveField | None) -> ReceptiveField | None:
    """What a sum sees. None, where one of the two sees all, or they move by different steps."""
    if one is None or other is None or one.jump != other.jump:
        return None
    start = tuple(map(min, one.start, other.start))
    stops = (
        max(a + m, b + n)
        for a, m, b, n in zip(one.start, one.size, other.start, other.size, strict=True)
    )
    return ReceptiveField(
        tuple(stop - first for stop, first in zip(stops, start, strict=True)), one.jump, start
    )


def _parse_layer(number: int, layer: Any) -> tuple[Ints, Ints, Pairs, Ints]:
    name = f"layers[{number}]"
    needed = "(window, stride, padding, dilation), the last three optional"
    fields = _check.sequence(name, layer, needed)
    if not 1 <= len(fields) <= 4:
        raise ValueError(f"{name} must be {needed}; got {_check.show(layer)}")
    window = _check.sizes(f"{name} window", fields[0], 1)
    rank = len(window)
    stride, padding, dilation = (*fields[1:], *(1, 0, 1)[len(fields) - 1 :])
    steps = _check.per_axis(f"{name} stride", stride, rank, 1)
    spread = _check.per_axis(f"{name} dilation", dilation, rank, 1)
    pairs = _check.padding(f"{name} padding", padding, rank)
    if isinstance(pairs, str):
        if pairs.startswith("same") and max(steps) > 1:
            raise ValueError(
                f"{name} padding {pairs!r} with stride {steps} depends on the input's size; "
                f"give it as (low, high) pairs"
            )
        # Without a stride the named paddings do not depend on n: any size will do.
        pairs = resolve_padding(pairs, window, window, steps, spread)
    return window, steps, pairs, spread


class ConvCost(NamedTuple):
    """What a convolution costs.

    Attributes:
        parameters: entries of the kernel (a bias adds `c_o`, one per pair of channels adds
            `c_o * c_i / groups`).
        multiply_adds: multiplications, each with its addition, padding counted as data.
        bytes: input, kernel and output, each moved once.
    """

    parameters: int
    multiply_adds: int
    bytes: int


def conv_cost(
    x_shape: Sequence[SupportsIndex],
    kernel_shape: Sequence[SupportsIndex],
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: SupportsIndex = 1,
    layout: str | None = None,
    itemsize: SupportsIndex = 4,
) -> ConvCost:
    """Parameters, multiply-adds and bytes of `conv` on arrays of these shapes.

    `multiply_adds = batch * c_o * prod(output) * (c_i / groups) * prod(window)`.

    Args:
        x_shape: shape of `x`, `(*batch, c_i, *spatial)` or `(*batch, *spatial, c_i)`.
        kernel_shape: shape of the kernel, in the layout's order.
        stride, padding, dilation, groups, layout: as in `jaxconv.conv`.
        itemsize: bytes of one element (4: float32).

    Returns:
        A `ConvCost` of plain ints.

    Raises:
        ValueError: shapes that do not fit each other, or a bad value.
        TypeError: something that is no int.

    Source: notes, section 4.

    >>> conv_cost((100, 64, 64), (100, 100, 5, 5), padding=2).multiply_adds
    1024000000
    """
    x_sizes = _shape("x_shape", x_shape)
    kernel_sizes = _shape("kernel_shape", kernel_shape)
    order = Layout.parse(layout, len(kernel_sizes) - 2, "kernel_shape", kernel_sizes)
    blocks = _check.integer("groups", groups, 1)
    names = ("x_shape", "kernel_shape")
    _, c_o, spatial, window = order.match(x_sizes, kernel_sizes, blocks, names)
    order.check_window("kernel_shape", kernel_sizes)
    parsed = _parse(spatial, window, stride, padding, dilation)
    geometry = conv_geometry(
        *parsed, blocks, source="x_shape", window_source="kernel_shape's window"
    )
    batch = math.prod(order.batch(x_sizes))
    parameters = math.prod(kernel_sizes)
    outputs = batch * math.prod(geometry.output)
    elements = math.prod(x_sizes) + parameters + outputs * c_o
    multiply_adds = outputs * parameters
    return ConvCost(parameters, multiply_adds, elements * _check.integer("itemsize", itemsize, 1))


def _shape(name: str, value: Any) -> Ints:
    items = _check.sequence(name, value, "a sequence of ints")
    return tuple(_check.integer(f"{name}[{axis}]", item, 0) for axis, item in enumerate(items))
