"""Several results of one loop."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def together(terms: Sequence[Array]) -> list[Array]:
    """Arrays of one shape and dtype, computed side by side, not one after the other.

    XLA:CPU makes a loop of its own of each result, and reads again what several of them share. A
    reduction of several operands is one loop with several results: here over an axis of two, with
    nothing but zeros in its second half, as one of a single element would be taken out. LLVM
    computes what is summed once, in vectors, and adds the zero.
    """
    if len(terms) == 1:
        return list(terms)
    shape = (2, *terms[0].shape)
    is_first = lax.broadcasted_iota(np.int32, shape, 0) == 0
    zero = np.zeros((), terms[0].dtype)
    pairs = [jnp.where(is_first, lax.broadcast(term, (2,)), zero) for term in terms]

    def add(one: tuple[Array, ...], other: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(a + b for a, b in zip(one, other, strict=True))

    return list(lax.reduce(tuple(pairs), (zero,) * len(pairs), add, (0,)))
