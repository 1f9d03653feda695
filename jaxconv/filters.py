"""Classical kernels as arrays, and `apply` to run them over images.

Signs and normalisation follow `scipy.ndimage`, and all kernels are meant for cross-correlation:
a derivative's positive tap is the one further along the axis. `first_derivative` alone keeps the
notes' sign, `[1/2, 0, -1/2]`, which is the same filter for true convolution.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Num

from . import _arrays, _check, _pad
from ._arrays import ArrayIn
from ._conv import conv
from ._layout import Layout
from ._types import PerAxis


def mean(size: PerAxis) -> Float[Array, "..."]:
    """The moving average: every entry `1 / prod(size)`. A low-pass filter.

    Args:
        size: an int for a square 2-D kernel, or a sequence of 1 to 3 ints.

    Returns:
        An array of shape `size` in JAX's default float dtype, summing to 1.

    Raises:
        ValueError: a size below 1, or not 1 to 3 of them.
        TypeError: a size that is no int.

    Source: notes, section 1; `scipy.ndimage.uniform_filter`.

    >>> mean((1, 4)).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    shape = _size(size)
    return jnp.asarray(np.full(shape, 1 / np.prod(shape)), dtype=float)


def gaussian(size: PerAxis, sigma: float | tuple[float, ...]) -> Float[Array, "..."]:
    """The Gaussian `exp(-(i - c)^2 / (2 sigma^2))`, normalised. A low-pass filter.

    Args:
        size: an int for a square 2-D kernel, or a sequence of 1 to 3 ints. The centre c of an axis
            of `n` entries is `(n - 1) / 2`.
        sigma: standard deviation in pixels, above 0: one, or one per axis.

    Returns:
        An array of shape `size` in JAX's default float dtype, summing to 1.

    Raises:
        ValueError: a bad size, or a sigma that is not positive and finite.
        TypeError: a size that is no int, a sigma that is no number.

    Source: notes, section 1; `scipy.ndimage.gaussian_filter`, with `size = 2*radius + 1`.

    >>> gaussian(5, 1.0).shape
    (5, 5)
    """
    shape = _size(size)
    kernel = np.ones(())
    for taps, width in zip(shape, _sigmas(sigma, len(shape)), strict=True):
        square = (np.arange(taps) - (taps - 1) / 2) ** 2
        # Relative to the innermost taps, so that the narrowest bell still has something to sum.
        with np.errstate(over="ignore"):
            bell = np.exp(-0.5 * ((square - square.min()) / width / width))
        kernel = np.multiply.outer(kernel, bell / bell.sum())
    return jnp.asarray(kernel, dtype=float)


def sobel(axis: int = -1) -> Float[Array, "3 3"]:
    """The 2-D Sobel kernel: `[-1, 0, 1]` along `axis`, `[1, 2, 1]` along the other one.

    Args:
        axis: the axis that is differentiated, 0 (or -2) or 1 (or -1).

    Returns:
        A 3x3 array in JAX's default float dtype. Not normalised: a ramp of slope 1 gives 8.

    Raises:
        ValueError: an axis that a 2-D image does not have.
        TypeError: an axis that is no int.

    Source: `scipy.ndimage.sobel`.

    >>> sobel(axis=1).tolist()
    [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]
    """
    if not -2 <= _check.integer("axis", axis) <= 1:
        raise ValueError(f"axis must be -2, -1, 0 or 1 for a 2-D kernel; got {axis}")
    kernel = np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0])
    return jnp.asarray(kernel if axis % 2 else kernel.T, dtype=float)


def laplacian() -> Float[Array, "3 3"]:
    """The 2-D Laplacian, the sum of the two second derivatives: centre -4, its neighbours 1.

    Returns:
        A 3x3 array in JAX's default float dtype.

    Source: `scipy.ndimage.laplace`.

    >>> laplacian().tolist()
    [[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]
    """
    return jnp.asarray([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], dtype=float)


def first_derivative() -> Float[Array, "3"]:
    """The central difference `[1/2, 0, -1/2]`, with the notes' sign: a high-pass filter.

    Returns:
        A 1-D array of 3 in JAX's default float dtype. Convolved (`convolve`) it differentiates;
        cross-correlated (`apply`, `conv`) it gives minus the derivative.

    Source: notes, section 1.

    >>> first_derivative().tolist()
    [0.5, 0.0, -0.5]
    """
    return jnp.asarray([0.5, 0.0, -0.5], dtype=float)


def second_derivative() -> Float[Array, "3"]:
    """The second difference `[1, -2, 1]`: a high-pass filter.

    Returns:
        A 1-D array of 3 in JAX's default float dtype.

    Source: notes, section 1.

    >>> second_derivative().tolist()
    [1.0, -2.0, 1.0]
    """
    return jnp.asarray([1.0, -2.0, 1.0], dtype=float)


def edge() -> Float[Array, "1 2"]:
    """The notes' edge kernel `[[1, -1]]`: each pixel minus its right neighbour.

    Returns:
        A 1x2 array in JAX's default float dtype.

    Source: notes, section 2.

    >>> edge().tolist()
    [[1.0, -1.0]]
    """
    return jnp.asarray([[1.0, -1.0]], dtype=float)


def apply(
    image: Num[ArrayIn, "..."],
    kernel: Num[ArrayIn, "..."],
    *,
    padding_mode: str = "reflect",
    layout: str | None = None,
) -> Num[Array, "..."]:
    """Cross-correlate every channel of an image with one kernel; the size stays.

    `out[c, i] = sum_a image[c, i + a - k // 2] * kernel[a]`: an even window's centre is `k // 2`,
    as in `scipy.ndimage.correlate`.

    Args:
        image: `(*spatial)`, `(*batch, c, *spatial)`, or `(*batch, *spatial, c)` channels last. An
            image of the kernel's rank has no channel axis.
        kernel: `(*window)`, 1 to 3 axes.
        padding_mode: what lies outside, as in `conv`: `"reflect"` (the edge pixel is not repeated:
            `scipy.ndimage`'s `mirror`), `"replicate"` (its `nearest`), `"circular"` (its `wrap`) or
            `"zeros"`.
        layout: as in `conv`, for images with channels.

    Returns:
        An array of the image's shape; dtype promoted from both as in `conv`.

    Raises:
        ValueError: an image of lower rank than the kernel, or smaller than the padding needs.
        TypeError: an argument of the wrong type or dtype.

    >>> import jax.numpy as jnp
    >>> apply(jnp.ones((3, 16, 16)), gaussian(5, 1.0)).shape
    (3, 16, 16)
    """
    image, kernel = _arrays.array("image", image), _arrays.array("kernel", kernel)
    rank = kernel.ndim
    order = Layout.parse(layout, rank, "kernel", kernel.shape)
    _check.choice("padding_mode", padding_mode, tuple(_pad.MODES))
    _check.sizes("kernel's shape", kernel.shape, 1)
    if image.ndim < rank:
        raise ValueError(
            f"image must have at least the {rank} axes of kernel {kernel.shape}; got {image.shape}"
        )
    channels_last = order.channels_last and image.ndim > rank
    spatial = order.spatial(image.shape) if channels_last else image.shape[image.ndim - rank :]
    _arrays.static_shape("image", image.shape, spatial)
    if 0 in spatial:
        raise ValueError(
            f"image must have at least one element on every spatial axis; got {image.shape}"
        )
    try:
        _pad.check(padding_mode, spatial, _centred(kernel.shape))
    except ValueError as error:
        raise ValueError(
            f"image must be large enough for kernel {kernel.shape} in padding_mode "
            f"{padding_mode!r}; got image {image.shape}: {error}"
        ) from None
    return _apply(image, kernel, padding_mode, channels_last)


def _centred(window: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Padding that keeps the size, the centre of a window of k at k // 2."""
    return tuple((k // 2, k - 1 - k // 2) for k in window)


@functools.partial(jax.jit, inline=True, static_argnums=(2, 3))
def _apply(image: Array, kernel: Array, padding_mode: str, channels_last: bool) -> Array:
    """Each channel is one more batch entry: its plane meets the kernel on its own."""
    planes = jnp.moveaxis(image, -1, 0) if channels_last else image
    filtered = conv(
        jnp.expand_dims(planes, -kernel.ndim - 1),
        kernel[None, None],
        padding=_centred(kernel.shape),
        padding_mode=padding_mode,
    ).reshape(planes.shape)
    return jnp.moveaxis(filtered, 0, -1) if channels_last else filtered


def _size(size: Any) -> tuple[int, ...]:
    many = _check.is_many(size)
    shape = _check.sizes("size", size, 1) if many else (_check.integer("size", size, 1),) * 2
    _arrays.computable("size", shape)
    return shape


def _sigmas(sigma: Any, rank: int) -> tuple[float, ...]:
    many = isinstance(sigma, (str, bytes)) or _check.is_many(sigma)
    given = _check.sequence("sigma", sigma, "numbers") if many else (sigma,) * rank
    if len(given) != rank:
        raise ValueError(
            f"sigma must be one number or {rank}, one per axis; got {_check.show(sigma)}"
        )
    widths = tuple(_check.positive("sigma", width) for width in given)
    if float("inf") in widths:
        raise ValueError(f"sigma must be finite; got {_check.show(sigma)}")
    return widths
