"""The notes' own functions, under the notes' names, on single images."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Num

from . import _arrays, _check
from ._arrays import ArrayIn
from ._conv import conv
from ._pool import avg_pool, max_pool


def corr2d(X: Num[ArrayIn, "h w"], K: Num[ArrayIn, "kh kw"]) -> Num[Array, "h-kh+1 w-kw+1"]:
    """2-D cross-correlation: `Y[i, j] = sum_ab X[i+a, j+b] K[a, b]`.

    Args:
        X: one image, `(h, w)`.
        K: one kernel, `(kh, kw)`.

    Returns:
        `(h-kh+1, w-kw+1)`, of the promoted dtype.

    Raises:
        ValueError: arrays that are not 2-D, or a kernel larger than the image.
        TypeError: an argument of the wrong type or dtype.

    Source: notes, section 1.

    >>> import jax.numpy as jnp
    >>> corr2d(jnp.arange(9).reshape(3, 3), jnp.arange(4).reshape(2, 2)).tolist()
    [[19, 25], [37, 43]]
    """
    X, K = _arrays.array("X", X), _arrays.array("K", K)
    _check_axes("X", X, "(h, w)")
    _check_axes("K", K, "(kh, kw)")
    _check_window(X, K)
    return _corr2d(X, K)


def corr2d_multi_in(
    X: Num[ArrayIn, "ci h w"], K: Num[ArrayIn, "ci kh kw"]
) -> Num[Array, "h-kh+1 w-kw+1"]:
    """2-D cross-correlation, summed over input channels: `Y = sum_d corr2d(X[d], K[d])`.

    Args:
        X: one image, `(ci, h, w)`.
        K: one kernel, `(ci, kh, kw)`.

    Returns:
        `(h-kh+1, w-kw+1)`, of the promoted dtype.

    Raises:
        ValueError: arrays that are not 3-D, channels that differ, or a kernel larger than X.
        TypeError: an argument of the wrong type or dtype.

    Source: notes, section 4.

    >>> import jax.numpy as jnp
    >>> X, K = jnp.arange(9).reshape(3, 3), jnp.arange(4).reshape(2, 2)
    >>> corr2d_multi_in(jnp.stack([X, X + 1]), jnp.stack([K, K + 1])).tolist()
    [[56, 72], [104, 120]]
    """
    X, K = _arrays.array("X", X), _arrays.array("K", K)
    _check_axes("X", X, "(ci, h, w)")
    _check_axes("K", K, "(ci, kh, kw)")
    _check_channels(X, K, K.shape[0])
    _check_window(X, K)
    return _corr2d_multi_in(X, K)


def corr2d_multi_in_out(
    X: Num[ArrayIn, "ci h w"], K: Num[ArrayIn, "co ci kh kw"]
) -> Num[Array, "co h-kh+1 w-kw+1"]:
    """2-D cross-correlation with several output channels: `Y[p] = corr2d_multi_in(X, K[p])`.

    Args:
        X: one image, `(ci, h, w)`.
        K: one kernel for each output, `(co, ci, kh, kw)`.

    Returns:
        `(co, h-kh+1, w-kw+1)`, of the promoted dtype.

    Raises:
        ValueError: wrong numbers of axes, channels that differ, or a kernel larger than the image.
        TypeError: an argument of the wrong type or dtype.

    Source: notes, section 4.

    >>> import jax.numpy as jnp
    >>> corr2d_multi_in_out(jnp.ones((3, 8, 8)), jnp.ones((5, 3, 2, 2))).shape
    (5, 7, 7)
    """
    X, K = _arrays.array("X", X), _arrays.array("K", K)
    _check_axes("X", X, "(ci, h, w)")
    _check_axes("K", K, "(co, ci, kh, kw)")
    _check_channels(X, K, K.shape[1])
    _check_window(X, K)
    return conv(X, K)


def corr2d_multi_in_out_1x1(
    X: Num[ArrayIn, "ci h w"], K: Num[ArrayIn, "co ci 1 1"]
) -> Num[Array, "co h w"]:
    """A 1x1 convolution as what it is, one matmul: `(co, ci) @ (ci, h*w)`.

    Args:
        X: one image, `(ci, h, w)`.
        K: `(co, ci, 1, 1)`, or `(co, ci)`.

    Returns:
        `(co, h, w)`, of the promoted dtype; float16 and bfloat16 are summed in float32.

    Raises:
        ValueError: wrong numbers of axes, a window that is not 1x1, or channels that differ.
        TypeError: an argument of the wrong type or dtype.

    Source: notes, section 4.

    >>> import jax.numpy as jnp
    >>> corr2d_multi_in_out_1x1(jnp.ones((3, 4, 5)), jnp.ones((2, 3, 1, 1))).shape
    (2, 4, 5)
    """
    X, K = _arrays.array("X", X), _arrays.array("K", K)
    _check_axes("X", X, "(ci, h, w)")
    if K.ndim not in (2, 4) or K.shape[2:] not in ((), (1, 1)):
        raise ValueError(f"K must have shape (co, ci, 1, 1) or (co, ci); got {K.shape}")
    _check_channels(X, K, K.shape[1])
    return _matmul_1x1(X, K)


def pool2d(
    X: Num[ArrayIn, "h w"], pool_size: tuple[int, int], mode: str = "max"
) -> Num[Array, "h-ph+1 w-pw+1"]:
    """Pooling with stride 1 and no padding: the greatest, or the mean, of each window.

    Args:
        X: one image, `(h, w)`.
        pool_size: the window, `(ph, pw)`.
        mode: `"max"` or `"avg"`.

    Returns:
        `(h-ph+1, w-pw+1)`; dtype as in `max_pool` and `avg_pool`.

    Raises:
        ValueError: X not 2-D, a window larger than X, or an unknown mode.
        TypeError: an argument of the wrong type or dtype.

    Source: notes, section 5.

    >>> import jax.numpy as jnp
    >>> pool2d(jnp.arange(9.0).reshape(3, 3), (2, 2), "avg").tolist()
    [[2.0, 3.0], [5.0, 6.0]]
    """
    _check.choice("mode", mode, ("max", "avg"))
    X = _arrays.ordered("X", X) if mode == "max" else _arrays.array("X", X)
    _check_axes("X", X, "(h, w)")
    window = _check.sizes("pool_size", pool_size, 1)
    if len(window) != 2:
        raise ValueError(f"pool_size must be (ph, pw); got {window}")
    if any(k > n for k, n in zip(window, X.shape, strict=True)):
        raise ValueError(f"pool_size must fit into X {X.shape}; got {window}")
    return _pool2d(X, window, mode)


@functools.partial(jax.jit, inline=True)
def _corr2d(X: Array, K: Array) -> Array:
    return conv(X[None], K[None, None])[0]


@functools.partial(jax.jit, inline=True)
def _corr2d_multi_in(X: Array, K: Array) -> Array:
    return conv(X, K[None])[0]


@functools.partial(jax.jit, inline=True)
def _matmul_1x1(X: Array, K: Array) -> Array:
    X, K = _arrays.promote(X, K)
    dtype = X.dtype
    channels, columns = K.reshape(K.shape[:2]), X.reshape(X.shape[0], X.shape[1] * X.shape[2])
    product = jnp.matmul(channels, columns, preferred_element_type=_arrays.accumulator(dtype))
    return product.astype(dtype).reshape(K.shape[0], *X.shape[1:])


@functools.partial(jax.jit, inline=True, static_argnums=(1, 2))
def _pool2d(X: Array, window: tuple[int, ...], mode: str) -> Array:
    pool = max_pool if mode == "max" else avg_pool
    return pool(X[None], window, stride=1)[0]


def _check_axes(name: str, value: Any, form: str) -> None:
    if value.ndim != form.count(",") + 1:
        raise ValueError(f"{name} must have shape {form}; got {value.shape}")
    _arrays.static_shape(name, value.shape, value.shape[-2:])


def _check_channels(X: Any, K: Any, channels: int) -> None:
    if X.shape[0] != channels:
        raise ValueError(
            f"K must have X's {X.shape[0]} input channels; got X {X.shape} and K {K.shape}"
        )


def _check_window(X: Any, K: Any) -> None:
    window, image = K.shape[-2:], X.shape[-2:]
    if not all(1 <= k <= n for k, n in zip(window, image, strict=True)):
        raise ValueError(f"K's window must be at least 1x1 and fit into X's {image}; got {window}")
