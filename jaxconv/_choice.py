"""Which algorithm computes which problem: one table, read from the top, the first row that fits.

A choice depends on the static `Problem` alone (shapes, dtypes, geometry, platform), so the same
call always takes the same algorithm. Each row says why it stands there. A row must only name an
algorithm where it is at least as exact as `direct` within the documented bound, and faster as
measured by `experiments/`; the last rows hold for everything, on every platform.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ._algorithms import REGISTER, Algorithm, kn2row, patches, winograd
from ._algorithms._frame import blocks, sum_dtype
from ._form import PROJECTIONS, Problem
from ._geometry import Partition

#: Products that are worth a program of several loops.
LEAST_PRODUCTS = 2**19
#: Channels that XLA:CPU packs as a whole, and fewer than it packs at all.
LANES, FEWEST_PACKED = 8, 6
#: Products that take as long as writing out a number.
PACE = 16
DOUBLE = (np.dtype(np.float64), np.dtype(np.complex128))


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        algorithm: the name in the register.
        fits: whether the row is about this problem.
        reason: why the algorithm is taken, in words a user can check.
    """

    algorithm: str
    fits: Callable[[Problem], bool]
    reason: str


def _is_convolution(problem: Problem) -> bool:
    return problem.projection in PROJECTIONS


def _is_adaptive(problem: Problem) -> bool:
    return problem.projection.startswith("window") and isinstance(problem.form.geometry, Partition)


def _is_columns(problem: Problem) -> bool:
    return problem.projection in ("unfold", "fold")


def _is_anything(problem: Problem) -> bool:
    return True


def _on_one_cpu(problem: Problem) -> bool:
    return problem.on_one_cpu and problem.static


def _on_cpu_convolution(problem: Problem) -> bool:
    return _is_convolution(problem) and _on_one_cpu(problem)


def _for_cpu(fits: Callable[[Problem], bool]) -> Callable[[Problem], bool]:
    """A row about convolutions on one CPU: `fits` is asked of no other problem."""

    @functools.wraps(fits)
    def on_cpu(problem: Problem) -> bool:
        return _on_cpu_convolution(problem) and fits(problem)

    return on_cpu


def _widths(problem: Problem) -> tuple[int, int, int]:
    """`(results, summed, taps)`: channels of the result, channels and taps that are summed."""
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    taps = math.prod(problem.form.geometry.window)
    if problem.projection == "input_grad":
        return inputs, outputs, taps
    return outputs, inputs, taps


def _positions(problem: Problem) -> int:
    """Positions of an image that a product runs over."""
    geometry = problem.form.geometry
    return math.prod(geometry.spatial if problem.projection == "input_grad" else geometry.output)


def _is_little(problem: Problem) -> bool:
    """So few products that it matters more how long they take to compile."""
    groups, *_ = blocks(problem.form, problem.shapes, problem.projection)
    count = groups * problem.shapes[0][0] * _positions(problem)
    return count * math.prod(_widths(problem)) < LEAST_PRODUCTS


@_for_cpu
def _is_cut_up(problem: Problem) -> bool:
    """Windows that do not overlap, of three axes, which XLA:CPU is slow to reorder."""
    geometry = problem.form.geometry
    apart = problem.projection == "output" and geometry.window == geometry.stride
    several = 1 < math.prod(geometry.window) <= 64
    return apart and geometry.rank == 3 and several and not _is_little(problem)


@_for_cpu
def _is_slim(problem: Problem) -> bool:
    """So few channels, to a group or in all, that a matrix product has nothing to share."""
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    if problem.projection == "kernel_grad" and groups == 1:
        few = inputs * outputs <= (8 if problem.form.geometry.rank == 3 else 2)
        return few or _is_slim_by_planes(problem, inputs, outputs)
    if inputs * outputs > 64 or groups > 1:
        return inputs * outputs <= 64
    results, summed, taps = _widths(problem)
    if problem.projection == "input_grad" and max(problem.form.geometry.stride) > 1:
        return results <= 16 and taps < 25 and math.prod(problem.form.geometry.output) < 784
    if problem.form.geometry.rank != 2 or _is_little(problem):
        return results <= 16
    many = problem.shapes[0][0] * _positions(problem) >= 6000
    return many and results <= 16 and (taps <= 9 or max(results, summed) < 8)


@_for_cpu
def _is_of_few(problem: Problem) -> bool:
    """Results of so few channels that those of all taps are less than the taps of all inputs."""
    geometry, last = problem.form.geometry, problem.form.layout.channels_last
    if problem.projection == "kernel_grad" or geometry.groups > 1 or not kn2row.is_of_few(problem):
        return False
    results, summed, taps = _widths(problem)
    if sum_dtype(problem).kind != "f" or _is_little(problem) or taps == 1:
        return False
    least, most = (16, 64 if results > 2 else math.inf) if last else (32, math.inf)
    return least <= summed <= most


def _is_slim_by_planes(problem: Problem, inputs: int, outputs: int) -> bool:
    """Kernel gradients of planes, which products of windows and errors would have turned first."""
    geometry = problem.form.geometry
    if problem.form.layout.channels_last or geometry.rank != 2 or _is_little(problem):
        return False
    slim = inputs * outputs <= 64 and max(inputs, outputs) <= 16
    return slim and math.prod(geometry.window) <= 9


@_for_cpu
def _is_between(problem: Problem) -> bool:
    """Groups of too many channels for loops, and too few for products of their own."""
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    geometry = problem.form.geometry
    few = groups >= 4 and 64 <= inputs * outputs <= 128
    plain = geometry.stride == (1, 1) and sum_dtype(problem) == np.float32
    taken = not problem.form.layout.channels_last or _positions(problem) >= 400
    taken &= problem.projection == "kernel_grad" or _widths(problem)[0] > 4
    return few and plain and taken and 9 <= math.prod(geometry.window) <= 25


@_for_cpu
def _is_slim_and_strided(problem: Problem) -> bool:
    """A strided input gradient of groups of some channels, as loops over residues that waste no
    product. A loop over all residues at once is as fast for a channel alone, or half the work."""
    geometry = problem.form.geometry
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    strided = math.prod(geometry.stride) > (1 if geometry.rank == 1 else 2)
    some = groups > 1 and inputs > 1 and 8 <= inputs * outputs <= 64
    return problem.projection == "input_grad" and strided and some and not _is_little(problem)


@_for_cpu
def _is_strided_gradient(problem: Problem) -> bool:
    """A strided input gradient, where XLA:CPU's form of it multiplies mostly zeros."""
    if problem.projection != "input_grad":
        return False
    geometry = problem.form.geometry
    results, summed, _ = _widths(problem)
    if geometry.rank == 1:
        return results >= 16
    if geometry.rank == 3:
        return True
    if max(geometry.stride) == 1 or _is_little(problem):
        return False
    window = max(geometry.window)
    if summed <= 20 or window > min(geometry.output):
        return True
    if window % 2 and results >= 64 and math.prod(geometry.output) >= 784:
        return True
    some = summed <= results * (4 * window - 6)
    return some and (summed <= 40 or math.prod(geometry.output) >= 1600)


@_for_cpu
def _is_large_window(problem: Problem) -> bool:
    """Few channels and so many taps that even zeros up to the input's size are fewer products."""
    geometry = problem.form.geometry
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    taps, read = math.prod(geometry.window), math.prod(geometry.read)
    return inputs * outputs <= 16 and taps >= 128 and 24 * read <= math.prod(geometry.output) * taps


@_for_cpu
def _is_winograds(problem: Problem) -> bool:
    """3x3 with channels enough for matrix products, yet not so many that the kernel's transform,
    16 numbers for 9, weighs as much as the image's."""
    return _costs_least("winograd", problem)


@_for_cpu
def _is_cheaper_by_rows(problem: Problem) -> bool:
    """Where less is written if the taps of the first axes are channels of the results."""
    too_large = problem.projection != "kernel_grad" and _widths(problem)[2] > patches.MOST_TAPS
    return too_large or _costs_least("kn2row", problem)


@_for_cpu
def _is_row_wise(problem: Problem) -> bool:
    return _is_written_out(problem) and _is_cheaper_by_rows(problem)


@_for_cpu
def _is_written_out(problem: Problem) -> bool:
    """Where XLA:CPU's convolution is slower than products of windows written out in blocks."""
    geometry, dtype = problem.form.geometry, sum_dtype(problem)
    results, summed, taps = _widths(problem)
    if dtype.kind != "f" or (geometry.rank < 3 and dtype in DOUBLE) or _is_little(problem):
        return False
    if geometry.rank == 1:
        return results <= 2 and summed >= 16 and taps >= 5
    if geometry.rank == 3:
        return summed <= 128
    rule = _kernel_written_out if problem.projection == "kernel_grad" else _image_written_out
    return rule(problem, results, summed, taps)


def _image_written_out(problem: Problem, results: int, summed: int, taps: int) -> bool:
    """Outputs and input gradients: results enough to pay for what is written, and more of them
    where XLA packs whole vectors of channels; windows that are mostly padding."""
    geometry = problem.form.geometry
    strided, backwards = geometry.stride != (1, 1), problem.projection == "input_grad"
    if taps < 4 or (strided and backwards):
        return False
    sizes, positions = geometry.output if backwards else geometry.spatial, _positions(problem)
    if any(6 * e > 5 * n for e, n in zip(geometry.extent, sizes, strict=True)):
        return True
    if summed < FEWEST_PACKED:
        return _few_written_out(problem, results, summed, taps)
    count, packed = problem.shapes[0][0] * positions, summed % LANES == 0
    if strided:
        wide = results >= 48 or (results > 20 and summed < 64 and not packed)
        return wide and count > 800 and summed * taps <= 2600
    least, most = min(results, summed), max(results, summed)
    if (80 < least < 192 or (positions > 4096 and results > 32)) and taps != 4:
        return False
    if geometry.dilation != (1, 1):
        return False
    if packed:
        large = count * results * summed * taps >= 2**24
        return large and (results >= 48 or (results >= 32 and summed >= 64 and taps <= 25))
    return most <= 14 or least >= 28 or count > 3000


def _few_written_out(problem: Problem, results: int, summed: int, taps: int) -> bool:
    """Outputs and input gradients that are summed over a few channels, which XLA packs one by one:
    faster by planes of positions; else where results are few as well."""
    positions, last = _positions(problem), problem.form.layout.channels_last
    if problem.form.geometry.stride != (1, 1):
        many = problem.shapes[0][0] * positions >= 4000 and taps <= 64
        return many and (results <= 16 or (not last and taps <= 9))
    wide = summed <= 2 or results >= 64 or positions >= 4000
    return results <= 16 or (positions >= 196 and wide and not last)


def _kernel_written_out(problem: Problem, results: int, summed: int, taps: int) -> bool:
    """Kernel gradients, but for windows that are mostly padding, large ones of few channels, and
    kernels that outweigh the images, and would have to be turned."""
    count, last = _positions(problem), problem.form.layout.channels_last
    images = problem.shapes[0][0] * count * (results + summed)
    if count < taps or (not last and results * summed * taps > images):
        return False
    strided = problem.form.geometry.stride != (1, 1)
    if strided and not last and summed >= 24 and taps <= 25:
        return False
    if taps < 25 or summed >= 6:
        return True
    return results >= 32 if summed > 2 else (results >= 48 and not last)


def _costs(problem: Problem) -> dict[str, float]:
    """What writing windows out takes, by the algorithms that do: numbers written, and products,
    `PACE` of them in the time of a number. What comes as channels of results is read again."""
    geometry, (results, summed, taps) = problem.form.geometry, _widths(problem)
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
    products = problem.shapes[0][0] * math.prod((*sizes, results, summed, taps))
    tiles = math.prod(-(-m // 2) for m in sizes)
    many = problem.shapes[0][0] * tiles
    widest = min(256, many) if gradient else min(96, many // 8)
    worth = products >= (2**26 if gradient else 2**27) and max(results, summed) <= widest
    if worth and not winograd.refuses(problem):
        costs["winograd"] = tiles * (40 * (summed + results) + 16 * summed * results / PACE)
    return costs


def _costs_least(name: str, problem: Problem) -> bool:
    costs = _costs(problem)
    return min(costs, key=lambda other: costs[other]) == name


@_for_cpu
def _is_thick(problem: Problem) -> bool:
    """Three spatial axes, which XLA:CPU is slow on, or a kernel that outweighs a small image."""
    geometry = problem.form.geometry
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    least = min(inputs, outputs)
    if geometry.rank == 3:
        return least >= 8
    if problem.projection == "kernel_grad":
        return False
    return least >= 384 and problem.shapes[0][0] * math.prod(geometry.output) <= 1024


@_for_cpu
def _is_elemental(problem: Problem) -> bool:
    """What XLA:CPU convolves element by element: integers, and double precision but for the plain
    form with two spatial axes; a gradient of few taps or to few channels is not plain."""
    dtype, geometry = sum_dtype(problem), problem.form.geometry
    if dtype.kind in "iu":
        return True
    backwards = problem.projection == "input_grad"
    strided = backwards and geometry.stride != (1,) * geometry.rank
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    strided |= backwards and (math.prod(geometry.window) <= 4 or inputs <= 4)
    return dtype in DOUBLE and (strided or (geometry.rank != 2 and min(inputs, outputs) >= 8))


TABLE: tuple[Row, ...] = (
    Row("patches", _is_cut_up, "a volume in windows of its own: written out tap by tap"),
    Row("matmul", _on_cpu_convolution, "windows that do not overlap: one matrix product"),
    Row("fft", _is_large_window, "a large window of few channels: products of spectra"),
    Row(
        "grouped",
        _is_between,
        "groups of some channels: windows written out, one batch of products",
    ),
    Row("phases", _is_slim_and_strided, "strided groups of some channels: residue by residue"),
    Row("kn2row", _is_of_few, "few results: those of all taps by one product, shifted and added"),
    Row("shift", _is_slim, "few channels to a group: all taps in one loop of vectors"),
    Row("groups", _on_cpu_convolution, "groups of many channels: one after the other"),
    Row("winograd", _is_winograds, "3x3: 16 products for 36"),
    Row("kn2row", _is_row_wise, "windows written out by rows, the rows as channels of a product"),
    Row("patches", _is_written_out, "windows written out in blocks, one product for all taps"),
    Row("phases", _is_strided_gradient, "a strided input gradient as one of stride 1 on residues"),
    Row("taps", _is_thick, "3-D or few positions: one matrix product to a tap"),
    Row("taps", _is_elemental, "one matrix product to a tap, where XLA convolves one by one"),
    Row("phases", _is_elemental, "strided, to be one of stride 1 that has matrix products"),
    Row("direct", _is_convolution, "XLA's own convolution; nothing faster is known for it"),
    Row("adaptive", _is_adaptive, "windows of unequal sizes, which window reductions do not have"),
    Row("columns", _is_columns, "slices move each element once for each tap of an axis"),
    Row("whole", _on_one_cpu, "one window that is all of the input: reductions and a comparison"),
    Row("winners", _on_one_cpu, "each element asks the few windows that it lies in who won"),
    Row("slices", _on_one_cpu, "windows as shifted slices: vectors, and log2(k) steps on an axis"),
    Row(
        "reduce_window", _is_anything, "XLA's own window reduction; nothing faster is known for it"
    ),
)


def choose(problem: Problem) -> tuple[Algorithm, str]:
    """The algorithm for a problem, and the reason.

    A name that the caller asked for is taken for every projection it has and does not refuse; the
    projections it lacks are the table's to choose.
    """
    asked = getattr(problem.form, "algorithm", "auto")
    if asked != "auto" and _can(REGISTER[asked], problem):
        return REGISTER[asked], "asked for"
    for row in TABLE:
        if row.fits(problem) and _can(REGISTER[row.algorithm], problem):
            return REGISTER[row.algorithm], row.reason
    raise LookupError(f"no row of the table fits {problem}")


def check_asked(algorithm: str, problem: Problem) -> None:
    """A name asked for must be registered and able to do the projection asked for.

    Raises:
        ValueError: saying which names there are, or why this one cannot.
    """
    names = [name for name, entry in REGISTER.items() if "output" in entry.maps]
    if algorithm == "auto":
        return
    if algorithm not in names:
        raise ValueError(
            f"algorithm must be one of {', '.join(['auto', *names])}; got {algorithm!r}"
        )
    entry = REGISTER[algorithm]
    if not (problem.static or entry.symbolic):
        raise ValueError(f"algorithm {algorithm!r} needs to know the batch size; got a symbol")
    reason = entry.refuses(problem) if problem.projection in entry.maps else "it has no such map"
    if reason:
        raise ValueError(
            f"algorithm {algorithm!r} cannot compute this {problem.projection}: {reason}"
        )


def _can(algorithm: Algorithm, problem: Problem) -> bool:
    if not (problem.static or algorithm.symbolic):
        return False
    return problem.projection in algorithm.maps and not algorithm.refuses(problem)
