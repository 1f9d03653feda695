"""Which problems of groups, or of few channels in all, the table in `_choice` has rows about.

Measured as the other rules are, see `_rules`.
"""

import math

import numpy as np

from ._algorithms import phases, shift
from ._algorithms._frame import blocks, sum_dtype
from ._algorithms._library import is_for
from ._form import Problem
from ._rules import LEAST_PRODUCTS, area, for_cpu, has_fast_residues, is_little, widths

#: Bytes of a group's windows, written out, that are taken as one; as lines, channels first.
MOST_TO_A_GROUP, MOST_IN_LINES = 6 * 2**20, 3.6 * 2**20
#: Positions of all images that are few.
FEW_POSITIONS = 2000


@for_cpu
def is_slim(problem: Problem) -> bool:
    """So few channels, to a group or in all, that a matrix product has nothing to share."""
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    if problem.projection == "kernel_grad" and groups == 1:
        few = inputs * outputs <= (8 if problem.form.geometry.rank == 3 else 2)
        return few or _is_slim_in_lines(problem, inputs, outputs)
    if problem.projection == "kernel_grad" and sum_dtype(problem) == np.float32:
        return _has_slim_gradient(problem)
    if inputs * outputs > 64 or groups > 1:
        return inputs * outputs <= 64
    results, summed, taps = widths(problem)
    if has_fast_residues(problem):
        return False
    if problem.projection == "input_grad" and max(problem.form.geometry.stride) > 1:
        return results <= 16 and taps < 25 and math.prod(problem.form.geometry.output) < 784
    if problem.form.geometry.rank != 2 or is_little(problem):
        return results <= 16
    many = problem.shapes[0][0] * area(problem) >= 6000
    return many and results <= 16 and (taps <= 9 or max(results, summed) < 8)


def _is_slim_in_lines(problem: Problem, inputs: int, outputs: int) -> bool:
    """Kernel gradients of so few channels, on lines or planes, that a product would wait for what
    it multiplies."""
    geometry, taps = problem.form.geometry, math.prod(problem.form.geometry.window)
    if problem.form.layout.channels_last or geometry.rank > 2 or is_little(problem):
        return False
    few = problem.shapes[0][0] * area(problem) < 2**15
    if few and (geometry.rank == 1 or taps > 9):
        return False
    slim = max(inputs, outputs) <= 8 and inputs * outputs <= (20 if taps <= 9 else 12)
    return slim and taps <= 25


@for_cpu
def is_between(problem: Problem) -> bool:
    """Groups of too many channels for loops, and too few for products of their own."""
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    if problem.projection == "kernel_grad":
        if groups == 1 or sum_dtype(problem) != np.float32:
            return False
        by_loops = _has_slim_gradient(problem) and shift.refuses(problem) is None
        return not (by_loops or _has_own_products(problem))
    geometry = problem.form.geometry
    few = groups >= 4 and 64 <= inputs * outputs <= 128
    plain = geometry.stride == (1, 1) and sum_dtype(problem) == np.float32
    taken = not problem.form.layout.channels_last or area(problem) >= 400
    taken &= widths(problem)[0] > 4
    return few and plain and taken and 9 <= math.prod(geometry.window) <= 25


def _has_slim_gradient(problem: Problem) -> bool:
    """Kernel gradients of groups of so few pairs of channels that loops over all of them at once
    are quickest; channels first, where rows are the vectors, of few products or many positions."""
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    groups, pairs = problem.form.geometry.groups, inputs * outputs
    count = problem.shapes[0][0] * area(problem)
    if problem.form.layout.channels_last:
        some = groups * pairs <= 400 or count > 2 * FEW_POSITIONS
        return pairs <= (18 if some else 8)
    products = pairs * math.prod(problem.form.geometry.window)
    if count > FEW_POSITIONS:
        return products <= 900
    return pairs <= 9 or products <= 200


def _has_own_products(problem: Problem) -> bool:
    """Kernel gradients of groups that oneDNN has fast products for, one by one: few groups of few
    results, or windows that are more, written out, than a cache holds."""
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    count, taps = problem.shapes[0][0] * area(problem), math.prod(problem.form.geometry.window)
    if not is_for(problem):
        return False
    products = count * taps * inputs * outputs
    if min(inputs, outputs) < 4 and groups <= 8 and products >= LEAST_PRODUCTS:
        return True
    windows = count * inputs * taps * sum_dtype(problem).itemsize
    last = problem.form.layout.channels_last
    return windows > MOST_TO_A_GROUP if last else count > FEW_POSITIONS and windows > MOST_IN_LINES


@for_cpu
def is_grouped_and_strided(problem: Problem) -> bool:
    """A strided input gradient of groups of some channels, whose residues are one problem of
    groups, or of wider groups one problem each. A loop over all residues at once is as fast for a
    channel alone, or half the work. Of many channels, mostly as convolutions by oneDNN, which has
    groups of its own: channels first, which it turns, where they are many; not where all residues
    have as many taps."""
    geometry = problem.form.geometry
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    least = 2 if geometry.rank == 1 else 3
    strided = least <= math.prod(geometry.stride) <= phases.MOST_RESIDUES
    if problem.projection != "input_grad" or not strided or groups == 1 or inputs == 1:
        return False
    if is_little(problem) or inputs * outputs < 8:
        return False
    even = all(k % s == 0 for k, s in zip(geometry.window, geometry.stride, strict=True))
    many = groups >= 4 and inputs * outputs >= 512
    own = is_for(problem) and sum_dtype(problem) == np.float32 and not even
    own &= problem.form.layout.channels_last or many
    return inputs * outputs <= 64 or own
