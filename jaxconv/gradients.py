"""Closed forms: the gradients of `conv`, `max_pool` and `avg_pool`, written down from the notes.

One function for each gradient. A convolution's is again a correlation or a full convolution, which
`conv` itself computes on rearranged arrays; a pool's is the notes' up(). The error `delta` of the
notes, the gradient of the loss in the function's output, is called `dy`. Nothing is differentiated
here, and nothing of the core is transposed: that is what these formulas are to be compared with.
Here are the doors; the computing, and how each sum becomes that, is in `_closed_forms`.
"""

from collections.abc import Sequence
from typing import SupportsIndex

import jax
from jax import Array
from jaxtyping import Num

from . import _arrays, _check, _closed_calls, _closed_forms
from ._arrays import ArrayIn, DTypeLike, PrecisionLike
from ._layout import LAYOUTS, Layout
from ._pool_plan import parse
from ._types import Padding, PerAxis


def conv_kernel_grad(
    x: Num[ArrayIn, "..."],
    dy: Num[ArrayIn, "..."],
    kernel_shape: Sequence[SupportsIndex],
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: SupportsIndex = 1,
    padding_mode: str = "zeros",
    layout: str | None = None,
    precision: PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    algorithm: str = "auto",
) -> Num[Array, "..."]:
    """The gradient of `conv` in its kernel: `dW = corr(X, delta)`, the input seen by the error.

    `dW[p, c, a] = sum_{n, i} dy[n, p, i] * x[n, c, a*dilation + i*stride - low]`, x padded. This is
    `conv`'s own formula with a for the output and i for the tap: stride and dilation change places,
    and so do batch and channels, as the sum is over images.

    Args:
        x: the images that `conv` read.
        dy: the error, of the shape of `conv`'s output.
        kernel_shape: the kernel's shape; at a stride, several windows give outputs of one size.
        stride, padding, dilation, groups, padding_mode, layout: as given to `conv`.
        precision, algorithm: as in `conv`, for the correlation of x with dy.
        preferred_element_type: dtype that x and dy are taken to, no narrower than they are.

    Returns:
        An array of `kernel_shape`. The dtype is that of x and dy, promoted, or the preferred one;
        float16 and bfloat16 are summed in float32 and rounded once. Complex numbers are not
        conjugated, as in `jax.vjp`.

    Raises:
        ValueError: shapes that do not fit each other, or what `conv` refuses.
        TypeError: an argument of the wrong type or dtype.

    Source: notes, section 7.

    >>> import jax.numpy as jnp
    >>> X, delta = jnp.arange(9.0).reshape(1, 3, 3), jnp.ones((1, 2, 2))
    >>> conv_kernel_grad(X, delta, (1, 1, 2, 2))[0, 0].tolist()
    [[8.0, 12.0], [20.0, 24.0]]
    """
    x, dy = _arrays.array("x", x), _arrays.array("dy", dy)
    shape = _closed_calls.shape("kernel_shape", kernel_shape)
    options = _closed_calls.options(
        "kernel_shape", shape, stride, padding, dilation, groups, padding_mode, layout
    )
    numerics = _closed_calls.numerics(precision, preferred_element_type, algorithm)
    return _closed_forms.kernel_grad(x.shape, shape, dy.shape, options, numerics)(x, dy)


def conv_input_grad(
    dy: Num[ArrayIn, "..."],
    kernel: Num[ArrayIn, "..."],
    x_shape: Sequence[SupportsIndex],
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: SupportsIndex = 1,
    padding_mode: str = "zeros",
    layout: str | None = None,
    precision: PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    algorithm: str = "auto",
) -> Num[Array, "..."]:
    """The gradient of `conv` in its input: `dX = full corr(delta, rot180 W)`, a full convolution.

    `dX[n, c, t] = sum_{p, i, a: i*stride + a*dilation - low = t} dy[n, p, i] * W[p, c, a]`: the
    elements of dy are set `stride` apart, the kernel turned by 180 degrees, its two channel axes
    exchanged, and the full result cropped by the padding. In the other padding modes an element of
    x that padding has copied also gets what its copies get.

    Args:
        dy: the error, of the shape of `conv`'s output.
        kernel: the kernel that `conv` used.
        x_shape: the shape of the images; at a stride, several sizes give outputs of one size.
        stride, padding, dilation, groups, padding_mode, layout: as given to `conv`.
        precision, algorithm: as in `conv`, for the correlation of dy with the turned kernel.
        preferred_element_type: dtype that dy and kernel are taken to, no narrower than they are.

    Returns:
        An array of `x_shape`; dtype as in `conv_kernel_grad`.

    Raises:
        ValueError: shapes that do not fit each other, or what `conv` refuses.
        TypeError: an argument of the wrong type or dtype.

    Source: notes, section 7.

    >>> import jax.numpy as jnp
    >>> delta, W = jnp.asarray([[1.0, 10.0]]), jnp.asarray([[[1.0, 2.0, 3.0]]])
    >>> conv_input_grad(delta, W, (1, 5), stride=2).tolist()
    [[1.0, 2.0, 13.0, 20.0, 30.0]]
    """
    dy, kernel = _arrays.array("dy", dy), _arrays.array("kernel", kernel)
    options = _closed_calls.options(
        "kernel", kernel.shape, stride, padding, dilation, groups, padding_mode, layout
    )
    numerics = _closed_calls.numerics(precision, preferred_element_type, algorithm)
    shape = _closed_calls.shape("x_shape", x_shape)
    return _closed_forms.input_grad(shape, kernel.shape, dy.shape, options, numerics)(dy, kernel)


def conv_bias_grad(dy: Num[ArrayIn, "..."], *, layout: str | None) -> Num[Array, "c_o"]:
    """The gradient of `conv` in its bias: `dB[p] = sum_{n, i} dy[n, p, i]`.

    With a bias for each pair of channels, `(c_o, c_i // groups)`, the gradient of each pair (p, c)
    is the same sum: `dB[p, c] = dB[p]`.

    Args:
        dy: the error, of the shape of `conv`'s output.
        layout: one of the six strings, with any number of batch axes; or None for `(n, c_o,
            *spatial)`. There is no kernel here to read the rank from, so None takes exactly one
            batch axis.

    Returns:
        `(c_o,)`, of dy's dtype; float16 and bfloat16 are summed in float32 and rounded once.

    Raises:
        ValueError: too few or too many axes, an unknown layout.
        TypeError: an argument of the wrong type or dtype.

    Source: notes, section 7.

    >>> import jax.numpy as jnp
    >>> conv_bias_grad(jnp.ones((8, 16, 14, 14)), layout=None)[:3].tolist()
    [1568.0, 1568.0, 1568.0]
    """
    dy = _arrays.array("dy", dy)
    if layout is not None:
        order = Layout(*LAYOUTS[_check.choice("layout", layout, tuple(LAYOUTS))])
    elif 3 <= dy.ndim <= 5:
        order = Layout(dy.ndim - 2, channels_last=False)
    else:
        raise ValueError(
            f"dy must be (n, c_o, *spatial) with 1 to 3 spatial axes where layout is None; got "
            f"shape {dy.shape}"
        )
    order.check_image("dy", dy.shape)
    return _closed_forms.bias_grad(order)(dy)


def max_pool_grad(
    x: Num[ArrayIn, "..."],
    dy: Num[ArrayIn, "..."],
    window: Sequence[SupportsIndex],
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    layout: str | None = None,
) -> Num[Array, "..."]:
    """The gradient of `max_pool`, the notes' up(): each error goes to the element that won.

    `dX[c, t] = sum_{i: winner(c, i) = t} dy[c, i]`, the winner of window i being its first greatest
    element in row-major order, or its first NaN. A window that holds no element of x has no winner:
    its error goes nowhere.

    Args:
        x: the images that `max_pool` read.
        dy: the error, of the shape of `max_pool`'s output.
        window, stride, padding, dilation, ceil_mode, layout: as given to `max_pool`.

    Returns:
        An array of x's shape and dy's dtype (x is only looked at); float16 and bfloat16 are summed
        in float32 and rounded once.

    Raises:
        ValueError: shapes that do not fit each other, or what `max_pool` refuses.
        TypeError: an argument of the wrong type or dtype.

    Source: notes, section 7.

    >>> import jax.numpy as jnp
    >>> max_pool_grad(jnp.asarray([[1, 3, 3, 2]]), jnp.asarray([[5.0, 7.0]]), (2,)).tolist()
    [[0.0, 5.0, 7.0, 0.0]]
    """
    x, dy = _arrays.ordered("x", x), _arrays.array("dy", dy)
    call = parse(x, window, stride, padding, dilation, ceil_mode, layout)
    return _closed_forms.max_grad(call, layout, dy.shape)(x, dy)


def avg_pool_grad(
    dy: Num[ArrayIn, "..."],
    x_shape: Sequence[SupportsIndex],
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
    """The gradient of `avg_pool`, the notes' up(): each error is spread evenly over its window.

    `dX[c, t] = sum_{i, a: i*stride + a*dilation - low = t} dy[c, i] / count[i]`, the full
    convolution of the shares with a window of ones. What is due to padding is dropped.

    Args:
        dy: the error, of the shape of `avg_pool`'s output.
        x_shape: the shape of the images.
        window, stride, padding, dilation, ceil_mode: as given to `avg_pool`.
        count_include_pad, divisor_override, layout: as given to `avg_pool`.

    Returns:
        An array of `x_shape`, of dy's dtype (integers give JAX's default float); float16 and
        bfloat16 are divided and summed in float32 and rounded once. A window that counts nothing
        holds no element of x to give its error to: whatever the error, it adds nothing, as in
        `jax.vjp` of `avg_pool`, whose value there is NaN.

    Raises:
        ValueError: shapes that do not fit each other, or what `avg_pool` refuses.
        TypeError: an argument of the wrong type or dtype.

    Source: notes, section 7.

    >>> import jax.numpy as jnp
    >>> avg_pool_grad(jnp.asarray([[6.0, 60.0]]), (1, 5), (3,), stride=2).tolist()
    [[2.0, 2.0, 22.0, 20.0, 20.0]]
    """
    dy = _arrays.array("dy", dy)
    shape = _closed_calls.shape("x_shape", x_shape)
    counts_padding = _check.flag("count_include_pad", count_include_pad)
    divisor = divisor_override
    if divisor is not None and not (divisor := _check.integer("divisor_override", divisor)):
        raise ValueError("divisor_override must not be 0; got 0")
    images = jax.ShapeDtypeStruct(shape, dy.dtype)
    call = parse(images, window, stride, padding, dilation, ceil_mode, layout)
    return _closed_forms.avg_grad(call, dy.shape, counts_padding, divisor)(dy)
