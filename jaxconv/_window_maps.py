"""The maps of windows as JAX primitives: pools, columns, and values put where an index says.

Each is linear in its first operand but for `window_max` and `window_argmax`, and its transpose is
another one:

    window_sum   <->  window_spread      sums of windows; each sum given back to its window
    unfold       <->  fold               windows written out; written-out windows added up
    pick         <->  place              x[index]; values put at index, added where they meet

`window_max` has the derivative `pick(t, window_argmax(x))`. A mapped axis always joins the batch.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from ._check import LARGEST
from ._form import PoolForm, Shape
from ._primitives import bind, map_primitive, without


def _window_map(name: str, result: Callable[..., tuple[Shape, Any]]) -> Primitive:
    primitive = map_primitive(name, result, batched=True)
    batching.primitive_batchers[primitive] = functools.partial(_batch_window_map, primitive)
    return primitive


def _batch_window_map(primitive: Primitive, values, mapped, *, form):
    """The mapped axis joins the batch; an operand without it is repeated."""
    size = next(
        value.shape[axis] for value, axis in zip(values, mapped, strict=True) if axis is not None
    )
    folded = []
    for value, axis in zip(values, mapped, strict=True):
        if axis is None:
            value = jnp.broadcast_to(value[None], (size, *value.shape))
        else:
            value = jnp.moveaxis(value, axis, 0)
        folded.append(value.reshape(size * value.shape[1], *value.shape[2:]))
    result = primitive.bind(*folded, form=form)
    per_map = without(values[0].shape, mapped[0])[0]
    return result.reshape(size, per_map, *result.shape[1:]), 0


def _down(form: PoolForm, x: Shape, *_: Shape):
    return form.output_shape(x), form.dtypes[1]


def _up(form: PoolForm, y: Shape, *_: Shape):
    return form.input_shape(y), form.dtypes[0]


def _columns(form: PoolForm, x: Shape):
    return form.columns_shape(x), form.dtypes[1]


def _positions(form: PoolForm, x: Shape):
    if math.prod(form.geometry.spatial) > LARGEST:
        raise ValueError(
            f"x must have at most {LARGEST} elements in a plane for int32 positions of winners, "
            f"and for max-pool gradients; got spatial shape {form.geometry.spatial}"
        )
    return form.output_shape(x), np.dtype(np.int32)


window_max_p = _window_map("window_max", _down)
window_argmax_p = _window_map("window_argmax", _positions)
window_sum_p = _window_map("window_sum", _down)
window_spread_p = _window_map("window_spread", _up)
pick_p = _window_map("pick", _down)
place_p = _window_map("place", _up)
unfold_p = _window_map("unfold", _columns)
fold_p = _window_map("fold", _up)


def _transposes(primitive: Primitive, transposed: Primitive) -> None:
    ad.deflinear2(primitive, lambda ct, value, *, form: [bind(transposed, ct, form=form)])


_transposes(window_sum_p, window_spread_p)
_transposes(window_spread_p, window_sum_p)
_transposes(unfold_p, fold_p)
_transposes(fold_p, unfold_p)


def _linear_in_first(primitive: Primitive, transposed: Primitive) -> None:
    """`primitive(value, index)` is linear in the value; the index has no derivative."""

    def transpose(cotangent, value, index, *, form):
        return [bind(transposed, cotangent, index, form=form), None]

    ad.deflinear2(primitive, transpose)
    # In place of deflinear2's own rule, which would want a tangent for the index as well.
    ad.defjvp(primitive, lambda t, value, index, *, form: primitive.bind(t, index, form=form), None)


_linear_in_first(pick_p, place_p)
_linear_in_first(place_p, pick_p)


def _window_max_tangent(tangent, x, *, form):
    """dy[s] = dx[winner of window s]; the winner, an integer, has no derivative."""
    winner = window_argmax_p.bind(jax.lax.stop_gradient(x), form=form)
    return pick_p.bind(tangent, winner, form=form)


ad.defjvp(window_max_p, _window_max_tangent)


def turned(x: jax.Array) -> jax.Array:
    """x with its order turned around, so that the greatest is the least; turned twice, x again.

    ~x = -x - 1 does that for integers without overflow, unsigned ones too.
    """
    return jnp.invert(x) if jnp.issubdtype(x.dtype, jnp.integer) else jnp.negative(x)
