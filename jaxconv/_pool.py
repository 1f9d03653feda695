"""The doors of the pools: checks and geometry, then the window maps of `_primitives`.

A pool never mixes channels, so channels-first images are seen as images of one channel and a larger
batch: `(batch * c, *spatial, 1)`, without moving a number.
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, SupportsIndex, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int32, Num

from . import _arrays, _check, _mesh
from ._arrays import ArrayIn
from ._check import Pairs
from ._form import PoolForm
from ._geometry import Geometry, pool_geometry
from ._layout import Layout
from ._primitives import bind, window_argmax_p, window_max_p, window_sum_p
from ._types import Padding, PerAxis

CACHED_CALLS = 4096


@overload
def max_pool(
    x: Num[ArrayIn, "..."],
    window: Sequence[SupportsIndex],
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
    layout: str | None = None,
) -> Num[Array, "..."]: ...


@overload
def max_pool(
    x: Num[ArrayIn, "..."],
    window: Sequence[SupportsIndex],
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    return_indices: Literal[True],
    layout: str | None = None,
) -> tuple[Num[Array, "..."], Int32[Array, "..."]]: ...


def max_pool(
    x: Num[ArrayIn, "..."],
    window: Sequence[SupportsIndex],
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    layout: str | None = None,
) -> Num[Array, "..."] | tuple[Num[Array, "..."], Int32[Array, "..."]]:
    """The greatest element of each window: `y[c, i] = max_a x[c, i*stride + a*dilation - low]`.

    The derivative goes to the element that won, the first in row-major order on ties. NaN wins over
    all else. Padding never wins.

    Args:
        x: images of real numbers, `(*batch, c, *spatial)`, or `(*batch, *spatial, c)`.
        window: elements per axis, a sequence; its length is the number of spatial axes.
        stride: elements from one window to the next; an int, one per axis, or None for the window.
        padding: as in `conv`, smaller than the dilated window. Negative padding crops.
        dilation: elements from one tap of a window to the next; an int, or one per axis.
        ceil_mode: round sizes up: a last window may reach beyond the padding, if it starts before.
        return_indices: also return where the winners are.
        layout: as in `conv`.

    Returns:
        `(*batch, c, *output)` or `(*batch, *output, c)`, of x's dtype, sizes as in
        `jaxconv.geometry.pool_output_shape`. A window that holds no element of x gives -inf, or an
        integer type's least number. With `return_indices` also an int32 array of that shape: flat
        positions in the unpadded spatial plane, -1 for a window that holds no element.

    Raises:
        ValueError: a window that does not fit, a padding as large as the window, a bad value.
        TypeError: an argument of the wrong type or dtype (bool and complex numbers are).

    Source: notes, section 5; `torch.nn.functional.max_pool2d`. Torch stops at padding of half the
    window; here any padding below the dilated window is taken.

    >>> import jax.numpy as jnp
    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4), (3, 3), stride=2, padding=1)[0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    x = _ordered(x)
    wants = _check.flag("return_indices", return_indices)
    call = _parse(x, window, stride, padding, dilation, ceil_mode, layout)
    return _max_program(call, wants)(x)


def min_pool(
    x: Num[ArrayIn, "..."],
    window: Sequence[SupportsIndex],
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    layout: str | None = None,
) -> Num[Array, "..."]:
    """The least element of each window: `y[c, i] = min_a x[c, i*stride + a*dilation - low]`.

    The derivative goes to the first that won, NaN wins, padding never does: `-max_pool(-x)`.

    Args:
        x: images of real numbers, `(*batch, c, *spatial)`, or `(*batch, *spatial, c)`.
        window, stride, padding, dilation, ceil_mode, layout: as in `max_pool`.

    Returns:
        `(*batch, c, *output)` or `(*batch, *output, c)`, of x's dtype. A window that holds no
        element of x gives inf, or an integer type's greatest number.

    Raises:
        ValueError: a window that does not fit, a padding as large as the window, a bad value.
        TypeError: an argument of the wrong type or dtype (bool and complex numbers are).

    >>> import jax.numpy as jnp
    >>> min_pool(jnp.arange(16.0).reshape(1, 4, 4), (2, 2))[0].tolist()
    [[0.0, 2.0], [8.0, 10.0]]
    """
    x = _ordered(x)
    return _min_program(_parse(x, window, stride, padding, dilation, ceil_mode, layout))(x)


def avg_pool(
    x: Num[ArrayIn, "..."],
    window: Sequence[SupportsIndex],
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: SupportsIndex | None = None,
    layout: str | None = None,
) -> Num[Array, "..."]:
    """The mean of each window: `y[c, i] = sum_a x[c, i*stride + a*dilation - low] / count[i]`.

    Args:
        x: images of numbers, `(*batch, c, *spatial)`, or `(*batch, *spatial, c)`.
        window, stride, padding, dilation, ceil_mode, layout: as in `max_pool`.
        count_include_pad: whether explicit padding counts as zeros. The overhang of `ceil_mode`
            never counts.
        divisor_override: divide by this integer, not 0, instead of the count.

    Returns:
        `(*batch, c, *output)` or `(*batch, *output, c)`. Floats and complex numbers keep their
        dtype (float16 and bfloat16 are summed and divided in float32 and rounded once); integers
        give JAX's default float, as `jnp.mean` does (torch refuses them). A window that holds no
        element of x gives 0 where padding counts and NaN where it does not.

    Raises:
        ValueError: a window that does not fit, a padding as large as the window, a bad value.
        TypeError: an argument of the wrong type or dtype (bool is).

    Source: notes, section 5; `torch.nn.functional.avg_pool2d`.

    >>> import jax.numpy as jnp
    >>> avg_pool(jnp.arange(9.0).reshape(1, 3, 3), (2, 2), stride=1)[0].tolist()
    [[2.0, 3.0], [5.0, 6.0]]
    """
    x = _arrays.array("x", x)
    counts_padding = _check.flag("count_include_pad", count_include_pad)
    if divisor_override is not None and not _check.integer("divisor_override", divisor_override):
        raise ValueError("divisor_override must not be 0")
    call = _parse(x, window, stride, padding, dilation, ceil_mode, layout)
    divisor = None if divisor_override is None else int(divisor_override)
    return _avg_program(call, counts_padding, divisor)(x)


class _Call(NamedTuple):
    """A pooling call in hashable values."""

    shape: tuple[Any, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | Pairs
    dilation: tuple[int, ...]
    ceil_mode: bool
    layout: Layout


def _ordered(x: Any) -> Any:
    x = _arrays.array("x", x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"x must be real, as complex numbers have no order; got {x.dtype}")
    return x


def _parse(x: Any, window: Any, stride: Any, padding: Any, dilation: Any, ceil: Any, layout: Any):
    taps = _check.sizes("window", window, 1)
    rank = len(taps)
    return _Call(
        x.shape,
        taps,
        taps if stride is None else _check.per_axis("stride", stride, rank, 1),
        _check.padding("padding", padding, rank),
        _check.per_axis("dilation", dilation, rank, 1),
        _check.flag("ceil_mode", ceil),
        Layout.parse(layout, rank, "window", taps),
    )


class _Plan(NamedTuple):
    """A pooling call, checked: its geometry, its padding without overhang, and its shapes."""

    geometry: Geometry
    explicit: Pairs
    spatial: tuple[int, ...]
    flat: tuple[int, ...]
    result: tuple[int, ...]

    def apply(self, primitive: Any, x: Array, dtype: Any = None) -> Array:
        form = PoolForm(self.geometry, (x.dtype, x.dtype if dtype is None else dtype))
        x = _mesh.reshape(x, self.flat)
        limits = (x.shape[0], *self.geometry.spatial, x.shape[-1])
        kept = x[tuple(slice(limit) for limit in limits)] if limits != x.shape else x
        return _mesh.reshape(bind(primitive, kept, form=form), self.result)

    def winners(self, x: Array) -> Array:
        """Flat positions in the whole plane, also where ceil mode has cropped it beforehand."""
        index = self.apply(window_argmax_p, jax.lax.stop_gradient(x))
        if self.geometry.spatial == self.spatial:
            return index
        whole, rest = jnp.zeros_like(index), index
        steps = zip(self.spatial[::-1], self.geometry.spatial[::-1], strict=True)
        pitch = 1
        for size, kept in steps:
            whole, rest, pitch = whole + rest % kept * pitch, rest // kept, pitch * size
        return jnp.where(index < 0, index, whole)


def _plan(call: _Call) -> _Plan:
    layout, shape = call.layout, call.shape
    layout.check_image("x", shape)
    spatial, channels, batch = layout.spatial(shape), layout.channels(shape), layout.batch(shape)
    _arrays.static_shape("x", shape, spatial)
    geometry, explicit = pool_geometry(
        spatial, call.window, call.stride, call.padding, call.dilation, call.ceil_mode
    )
    rows, depth = math.prod(batch), channels
    if not layout.channels_last:
        rows, depth = rows * channels, 1
    result = layout.image(batch, channels, geometry.output)
    _arrays.computable("padding", result)
    return _Plan(geometry, explicit, spatial, (rows, *spatial, depth), result)


@functools.lru_cache(maxsize=CACHED_CALLS)
def _max_program(call: _Call, return_indices: bool):
    plan = _plan(call)

    @functools.partial(jax.jit, inline=True)
    def max_pool(x):
        x = jnp.asarray(x)
        y = plan.apply(window_max_p, x)
        if not return_indices:
            return y
        return y, plan.winners(x)

    return max_pool


@functools.lru_cache(maxsize=CACHED_CALLS)
def _min_program(call: _Call):
    plan = _plan(call)

    @functools.partial(jax.jit, inline=True)
    def min_pool(x):
        x = jnp.asarray(x)
        # ~x = -x - 1 turns the order of integers around without overflow, unsigned ones too.
        turn = jnp.invert if jnp.issubdtype(x.dtype, jnp.integer) else jnp.negative
        return turn(plan.apply(window_max_p, turn(x)))

    return min_pool


@functools.lru_cache(maxsize=CACHED_CALLS)
def _avg_program(call: _Call, count_include_pad: bool, divisor: int | None):
    plan = _plan(call)
    factors = _counts(plan, call.layout, count_include_pad) if divisor is None else [divisor]

    @functools.partial(jax.jit, inline=True)
    def avg_pool(x):
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jnp.integer):
            x = x.astype(float)
        summed = jnp.float32 if x.dtype in _arrays.HALF else x.dtype
        y = plan.apply(window_sum_p, x, np.dtype(summed))
        count = functools.reduce(operator.mul, (jnp.asarray(factor, y.dtype) for factor in factors))
        return (y / count).astype(x.dtype)

    return avg_pool


def _counts(plan: _Plan, layout: Layout, count_include_pad: bool) -> list[Any]:
    """How many elements each window counts: one factor per axis, to be multiplied.

    An int where all windows of an axis count alike, else an array that lies along the axis.
    """
    geometry, rank = plan.geometry, len(plan.result)
    first = rank - geometry.rank - (1 if layout.channels_last else 0)
    factors: list[Any] = []
    for axis, (low, high) in enumerate(plan.explicit):
        n, s, d = geometry.spatial[axis], geometry.stride[axis], geometry.dilation[axis]
        starts = np.arange(geometry.output[axis]) * s - low
        positions = starts[:, None] + np.arange(geometry.window[axis]) * d
        # Negative padding is cropped: what is cropped away is read by no window.
        begin, end = (-low, n + high) if count_include_pad else (max(0, -low), min(n, n + high))
        inside = ((positions >= begin) & (positions < end)).sum(axis=1)
        shape = [1] * rank
        shape[first + axis] = len(inside)
        alike = (inside == inside[0]).all()
        factors.append(int(inside[0]) if alike else inside.reshape(shape))
    return factors
