"""Computations that XLA:CPU is to keep apart, and to do one after the other."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from ._cast import bits, from_bits

#: So many blocks are put together as they are, more in a loop.
MOST_UNROLLED = 4

Result = TypeVar("Result", Array, list[Array])


def apart(function: Callable[..., Result], *operands: Any, after: Sequence[Array] = ()) -> Result:
    """`function(*operands)`, not fused with what reads the result; not before `after` is there.

    XLA:CPU fuses cheap arithmetic into each of its readers, and so computes it again for each tap
    that reads it; an optimization barrier is gone before it does. A branch that it cannot decide
    while compiling stays a computation of its own. Axes of one element are left out on the way in
    and out: XLA would take them for a difference in layout, and copy. What is reshaped at the end,
    is so outside: in the loop, each number's place would be divided up again.
    """
    whole = jax.tree.leaves(operands)
    jaxpr, results = jax.make_jaxpr(function, return_shape=True)(*operands)
    jaxpr = _unshaped(jaxpr)

    def thin(*given: Array) -> list[Array]:
        restored = [part.reshape(like.shape) for part, like in zip(given, whole, strict=True)]
        return [_thin(part) for part in jaxpr_as_fun(jaxpr)(*restored)]

    shapes, result_structure = jax.tree.flatten(results)
    nothing = [jnp.zeros(_thin_shape(part.shape), part.dtype) for part in jaxpr.out_avals]
    thinned = lax.cond(always(*after), thin, lambda *_: nothing, *map(_thin, whole))
    parts = [part.reshape(like.shape) for part, like in zip(thinned, shapes, strict=True)]
    return jax.tree.unflatten(result_structure, parts)


def _unshaped(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The same program, but for reshapes of its results at the very end."""
    sources = {}
    for eqn in closed.jaxpr.eqns:
        plain = eqn.primitive is lax.reshape_p and eqn.params["dimensions"] is None
        if plain and not isinstance(eqn.invars[0], Literal):
            sources[eqn.outvars[0]] = eqn.invars[0]

    def source(result: Any) -> Any:
        while not isinstance(result, Literal) and result in sources:
            result = sources[result]
        return result

    results = [source(result) for result in closed.jaxpr.outvars]
    return ClosedJaxpr(closed.jaxpr.replace(outvars=results), closed.consts)


def _thin_shape(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _thin(array: Array) -> Array:
    return array.reshape(_thin_shape(array.shape))


def always(*after: Array) -> Array:
    """True, but not to the compiler, which has to have some element of `after` first."""
    always = lax.optimization_barrier(jnp.asarray(True))
    return functools.reduce(operator.or_, (a[(0,) * a.ndim] != 0 for a in after), always)


class Block(NamedTuple):
    """Some images, and some rows of them; it begins wherever a loop has it begin."""

    image: Any
    images: int
    row: Any
    rows: int


def cut_up(images: int, height: int, most: int, count: int | None = None) -> list[Block]:
    """All rows of all images in blocks of `most` rows, whole images where these have no more; or in
    `count` larger blocks."""
    together, rows = most // height, most
    if count is not None:
        together = max(together, -(-images // count))
        rows = max(rows, -(-images * height // count))
    together, rows = share(images, together), share(height, rows)
    return [
        Block(image, min(together, images - image), row, min(rows, height - row))
        for image in range(0, images, together)
        for row in range(0, height, rows)
    ]


def share(size: int, most: int) -> int:
    """At most so many at once, all shares the same if that takes less than twice as many."""
    most = min(max(most, 1), size)
    even = (share for share in range(most, most // 2, -1) if size % share == 0)
    return next(even, -(-size // -(-size // most)))


def taken(
    array: Array, block: Block, axis: int, start: Any = None, rows: int | None = None
) -> Array:
    """A block's images, and its rows along an axis, or others."""
    starts, sizes = [0] * array.ndim, list(array.shape)
    starts[0], sizes[0] = block.image, block.images
    starts[axis] = block.row if start is None else start
    sizes[axis] = block.rows if rows is None else rows
    if all(isinstance(at, int) for at in starts):
        return lax.slice(array, starts, [at + n for at, n in zip(starts, sizes, strict=True)])
    part = lax.dynamic_slice(bits(array), [jnp.asarray(at, jnp.int32) for at in starts], sizes)
    return from_bits(part, array.dtype)


def summed(function: Callable[..., Any], blocks: Sequence[Block], *operands: Any) -> Any:
    """`function(block, *operands)` of all blocks, one after the other, added up."""
    if len(blocks) == 1:
        return function(blocks[0], *operands)
    like = jax.eval_shape(lambda: function(blocks[0], *operands))
    zeros = jax.tree.map(lambda part: jnp.zeros(part.shape, part.dtype), like)

    def add(sums: Any, block: Block) -> Any:
        return jax.tree.map(operator.add, sums, function(block, *operands))

    return _in_turn(add, blocks, zeros)


def collected(
    function: Callable[..., Array],
    blocks: Sequence[Block],
    axis: int,
    *operands: Any,
    most_unrolled: int = MOST_UNROLLED,
) -> Array:
    """`function(block, *operands)` of all blocks, one after the other, put together: their rows are
    along an axis, as many results to each."""
    if len(blocks) <= most_unrolled:
        return unrolled(function, blocks, axis, *operands)
    like = jax.eval_shape(lambda: function(blocks[0], *operands))
    shape, each = list(like.shape), like.shape[axis] // blocks[0].rows
    shape[0] = max(block.image + block.images for block in blocks)
    shape[axis] = max(block.row + block.rows for block in blocks) * each

    def put(whole: Array, block: Block) -> Array:
        starts = [jnp.int32(0)] * len(shape)
        starts[0], starts[axis] = block.image, block.row * each
        return lax.dynamic_update_slice(whole, bits(function(block, *operands)), starts)

    whole = _in_turn(put, blocks, bits(jnp.zeros(shape, like.dtype)))
    return from_bits(whole, like.dtype)


def unrolled(
    function: Callable[..., Array], blocks: Sequence[Block], axis: int, *operands: Any
) -> Array:
    """`collected` without a loop: `function` is given numbers for where its blocks begin."""
    if len(blocks) == 1:
        return function(blocks[0], *operands)
    images: dict[int, list[Array]] = {}
    results: list[Array] = []
    for block in blocks:
        compute = functools.partial(function, block)
        results.append(apart(compute, *operands, after=results[-1:]))
        images.setdefault(block.image, []).append(results[-1])
    return lax.concatenate([lax.concatenate(rows, axis) for rows in images.values()], 0)


def _in_turn(step: Callable[[Any, Block], Any], blocks: Sequence[Block], carry: Any) -> Any:
    """Blocks of one size in a loop: XLA would compile each, and hold what they all need at once."""
    for images, rows in dict.fromkeys((block.images, block.rows) for block in blocks):
        alike = [b for b in blocks if (b.images, b.rows) == (images, rows)]
        starts = jnp.asarray([(block.image, block.row) for block in alike], np.int32)

        def body(carry: Any, at: Array, images: int = images, rows: int = rows) -> Any:
            return step(carry, Block(at[0], images, at[1], rows)), None

        carry, _ = lax.scan(body, carry, starts)
    return carry
