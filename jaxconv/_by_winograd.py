"""Where Winograd's tiles are faster than what else there is: see `_choice`.

From 350 layers drawn by lot with oneDNN, 140 of their kernel gradients, 90 without oneDNN and 75 in
double precision, in both layouts: least squares of what takes the time of each, 1.15 to 1.3 times
off in the mean, and a margin as wide.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp

from ._algorithms import _tiles, winograd
from ._algorithms._frame import blocks, sum_dtype
from ._algorithms._library import factor_dtype, is_for
from ._form import Problem
from ._rules import area, for_cpu

#: Channels that were tried; bytes of the kernel's points beyond which no memory is at hand.
FEWEST, MOST_BYTES = 8, 2**24
#: How many times as fast it has to be, in percent.
MARGIN = 115


class Rates(NamedTuple):
    """What takes the time of so many hundredths of a product: one product, one number of images,
    one of a kernel, one point of a tile or one call."""

    product: int
    number: int
    weight: int
    call: int


#: The points of tiles, of outputs and of kernel gradients; what turning a number of images takes.
TILED = Rates(100, 2900, 2300, 60_000_000)
TILED_KERNEL = Rates(100, 2900, 9200, 160_000_000)
TURNED = 6600
#: What else there is, channels last and first: outputs by oneDNN and without it, kernel gradients.
LIBRARY = (Rates(80, 2800, 2100, 470_000_000), Rates(80, 5600, 2900, 0))
PLAIN = (Rates(95, 9100, 3300, 450_000_000), Rates(95, 13200, 8300, 200_000_000))
KERNEL = (Rates(113, 7600, 1900, 0), Rates(113, 8400, 4000, 500_000_000))


@for_cpu
def is_winograds(problem: Problem) -> bool:
    """3x3 with channels enough for matrix products, yet not so many that the kernel's transform
    weighs as much as the image's."""
    if winograd.refuses(problem) is not None or factor_dtype(problem) == jnp.bfloat16:
        return False
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    if min(inputs, outputs) < FEWEST:
        return False
    tiles, images = _tiles.tiles(problem), problem.shapes[0][0]
    weights, channels = inputs * outputs, inputs + outputs
    if tiles.points * weights * sum_dtype(problem).itemsize > MOST_BYTES:
        return False
    last, gradient = problem.form.layout.channels_last, problem.projection == "kernel_grad"
    positions = images * area(problem)

    def cost(rates: Rates, places: int, taps: int, calls: int, again: int = 1) -> int:
        products = places * taps * weights * rates.product
        numbers = places * again * channels * rates.number
        return products + numbers + taps * weights * rates.weight + calls * rates.call

    points = tiles.points
    own = cost(TILED_KERNEL if gradient else TILED, images * tiles.number, points, points, points)
    own += 0 if last else positions * channels * TURNED
    rest = KERNEL if gradient else LIBRARY if is_for(problem) else PLAIN
    window = math.prod(problem.form.geometry.window)
    return MARGIN * own < 100 * cost(rest[0 if last else 1], positions, window, 1)
