"""The definitions, written to be read: each output is a window times a kernel, summed.

`vmap` runs one formula over all output positions. Slow and obvious, this is what the rest of the
package is held against, so it shares no code with it: no geometry, primitive or lax convolution.
Arguments mean what they mean in `jaxconv.conv`, `max_pool` and `avg_pool`, but are not checked.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Num

from ._types import ArrayIn, Padding, PerAxis


def corr2d(X: Num[ArrayIn, "h w"], K: Num[ArrayIn, "kh kw"]) -> Num[Array, "h-kh+1 w-kw+1"]:
    """`Y[i, j] = sum_ab X[i+a, j+b] K[a, b]` (notes, section 1).

    >>> corr2d(jnp.arange(9).reshape(3, 3), jnp.arange(4).reshape(2, 2)).tolist()
    [[19, 25], [37, 43]]
    """
    X, K = jnp.asarray(X), jnp.asarray(K)
    h, w = X.shape[0] - K.shape[0] + 1, X.shape[1] - K.shape[1] + 1

    def at(i: Array, j: Array) -> Array:
        return (lax.dynamic_slice(X, (i, j), K.shape) * K).sum(dtype=jnp.result_type(X, K))

    return jax.vmap(lambda i: jax.vmap(lambda j: at(i, j))(jnp.arange(w)))(jnp.arange(h))


def corr2d_multi_in(
    X: Num[ArrayIn, "ci h w"], K: Num[ArrayIn, "ci kh kw"]
) -> Num[Array, "h-kh+1 w-kw+1"]:
    """`Y = sum_d corr2d(X[d], K[d])` (notes, section 4)."""
    Y = jax.vmap(corr2d)(X, K)
    return Y.sum(axis=0, dtype=Y.dtype)


def corr2d_multi_in_out(
    X: Num[ArrayIn, "ci h w"], K: Num[ArrayIn, "co ci kh kw"]
) -> Num[Array, "co h-kh+1 w-kw+1"]:
    """`Y[p] = corr2d_multi_in(X, K[p])` (notes, section 4)."""
    return jax.vmap(corr2d_multi_in, in_axes=(None, 0))(X, K)


def corr2d_multi_in_out_1x1(
    X: Num[ArrayIn, "ci h w"], K: Num[ArrayIn, "co ci 1 1"]
) -> Num[Array, "co h w"]:
    """`Y[p, i, j] = sum_d K[p, d] X[d, i, j]` (notes, section 4)."""
    X, K = jnp.asarray(X), jnp.asarray(K)
    at_pixel = jax.vmap(lambda pixel: (K.reshape(K.shape[:2]) * pixel).sum(axis=1), -1, -1)
    return jax.vmap(at_pixel, -1, -1)(X)


def pool2d(
    X: Num[ArrayIn, "h w"], pool_size: tuple[int, int], mode: str = "max"
) -> Num[Array, "h-ph+1 w-pw+1"]:
    """`Y[i, j] = max (or mean) of X[i:i+ph, j:j+pw]` (notes, section 5)."""
    X = jnp.asarray(X)
    h, w = X.shape[0] - pool_size[0] + 1, X.shape[1] - pool_size[1] + 1
    reduce = jnp.max if mode == "max" else jnp.mean

    def at(i: Array, j: Array) -> Array:
        return reduce(lax.dynamic_slice(X, (i, j), pool_size))

    return jax.vmap(lambda i: jax.vmap(lambda j: at(i, j))(jnp.arange(w)))(jnp.arange(h))


def conv(
    x: Num[ArrayIn, "..."],
    kernel: Num[ArrayIn, "..."],
    bias: Num[ArrayIn, "..."] | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str | None = None,
) -> Num[Array, "..."]:
    """`y[p, i] = bias[p] + sum_{c, a} x[c, i*stride + a*dilation - low] kernel[p, c, a]`.

    As `jaxconv.conv`, see there; `padding_mode` fills what the padding adds.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    dtype = jnp.result_type(*(value for value in (x, kernel, bias) if value is not None))
    wide = jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype
    x, kernel = x.astype(wide), kernel.astype(wide)
    rank = kernel.ndim - 2
    if last := _channels_last(layout):
        x = jnp.moveaxis(x, -1, -rank - 1)
        kernel = jnp.moveaxis(kernel, (-1, -2), (0, 1))
    steps, spread = _per_axis(stride, rank), _per_axis(dilation, rank)
    x = _padded(x, kernel.shape[2:], steps, padding, spread, padding_mode)
    per_group, outputs = kernel.shape[1], kernel.shape[0] // groups

    def at(window: Array) -> Array:
        """All output channels of one window (c_i, *k)."""
        split = window.reshape(groups, 1, per_group, *window.shape[1:])
        taps = kernel.reshape(groups, outputs, *kernel.shape[1:])
        products = (split * taps).reshape(groups * outputs, -1)
        return products.sum(axis=1, dtype=wide)

    y = _over_windows(at, x, kernel.shape[2:], steps, spread)
    if bias is not None:
        per_output = jnp.asarray(bias).astype(wide).reshape(kernel.shape[0], -1).sum(axis=1)
        y = y + per_output.reshape(-1, *(1,) * rank).astype(wide)
    y = y.astype(dtype)
    return jnp.moveaxis(y, -rank - 1, -1) if last else y


def max_pool(
    x: Num[ArrayIn, "..."],
    window: tuple[int, ...],
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    layout: str | None = None,
) -> Num[Array, "..."]:
    """`y[i] = max_a x[i*stride + a*dilation - low]`, as `jaxconv.max_pool` without ceil mode."""
    x = jnp.asarray(x)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    nothing = -jnp.inf if floating else jnp.iinfo(x.dtype).min
    return _pool(
        x,
        window,
        stride,
        padding,
        dilation,
        layout,
        nothing,
        lambda taps: taps.max(axis=range(1, taps.ndim)),
    )


def avg_pool(
    x: Num[ArrayIn, "..."],
    window: tuple[int, ...],
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    count_include_pad: bool = True,
    layout: str | None = None,
) -> Num[Array, "..."]:
    """`y[i] = sum_a x[i*stride + a*dilation - low] / count[i]`.

    As `jaxconv.avg_pool` without ceil mode and divisor.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(float)

    def mean(taps: Array) -> Array:
        return taps.sum(axis=range(1, taps.ndim)) / math.prod(window)

    y = _pool(x, window, stride, padding, dilation, layout, 0, mean)
    if count_include_pad:
        return y
    counted = _pool(jnp.ones_like(x), window, stride, padding, dilation, layout, 0, mean)
    return y / counted


def _pool(x, window, stride, padding, dilation, layout, nothing, reduce) -> Array:
    rank = len(window)
    x = jnp.moveaxis(x, -1, -rank - 1) if _channels_last(layout) else x
    steps = _per_axis(window if stride is None else stride, rank)
    spread = _per_axis(dilation, rank)
    x = _padded(x, window, steps, padding, spread, "zeros", nothing)
    y = _over_windows(reduce, x, window, steps, spread)
    return jnp.moveaxis(y, -rank - 1, -1) if _channels_last(layout) else y


def _over_windows(at: Any, x: Array, window: tuple[int, ...], steps: Any, spread: Any) -> Array:
    """`at` of each window `(c, *window)` of a padded x `(*batch, c, *spatial)`, by `vmap`."""
    rank = len(window)
    spans = [d * (k - 1) + 1 for k, d in zip(window, spread, strict=True)]
    sizes = [(n - e) // s + 1 for n, e, s in zip(x.shape[-rank:], spans, steps, strict=True)]
    taps = (slice(None), *(slice(None, None, d) for d in spread))

    def image(plane: Array) -> Array:
        def position(*index: Array) -> Array:
            corner = [i * s for i, s in zip(index, steps, strict=True)]
            cut = lax.dynamic_slice(plane, (0, *corner), (plane.shape[0], *spans))
            return at(cut[taps])

        for axis in reversed(range(rank)):
            mapped = [0 if other == axis else None for other in range(rank)]
            position = jax.vmap(position, mapped, -1 if axis == rank - 1 else 1)
        return position(*(jnp.arange(size) for size in sizes))

    flat = jax.vmap(image)(x.reshape(math.prod(x.shape[: -rank - 1]), *x.shape[-rank - 1 :]))
    return flat.reshape(*x.shape[: -rank - 1], *flat.shape[1:])


def _padded(x, window, steps, padding, spread, mode, value=0) -> Array:
    """x with its last axes extended or cropped, one axis at a time, by indexing."""
    rank = len(window)
    for axis in range(rank):
        n, reach = x.shape[axis - rank], spread[axis] * (window[axis] - 1)
        low, high = _low_high(padding, axis, rank, n, reach, steps[axis])
        position = np.arange(-low, n + high)
        if mode == "circular":
            begin, end = max(0, -low), min(n, n + high)
            position = begin + (position - begin) % (end - begin)
        elif mode == "reflect":
            position = np.abs(position)
            position = np.where(position < n, position, 2 * (n - 1) - position)
        elif mode == "replicate":
            position = np.clip(position, 0, n - 1)
        inside = (position >= 0) & (position < n)
        taken = (
            jnp.take(x, np.where(inside, position, 0), axis=axis - rank, mode="clip") if n else x
        )
        if not n:
            taken = jnp.zeros(
                (*x.shape[: axis - rank], len(position), *x.shape[x.ndim + axis - rank + 1 :]),
                x.dtype,
            )
        mask = inside.reshape(-1, *(1,) * (rank - axis - 1))
        x = jnp.where(mask, taken, jnp.asarray(value, x.dtype))
    return x


def _low_high(padding: Any, axis: int, rank: int, n: int, reach: int, step: int) -> tuple[int, int]:
    if isinstance(padding, str):
        name = padding.lower()
        if name.startswith("same"):
            total = max((math.ceil(n / step) - 1) * step + reach + 1 - n, 0)
            less = total // 2
            return (less, total - less) if name == "same" else (total - less, less)
        return {"valid": (0, 0), "full": (reach, reach), "causal": (reach, 0)}[name]
    entry = padding if isinstance(padding, int) else padding[axis]
    return (entry, entry) if isinstance(entry, int) else (entry[0], entry[1])


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(value) if hasattr(value, "__len__") else (value,) * rank


def _channels_last(layout: str | None) -> bool:
    return layout is not None and layout[-1] == "C"
