"""The doors of the pools: checks and geometry in `_pool_plan`, then `_window_maps`."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, SupportsIndex, overload

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Int32, Num

from . import _arrays, _check
from ._arrays import ArrayIn
from ._pool_plan import Call, counts, maxima, means, parse, plan
from ._types import Padding, PerAxis
from ._window_maps import turned, window_max_p, window_sum_p

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
    window; here any padding below the dilated window is taken. Of NaNs the winner is the first of
    several, where torch takes the last. Empty batches and channels give empty results.

    >>> import jax.numpy as jnp
    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4), (3, 3), stride=2, padding=1)[0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    x = _arrays.ordered("x", x)
    wants = _check.flag("return_indices", return_indices)
    call = parse(x, window, stride, padding, dilation, ceil_mode, layout)
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
    x = _arrays.ordered("x", x)
    return _min_program(parse(x, window, stride, padding, dilation, ceil_mode, layout))(x)


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
        give JAX's default float, as `jnp.mean` does. A window that holds no
        element of x gives 0 where padding counts and NaN where it does not.

    Raises:
        ValueError: a window that does not fit, a padding as large as the window, a bad value.
        TypeError: an argument of the wrong type or dtype (bool is).

    Source: notes, section 5; `torch.nn.functional.avg_pool2d`: torch truncates the means of int64
    and refuses other integers, `divisor_override` torch has none in 1-D, and where a window is
    larger than x, torch's 3-D pool counts no padding there.

    >>> import jax.numpy as jnp
    >>> avg_pool(jnp.arange(9.0).reshape(1, 3, 3), (2, 2), stride=1)[0].tolist()
    [[2.0, 3.0], [5.0, 6.0]]
    """
    x = _arrays.array("x", x)
    counts_padding = _check.flag("count_include_pad", count_include_pad)
    divisor = divisor_override
    if divisor is not None and not (divisor := _check.integer("divisor_override", divisor)):
        raise ValueError("divisor_override must not be 0; got 0")
    call = parse(x, window, stride, padding, dilation, ceil_mode, layout)
    return _avg_program(call, counts_padding, divisor)(x)


def lp_pool(
    x: Num[ArrayIn, "..."],
    window: Sequence[SupportsIndex],
    p: float = 2.0,
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    layout: str | None = None,
) -> Num[Array, "..."]:
    """The p-norm of each window: `y[c, i] = (sum_a |x[c, i*stride + a*dilation - low]|**p)**(1/p)`.

    The derivative of a window of zeros is 0, and so is that of `|x|**p` at `x = 0`, to any order at
    which it does not exist. `|x|**p` must not overflow the dtype of the sum.

    Args:
        x: images of real numbers, `(*batch, c, *spatial)`, or `(*batch, *spatial, c)`.
        window: as in `max_pool`.
        p: a number above 0: 1 sums magnitudes, 2 is the Euclidean norm, infinity the greatest
            magnitude.
        stride, padding, dilation, ceil_mode, layout: as in `max_pool`.

    Returns:
        `(*batch, c, *output)` or `(*batch, *output, c)`. Floats keep their dtype (float16 and
        bfloat16 are computed in float32 and rounded once), integers give JAX's default float. A
        window that holds no element of x gives 0.

    Raises:
        ValueError: a window that does not fit, a padding as large as the window, a bad value.
        TypeError: an argument of the wrong type or dtype (bool and complex numbers are).

    Source: `torch.nn.functional.lp_pool2d`, which leaves out the magnitude (odd p differ on
    negative numbers) and scales the last windows of `ceil_mode` up to full ones; here neither is
    done. It has no padding and no dilation, and may give NaN to derivatives of windows of zeros.

    >>> import jax.numpy as jnp
    >>> lp_pool(jnp.asarray([[3.0, -4.0, 0.0, 2.0]]), (2,)).tolist()
    [[5.0, 2.0]]
    """
    x = _arrays.ordered("x", x)
    exponent = _check.positive("p", p)
    return _lp_program(parse(x, window, stride, padding, dilation, ceil_mode, layout), exponent)(x)


@functools.lru_cache(maxsize=CACHED_CALLS)
def _max_program(call: Call, return_indices: bool):
    return maxima(plan(call), return_indices)


@functools.lru_cache(maxsize=CACHED_CALLS)
def _min_program(call: Call):
    planned = plan(call)

    @functools.partial(jax.jit, inline=True)
    def min_pool(x):
        x = jnp.asarray(x)
        return turned(planned.apply(window_max_p, turned(x)))

    return min_pool


@functools.lru_cache(maxsize=CACHED_CALLS)
def _avg_program(call: Call, count_include_pad: bool, divisor: int | None):
    planned = plan(call)
    factors = counts(planned, call.layout, count_include_pad) if divisor is None else [divisor]
    return means(planned, factors)


@functools.lru_cache(maxsize=CACHED_CALLS)
def _lp_program(call: Call, p: float):
    planned = plan(call)

    @functools.partial(jax.jit, inline=True)
    def lp_pool(x):
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jnp.integer):
            x = x.astype(float)
        dtype = x.dtype
        x = x.astype(_arrays.accumulator(dtype))
        if math.isinf(p):
            greatest = planned.apply(window_max_p, _magnitude(x))
            return jnp.where(greatest < 0, 0, greatest).astype(dtype)  # -inf: an empty window
        return _where_not_zero(
            lambda total: total ** (1 / p), planned.apply(window_sum_p, _power(x, p))
        ).astype(dtype)

    return lp_pool


def _power(x: Array, p: float) -> Array:
    """`|x|**p`, by products where p is an integer, so that derivatives at 0 are exact."""
    if p == round(p):
        return lax.integer_pow(x if p % 2 == 0 else _magnitude(x), round(p))
    return _where_not_zero(lambda x: _magnitude(x) ** p, x)


def _magnitude(x: Array) -> Array:
    """`|x|` with derivative 0 at 0, where that of `jnp.abs` is 1."""
    return x * jnp.sign(x)


def _where_not_zero(function: Callable[[Array], Array], x: Array) -> Array:
    """`function(x)`, but 0 with all derivatives 0 where x is 0; there it never sees x."""
    zero = x == 0
    one = jnp.ones((), x.dtype)
    return jnp.where(zero, jnp.zeros((), x.dtype), function(jnp.where(zero, one, x)))
