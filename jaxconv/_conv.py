"""The doors `conv` and `conv_transpose`: checks and geometry, then one projection of the form.

Each call is read into hashable values, looked up or checked once per combination of shapes and
options, and answered by a jitted program. Arithmetic beyond a bias is in `_algorithms`.
"""

import functools
import math
from typing import Any, NamedTuple, SupportsIndex

import jax
import numpy as np
from jax import Array
from jaxtyping import Num

from . import _arrays, _check, _mesh, _pad
from ._arrays import ArrayIn, DTypeLike, PrecisionLike
from ._choice import check_asked
from ._form import Form, Problem
from ._geometry import Geometry, conv_geometry, transpose_geometry
from ._layout import Layout
from ._primitives import bind, default_platform, input_grad_p, output_p
from ._types import Padding, PerAxis

#: Programs kept for calls seen before; each is one combination of shapes and options.
CACHED_CALLS = 4096


def conv(
    x: Num[ArrayIn, "..."],
    kernel: Num[ArrayIn, "..."],
    bias: Num[ArrayIn, "..."] | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: SupportsIndex = 1,
    padding_mode: str = "zeros",
    layout: str | None = None,
    precision: PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    algorithm: str = "auto",
) -> Num[Array, "..."]:
    """The convolutional layer's operation: cross-correlation of images with a kernel.

    `y[n, p, i] = bias[p] + sum_{c, a} x[n, c, i*stride + a*dilation - low] * kernel[p, c, a]`
    with `i` and `a` over 1, 2 or 3 spatial axes, x zero outside of its bounds, and c over the
    channels of p's group.

    Args:
        x: images, `(*batch, c_i, *spatial)`, or `(*batch, *spatial, c_i)` channels last. Any number
            of batch axes, also none.
        kernel: `(c_o, c_i // groups, *window)`, or `(*window, c_i // groups, c_o)` channels last.
            Its rank sets the number of spatial axes.
        bias: `(c_o,)`, or `(c_o, c_i // groups)`: one for each pair of channels, summed over the
            input channels.
        stride: elements from one window to the next; an int, or one per axis.
        padding: elements added to x before and after each axis: an int, one int per axis, one
            `(low, high)` pair per axis, or `"valid"`, `"same"` (output `ceil(n / stride)`, the odd
            one at the high end), `"same_lower"` (at the low end), `"full"` (`dilation*(k-1)` on
            both sides), `"causal"` (on the low side). Negative padding crops.
        dilation: elements from one tap of a window to the next; an int, or one per axis.
        groups: blocks that the channels are split into; block g of the outputs sees block g of the
            inputs. `groups = c_i` is a depthwise convolution.
        padding_mode: what is added: `"zeros"`, `"reflect"` (padding < n), `"replicate"` or
            `"circular"` (padding <= n), as in torch. Negative padding crops in every mode.
        layout: `"NCW"`, `"NCHW"`, `"NCDHW"` (channels first, what None means), or `"NWC"`,
            `"NHWC"`, `"NDHWC"`.
        precision: as in `jax.lax.conv_general_dilated`.
        preferred_element_type: dtype of the output, no narrower than the inputs.
        algorithm: `"auto"`, or one of `jaxconv.algorithms()`.

    Returns:
        `(*batch, c_o, *output)` or `(*batch, *output, c_o)`, sizes as in
        `jaxconv.geometry.conv_output_shape`. The dtype is that of the inputs, promoted as
        `jax.numpy` does, or `preferred_element_type`. float16 and bfloat16 are summed in float32,
        the bias included, and rounded once; integers are exact and wrap on overflow.

    Raises:
        ValueError: shapes that do not fit each other, a window larger than the padded input, a bad
            value. The message names the argument.
        TypeError: an argument of the wrong type or dtype (bool, float8 and 4-bit integers are).

    Source: notes, sections 1 to 4; `torch.nn.functional.conv2d`. Empty axes are taken, and a sum
    over nothing is 0; torch refuses most of them, and without input channels it returns no output
    channels.

    >>> import jax.numpy as jnp
    >>> conv(jnp.ones((8, 3, 28, 28)), jnp.ones((16, 3, 5, 5)), stride=2, padding="same").shape
    (8, 16, 14, 14)
    """
    x, kernel = _arrays.array("x", x), _arrays.array("kernel", kernel)
    bias = None if bias is None else _arrays.array("bias", bias)
    run = _conv_program(
        x.shape,
        kernel.shape,
        None if bias is None else bias.shape,
        _check.choice("padding_mode", padding_mode, tuple(_pad.MODES)),
        *_options(kernel, stride, padding, dilation, groups, layout),
        parse_numerics(precision, preferred_element_type, algorithm),
    )
    return run(x, kernel, bias)


def conv_transpose(
    y: Num[ArrayIn, "..."],
    kernel: Num[ArrayIn, "..."],
    bias: Num[ArrayIn, "..."] | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    dilation: PerAxis = 1,
    groups: SupportsIndex = 1,
    layout: str | None = None,
    precision: PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    algorithm: str = "auto",
) -> Num[Array, "..."]:
    """The adjoint of `conv` with the same kernel and arguments: `<conv(x, w), y> = <x, this>`.

    `x[n, c, t] = bias[c] + sum y[n, p, i] * kernel[p, c, a]` over all p of the group and all i, a
    with `i*stride + a*dilation - low = t`: each element of y lays down a copy of the kernel,
    `stride` apart, `low` and `high` cropped.

    Args:
        y: images with the channels that `conv` gives, `(*batch, c_o, *spatial)`, or
            `(*batch, *spatial, c_o)` channels last. No spatial axis may be empty.
        kernel: `conv`'s kernel, `(c_o, c_i // groups, *window)` (torch's order), or
            `(*window, c_i // groups, c_o)` channels last. The result has c_i channels.
        bias: `(c_i,)`, one for each channel of the result.
        stride, dilation, groups, layout, precision, preferred_element_type, algorithm: as in
            `conv`.
        padding: `conv`'s padding, which the adjoint crops, given as there. `"same"` gives
            `n * stride` elements (zeros at the end where the stride exceeds the window); other
            names are the adjoints of those paddings. Negative padding adds zeros.
        output_padding: elements added at the high end, an int or one per axis, smaller than
            `max(stride, dilation)`. It tells which of the inputs that `conv` takes to the same size
            is meant.

    Returns:
        `(*batch, c_i, *output)` or `(*batch, *output, c_i)`, with per axis `(n-1)*stride - low -
        high + dilation*(k-1) + output_padding + 1` elements. dtype as in `conv`. Where torch
        refuses an output of size 0, it is returned. Empty batches and channels are taken as in
        `conv`.

    Raises:
        ValueError: shapes that do not fit each other, padding larger than the output, a bad value.
        TypeError: an argument of the wrong type or dtype.

    Source: notes, section 7 (dX as a full convolution); `torch.nn.functional.conv_transpose2d`.

    >>> import jax.numpy as jnp
    >>> conv_transpose(jnp.ones((16, 14, 14)), jnp.ones((16, 3, 4, 4)), stride=2, padding=1).shape
    (3, 28, 28)
    """
    y, kernel = _arrays.array("y", y), _arrays.array("kernel", kernel)
    bias = None if bias is None else _arrays.array("bias", bias)
    options = _options(kernel, stride, padding, dilation, groups, layout)
    run = _conv_transpose_program(
        y.shape,
        kernel.shape,
        None if bias is None else bias.shape,
        _check.per_axis("output_padding", output_padding, kernel.ndim - 2, 0),
        *options,
        parse_numerics(precision, preferred_element_type, algorithm),
    )
    return run(y, kernel, bias)


class Numerics(NamedTuple):
    """How a call computes, in hashable values."""

    precision: Any
    preferred: np.dtype | None
    algorithm: str


def parse_numerics(precision: Any, preferred: Any, algorithm: Any) -> Numerics:
    if preferred is not None:
        preferred = _arrays.dtype("preferred_element_type", preferred)
    if not isinstance(algorithm, str):
        raise TypeError(f"algorithm must be a string; got {_check.describe(algorithm)}")
    return Numerics(_arrays.precision(precision), preferred, algorithm)


def _options(kernel: Any, stride: Any, padding: Any, dilation: Any, groups: Any, layout: Any):
    """The options that both doors share, in hashable values."""
    order = Layout.parse(layout, kernel.ndim - 2, "kernel", kernel.shape)
    return (
        _check.per_axis("stride", stride, order.rank, 1),
        _check.padding("padding", padding, order.rank),
        _check.per_axis("dilation", dilation, order.rank, 1),
        _check.integer("groups", groups, 1),
        order,
    )


@functools.lru_cache(maxsize=CACHED_CALLS)
def _conv_program(
    x_shape, kernel_shape, bias_shape, mode, stride, padding, dilation, groups, layout, numerics
):
    c_i, c_o, spatial, window = layout.match(x_shape, kernel_shape, groups)
    _arrays.static_shape("x", x_shape, spatial)
    layout.check_window("kernel", kernel_shape)
    _check_bias(bias_shape, [(c_o,), (c_o, c_i // groups)], "(c_o,) or (c_o, c_i // groups)")
    geometry = conv_geometry(
        spatial, window, stride, padding, dilation, groups, window_source="kernel's window"
    )
    pairs = geometry.padding
    _arrays.paddable(pairs)
    _pad.check(mode, spatial, pairs)
    if mode != "zeros":
        unpadded = ((0, 0),) * layout.rank
        geometry = Geometry(geometry.padded, window, stride, unpadded, dilation, groups)
    flat = layout.image((math.prod(layout.batch(x_shape)),), c_i, geometry.spatial)
    result = layout.image(layout.batch(x_shape), c_o, geometry.output)
    _arrays.computable("padding", flat)
    _arrays.computable("padding", result)

    @functools.partial(jax.jit, inline=True)
    def conv(x, kernel, bias):
        x, kernel, bias = _arrays.promote(x, kernel, bias)
        if mode != "zeros":
            x = _pad.pad(x, layout, pairs, mode)
        dtype, summed = _dtypes(x.dtype, numerics.preferred, bias)
        form = _form(geometry, layout, (x.dtype, kernel.dtype, summed), numerics)
        check_asked(
            numerics.algorithm, Problem("output", form, (flat, kernel_shape), default_platform())
        )
        y = bind(output_p, _mesh.reshape(x, flat), kernel, form=form)
        return _add_bias(_mesh.reshape(y, result), bias, layout).astype(dtype)

    return conv


@functools.lru_cache(maxsize=CACHED_CALLS)
def _conv_transpose_program(
    y_shape, kernel_shape, bias_shape, extra, stride, padding, dilation, groups, layout, numerics
):
    layout.check_image("y", y_shape)
    c_o, per_group, window = layout.split_kernel(kernel_shape)
    if layout.channels(y_shape) != c_o:
        raise ValueError(
            f"kernel must have as many output channels as y {layout.image_form} = {y_shape} has "
            f"channels, {layout.channels(y_shape)}; got kernel {layout.kernel_form} = "
            f"{kernel_shape} with {c_o}"
        )
    layout.check_groups("kernel", kernel_shape, groups)
    layout.check_window("kernel", kernel_shape)
    spatial, c_i = layout.spatial(y_shape), per_group * groups
    _arrays.static_shape("y", y_shape, spatial)
    _check_bias(bias_shape, [(c_i,)], "(c_i,), one per output channel")
    geometry = transpose_geometry(spatial, window, stride, padding, extra, dilation, groups)
    _arrays.paddable(geometry.padding)
    flat = layout.image((math.prod(layout.batch(y_shape)),), c_o, spatial)
    result = layout.image(layout.batch(y_shape), c_i, geometry.spatial)
    _arrays.computable("stride and dilation", result)

    @functools.partial(jax.jit, inline=True)
    def conv_transpose(y, kernel, bias):
        y, kernel, bias = _arrays.promote(y, kernel, bias)
        dtype, summed = _dtypes(y.dtype, numerics.preferred, bias)
        form = _form(geometry, layout, (summed, kernel.dtype, y.dtype), numerics)
        problem = Problem("input_grad", form, (flat, kernel_shape), default_platform())
        check_asked(numerics.algorithm, problem)
        x = bind(input_grad_p, _mesh.reshape(y, flat), kernel, form=form)
        return _add_bias(_mesh.reshape(x, result), bias, layout).astype(dtype)

    return conv_transpose


def _dtypes(operands: np.dtype, preferred: np.dtype | None, bias: Any):
    """The output's dtype, and that of the sum before a bias: float32 where it rounds afterwards."""
    dtype = _arrays.result_dtype(operands, preferred)
    return dtype, dtype if bias is None else _arrays.accumulator(dtype)


def _form(geometry: Geometry, layout: Layout, dtypes: Any, numerics: Numerics) -> Form:
    precision = numerics.precision or _arrays.default_precision()
    return Form(geometry, layout, dtypes, precision, numerics.algorithm)


def _check_bias(shape: Any, allowed: list[tuple[int, ...]], written: str) -> None:
    if shape is not None and shape not in allowed:
        sizes = " or ".join(str(option) for option in allowed)
        raise ValueError(f"bias must have shape {written} = {sizes}; got {shape}")


def _add_bias(y: Array, bias: Array | None, layout: Layout) -> Array:
    """One bias per output channel; one per pair of channels is summed over the input channels."""
    if bias is None:
        return y
    bias = bias.astype(y.dtype)
    if bias.ndim == 2:
        bias = bias.sum(axis=1, dtype=y.dtype)
    shape = [1] * y.ndim
    shape[-1 if layout.channels_last else -layout.rank - 1] = bias.shape[0]
    return y + bias.reshape(shape)
