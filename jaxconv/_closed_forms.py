"""What `gradients` computes: each closed form as a program, beside its derivation.

A call comes in hashable values and becomes one jitted program, in which images are `(n, c,
*spatial)` and kernels `(c_o, c_i // groups, *window)`. The only convolution here is `conv` itself,
the only pool `max_pool`: nothing is differentiated, and the core's transposes are not used.
"""

import dataclasses
import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from . import _arrays, _mesh, _pad
from ._closed_calls import check_error, conv_call
from ._conv import conv
from ._geometry import Geometry
from ._layout import Layout
from ._pool import max_pool
from ._pool_plan import Call, counts, plan

CACHED_CALLS = 4096


@functools.lru_cache(maxsize=CACHED_CALLS)
def kernel_grad(x_shape, kernel_shape, dy_shape, options, numerics):
    """Along an axis `dW[p, c, a] = sum_{n, i} dy[n, p, i] x[n, c, a*dilation + i*stride - low]`.

    Read with a as the output and i as the tap this is `conv` of the images c with the kernels p,
    over the channels n: dilation is the stride, stride the dilation, and batch and channels have
    changed places. Block g of the channels is `(g, n)`, for block g of p. Outputs are as many as
    taps, k, when what is padded ends with the last tap of the last window: elements beyond that,
    which no window has read, are cropped.
    """
    names = ("x", "kernel_shape")
    geometry = conv_call(x_shape, kernel_shape, dy_shape, names, options)
    layout, groups, unpadded = options.layout, options.groups, _unpadded(geometry, options.mode)
    padding = []
    for axis, (low, _) in enumerate(unpadded.padding):
        read = (geometry.output[axis] - 1) * geometry.stride[axis] + geometry.extent[axis]
        padding.append((low, read - unpadded.spatial[axis] - low))

    @functools.partial(jax.jit, inline=True)
    def conv_kernel_grad(x, dy):
        x, delta = (_first(value, layout) for value in _operands(x, dy, numerics.preferred))
        if options.mode != "zeros":
            x = _pad.pad(x, Layout(layout.rank, False), geometry.padding, options.mode)
        n, channels, *sizes = x.shape
        # x[n, (g, c)] as images[c, (g, n)]
        images = x.reshape(n, groups, channels // groups, *sizes).swapaxes(0, 2)
        dw = conv(
            _mesh.reshape(images, (channels // groups, groups * n, *sizes)),
            delta.swapaxes(0, 1),
            stride=geometry.dilation,
            padding=padding,
            dilation=geometry.stride,
            groups=groups,
            precision=numerics.precision,
            algorithm=numerics.algorithm,
        ).swapaxes(0, 1)
        return jnp.moveaxis(dw, (0, 1), layout.kernel_axes)

    return conv_kernel_grad


@functools.lru_cache(maxsize=CACHED_CALLS)
def input_grad(x_shape, kernel_shape, dy_shape, options, numerics):
    """The full convolution of `_full`, and what padding has copied added to what it copied."""
    names = ("x_shape", "kernel")
    geometry = conv_call(x_shape, kernel_shape, dy_shape, names, options)
    layout, unpadded = options.layout, _unpadded(geometry, options.mode)
    how = {"precision": numerics.precision, "algorithm": numerics.algorithm}

    @functools.partial(jax.jit, inline=True)
    def conv_input_grad(dy, kernel):
        dy, kernel = _operands(dy, kernel, numerics.preferred)
        # An explicit sharding of the kernel goes, as in `conv`: the new first axis has none.
        kernel = _mesh.reshape(kernel[None], kernel_shape)
        kernel = jnp.moveaxis(kernel, layout.kernel_axes, (0, 1))
        dx = _full(_first(dy, layout), kernel, unpadded, **how)
        if options.mode != "zeros":
            dx = _to_sources(dx, geometry, options.mode)
        return _back(dx.astype(dy.dtype), x_shape, layout)

    return conv_input_grad


def _full(delta: Array, kernel: Array, geometry: Geometry, **how: Any) -> Array:
    """`dX[c, t] = sum_{p, i, a: i*s + a*d - low = t} delta[p, i] W[p, c, a]` along an axis.

    Let u hold delta, s apart: `u[i*s] = delta[i]`, 0 between. Count taps from the other end,
    `a = k-1 - b`: then `i*s = t + b*d + low - d*(k-1)`, so that

        dX[c, t] = sum_{p, b} u[p, t + b*d - (d*(k-1) - low)] (rot180 W)[p, c, b]

    is `conv` of u with the turned kernel, its channel axes exchanged in each group, at dilation d
    and padded by `d*(k-1) - low` before, and after by what gives n outputs: for low = 0 the full
    correlation, for other paddings its cropping. Sums of half precision are left in float32.
    """
    n, (m, spatial) = delta.shape[0], (geometry.output, geometry.spatial)
    c_o, c_i, *window = kernel.shape
    groups, wide = geometry.groups, _arrays.accumulator(delta.dtype)
    if 0 in spatial:
        return jnp.zeros((n, groups * c_i, *spatial), wide)
    apart = [(0, 0, 0), (0, 0, 0), *((0, 0, s - 1) for s in geometry.stride)]
    u = lax.pad(delta, np.zeros((), delta.dtype), apart)
    rot180 = jnp.flip(kernel, range(2, kernel.ndim))
    # rot180[(g, p), c] as exchanged[(g, c), p]
    exchanged = rot180.reshape(groups, c_o // groups, c_i, *window).swapaxes(1, 2)
    padding = []
    for axis, (low, _) in enumerate(geometry.padding):
        reach = geometry.extent[axis] - 1
        length = (m[axis] - 1) * geometry.stride[axis] + 1
        padding.append((reach - low, spatial[axis] + low - length))
    return conv(
        u,
        exchanged.reshape(groups * c_i, c_o // groups, *window),
        padding=padding,
        dilation=geometry.dilation,
        groups=groups,
        preferred_element_type=wide,
        **how,
    )


def _to_sources(dx: Array, geometry: Geometry, mode: str) -> Array:
    """`dX[t] = sum_{q: source(q) = t} dP[q]` along each axis, P being x as padded.

    Continued by L elements before its n and H after them, x repeats there its end elements
    (replicate), x[L], .., x[1] and x[n-2], .., x[n-1-H] (reflect: mirrored, ends not repeated), or
    its last L and its first H (circular). What the copies get is cut off and laid where they come
    from. Negative padding crops the continued x, in circular mode x before it is continued: zeros
    for what was cropped come back at that place.
    """
    for axis, (low, high) in enumerate(geometry.padding):
        n, at = geometry.spatial[axis], axis + 2
        cropped, wraps = (max(-low, 0), max(-high, 0)), mode == "circular"
        n, dx = (n - sum(cropped), dx) if wraps else (n, _lay(dx, at, cropped))
        before, after = max(low, 0), max(high, 0)
        head, middle, tail = jnp.split(dx, (before, before + n), at)
        if mode == "replicate":
            head, tail = (end.sum(at, dtype=end.dtype, keepdims=True) for end in (head, tail))
            places = ((0, n - 1), (n - 1, 0))
        elif mode == "reflect":
            head, tail = jnp.flip(head, at), jnp.flip(tail, at)
            places = ((1, n - 1 - before), (n - 1 - after, 1))
        else:
            places = ((n - before, 0), (0, n - after))
        for end, place in zip((head, tail), places, strict=True):
            middle = middle + _lay(end, at, place)
        dx = _lay(middle, at, cropped) if wraps else middle
    return dx


def _lay(part: Array, axis: int, place: tuple[int, int]) -> Array:
    """`part` with zeros before and after it along an axis."""
    return jnp.pad(part, [place if at == axis else (0, 0) for at in range(part.ndim)])


@functools.lru_cache(maxsize=CACHED_CALLS)
def bias_grad(layout: Layout):
    """`dB[p] = sum_{n, i} dy[n, p, i]`: the bias is added to every output of its channel."""

    @functools.partial(jax.jit, inline=True)
    def conv_bias_grad(dy):
        delta = _first(jnp.asarray(dy), layout)
        others = (0, *range(2, delta.ndim))
        return delta.sum(others, dtype=_arrays.accumulator(dy.dtype)).astype(delta.dtype)

    return conv_bias_grad


@functools.lru_cache(maxsize=CACHED_CALLS)
def max_grad(call: Call, layout: str | None, dy_shape):
    """`dX[t] = sum_{i: winner(i) = t} dy[i]` in every plane of every channel."""
    planned = plan(call)
    check_error(dy_shape, planned.result, f"x {call.shape} and window {call.window}")
    size = math.prod(planned.spatial)
    names = ("stride", "padding", "dilation", "ceil_mode")
    given: dict[str, Any] = {name: getattr(call, name) for name in names}

    @functools.partial(jax.jit, inline=True)
    def max_pool_grad(x, dy):
        _, index = max_pool(x, call.window, return_indices=True, layout=layout, **given)
        # Without a winner the index is -1, which would be the last element: one beyond is dropped.
        index = jnp.where(index < 0, size, index)

        def up(winner, errors):
            wide = errors.astype(_arrays.accumulator(errors.dtype))
            return jnp.zeros(size, wide.dtype).at[winner].add(wide, mode="drop")

        dx = jax.vmap(jax.vmap(up))(_flat(index, call.layout), _flat(jnp.asarray(dy), call.layout))
        dx = dx.reshape(*dx.shape[:2], *planned.spatial)
        return _back(dx.astype(dy.dtype), call.shape, call.layout)

    return max_pool_grad


@functools.lru_cache(maxsize=CACHED_CALLS)
def avg_grad(call: Call, dy_shape, count_include_pad: bool, divisor: int | None):
    """`dX[t] = sum_{i, a: i*s + a*d - low = t} dy[i] / count[i]`: `_full` with a window of ones.

    Where a window counts nothing there is nothing to share: the quotient, infinite or NaN, is due
    to no element of x, and is 0 here so that it meets none. Sums are exact and direct, as those of
    the pool: a NaN stays in its window.
    """
    layout, shape = call.layout, call.shape
    layout.check_image("x_shape", shape)
    _arrays.static_shape("x_shape", shape, layout.spatial(shape))
    _arrays.computable("x_shape", shape)
    planned = plan(call)
    check_error(dy_shape, planned.result, f"x_shape {shape} and window {call.window}")
    factors = counts(planned, layout, count_include_pad) if divisor is None else [divisor]
    kept = planned.geometry.spatial

    @functools.partial(jax.jit, inline=True)
    def avg_pool_grad(dy):
        dy = jnp.asarray(dy)
        dy = dy.astype(float) if jnp.issubdtype(dy.dtype, jnp.integer) else dy
        delta = dy.astype(_arrays.accumulator(dy.dtype))
        count = functools.reduce(operator.mul, (jnp.asarray(f, delta.dtype) for f in factors))
        shares = jnp.where(count == 0, 0, delta / jnp.where(count == 0, 1, count))
        shares = _first(shares, layout)
        n, channels, *sizes = shares.shape
        ones = jnp.ones((1, 1, *call.window), delta.dtype)
        shares = _mesh.reshape(shares, (n * channels, 1, *sizes))
        up = _full(shares, ones, planned.geometry, precision="highest", algorithm="direct")
        # In ceil mode what negative padding crops at the high end is gone from the geometry.
        cropped = zip(planned.spatial, kept, strict=True)
        rest = [(0, 0), (0, 0), *((0, size - left) for size, left in cropped)]
        up = jnp.pad(_mesh.reshape(up, (n, channels, *kept)), rest)
        return _back(up.astype(dy.dtype), shape, layout)

    return avg_pool_grad


def _unpadded(geometry: Geometry, mode: str) -> Geometry:
    """The geometry on which zeros are all that is added: the other modes pad beforehand."""
    if mode == "zeros":
        return geometry
    nothing = ((0, 0),) * geometry.rank
    return dataclasses.replace(geometry, spatial=geometry.padded, padding=nothing)


def _operands(a: Any, b: Any, preferred: Any) -> tuple[Any, ...]:
    """Both in the dtype of the gradient: the preferred one, which takes each as it is, or the
    promoted one."""
    if preferred is None:
        return _arrays.promote(a, b)
    values = (jnp.asarray(a), jnp.asarray(b))
    return tuple(value.astype(_arrays.result_dtype(value.dtype, preferred)) for value in values)


def _first(image: Array, layout: Layout) -> Array:
    """An image as `(n, c, *spatial)`."""
    sizes = image.shape[-layout.rank - 1 :]
    image = _mesh.reshape(image, (math.prod(layout.batch(image.shape)), *sizes))
    return jnp.moveaxis(image, layout.channel_axis, 1)


def _flat(image: Array, layout: Layout) -> Array:
    """An image as `(n, c, elements of a plane)`."""
    image = _first(image, layout)
    return image.reshape(*image.shape[:2], math.prod(image.shape[2:]))


def _back(image: Array, shape: Any, layout: Layout) -> Array:
    """`(n, c, *spatial)` as an image of this shape."""
    return _mesh.reshape(jnp.moveaxis(image, 1, layout.channel_axis), shape)
