"""`direct`: `lax.conv_general_dilated` for the output, and its two transposes written out.

With input size n, window k, stride s, dilation d, padding (low, high), extent e = d*(k-1) + 1 and
m outputs per axis, position `i*s + a*d - low` of x meets tap a of w and output i of y. So

    output       correlate x, padded (low, high), with w: step s between windows, d between taps;
    input_grad   correlate y, its elements s apart, padded (e-1-low, rest), with rot180 w, channels
                 swapped: the full convolution of y with w, cropped to x;
    kernel_grad  correlate x, padded (low, rest), with y as the window: taps s, windows d apart.

"rest" is what makes the result's size n or k: the tail of x that no window reaches counts for
nothing. The forms of the two gradients are those that XLA's GPU backend recognises for cuDNN.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import HALF
from .._check import Pairs
from .._form import PROJECTIONS, Form, Problem
from .._lax import by_lax
from ._algorithm import Algorithm
from ._frame import stacked, sum_dtype, unstacked


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y[n, o, s] = sum_{i, a} x[n, i, s*stride + a*dilation - low] w[o, i, a]."""
    geometry = problem.form.geometry
    dims = _dimension_numbers(problem.form)
    return _convolve(
        problem,
        x,
        w,
        dims,
        padding=geometry.padding,
        window_strides=geometry.stride,
        rhs_dilation=geometry.dilation,
        feature_group_count=geometry.groups,
    )


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """x[n, i, t] = sum_{o, s, a: s*stride + a*dilation - low = t} y[n, o, s] w[o, i, a]."""
    geometry = problem.form.geometry
    dims = _dimension_numbers(problem.form)
    padding, spared = [], []
    for axis, (low, _) in enumerate(geometry.padding):
        reach = geometry.extent[axis] - 1
        dilated = (geometry.output[axis] - 1) * geometry.stride[axis] + 1
        padding.append((reach - low, geometry.spatial[axis] - dilated + low))
        if padding[axis] == (0, 0) and geometry.window[axis] == geometry.stride[axis] == 2:
            padding[axis] = (0, 1)
            spared.append(axis)
    x = _convolve(
        problem,
        y,
        lax.rev(_swap_channels(problem.form, w), dims.rhs_spec[2:]),
        lax.ConvDimensionNumbers(dims.out_spec, _transposed(dims.rhs_spec), dims.lhs_spec),
        padding=tuple(padding),
        lhs_dilation=geometry.stride,
        rhs_dilation=geometry.dilation,
        feature_group_count=geometry.groups,
    )
    # XLA takes an axis whose base dilation is the window's size, whose stride is one less and which
    # is not padded for one that keeps groups apart. Where the kernel is the larger one along the
    # other axes it then exchanges image and kernel, and ends the process: its simplifier checks a
    # window that the new kernel does not have. Such an axis is given one element too many.
    for axis in spared:
        x = lax.slice_in_dim(x, 0, geometry.spatial[axis], axis=dims.lhs_spec[2 + axis])
    return x


def kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """w[o, i, a] = sum_{n, s} x[n, i, s*stride + a*dilation - low] y[n, o, s]."""
    geometry = problem.form.geometry
    dims = _dimension_numbers(problem.form)
    padding = []
    for axis, (low, _) in enumerate(geometry.padding):
        padding.append((low, geometry.read[axis] - geometry.spatial[axis] - low))
    specs = (_transposed(dims.lhs_spec), _transposed(dims.out_spec), _transposed(dims.rhs_spec))
    groups = {"batch_group_count": geometry.groups}
    if _groups_as_features(problem):
        x, groups = _groups_to_batch(problem.form, x), {"feature_group_count": geometry.groups}
    return _convolve(
        problem,
        x,
        y,
        lax.ConvDimensionNumbers(*specs),
        padding=tuple(padding),
        window_strides=geometry.dilation,
        rhs_dilation=geometry.stride,
        **groups,
    )


ALGORITHM = Algorithm(
    "direct",
    {"output": output, "input_grad": input_grad, "kernel_grad": kernel_grad},
    symbolic=True,
)


def _dimension_numbers(form: Form) -> lax.ConvDimensionNumbers:
    layout = form.layout
    spatial = tuple(
        range(1, layout.rank + 1) if layout.channels_last else range(2, layout.rank + 2)
    )
    window = tuple(range(layout.rank) if layout.channels_last else range(2, layout.rank + 2))
    image = (0, layout.channel_axis, *spatial)
    return lax.ConvDimensionNumbers(image, (*layout.kernel_axes, *window), image)


def _transposed(spec: Sequence[int]) -> tuple[int, ...]:
    """Batch and channels, or output and input channels, exchanged."""
    return (spec[1], spec[0], *spec[2:])


def _swap_channels(form: Form, w: Array) -> Array:
    """(groups * o, i) becomes (o, groups * i), as the input gradient reads the kernel.

    The groups move from the output channels to the front of the input channels, axes stay.
    """
    groups = form.geometry.groups
    if groups == 1:
        return w
    out_axis, in_axis = form.layout.kernel_axes
    shape = list(w.shape)
    shape[out_axis] //= groups
    split = w.reshape(*w.shape[:out_axis], groups, shape[out_axis], *w.shape[out_axis + 1 :])
    shape[in_axis] *= groups
    return jnp.moveaxis(split, out_axis, in_axis).reshape(shape)


def _groups_as_features(problem: Problem) -> bool:
    """Whether the kernel gradient's groups are feature groups, or batch groups as lax has them.

    XLA:CPU is far faster on the former. Over several devices XLA's partitioner gets the
    latter wrong: with the batch split over one axis of a mesh and copied over another, the sum runs
    over the copies too. One GPU or TPU keeps the form that its backend knows as a kernel gradient.
    """
    grouped = problem.form.geometry.groups > 1
    return grouped and (problem.platform == "cpu" or problem.devices > 1)


def _groups_to_batch(form: Form, x: Array) -> Array:
    """(n, groups * i) becomes (groups * n, i), each on its own axis still."""
    return lax.collapse(stacked(x, form.geometry.groups, form.layout.channel_axis), 0, 2)


def _convolve(
    problem: Problem,
    lhs: Array,
    rhs: Array,
    dims: lax.ConvDimensionNumbers,
    *,
    padding: Pairs,
    window_strides: tuple[int, ...] | None = None,
    lhs_dilation: tuple[int, ...] = (),
    rhs_dilation: tuple[int, ...],
    feature_group_count: int = 1,
    batch_group_count: int = 1,
) -> Array:
    """`lax.conv_general_dilated` in the dtypes of the form and without negative padding."""
    form = problem.form
    ones = (1,) * form.geometry.rank
    lhs_dilation = lhs_dilation or ones
    result_dtype = form.dtype(PROJECTIONS[problem.projection][2])
    compute, accumulate = _dtypes(problem)
    cropped = _crop(lhs, dims.lhs_spec[2:], padding, lhs_dilation)
    if cropped is None:
        shape = form.result_shape(problem.projection, *problem.shapes)
        return jnp.zeros(shape, result_dtype)
    lhs, padding = cropped
    apart = _groups_apart(problem, accumulate) and feature_group_count > 1
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides or ones,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        feature_group_count=1 if apart else feature_group_count,
        batch_group_count=batch_group_count,
        precision=form.precision,
        preferred_element_type=accumulate,
    )
    convolve = functools.partial(_in_order, problem, convolve, dims)
    if apart:
        convolve = functools.partial(_group_by_group, convolve, dims, feature_group_count)
    return convolve(lhs.astype(compute), rhs.astype(compute)).astype(result_dtype)


def _in_order(
    problem: Problem,
    convolve: Callable[..., Array],
    dims: lax.ConvDimensionNumbers,
    lhs: Array,
    rhs: Array,
) -> Array:
    """The convolution, on a CPU with channels last and all arrays written out in that order.

    XLA:CPU does the same by itself, but for programs' loops: there it leaves the arrays as they
    lie, and convolves them element by element (jax-ml/jax#12868).
    """
    if problem.platform != "cpu":
        return by_lax(functools.partial(convolve, dimension_numbers=dims), lhs, rhs)
    spatial = "DHW"[-(lhs.ndim - 2) :]
    order = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    image = (dims.lhs_spec[0], *dims.lhs_spec[2:], dims.lhs_spec[1])
    kernel = (*dims.rhs_spec[2:], dims.rhs_spec[1], dims.rhs_spec[0])
    result = (dims.out_spec[0], *dims.out_spec[2:], dims.out_spec[1])
    convolve = functools.partial(convolve, dimension_numbers=order)
    y = by_lax(convolve, lhs.transpose(image), rhs.transpose(kernel))
    return y.transpose([result.index(axis) for axis in range(y.ndim)])


def _groups_apart(problem: Problem, accumulate: np.dtype) -> bool:
    """Whether XLA is better not told of feature groups.

    XLA:CPU has them in single precision alone. For other dtypes it takes all channels together,
    with zeros where kernels do not belong: that much more work, and a NaN or an infinity then
    reaches the outputs of every group.
    """
    return problem.platform == "cpu" and accumulate not in (np.float32, np.complex64)


def _group_by_group(
    convolve: Callable[[Array, Array], Array],
    dims: lax.ConvDimensionNumbers,
    groups: int,
    lhs: Array,
    rhs: Array,
) -> Array:
    """One group after the other, in a loop, so that programs do not grow with their number."""
    operands = stacked(lhs, groups, dims.lhs_spec[1]), stacked(rhs, groups, dims.rhs_spec[0])
    return unstacked(lax.map(lambda pair: convolve(*pair), operands), dims.out_spec[1])


def _dtypes(problem: Problem) -> tuple[np.dtype, np.dtype]:
    """Dtypes of the operands and of the sum, wide enough for all three arrays.

    Half precision is summed in float32 and rounded once: GPU and TPU do so by themselves and are
    fastest on the narrow operands; XLA:CPU is given float32.
    """
    a, b, result = (problem.form.dtype(array) for array in PROJECTIONS[problem.projection])
    # Whatever promotion the caller allows: these dtypes were settled at the door.
    with jax.numpy_dtype_promotion("standard"):
        operands = jnp.promote_types(a, b)
    if operands in HALF and result in (operands, np.float32) and problem.platform != "cpu":
        return operands, np.dtype(result)
    wide = sum_dtype(problem)
    return wide, wide


def _crop(
    lhs: Array, axes: Sequence[int], padding: Pairs, dilation: Sequence[int]
) -> tuple[Array, Pairs] | None:
    """Negative padding cut off beforehand: XLA:CPU may read out of bounds (openxla/xla#48713).

    Of a dilated input, whole elements are cut and the rest of the gap is padded again. None where
    nothing is left: the windows then see padding only, and the result is zero.
    """
    starts, stops, pairs = [0] * lhs.ndim, list(lhs.shape), []
    for axis, (low, high), step in zip(axes, padding, dilation, strict=True):
        cut_low, cut_high = (max(0, math.ceil(-side / step)) for side in (low, high))
        if cut_low + cut_high >= lhs.shape[axis]:
            return None
        starts[axis], stops[axis] = cut_low, lhs.shape[axis] - cut_high
        pairs.append((low + cut_low * step, high + cut_high * step))
    if any(starts) or stops != list(lhs.shape):
        lhs = lax.slice(lhs, starts, stops)
    return lhs, tuple(pairs)
