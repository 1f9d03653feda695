"""Which problems the rows of the table in `_choice` are about: questions to a static `Problem`.

Each holds where an algorithm is at least as exact as `direct` within the documented bound, and
faster as measured by `experiments/`. Those about groups are in `_of_groups`, about pools in
`_of_pools`, those of the algorithms that write windows out in `_written_out`.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from ._algorithms import batches, kn2row
from ._algorithms._apart import MOST_UNROLLED
from ._algorithms._frame import MOST_BLOCK, blocks, sum_dtype
from ._algorithms._library import factor_dtype, is_for
from ._arrays import HALF
from ._form import PROJECTIONS, Problem

#: Channels that are read for so few results that a strided gradient waits for them: of windows of
#: more than three taps an axis, and of others.
MANY_TO_FEW, FEW_OF_MANY = (384, 256), (8, 24)
#: Products that are worth a program of several loops.
LEAST_PRODUCTS = 2**19
#: Products of three taps an axis that are worth several calls, and that are of small images too.
LEAST_IN_RESIDUES, MANY_IN_RESIDUES = 2.2e6, 1.5e7
#: Bytes of one image, and of several, beyond which a copy takes longer than what it saves.
MOST_OF_ONE, MOST_OF_SEVERAL = 2**23, 2**24
DOUBLE = (np.dtype(np.float64), np.dtype(np.complex128))


def is_convolution(problem: Problem) -> bool:
    return problem.projection in PROJECTIONS


def is_anything(problem: Problem) -> bool:
    return True


def on_one_cpu(problem: Problem) -> bool:
    return problem.on_one_cpu and problem.static


def on_cpu_convolution(problem: Problem) -> bool:
    return is_convolution(problem) and on_one_cpu(problem)


def for_cpu(fits: Callable[[Problem], bool]) -> Callable[[Problem], bool]:
    """A row about convolutions on one CPU: `fits` is asked of no other problem."""

    @functools.wraps(fits)
    def on_cpu(problem: Problem) -> bool:
        return on_cpu_convolution(problem) and fits(problem)

    return on_cpu


def is_half(problem: Problem) -> bool:
    """Whether some of its arrays are in half precision."""
    return any(dtype in HALF for dtype in problem.form.dtypes)


def widths(problem: Problem) -> tuple[int, int, int]:
    """`(results, summed, taps)`: channels of the result, channels and taps that are summed."""
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    taps = math.prod(problem.form.geometry.window)
    if problem.projection == "input_grad":
        return inputs, outputs, taps
    return outputs, inputs, taps


def area(problem: Problem) -> int:
    """Positions of an image that a product runs over."""
    geometry = problem.form.geometry
    return math.prod(geometry.spatial if problem.projection == "input_grad" else geometry.output)


def is_little(problem: Problem) -> bool:
    """So few products that it matters more how long they take to compile."""
    groups, *_ = blocks(problem.form, problem.shapes, problem.projection)
    count = groups * problem.shapes[0][0] * area(problem)
    return count * math.prod(widths(problem)) < LEAST_PRODUCTS


@for_cpu
def is_large(problem: Problem) -> bool:
    """More images than there is memory at hand for, to be computed by what holds copies besides."""
    whole, gradient = batches.image_bytes(problem), problem.projection == "kernel_grad"
    most = 2 * whole + MOST_BLOCK if gradient else whole
    if most < batches.MOST_WHOLE or (parts := len(batches.parts(problem))) == 1:
        return False
    if problem.choose is None:
        raise TypeError(f"a problem of many images needs a choice for a few; got {problem}")
    name = problem.choose(batches.part(problem))[0].name
    if gradient:
        return _is_large_gradient(problem, name)
    if parts <= MOST_UNROLLED:
        return False
    read = math.prod(problem.shapes[0]) * sum_dtype(problem).itemsize
    if name == "shift":
        # A result that outweighs what is read is better filled once, by both cores.
        spread = problem.projection == "input_grad" and max(problem.form.geometry.stride) > 1
        return read > batches.MOST_WHOLE and not spread
    if name == "matmul":
        several = math.prod(problem.form.geometry.window) > 1
        return several and max(read, whole - read) > batches.MOST_WHOLE
    return name == "grouped"


def _is_large_gradient(problem: Problem, name: str) -> bool:
    """Kernel gradients by an algorithm of which operands, or what it holds besides, are large: the
    image framed, in many cases twice, and a block of what is written out."""
    geometry, last = problem.form.geometry, problem.form.layout.channels_last
    whole = batches.image_bytes(problem)
    if name == "shift":
        _, *pair = blocks(problem.form, problem.shapes, problem.projection)
        twice = last and max(pair) > 1  # Turned to have channels first.
        if not twice:
            held = 2 * whole if _is_widened_and_framed(problem) else whole
            return held > batches.MOST_WHOLE
    else:
        # XLA's own copies plain lines only, and many products outweigh any copy.
        lines = ("direct",) if geometry.stride == (1,) else ()
        short = geometry.rank < 3 and math.prod(geometry.window) <= 25
        if not short or name not in ("patches", "kn2row", "groups", "grouped", *lines):
            return False
        # Framed and cut into residues, but for groups as they lie.
        twice = max(geometry.stride) > 1 and (last or geometry.groups == 1)
    read = math.prod(problem.shapes[0]) * sum_dtype(problem).itemsize
    return max(whole, read * (2 if twice else 1) + MOST_BLOCK) >= batches.MOST_WHOLE


def _is_widened_and_framed(problem: Problem) -> bool:
    """Half precision kernel gradients that hold images in single precision, and framed besides."""
    geometry = problem.form.geometry
    long = geometry.rank == 1 or (geometry.rank == 2 and max(geometry.window) > 3)
    return is_half(problem) and long and problem.projection == "kernel_grad"


@for_cpu
def is_cut_up(problem: Problem) -> bool:
    """Windows that do not overlap, of three axes, which XLA:CPU is slow to reorder."""
    geometry = problem.form.geometry
    apart = problem.projection == "output" and geometry.window == geometry.stride
    several = 1 < math.prod(geometry.window) <= 64
    return apart and geometry.rank == 3 and several and not is_little(problem)


@for_cpu
def is_of_few(problem: Problem) -> bool:
    """Results of so few channels that those of all taps are less than the taps of all inputs."""
    geometry, last = problem.form.geometry, problem.form.layout.channels_last
    if problem.projection == "kernel_grad" or geometry.groups > 1 or not kn2row.is_of_few(problem):
        return False
    results, summed, taps = widths(problem)
    if sum_dtype(problem).kind != "f" or is_little(problem) or taps == 1:
        return False
    if is_for(problem) and sum_dtype(problem) == np.float32:
        held = math.prod(problem.shapes[0]) * sum_dtype(problem).itemsize
        most = MOST_OF_ONE if is_in_one(problem) else MOST_OF_SEVERAL
        return summed >= 12 if not last else summed >= 8 and held <= most
    if not last:
        return summed >= 32
    # XLA:CPU is slowest on planes without padding, see `eigen`.
    plain = geometry.rank == 2 and problem.projection == "output"
    slow = plain and not any(map(any, geometry.padding))
    return summed >= 16 and (results <= 2 or summed <= 64 or slow)


def is_in_one(problem: Problem) -> bool:
    """One image in single precision, channels last, summed over more than a few channels to few
    results: XLA:CPU's own convolution takes no more time than to read it."""
    results, summed, _ = widths(problem)
    last, geometry = problem.form.layout.channels_last, problem.form.geometry
    one = problem.shapes[0][0] == 1 and geometry.rank == 2 and geometry.groups == 1
    plain = set(geometry.stride) == {1} and factor_dtype(problem) == np.float32
    return last and one and plain and results < 6 and summed > 16


@for_cpu
def is_strided_gradient(problem: Problem) -> bool:
    """A strided input gradient, where XLA:CPU's form of it multiplies mostly zeros."""
    if problem.projection != "input_grad":
        return False
    geometry = problem.form.geometry
    results, summed, taps = widths(problem)
    if geometry.rank == 1:
        wide = results >= 16 or summed < 64 or 8 * results * geometry.stride[0] >= summed
        return wide or has_fast_residues(problem)
    if geometry.rank == 3:
        return True
    if max(geometry.stride) == 1 or is_little(problem):
        return False
    window = max(geometry.window)
    products = problem.shapes[0][0] * math.prod((*geometry.output, results, summed, taps))
    if has_fast_residues(problem):
        if window <= 3 and summed >= 8 and products < LEAST_IN_RESIDUES:
            return False
        many = problem.form.layout.channels_last and products >= MANY_IN_RESIDUES
        if window > 3 or math.prod(geometry.output) > 100 or many:
            return True
    if summed <= 20 or window > min(geometry.output):
        return True
    if window % 2 and results >= 64 and math.prod(geometry.output) >= 784:
        return True
    some = summed <= results * (4 * window - 6)
    return some and (summed <= 40 or math.prod(geometry.output) >= 1600)


def has_fast_residues(problem: Problem) -> bool:
    """A strided input gradient whose residues oneDNN computes."""
    results, summed, _ = widths(problem)
    strided = problem.projection == "input_grad" and max(problem.form.geometry.stride) > 1
    single = sum_dtype(problem) == np.float32 and is_for(problem)
    wide = results * math.prod(problem.form.geometry.stride)
    # Of many channels to few, XLA's own takes no longer than to read them.
    several = 4 <= summed <= 32 * wide if results < 3 else results * summed >= 12
    small = max(problem.form.geometry.window) <= 3
    several &= summed < MANY_TO_FEW[small] or results > FEW_OF_MANY[small]
    return strided and single and several and problem.form.geometry.groups == 1


@for_cpu
def is_large_window(problem: Problem) -> bool:
    """Few channels and so many taps that even zeros up to the input's size are fewer products."""
    geometry = problem.form.geometry
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    taps, read = math.prod(geometry.window), math.prod(geometry.read)
    return inputs * outputs <= 16 and taps >= 128 and 24 * read <= math.prod(geometry.output) * taps


@for_cpu
def is_thick(problem: Problem) -> bool:
    """Three spatial axes, which XLA:CPU is slow on, or a kernel that outweighs a small image."""
    geometry = problem.form.geometry
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    least = min(inputs, outputs)
    if geometry.rank == 3:
        return least > 1
    if problem.projection == "kernel_grad":
        return False
    return least >= 384 and problem.shapes[0][0] * math.prod(geometry.output) <= 1024


@for_cpu
def is_elemental(problem: Problem) -> bool:
    """What XLA:CPU convolves element by element: integers, and double precision but for the plain
    form with two spatial axes; a gradient of few taps or to few channels is not plain, but for a
    strided one on a line."""
    dtype, geometry = sum_dtype(problem), problem.form.geometry
    if dtype.kind in "iu":
        return True
    backwards = problem.projection == "input_grad"
    strided = backwards and geometry.stride != (1,) * geometry.rank
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    if strided and geometry.rank == 1 and min(inputs, outputs) <= 2:
        return False
    strided |= backwards and (math.prod(geometry.window) <= 4 or inputs <= 4)
    return dtype in DOUBLE and (strided or (geometry.rank != 2 and min(inputs, outputs) >= 8))
