"""lax's convolutions and window reductions, seen as the core's maps.

A *view* of an operation says which of the core's primitives it is, how its operands are to be
arranged for that, and how the result is to be arranged back: transposes, and kernels turned around.
Everything here follows from shapes and parameters. Where there is no view, lax's own lowering is
the only one.

    out[n, o, t] = sum over i, q of  lhs'[n, i, t*u + q*d - low] rhs[o, i, q]

with lhs' having lhs's elements v apart (u, v, d: the strides of the window, the left and the right
dilation) is what lax computes. Autodiff writes all derivatives of a convolution down like that:

    output             v = 1                      x = lhs, w = rhs, y = out
    input gradient     u = 1                      y = lhs, w = rhs turned around, x = out
    kernel gradient    v = 1, channels as batch   x = lhs, y = rhs, w = out
                       d = 1, channels as batch   y = lhs, x = rhs, w = out turned around
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array, lax

from ._arrays import NUMBERS
from ._check import LARGEST
from ._form import Form, PoolForm, Shape
from ._geometry import Geometry, Ints
from ._layout import Layout
from ._primitives import input_grad_p, kernel_grad_p, output_p
from ._window_maps import pick_p, place_p, turned, window_argmax_p, window_max_p, window_sum_p

#: A function of an operation's operands that gives its result.
Program = Callable[..., Array]


class Convolution(NamedTuple):
    """An operation of `lax.conv_general_dilated`: its shapes, in lax's order, and its parameters.

    Attributes:
        lhs, rhs, out: batch, features and space; output features, input features and window.
        specs: which axis each of these is, for the three arrays.
        u, v, d: strides of the window, dilations of lhs and rhs.
        low: padding before lhs.
        features, batches: the numbers of groups.
    """

    lhs: Shape
    rhs: Shape
    out: Shape
    specs: lax.ConvDimensionNumbers
    u: Ints
    v: Ints
    d: Ints
    low: Ints
    features: int
    batches: int

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.u)

    @property
    def ones(self) -> Ints:
        """One for each spatial axis."""
        return (1,) * self.rank


def convolution(lhs: Any, rhs: Any, out: Any, params: dict[str, Any]) -> Program | None:
    """A program of the core's for a convolution of lax's; None where there is none."""
    specs = params["dimension_numbers"]
    shapes = [
        tuple(array.shape[axis] for axis in spec)
        for array, spec in zip((lhs, rhs, out), specs, strict=True)
    ]
    call = Convolution(
        lhs=shapes[0],
        rhs=shapes[1],
        out=shapes[2],
        specs=specs,
        u=tuple(params["window_strides"]),
        v=tuple(params["lhs_dilation"]),
        d=tuple(params["rhs_dilation"]),
        low=tuple(low for low, _ in params["padding"]),
        features=params["feature_group_count"],
        batches=params["batch_group_count"],
    )
    if not _countable((lhs, rhs, out)) or not 1 <= call.rank <= 3:
        return None
    dtypes = lhs.dtype, rhs.dtype, out.dtype
    return _seen(call, dtypes, params["precision"])


def _seen(call: Convolution, dtypes: Any, precision: Any) -> Program | None:
    if call.features == 1 and (call.batches > 1 or _exchanged(call)):
        if call.v == call.ones:
            return _kernel_gradient(call, dtypes, precision)
        if call.d == call.ones:
            return _kernel_gradient_of_transposed(call, dtypes, precision)
    if call.batches > 1:
        return None
    if call.v == call.ones:
        return _output(call, dtypes, precision)
    if call.u == call.ones:
        return _input_gradient(call, dtypes, precision)
    return None


def _exchanged(call: Convolution) -> bool:
    """Whether batch and features have changed places, as autodiff does for kernel gradients."""
    batch, features = call.specs.lhs_spec[:2]
    return batch > features and math.prod(call.out[2:]) <= math.prod(call.rhs[2:])


def _output(call: Convolution, dtypes: Any, precision: Any) -> Program:
    x_spec, w_spec, y_spec = call.specs
    layout = _layout(x_spec, y_spec, call.lhs, call.out)
    sizes = call.lhs[2:], call.rhs[2:], call.out[2:]
    geometry = _geometry(*sizes, call.u, call.low, call.d, call.features)
    form = Form(geometry, layout, dtypes, precision)

    def output(lhs: Array, rhs: Array) -> Array:
        x = lhs.transpose(_image_axes(layout, x_spec))
        w = rhs.transpose(_kernel_axes(layout, w_spec))
        return _back(output_p.bind(x, w, form=form), _image_axes(layout, y_spec))

    return output


def _input_gradient(call: Convolution, dtypes: Any, precision: Any) -> Program:
    """t = s*v - q*d + low, and with tap a = k-1-q that is s*v + a*d - ((k-1)*d - low)."""
    y_spec, w_spec, x_spec = call.specs
    layout = _layout(x_spec, y_spec, call.out, call.lhs)
    sizes = call.out[2:], call.rhs[2:], call.lhs[2:]
    low = _from_the_end(call.low, call.rhs[2:], call.d)
    geometry = _geometry(*sizes, call.v, low, call.d, call.features)
    y_dtype, w_dtype, x_dtype = dtypes
    form = Form(geometry, layout, (x_dtype, w_dtype, y_dtype), precision)

    def input_gradient(lhs: Array, rhs: Array) -> Array:
        y = lhs.transpose(_image_axes(layout, y_spec))
        w = lax.rev(rhs.transpose(w_spec), range(2, rhs.ndim))
        w = _channels_exchanged(w, call.features)
        w = w.transpose(_kernel_axes(layout, range(w.ndim)))
        return _back(input_grad_p.bind(y, w, form=form), _image_axes(layout, x_spec))

    return input_gradient


def _kernel_gradient(call: Convolution, dtypes: Any, precision: Any) -> Program:
    """Window q of y meets tap t: position t*u + q*d - low of x."""
    x_spec, y_spec, w_spec = (_channels_as_batch(spec) for spec in call.specs)
    layout = _layout(x_spec, y_spec, call.lhs, call.rhs)
    sizes = call.lhs[2:], call.out[2:], call.rhs[2:]
    geometry = _geometry(*sizes, call.d, call.low, call.u, call.batches)
    x_dtype, y_dtype, w_dtype = dtypes
    form = Form(geometry, layout, (x_dtype, w_dtype, y_dtype), precision)

    def kernel_gradient(lhs: Array, rhs: Array) -> Array:
        x = lhs.transpose(_image_axes(layout, x_spec))
        y = rhs.transpose(_image_axes(layout, y_spec))
        return _back(kernel_grad_p.bind(x, y, form=form), _kernel_axes(layout, w_spec))

    return kernel_gradient


def _kernel_gradient_of_transposed(call: Convolution, dtypes: Any, precision: Any) -> Program:
    """Window s of y meets tap t at q = s*v - t*u + low of x; turned around, with a = k-1-t, at
    s*v + a*u - ((k-1)*u - low)."""
    y_spec, x_spec, _ = (_channels_as_batch(spec) for spec in call.specs)
    layout = _layout(x_spec, y_spec, call.rhs, call.lhs)
    sizes = call.rhs[2:], call.out[2:], call.lhs[2:]
    low = _from_the_end(call.low, call.out[2:], call.u)
    geometry = _geometry(*sizes, call.v, low, call.u, call.batches)
    y_dtype, x_dtype, w_dtype = dtypes
    form = Form(geometry, layout, (x_dtype, w_dtype, y_dtype), precision)

    def kernel_gradient(lhs: Array, rhs: Array) -> Array:
        y = lhs.transpose(_image_axes(layout, y_spec))
        x = rhs.transpose(_image_axes(layout, x_spec))
        w = kernel_grad_p.bind(x, y, form=form)
        w = _channels_exchanged(_back(w, _kernel_axes(layout, range(w.ndim))), call.batches)
        # Output features first, batch second, as lax counts the axes of its result.
        batch, features, *space = call.specs.out_spec
        return _back(lax.rev(w, range(2, w.ndim)), (features, batch, *space))

    return kernel_gradient


def _channels_as_batch(spec: Sequence[int]) -> Ints:
    """Batch and features, or output and input features, in each other's places."""
    return (spec[1], spec[0], *spec[2:])


def _channels_exchanged(w: Array, groups: int) -> Array:
    """A kernel `(c_o, c_i, *window)` with inputs and outputs of each group exchanged."""
    outputs, inputs, *window = w.shape
    apart = w.reshape(groups, outputs // groups, inputs, *window)
    return apart.swapaxes(1, 2).reshape(groups * inputs, outputs // groups, *window)


def _geometry(
    spatial: Ints, window: Ints, output: Ints, stride: Ints, low: Ints, dilation: Ints, groups: int
) -> Geometry:
    """With as much padding at the end as lets the last window end on the last element."""
    axes = zip(spatial, window, output, stride, low, dilation, strict=True)
    padding = tuple(
        (before, (m - 1) * s + (k - 1) * d + 1 - n - before) for n, k, m, s, before, d in axes
    )
    return Geometry(spatial, window, stride, padding, dilation, groups)


def _from_the_end(low: Ints, window: Ints, dilation: Ints) -> Ints:
    """The padding before the image, for a window that is turned around."""
    axes = zip(low, window, dilation, strict=True)
    return tuple((k - 1) * d - before for before, k, d in axes)


def _layout(x_spec: Sequence[int], y_spec: Sequence[int], x: Shape, y: Shape) -> Layout:
    """Channels last where the larger of the images has them so."""
    _, channels, *space = x_spec if math.prod(x) >= math.prod(y) else y_spec
    return Layout(len(space), channels > max(space))


def _image_axes(layout: Layout, spec: Sequence[int]) -> Ints:
    """The axes of an image in the layout's order, given those of batch, channels and space."""
    batch, channels, *space = spec
    return layout.image((batch,), channels, tuple(space))


def _kernel_axes(layout: Layout, spec: Sequence[int]) -> Ints:
    """The same for a kernel, given the axes of outputs, inputs and window."""
    outputs, inputs, *window = spec
    return layout.kernel(outputs, inputs, tuple(window))


def _back(array: Array, axes: Sequence[int]) -> Array:
    """The inverse of `transpose(axes)`."""
    return array.transpose(np.argsort(axes))


# Windows.


class Windows(NamedTuple):
    """A window reduction seen on images `(n, *spatial, c)`: the shape to be read in, and the map's
    static parameter."""

    images: Shape
    form: PoolForm


def window_reduction(name: str, x: Any, out: Any, params: dict[str, Any]) -> Program | None:
    """A program for `reduce_window_max`, `_min` or `_sum`; None where there is none."""
    seen = _windows(x, params)
    if seen is None:
        return None
    if name == "sum" and _is_global_gradient(seen.form.geometry):
        return None
    primitive = window_sum_p if name == "sum" else window_max_p
    turn = turned if name == "min" else _as_it_is

    def reduction(x: Array) -> Array:
        y = primitive.bind(turn(x.reshape(seen.images)), form=seen.form)
        return turn(y).reshape(out.shape)

    return reduction


def _is_global_gradient(geometry: Any) -> bool:
    """Whether these look like one number's windows, which XLA makes a broadcast of.

    It is what the gradient of a sum over whole planes is written down as: sums over windows of k
    elements in an array of 2k-1, all of them padding but for the middle one.
    """
    sizes = zip(geometry.spatial, geometry.window, geometry.output, strict=True)
    middle = all(n == 2 * k - 1 and m == k for n, k, m in sizes)
    return middle and max(geometry.window) > 1


def winners_scatter(source: Any, x: Any, out: Any, params: dict[str, Any]) -> Program | None:
    """A program for `select_and_scatter_add`: each window's number goes to its winner."""
    if (seen := _winners(x, params)) is None:
        return None
    (images, form), index = seen

    def scatter(source: Array, x: Array) -> Array:
        y = source.reshape(form.output_shape(images))
        return place_p.bind(y, index(x), form=form).reshape(out.shape)

    return scatter


def winners_gather(tangent: Any, x: Any, out: Any, params: dict[str, Any]) -> Program | None:
    """A program for `select_and_gather_add`: each window takes the number at its winner."""
    if (seen := _winners(x, params)) is None:
        return None
    (images, form), index = seen

    def gather(tangent: Array, x: Array) -> Array:
        return pick_p.bind(tangent.reshape(images), index(x), form=form).reshape(out.shape)

    return gather


def _winners(x: Any, params: dict[str, Any]) -> tuple[Windows, Program] | None:
    """The windows, and the program of where their winners are; positions are int32."""
    seen = _windows(x, params)
    if seen is None or math.prod(seen.form.geometry.spatial) > LARGEST:
        return None
    turn = _as_it_is if params["select_prim"] is lax.ge_p else turned
    return seen, lambda x: window_argmax_p.bind(turn(x.reshape(seen.images)), form=seen.form)


def _windows(x: Any, params: dict[str, Any]) -> Windows | None:
    """The axes from the first to the last that windows extend along, as spatial ones."""
    ones = (1,) * len(x.shape)
    window, stride = params["window_dimensions"], params["window_strides"]
    padding, dilation = params["padding"], params.get("window_dilation", ones)
    if not _countable((x,)) or np.issubdtype(x.dtype, np.complexfloating):
        return None
    if tuple(params.get("base_dilation", ones)) != ones:
        return None
    met = [
        axis
        for axis in range(len(x.shape))
        if window[axis] > 1 or stride[axis] > 1 or tuple(padding[axis]) != (0, 0)
    ]
    if not met or met[-1] - met[0] >= 3:
        return None
    first, stop = met[0], met[-1] + 1
    pairs = tuple((low, high) for low, high in padding[first:stop])
    spatial, taps, steps, apart = (
        tuple(sizes[first:stop]) for sizes in (x.shape, window, stride, dilation)
    )
    geometry = Geometry(spatial, taps, steps, pairs, apart)
    if any(max(pair) >= e for pair, e in zip(pairs, geometry.extent, strict=True)):
        return None  # windows that hold nothing but padding
    if min(geometry.output) < 1:
        return None  # no windows at all
    images = (math.prod(x.shape[:first]), *geometry.spatial, math.prod(x.shape[stop:]))
    return Windows(images, PoolForm(geometry, (x.dtype, x.dtype)))


def _countable(arrays: Sequence[Any]) -> bool:
    """Numbers, at least one of them, and so many as is known."""
    sizes = [size for array in arrays for size in array.shape]
    known = all(type(size) is int and size > 0 for size in sizes)
    return known and all(array.dtype in NUMBERS for array in arrays)


def _as_it_is(x: Array) -> Array:
    return x


#: What each of lax's operations is seen as: `(*operands, result, params) -> Program | None`.
VIEWS: dict[Any, Callable[..., Program | None]] = {
    lax.conv_general_dilated_p: convolution,
    lax.reduce_window_max_p: functools.partial(window_reduction, "max"),
    lax.reduce_window_min_p: functools.partial(window_reduction, "min"),
    lax.reduce_window_sum_p: functools.partial(window_reduction, "sum"),
    lax.select_and_scatter_add_p: winners_scatter,
    lax.select_and_gather_add_p: winners_gather,
}
