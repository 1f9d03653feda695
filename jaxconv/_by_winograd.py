"""Where Winograd's tiles are faster than what else there is: see `_choice`.

From layers drawn by lot, in both layouts: 540 outputs and 290 kernel gradients with oneDNN, 90 and
70 without, 75 and 60 in double precision. Least squares of what takes the time of each, 1.05 to
1.13 times off in the median, and a margin as wide.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ._algorithms import _tiles, phases, winograd
from ._algorithms._frame import blocks, sum_dtype
from ._algorithms._library import factor_dtype, is_for
from ._form import Problem
from ._rules import area, for_cpu

#: Channels that were tried; bytes of the kernel's points beyond which there is no memory at hand.
FEWEST, MOST_BYTES = 8, 3 * 2**22
#: How many times as fast it has to be; in double precision, of which fewer were tried.
MARGIN, MARGIN_OF_DOUBLE = 1.15, 1.3


class Rates(NamedTuple):
    """Picoseconds that a product takes, a number of an image, one of a kernel, and each call."""

    product: float
    number: float
    weight: float
    call: float


#: By tiles, outputs, also of heavy kernels, and kernel gradients: their numbers are points. What
#: turning an image adds.
TILED, TURNED = Rates(4.5, 100, 70, 3.1e6), 260
TILED_HEAVY = TILED._replace(weight=250)
TILED_KERNEL, TURNED_KERNEL = Rates(5.4, 115, 200, 9e6), 155
#: By what else there is, channels last and first: outputs by oneDNN and without, kernel gradients,
#: those of bfloat16 by oneDNN's products.
LIBRARY = (Rates(3.45, 100, 120, 13e6), Rates(3.6, 195, 130, 0))
PLAIN = (Rates(4, 380, 140, 19e6), Rates(4.25, 560, 350, 8e6))
KERNEL = (Rates(4.4, 390, 130, 8e6), Rates(4.45, 410, 220, 27e6))
KERNEL_OF_HALF = (Rates(2.4, 800, 130, 8e6), Rates(2.4, 370, 220, 27e6))


@for_cpu
def is_winograds(problem: Problem) -> bool:
    """3x3 with channels enough for matrix products, yet not so many that the kernel's transform
    weighs as much as the image's."""
    return _is_fastest(problem, math.prod(problem.form.geometry.window))


@for_cpu
def is_winograds_in_residues(problem: Problem) -> bool:
    """Strided windows that are 3x3 on residues, though with taps that are zero, which outputs by
    oneDNN's convolution do without."""
    if problem.projection == "input_grad" or phases.refuses(problem) is not None:
        return False
    geometry = problem.form.geometry
    taps = math.prod(geometry.window) / math.prod(geometry.stride)
    return _is_fastest(phases.deepened(problem), taps)


def _is_fastest(problem: Problem, taps: float) -> bool:
    """Whether tiles take less time than products of so many taps would."""
    if winograd.refuses(problem) is not None:
        return False
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    tiles, images = _tiles.tiles(problem), problem.shapes[0][0]
    gradient, last = problem.projection == "kernel_grad", problem.form.layout.channels_last
    held = tiles.points * inputs * outputs * sum_dtype(problem).itemsize
    if min(inputs, outputs) < FEWEST or (gradient and held > MOST_BYTES):
        return False
    half = factor_dtype(problem) == jnp.bfloat16
    if half and not gradient:
        return False  # oneDNN has convolutions for it, twice as fast.

    def cost(rates: Rates, places: int, factors: float, read: int, calls: int) -> float:
        """`factors` products to each place and pair of channels, `read` numbers to each channel."""
        each = factors * inputs * outputs
        numbers = places * read * (inputs + outputs)
        weights = each * rates.weight
        return places * each * rates.product + numbers * rates.number + weights + calls * rates.call

    positions, points = images * area(problem), tiles.points
    rates = TILED_KERNEL if gradient else TILED if held <= MOST_BYTES else TILED_HEAVY
    own = cost(rates, images * tiles.number, points, points, points)
    if not last:
        own += positions * (inputs + outputs) * (TURNED_KERNEL if gradient else TURNED)
    kernels = KERNEL_OF_HALF if half else KERNEL
    rest = kernels if gradient else LIBRARY if is_for(problem) else PLAIN
    margin = MARGIN if sum_dtype(problem) == np.float32 else MARGIN_OF_DOUBLE
    return margin * own < cost(rest[0 if last else 1], positions, taps, 1, 1)
