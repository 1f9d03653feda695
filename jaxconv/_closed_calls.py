"""Calls of the closed forms read and checked, for `gradients` and `_closed_forms`.

A gradient takes the shape of what it is the gradient of, and an error of the shape that the forward
function gives. Here stand those shapes and the options; nothing here is computed with arrays.
"""

from typing import Any, NamedTuple

from jax.export import is_symbolic_dim

from . import _arrays, _check, _pad
from ._algorithms import algorithms
from ._check import Pairs
from ._conv import Numerics, parse_numerics
from ._geometry import Geometry, Ints, conv_geometry
from ._layout import Layout


class Options(NamedTuple):
    """The options of `conv` that say what is summed, in hashable values."""

    stride: Ints
    padding: str | Pairs
    dilation: Ints
    groups: int
    mode: str
    layout: Layout


def options(
    name: str, kernel_shape: Any, stride: Any, padding: Any, dilation: Any, groups: Any, mode: Any,
    layout: Any,
) -> Options:  # fmt: skip
    """The options checked, for the rank that `name`, a kernel or its shape, has."""
    order = Layout.parse(layout, len(kernel_shape) - 2, name, kernel_shape)
    return Options(
        _check.per_axis("stride", stride, order.rank, 1),
        _check.padding("padding", padding, order.rank),
        _check.per_axis("dilation", dilation, order.rank, 1),
        _check.integer("groups", groups, 1),
        _check.choice("padding_mode", mode, tuple(_pad.MODES)),
        order,
    )


def numerics(precision: Any, preferred: Any, algorithm: Any) -> Numerics:
    """The options of `conv` that say how it is summed, in hashable values."""
    parsed = parse_numerics(precision, preferred, algorithm)
    _check.choice("algorithm", algorithm, ("auto", *algorithms()))
    return parsed


def shape(name: str, value: Any) -> tuple[Any, ...]:
    """A shape as a tuple of ints, 0 or more; sizes may be symbolic (`jax.export`)."""
    needed = "a shape, a sequence of ints"
    axes = getattr(value, "ndim", 1)
    if isinstance(axes, int) and axes > 1:  # the array whose shape is wanted, given in its place
        raise TypeError(f"{name} must be {needed}; got {_check.describe(value)}")
    items = _check.sequence(name, value, needed)
    return tuple(
        item if is_symbolic_dim(item) else _check.integer(f"{name}[{axis}]", item, 0)
        for axis, item in enumerate(items)
    )


def conv_call(
    x_shape: Any, kernel_shape: Any, dy_shape: Any, names: tuple[str, str], options: Options
) -> Geometry:
    """The geometry of the forward call, all of its shapes seen to fit each other.

    Raises:
        ValueError: naming x and the kernel by `names`, as the caller wrote them.
    """
    x_name, kernel_name = names
    stride, padding, dilation, groups, mode, layout = options
    c_i, c_o, spatial, window = layout.match(x_shape, kernel_shape, groups, names)
    _arrays.static_shape(x_name, x_shape, spatial)
    _arrays.static_shape(kernel_name, kernel_shape, window)
    layout.check_window(kernel_name, kernel_shape)
    source = {"source": x_name, "window_source": f"{kernel_name}'s window"}
    geometry = conv_geometry(spatial, window, stride, padding, dilation, groups, **source)
    _arrays.paddable(geometry.padding)
    _pad.check(mode, spatial, geometry.padding)
    batch = layout.batch(x_shape)
    needed = layout.image(batch, c_o, geometry.output)
    check_error(dy_shape, needed, f"{x_name} {x_shape} and {kernel_name} {kernel_shape}")
    _arrays.computable(x_name, x_shape)
    _arrays.computable(kernel_name, kernel_shape)
    _arrays.computable("padding", layout.image(batch, c_i, geometry.padded))
    return geometry


def check_error(dy_shape: Any, needed: Any, of: str) -> None:
    """The error has one number for each that the forward function gives."""
    if dy_shape != needed:
        raise ValueError(f"dy must have the output's shape {needed} for {of}; got {dy_shape}")
