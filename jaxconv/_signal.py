"""`correlate` and `convolve` of plain arrays, as `scipy.signal` has them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Num

from . import _arrays, _check
from ._arrays import ArrayIn
from ._conv import conv

MODES = ("full", "same", "valid")


def correlate(
    x: Num[ArrayIn, "..."], k: Num[ArrayIn, "..."], mode: str = "valid"
) -> Num[Array, "..."]:
    """Cross-correlation of two arrays: `z[i] = sum_a x[i + a] * conj(k[a])`.

    Args:
        x: an array of 1 to 3 axes.
        k: an array of as many axes.
        mode: `"full"`: every overlap, `n + m - 1` elements per axis; `"same"`: the middle of that,
            of x's size; `"valid"`: complete overlaps only, `|n - m| + 1`. Where k is the larger one
            in every axis, `"valid"` gives the overlaps in scipy's order.

    Returns:
        An array of the promoted dtype, sizes as above.

    Raises:
        ValueError: axes that do not fit, an empty array, an unknown mode, or `"valid"` where
            neither array is at least as large as the other in every axis.
        TypeError: an argument of the wrong type or dtype (bool is).

    Source: notes, section 1; `scipy.signal.correlate`.

    >>> import jax.numpy as jnp
    >>> correlate(jnp.arange(9).reshape(3, 3), jnp.arange(4).reshape(2, 2)).tolist()
    [[19, 25], [37, 43]]
    """
    x, k, mode = _parse(x, k, mode)
    return _program(mode, x.shape, k.shape, correlation=True)(x, k)


def convolve(
    x: Num[ArrayIn, "..."], k: Num[ArrayIn, "..."], mode: str = "full"
) -> Num[Array, "..."]:
    """Convolution of two arrays: `z[i] = sum_a x[i - a] * k[a]`, the kernel flipped.

    Args:
        x: an array of 1 to 3 axes.
        k: an array of as many axes.
        mode: as in `correlate`.

    Returns:
        An array of the promoted dtype.

    Raises:
        ValueError: axes that do not fit, an empty array, an unknown mode, or `"valid"` where
            neither array is at least as large as the other in every axis.
        TypeError: an argument of the wrong type or dtype (bool is).

    Source: notes, section 1; `scipy.signal.convolve`.

    >>> import jax.numpy as jnp
    >>> convolve(jnp.asarray([1, 0, 0, 2]), jnp.asarray([4, 2, 1])).tolist()
    [4, 2, 1, 8, 4, 2]
    """
    x, k, mode = _parse(x, k, mode)
    return _program(mode, x.shape, k.shape, correlation=False)(x, k)


def _parse(x: Any, k: Any, mode: Any) -> tuple[Any, Any, str]:
    x, k = _arrays.array("x", x), _arrays.array("k", k)
    if x.ndim != k.ndim or not 1 <= x.ndim <= 3:
        raise ValueError(
            f"x and k must have the same 1, 2 or 3 axes; got x {x.shape} and k {k.shape}"
        )
    for name, value in (("x", x), ("k", k)):
        if 0 in value.shape:
            raise ValueError(f"{name} must not be empty; got shape {value.shape}")
    return x, k, _check.choice("mode", mode, MODES)


@functools.lru_cache(maxsize=4096)
def _program(mode: str, x_shape: tuple[int, ...], k_shape: tuple[int, ...], correlation: bool):
    _arrays.static_shape("x", x_shape, x_shape)
    _arrays.static_shape("k", k_shape, k_shape)
    pairs = list(zip(x_shape, k_shape, strict=True))
    exchanged = mode == "valid" and not all(n >= m for n, m in pairs)
    if exchanged and not all(n <= m for n, m in pairs):
        raise ValueError(
            f"mode 'valid' needs x or k at least as large as the other in every axis; got x "
            f"{x_shape} and k {k_shape}"
        )
    # "same" keeps x's size from the middle of the full result, starting at (m - 1) // 2.
    padding = {
        "full": tuple((m - 1, m - 1) for _, m in pairs),
        "same": tuple((m // 2, (m - 1) // 2) for _, m in pairs),
        "valid": 0,
    }[mode]
    # conv(x, k) = corr(x, rot180 k), in either order of the two; but for correlation
    # z[t] = sum_j x[j] conj(k[j - t]) reads, with k the larger one, corr(conj k, x) from its end.
    exchange = exchanged and correlation

    @functools.partial(jax.jit, inline=True)
    def program(x, k):
        k = k.conj() if correlation else k
        image, kernel = (k, x) if exchanged else (x, k)
        kernel = kernel if correlation else jnp.flip(kernel)
        z = conv(image[None], kernel[None, None], padding=padding)[0]
        return jnp.flip(z) if exchange else z

    return program
