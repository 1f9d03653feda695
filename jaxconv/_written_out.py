"""Where it pays to write windows out, and by which of the algorithms that do: see `_choice`."""

import math
from fractions import Fraction

import numpy as np

from ._algorithms import eigen, kn2row, patches
from ._algorithms._frame import sum_dtype
from ._algorithms._library import is_for
from ._form import Problem
from ._rules import DOUBLE, area, for_cpu, is_little, widths

#: Products that take as long as writing out a number.
PACE = 16
#: Channels of the image and of the result up to which XLA:CPU does not ask YNNPACK.
EIGENS_OWN = 16
#: Numbers that take as long to write out as one to turn, channels first to be last.
TURN = 3
#: Channels for which the kernel gradient of a large window is products of rows.
FEWEST_OF_LARGE = 8
#: Channels that XLA:CPU packs as a whole, and fewer than it packs at all.
LANES, FEWEST_PACKED = 8, 6


@for_cpu
def is_eigens(problem: Problem) -> bool:
    """Images and results of channels enough for Eigen's packing, where XLA:CPU would ask YNNPACK,
    and where few rows are computed in vain."""
    if sum_dtype(problem) != np.float32 or problem.projection == "kernel_grad":
        return False
    if eigen.refuses(problem):
        return False
    results, summed, taps = widths(problem)
    products = problem.shapes[0][0] * area(problem) * results * summed * taps
    least, most = min(results, summed), max(results, summed)
    large = products >= (2**24 if least >= 40 else 2**26)
    return large and least >= EIGENS_OWN < most and eigen.waste(problem) <= Fraction(1, 3)


@for_cpu
def _is_cheaper_by_rows(problem: Problem) -> bool:
    """Where less is written if the taps of the first axes are channels of the results."""
    too_large = widths(problem)[2] > patches.MOST_TAPS
    return too_large or _costs_least("kn2row", problem)


@for_cpu
def is_row_wise(problem: Problem) -> bool:
    return is_written_out(problem) and _is_cheaper_by_rows(problem)


@for_cpu
def is_written_out(problem: Problem) -> bool:
    """Where XLA:CPU's convolution is slower than products of windows written out in blocks."""
    geometry, dtype = problem.form.geometry, sum_dtype(problem)
    results, summed, taps = widths(problem)
    if dtype.kind != "f" or (geometry.rank < 3 and dtype in DOUBLE) or is_little(problem):
        return False
    if geometry.rank < 3 and taps > patches.MOST_TAPS:
        gradient = problem.projection == "kernel_grad" and is_for(problem)
        some = min(results, summed) >= FEWEST_OF_LARGE and area(problem) >= 4 * taps
        return gradient and some and geometry.rank == 2
    if geometry.rank == 1:
        if problem.projection == "kernel_grad" and is_for(problem):
            return True
        return results <= 2 and summed >= 16 and taps >= 5
    if geometry.rank == 3:
        return summed <= 128 or (problem.projection == "kernel_grad" and is_for(problem))
    rule = _kernel_written_out if problem.projection == "kernel_grad" else _image_written_out
    return rule(problem, results, summed, taps)


def _image_written_out(problem: Problem, results: int, summed: int, taps: int) -> bool:
    """Outputs and input gradients: results enough to pay for what is written, and more of them
    where XLA packs whole vectors of channels; windows that are mostly padding."""
    geometry = problem.form.geometry
    strided, backwards = geometry.stride != (1, 1), problem.projection == "input_grad"
    if taps < 4 or (strided and backwards):
        return False
    sizes, positions = geometry.output if backwards else geometry.spatial, area(problem)
    if any(6 * e > 5 * n for e, n in zip(geometry.extent, sizes, strict=True)):
        return True
    if summed < FEWEST_PACKED:
        return _few_written_out(problem, results, summed, taps)
    if eigen.is_outgrown(problem) and not strided:
        return False
    count, packed = problem.shapes[0][0] * positions, summed % LANES == 0
    products, last = count * results * summed * taps, problem.form.layout.channels_last
    if strided:
        wide = results >= 48 and (products >= 2**26 or not packed)
        narrow = results > 20 and summed < 64 and not packed
        return (wide or narrow) and count > 800 and summed * taps <= (2600 if last else 800)
    least, most = min(results, summed), max(results, summed)
    if (80 < least < 192 or (positions > 4096 and results > 32)) and taps != 4:
        return False
    if geometry.dilation != (1, 1):
        return False
    if packed:
        return products >= 2**24 and (
            results >= 48 or (results >= 32 and summed >= 64 and taps <= 25)
        )
    return most <= 14 or least >= 28 or count > 3000


def _few_written_out(problem: Problem, results: int, summed: int, taps: int) -> bool:
    """Outputs and input gradients that are summed over a few channels, which XLA packs one by one:
    faster by planes of positions; else where results are few as well."""
    positions, last = area(problem), problem.form.layout.channels_last
    if problem.form.geometry.stride != (1, 1):
        many = problem.shapes[0][0] * positions >= 4000 and taps <= 64
        return many and (results <= 16 or (not last and taps <= 9))
    wide = summed <= 2 or results >= 64 or positions >= 4000
    return results <= 16 or (positions >= 196 and wide and not last)


def _kernel_written_out(problem: Problem, results: int, summed: int, taps: int) -> bool:
    """Kernel gradients, but for windows that are mostly padding, and kernels that outweigh the
    images by far, and would have to be turned; without oneDNN's products, or on small images, large
    windows of few channels, or that are Eigen's, are not."""
    count, last = area(problem), problem.form.layout.channels_last
    images = problem.shapes[0][0] * count * (results + summed)
    heavy = not last and not is_for(problem) and results * summed * taps > 32 * images
    if count < taps or heavy:
        return False
    if taps < 25 or (is_for(problem) and (last or count >= 1000 or max(summed, results) >= 8)):
        return True
    if summed >= FEWEST_PACKED:
        return max(results, summed) > EIGENS_OWN
    if taps >= 64 and (last or count < 4 * taps):
        return False
    return results >= 32 if summed > 2 else (results >= 48 and not last)


def _costs(problem: Problem) -> dict[str, float]:
    """What writing windows out takes, by the algorithms that do: numbers written, and products,
    `PACE` of them in the time of a number. What comes as channels of results is read again, and
    what turns channels to be last, as kernel gradients do but for `patches` of results enough,
    takes that time as well."""
    geometry, (results, summed, taps) = problem.form.geometry, widths(problem)
    gradient, backwards = (problem.projection == name for name in ("kernel_grad", "input_grad"))
    sizes = geometry.spatial if backwards else geometry.output
    read = [n + e - 1 for n, e in zip(sizes, geometry.extent, strict=True)]

    def cost(positions: int, summed: int, results: int, again: float = 1) -> float:
        width = results if gradient else results + 16  # Narrow products take longer.
        return positions * (summed + again * results + summed * width / PACE)

    costs = {"patches": cost(math.prod(sizes), summed * taps, results)}
    for axes in range(1, 1 + (kn2row.most_axes(geometry) if gradient else 1)):
        ahead = math.prod(geometry.window[:axes])
        places = math.prod((*read[:axes], *sizes[axes:]))
        columns = results * ahead if gradient else patches.width(results * ahead)
        by_rows = cost(places, summed * taps // ahead, columns, 1 if gradient else 1.5)
        costs["kn2row"] = min(by_rows, costs.get("kn2row", math.inf))
    turned = gradient and not problem.form.layout.channels_last
    turn = TURN * math.prod(sizes) * (summed + results) if turned else 0
    costs["kn2row"] += turn
    costs["patches"] += turn if results < patches.FEWEST_RESULTS else 0
    return costs


def _costs_least(name: str, problem: Problem) -> bool:
    costs = _costs(problem)
    return min(costs, key=lambda other: costs[other]) == name
