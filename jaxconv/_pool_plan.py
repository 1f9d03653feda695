"""Pooling calls read, checked and planned, for the doors `_pool`, `_adaptive` and `_columns`.

A pool never mixes channels, so channels-first images are seen as images of one channel and a larger
batch: `(batch * c, *spatial, 1)`, without moving a number.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import _arrays, _check, _mesh
from ._check import Pairs
from ._form import PoolForm
from ._geometry import Geometry, Partition, pool_geometry
from ._layout import Layout
from ._primitives import bind
from ._window_maps import window_argmax_p, window_max_p, window_sum_p


class Call(NamedTuple):
    """A pooling call in hashable values."""

    shape: tuple[Any, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | Pairs
    dilation: tuple[int, ...]
    ceil_mode: bool
    layout: Layout


def parse(x: Any, window: Any, stride: Any, padding: Any, dilation: Any, ceil: Any, layout: Any):
    taps = _check.sizes("window", window, 1)
    rank = len(taps)
    return Call(
        x.shape,
        taps,
        taps if stride is None else _check.per_axis("stride", stride, rank, 1),
        _check.padding("padding", padding, rank),
        _check.per_axis("dilation", dilation, rank, 1),
        _check.flag("ceil_mode", ceil),
        Layout.parse(layout, rank, "window", taps),
    )


#: Windows of one size, or an adaptive pool's.
Windows = TypeVar("Windows", Geometry, Partition)


class Plan(NamedTuple, Generic[Windows]):
    """A pooling call, checked: its geometry, its padding without overhang, and its shapes."""

    geometry: Windows
    explicit: Pairs
    spatial: tuple[int, ...]
    flat: tuple[int, ...]
    result: tuple[int, ...]

    def form(self, dtype: Any, out: Any = None) -> PoolForm:
        return PoolForm(self.geometry, (dtype, dtype if out is None else out))

    def apply(self, primitive: Any, x: Array, dtype: Any = None) -> Array:
        x = _mesh.reshape(x, self.flat)
        limits = (x.shape[0], *self.geometry.spatial, x.shape[-1])
        kept = x[tuple(slice(limit) for limit in limits)] if limits != x.shape else x
        return _mesh.reshape(bind(primitive, kept, form=self.form(x.dtype, dtype)), self.result)

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


def plan(call: Call) -> Plan[Geometry]:
    layout, shape = call.layout, call.shape
    layout.check_image("x", shape)
    spatial, channels, batch = layout.spatial(shape), layout.channels(shape), layout.batch(shape)
    _arrays.static_shape("x", shape, spatial)
    geometry, explicit = pool_geometry(
        spatial, call.window, call.stride, call.padding, call.dilation, call.ceil_mode
    )
    result = layout.image(batch, channels, geometry.output)
    _arrays.paddable(geometry.padding)
    _arrays.computable("padding", result)
    return Plan(geometry, explicit, spatial, planes(layout, shape), result)


def planes(layout: Layout, shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shape `(n, *spatial, c)` that window maps see an image in, without moving a number."""
    rows, channels = math.prod(layout.batch(shape)), layout.channels(shape)
    if layout.channels_last:
        return (rows, *layout.spatial(shape), channels)
    return (rows * channels, *layout.spatial(shape), 1)


def maxima(planned: Plan[Any], return_indices: bool) -> Callable[..., Any]:
    """The program of a max pool."""

    @functools.partial(jax.jit, inline=True)
    def max_pool(x):
        x = jnp.asarray(x)
        y = planned.apply(window_max_p, x)
        return (y, planned.winners(x)) if return_indices else y

    return max_pool


def means(planned: Plan[Any], factors: list[Any]) -> Callable[..., Any]:
    """The program of an average pool: sums over the product of factors, one for each axis."""

    @functools.partial(jax.jit, inline=True)
    def avg_pool(x):
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jnp.integer):
            x = x.astype(float)
        y = planned.apply(window_sum_p, x, _arrays.accumulator(x.dtype))
        count = functools.reduce(operator.mul, (jnp.asarray(factor, y.dtype) for factor in factors))
        return (y / count).astype(x.dtype)

    return avg_pool


def counts(plan: Plan[Geometry], layout: Layout, count_include_pad: bool) -> list[Any]:
    """How many elements each window counts: one factor per axis, to be multiplied."""
    geometry = plan.geometry
    factors: list[Any] = []
    for axis, (low, high) in enumerate(plan.explicit):
        n, s, d = geometry.spatial[axis], geometry.stride[axis], geometry.dilation[axis]
        starts = np.arange(geometry.output[axis]) * s - low
        positions = starts[:, None] + np.arange(geometry.window[axis]) * d
        # Negative padding is cropped: what is cropped away is read by no window.
        begin, end = (-low, n + high) if count_include_pad else (max(0, -low), min(n, n + high))
        inside = ((positions >= begin) & (positions < end)).sum(axis=1)
        factors.append(along(layout, len(plan.result), axis, inside))
    return factors


def along(layout: Layout, axes: int, axis: int, values: np.ndarray) -> Any:
    """One number per output of a spatial axis, lying along it; an int where all are alike."""
    if len(set(values.tolist())) == 1:
        return int(values[0])
    shape = [1] * axes
    shape[layout.first_spatial(axes) + axis] = len(values)
    return values.reshape(shape)
