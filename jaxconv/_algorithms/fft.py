"""`fft`: products of spectra, for large windows of few channels.

With x framed to what the windows read, zeros behind all three arrays up to a size that a fast
Fourier transform likes, and ^ for the transform of real numbers,

    output       y = ifft(x^ * conj(w^))     at the first m positions
    input_grad   x = ifft(y^ * w^)           at all that the windows read
    kernel_grad  w = ifft(x^ * conj(y^))     at the first taps, summed over the batch

Circular convolution wraps around only into positions that are not looked at. The cost does not
depend on the window: `log` of the size for each element. The largest error stays in the order of
rounding of the largest output; small outputs beside it have that error as well, and a NaN or an
infinity spreads over its image.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._form import Problem
from .._geometry import Geometry
from ._algorithm import Algorithm
from ._cast import cast
from ._frame import blocks, framed, own_frames, read_frames, result_dtype, sum_dtype, total
from ._layouts import channels_first

#: Most pairs of channels to a group: the products are written out.
MOST_PAIRS = 64


def refuses(problem: Problem) -> str | None:
    """Real floating point, without stride, few channels."""
    geometry = problem.form.geometry
    if not jnp.issubdtype(sum_dtype(problem), jnp.floating):
        return f"it is for real floating point; the sum is {sum_dtype(problem)}"
    if geometry.stride != (1,) * geometry.rank:
        return "it has no stride"
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    if inputs * outputs > MOST_PAIRS:
        return f"it takes at most {MOST_PAIRS} pairs of channels to a group"
    return None


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y = ifft(x^ * conj(w^)) at the first m positions."""
    return channels_first(problem, _output, x, w)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """x = ifft(y^ * w^) at all that the windows read."""
    return channels_first(problem, _input_grad, y, w)


def kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """w = ifft(x^ * conj(y^)) at the first taps."""
    return channels_first(problem, _kernel_grad, x, y)


ALGORITHM = Algorithm(
    "fft", {"output": output, "input_grad": input_grad, "kernel_grad": kernel_grad}, refuses
)


def _output(problem: Problem, x: Array, w: Array) -> Array:
    groups, inputs, outputs = blocks(problem.form, problem.shapes, "output")
    x_hat = _image_spectrum(problem, framed(x, read_frames(problem.form.geometry, 2)), inputs)
    w_hat = jnp.conj(_kernel_spectrum(problem, w, groups))
    y_hat = total([x_hat[:, :, None, i] * w_hat[None, :, :, i] for i in range(inputs)])
    y = _back(problem, y_hat, problem.form.geometry.output)
    return cast(y.reshape(y.shape[0], groups * outputs, *y.shape[3:]), result_dtype(problem))


def _input_grad(problem: Problem, y: Array, w: Array) -> Array:
    geometry = problem.form.geometry
    groups, inputs, outputs = blocks(problem.form, problem.shapes, "input_grad")
    y_hat = _image_spectrum(problem, y, outputs)
    w_hat = _kernel_spectrum(problem, w, groups)
    x_hat = total([y_hat[:, :, o, None] * w_hat[None, :, o] for o in range(outputs)])
    x = _back(problem, x_hat, geometry.read)
    x = x.reshape(x.shape[0], groups * inputs, *x.shape[3:])
    return cast(framed(x, own_frames(geometry, 2)), result_dtype(problem))


def _kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    geometry = problem.form.geometry
    groups, inputs, outputs = blocks(problem.form, problem.shapes, "kernel_grad")
    x_hat = _image_spectrum(problem, framed(x, read_frames(geometry, 2)), inputs)
    y_hat = jnp.conj(_image_spectrum(problem, y, outputs))
    w_hat = total([x_hat[n, :, None] * y_hat[n, :, :, None] for n in range(x.shape[0])])
    w = _back(problem, w_hat, geometry.extent)
    w = w[(..., *(slice(None, None, d) for d in geometry.dilation))]
    return cast(w.reshape(groups * outputs, inputs, *geometry.window), result_dtype(problem))


def _sizes(geometry: Geometry) -> tuple[int, ...]:
    return tuple(fast_size(length) for length in geometry.read)


def fast_size(least: int) -> int:
    """The smallest product of twos, threes and fives that is not below `least`."""
    best, fives = 2 * least, 1
    while fives < 2 * least:
        threes = fives
        while threes < 2 * least:
            twos = -(-least // threes)
            best = min(best, threes * 2 ** (twos - 1).bit_length())
            threes *= 3
        fives *= 5
    return best


def _transform(problem: Problem, array: Array) -> Array:
    """The spectrum of the trailing axes, zeros behind them."""
    geometry, rank = problem.form.geometry, problem.form.geometry.rank
    wide = cast(array, sum_dtype(problem))
    return jnp.fft.rfftn(wide, _sizes(geometry), tuple(range(-rank, 0)))


def _image_spectrum(problem: Problem, image: Array, channels: int) -> Array:
    """`(n, groups, channels, *frequencies)`."""
    groups = problem.form.geometry.groups
    return _transform(problem, image.reshape(image.shape[0], groups, channels, *image.shape[2:]))


def _kernel_spectrum(problem: Problem, w: Array, groups: int) -> Array:
    """`(groups, outputs, inputs, *frequencies)`, the taps set apart by the dilation."""
    gaps = [(0, 0, d - 1) for d in problem.form.geometry.dilation]
    if any(between for _, _, between in gaps):
        w = lax.pad(w, np.zeros((), w.dtype), [(0, 0, 0), (0, 0, 0), *gaps])
    return _transform(problem, w.reshape(groups, -1, *w.shape[1:]))


def _back(problem: Problem, spectrum: Array, wanted: Sequence[int]) -> Array:
    """The first elements of what has this spectrum."""
    rank = problem.form.geometry.rank
    array = jnp.fft.irfftn(spectrum, _sizes(problem.form.geometry), tuple(range(-rank, 0)))
    return array[(..., *(slice(size) for size in wanted))]
