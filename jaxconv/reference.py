"""The definitions, written to be read: each output is a window times a kernel, summed.

`vmap` runs one formula over all output positions. Slow and obvious, this is what the rest of the
package is held against, so it shares no code with it: no geometry, primitive or lax convolution.
Arguments mean what they mean in `jaxconv.conv`, `max_pool` and `avg_pool`, but are not checked.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Num

from ._types import Padding, PerAxis

ArrayIn = Array | np.ndarray


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
    at_pixel = jax.vmap(lambda x: jax.vmap(lambda k: (k * x).sum())(K.reshape(K.shape[:2])), -1, -1)
    return jax.vmap(at_pixel, -1, -1)(X)


def pool2d(
    X: Num[ArrayIn, "h w"], pool_size: tuple[int, int], mode: str = "max"
) -> Num[Array, "h-ph+1 w-pw+1"]:
    """`Y[i, j] = max (or mean) of X[i:i+ph, j:j+pw]` (notes, section 5)."""
    X = jnp.asarray(X)
    h, w = X.shape[0] - pool_size[0] + 1, X.shape[1] - pool_size[1] + 1
    reduce = _greatest if mode == "max" else jnp.mean

    def at(i: Array, j: Array) -> Array:
        return reduce(lax.dynamic_slice(X, (i, j), pool_size))

    return jax.vmap(lambda i: jax.vmap(lambda j: at(i, j))(jnp.arange(w)))(jnp.arange(h))


def _greatest(window: Array, axis: Any = None) -> Array:
    """`window.max(axis)`, NaN the greatest: XLA:CPU's own may pass over it (jax 0.10.2)."""
    greatest = window.max(axis)
    if not jnp.issubdtype(window.dtype, jnp.floating):
        return greatest
    return jnp.where(jnp.isnan(window).any(axis), jnp.asarray(jnp.nan, window.dtype), greatest)


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
    wide = jnp.float32 if dtype in (jnp.bfloat16, jnp.float16) else dtype
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
        per_output = per_output.reshape(*(1,) * (y.ndim - rank - 1), -1, *(1,) * rank)
        y = y + per_output.astype(wide)
    y = y.astype(dtype)
    return jnp.moveaxis(y, -rank - 1, -1) if last else y


def max_pool(
    x: Num[ArrayIn, "..."],
    window: tuple[int, ...],
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    layout: str | None = None,
) -> Num[Array, "..."]:
    """`y[i] = max_a x[i*stride + a*dilation - low]`, as `jaxconv.max_pool`, see there."""
    x = jnp.asarray(x)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    nothing = -jnp.inf if floating else jnp.iinfo(x.dtype).min
    pool = _Pool(window, stride, padding, dilation, ceil_mode, layout)
    return pool.run(_greatest, x, padded_with=nothing)


def avg_pool(
    x: Num[ArrayIn, "..."],
    window: tuple[int, ...],
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    layout: str | None = None,
) -> Num[Array, "..."]:
    """`y[i] = sum_a x[i*stride + a*dilation - low] / count[i]`, as `jaxconv.avg_pool`."""
    x = jnp.asarray(x)
    x = x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)
    pool = _Pool(window, stride, padding, dilation, ceil_mode, layout)
    total = pool.run(jnp.sum, x, padded_with=0)
    if divisor_override is not None:
        return total / divisor_override
    return total / pool.run(jnp.sum, jnp.ones_like(x), padded_with=int(count_include_pad))


class _Pool(NamedTuple):
    """What both pools are told."""

    window: tuple[int, ...]
    stride: Any
    padding: Any
    dilation: Any
    ceil_mode: bool
    layout: str | None

    def run(self, reduce: Any, x: Array, padded_with: Any) -> Array:
        """Reduce each window of x padded with this value; in ceil mode the overhang beyond the
        padding holds what changes nothing: 0, or less than all."""
        rank = len(self.window)
        x = jnp.moveaxis(x, -1, -rank - 1) if _channels_last(self.layout) else x
        steps = _per_axis(self.window if self.stride is None else self.stride, rank)
        spread = _per_axis(self.dilation, rank)
        sizes = x.shape[-rank:]
        x = _padded(x, self.window, steps, self.padding, spread, "zeros", padded_with)
        if self.ceil_mode:
            neutral = 0 if reduce is jnp.sum else padded_with
            overhang = self._overhang(sizes, x.shape[-rank:], steps, spread)
            x = _padded(x, self.window, steps, overhang, spread, "zeros", neutral)
        each = functools.partial(reduce, axis=tuple(range(1, rank + 1)))
        y = _over_windows(each, x, self.window, steps, spread)
        return jnp.moveaxis(y, -rank - 1, -1) if _channels_last(self.layout) else y

    def _overhang(self, sizes: Any, padded: Any, steps: Any, spread: Any) -> tuple[Any, ...]:
        """High padding up to the last window that starts in the input or in the low padding."""
        pairs = []
        for axis, (n, k, s, d) in enumerate(zip(sizes, self.window, steps, spread, strict=True)):
            reach = d * (k - 1)
            low, high = _low_high(self.padding, axis, n, reach, s)
            start = 0
            while start + reach + 1 < padded[axis] and start + s < n + low + min(high, 0):
                start += s
            pairs.append((0, start + reach + 1 - padded[axis]))
        return tuple(pairs)


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
        low, high = _low_high(padding, axis, n, reach, steps[axis])
        position = np.arange(-low, n + high)
        if mode == "circular":
            begin, end = max(0, -low), min(n, n + high)
            position = begin + (position - begin) % (end - begin)
        elif mode == "reflect":
            position = np.abs(position)
            position = np.where(position < n, position, 2 * (n - 1) - position)
        elif mode == "replicate":
            position = np.clip(position, 0, n - 1)
        # What lies outside is read from one more element, behind the last.
        inside = (position >= 0) & (position < n)
        shape = list(x.shape)
        shape[axis - rank] = 1
        outside = jnp.full(shape, value, x.dtype)
        extended = jnp.concatenate([x, outside], axis=axis - rank)
        x = jnp.take(extended, np.where(inside, position, n), axis=axis - rank)
    return x


def _low_high(padding: Any, axis: int, n: int, reach: int, step: int) -> tuple[int, int]:
    if isinstance(padding, str):
        name = padding.lower()
        if name.startswith("same"):
            total = max((math.ceil(n / step) - 1) * step + reach + 1 - n, 0)
            less = total // 2
            return (less, total - less) if name == "same" else (total - less, less)
        return {"valid": (0, 0), "full": (reach, reach), "causal": (reach, 0)}[name]
    entry = padding[axis] if hasattr(padding, "__len__") else padding
    return (entry[0], entry[1]) if hasattr(entry, "__len__") else (entry, entry)


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(value) if hasattr(value, "__len__") else (value,) * rank


def _channels_last(layout: str | None) -> bool:
    return layout is not None and layout[-1] == "C"
