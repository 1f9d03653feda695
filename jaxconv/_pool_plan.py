"""Pooling calls read, checked and planned, for the doors in `_pool`.

A pool never mixes channels, so channels-first images are seen as images of one channel and a larger
batch: `(batch * c, *spatial, 1)`, without moving a number.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import _arrays, _check, _mesh
from ._check import Pairs
from ._form import PoolForm
from ._geometry import Geometry, pool_geometry
from ._layout import Layout
from ._primitives import bind, window_argmax_p


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


class Plan(NamedTuple):
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


def plan(call: Call) -> Plan:
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
    return Plan(geometry, explicit, spatial, (rows, *spatial, depth), result)


def counts(plan: Plan, layout: Layout, count_include_pad: bool) -> list[Any]:
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
