"""Computations that XLA:CPU is to keep apart, and to do one after the other."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import jaxpr_as_fun

Result = TypeVar("Result", Array, list[Array])


def apart(function: Callable[..., Result], *operands: Any, after: Sequence[Array] = ()) -> Result:
    """`function(*operands)`, not fused with what reads the result; not before `after` is there.

    XLA:CPU fuses cheap arithmetic into each of its readers, and so computes it again for each tap
    that reads it; an optimization barrier is gone before it does. A branch that it cannot decide
    while compiling stays a computation of its own. Axes of one element are left out on the way in
    and out: XLA would take them for a difference in layout, and copy.
    """
    whole = jax.tree.leaves(operands)
    jaxpr, results = jax.make_jaxpr(function, return_shape=True)(*operands)

    def thin(*given: Array) -> list[Array]:
        restored = [part.reshape(like.shape) for part, like in zip(given, whole, strict=True)]
        return [_thin(part) for part in jaxpr_as_fun(jaxpr)(*restored)]

    shapes, result_structure = jax.tree.flatten(results)
    nothing = [jnp.zeros(_thin_shape(part.shape), part.dtype) for part in shapes]
    thinned = lax.cond(always(*after), thin, lambda *_: nothing, *map(_thin, whole))
    parts = [part.reshape(like.shape) for part, like in zip(thinned, shapes, strict=True)]
    return jax.tree.unflatten(result_structure, parts)


def _thin_shape(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _thin(array: Array) -> Array:
    return array.reshape(_thin_shape(array.shape))


def always(*after: Array) -> Array:
    """True, but not to the compiler, which has to have some element of `after` first."""
    always = lax.optimization_barrier(jnp.asarray(True))
    return functools.reduce(operator.or_, (a[(0,) * a.ndim] != 0 for a in after), always)


class Block(NamedTuple):
    """Some images, and some rows of them."""

    image: int
    images: int
    row: int
    rows: int


def cut_up(images: int, height: int, most: int, count: int) -> list[Block]:
    """All rows of all images in blocks of `most` rows, or in about `count` larger ones."""
    together = max(most // height, -(-images // count), 1)
    rows = height if most >= height else max(most, -(-height * images // count), 1)
    return [
        Block(image, min(together, images - image), row, min(rows, height - row))
        for image in range(0, images, together)
        for row in range(0, height, rows)
    ]


def in_turn(function: Callable[..., Array], blocks: Sequence[Block], *operands: Any) -> list[Array]:
    """`function(block, *operands)` of each, one after the other: XLA would hold what they all need
    at once."""
    results: list[Array] = []
    for block in blocks:
        compute = functools.partial(function, block)
        results.append(apart(compute, *operands, after=results[-1:]))
    return results


def put_together(blocks: Sequence[Block], results: Sequence[Array], axis: int) -> Array:
    """The blocks' results, whose rows are along `axis`, as one array."""
    images: dict[int, list[Array]] = {}
    for block, result in zip(blocks, results, strict=True):
        images.setdefault(block.image, []).append(result)
    return lax.concatenate([lax.concatenate(rows, axis) for rows in images.values()], 0)
