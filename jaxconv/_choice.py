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

from ._algorithms import REGISTER, Algorithm, patches, winograd
from ._algorithms._frame import block_bytes, blocks, sum_dtype
from ._form import PROJECTIONS, Problem
from ._geometry import Partition

#: Products that are worth a program of several loops.
LEAST_PRODUCTS = 2**19
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
    count = problem.shapes[0][0] * _positions(problem)
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
        return inputs * outputs <= (8 if problem.form.geometry.rank == 3 else 2)
    backwards, strides = problem.projection == "input_grad", problem.form.geometry.stride
    if groups == 1 and backwards and max(strides) > 1 and _widths(problem)[2] >= 25:
        return False
    return inputs * outputs <= 64 and (groups > 1 or (inputs if backwards else outputs) <= 16)


@_for_cpu
def _is_between(problem: Problem) -> bool:
    """Groups of too many channels for loops, and too few for products of their own."""
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    geometry = problem.form.geometry
    few = groups >= 4 and 64 <= inputs * outputs <= 128
    plain = geometry.stride == (1, 1) and sum_dtype(problem) == np.float32
    taken = not problem.form.layout.channels_last or _positions(problem) >= 400
    return few and plain and taken and 9 <= math.prod(geometry.window) <= 25


@_for_cpu
def _is_strided_gradient(problem: Problem) -> bool:
    """A strided input gradient, where XLA:CPU's form of it multiplies mostly zeros."""
    if problem.projection != "input_grad":
        return False
    geometry = problem.form.geometry
    _, inputs, _ = blocks(problem.form, problem.shapes, "input_grad")
    odd = any(k % s for k, s in zip(geometry.window, geometry.stride, strict=True))
    if geometry.rank == 1:
        return inputs >= 16
    positions = math.prod(geometry.output)
    few = inputs <= 16 and positions * problem.shapes[0][0] >= 2048
    return geometry.rank == 3 or few or (inputs >= 64 and odd and positions >= 784)


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
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    tiles = problem.shapes[0][0] * math.prod(-(-m // 2) for m in problem.form.geometry.output)
    if problem.form.geometry.rank != 2 or min(inputs, outputs) < 32:
        return False
    if problem.projection == "kernel_grad":
        return max(inputs, outputs) <= min(256, tiles)
    return max(inputs, outputs) <= 96 and tiles >= 1024 and len(winograd.parts(problem)) <= 2


@_for_cpu
def _is_cheaper_by_rows(problem: Problem) -> bool:
    """Patches written out along all axes but the first, and as many results as it has taps, are
    less than whole patches, rows that blocks have in common included."""
    geometry, (results, summed, taps) = problem.form.geometry, _widths(problem)
    if taps > patches.MOST_TAPS:
        return True
    by_rows = summed * taps // geometry.window[0] + results * geometry.window[0]
    backwards = problem.projection == "input_grad"
    height = (geometry.spatial if backwards else geometry.output)[0]
    row = _positions(problem) // height * by_rows * sum_dtype(problem).itemsize
    rows = min(height, max(1, block_bytes(problem) // row))
    return by_rows * (rows + geometry.extent[0] - 1) * 5 <= summed * taps * rows * 4


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
    """Outputs and input gradients: few results, or few channels of an image's own, of which XLA:CPU
    gathers patches one number at a time, the more so with a stride."""
    geometry, last = problem.form.geometry, problem.form.layout.channels_last
    strided, output = geometry.stride != (1, 1), problem.projection == "output"
    count = problem.shapes[0][0] * _positions(problem)
    if taps < 9 or count < (256 if summed <= 7 else 1024):
        return False
    if summed <= 4 and output:
        return results >= 16 and taps <= 64 and (not last or (strided and results <= 32))
    if strided:
        return (
            output and summed <= 64 and min(results, summed) >= 16 and results <= 128 and taps == 9
        )
    if summed <= 7:
        return 16 <= results <= 48 and taps <= 64
    if results > (32 if _positions(problem) > 4096 else 64):
        return False
    return results >= 6 or taps >= 25 or summed < 32


def _kernel_written_out(problem: Problem, results: int, summed: int, taps: int) -> bool:
    """Kernel gradients: over many positions, or of many channels to few; with a dilation."""
    geometry, positions = problem.form.geometry, _positions(problem)
    least, most = min(results, summed), max(results, summed)
    if results <= 16 and summed >= 32:
        return True
    if geometry.stride != (1, 1):
        few = summed <= 4 and results >= 16 and taps >= 25
        return few or (least >= 64 and taps == 9) or (least >= 12 and taps < 9)
    if geometry.dilation != (1, 1) and least >= 64:
        return taps >= 9
    if taps >= 25 and most > 32:
        return positions >= 8000 or (taps >= 49 and least >= 16)
    return taps >= 9 and least >= 3 and positions >= (400 if taps == 9 and least >= 16 else 1000)


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
