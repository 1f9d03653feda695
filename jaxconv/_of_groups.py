"""Which problems of groups, or of few channels in all, the table in `_choice` has rows about.

Measured as the other rules are, see `_rules`.
"""

import math

import numpy as np

from ._algorithms import phases
from ._algorithms._frame import blocks, sum_dtype
from ._algorithms._library import is_for
from ._form import Problem
from ._rules import area, for_cpu, has_fast_residues, is_little, widths

#: Bytes of the windows of a group, written out, that are taken as one.
MOST_TO_A_GROUP = 6 * 2**20


@for_cpu
def is_slim(problem: Problem) -> bool:
    """So few channels, to a group or in all, that a matrix product has nothing to share."""
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    if problem.projection == "kernel_grad" and groups == 1:
        few = inputs * outputs <= (8 if problem.form.geometry.rank == 3 else 2)
        return few or _is_slim_in_lines(problem, inputs, outputs)
    if problem.projection == "kernel_grad" and sum_dtype(problem) == np.float32:
        return inputs * outputs <= 64 and not _has_own_products(problem)
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
        return _has_batched_gradient(problem)
    geometry = problem.form.geometry
    few = groups >= 4 and 64 <= inputs * outputs <= 128
    plain = geometry.stride == (1, 1) and sum_dtype(problem) == np.float32
    taken = not problem.form.layout.channels_last or area(problem) >= 400
    taken &= widths(problem)[0] > 4
    return few and plain and taken and 9 <= math.prod(geometry.window) <= 25


def _has_batched_gradient(problem: Problem) -> bool:
    """Kernel gradients of groups of some pairs of channels, whose windows are no more than a cache
    holds; channels first, of more pairs, or large windows, or many groups."""
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    taps, pairs = math.prod(problem.form.geometry.window), inputs * outputs
    count = problem.shapes[0][0] * area(problem)
    if groups == 1 or sum_dtype(problem) != np.float32 or _has_own_products(problem):
        return False
    if problem.form.layout.channels_last:
        least = 3 if problem.form.geometry.rank == 1 else 4
        return taps >= least and (pairs >= 64 or (pairs >= 32 and count >= 3000))
    some = pairs >= 64 and (taps >= 20 or groups >= 8)
    return (pairs >= 128 or some or (pairs >= 32 and taps >= 25)) and taps >= 9 and count >= 150


def _has_own_products(problem: Problem) -> bool:
    """Kernel gradients of groups that oneDNN has fast products for, one by one: whose windows,
    written out, are more than a cache holds, or few groups of few results or of large windows."""
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    if not is_for(problem) or inputs * outputs < 24:
        return False
    count, taps = problem.shapes[0][0] * area(problem), math.prod(problem.form.geometry.window)
    windows = count * inputs * taps * sum_dtype(problem).itemsize
    few = min(inputs, outputs) < 4 or (taps >= 25 and count >= 2000)
    few &= problem.form.layout.channels_last and groups <= 8
    return few or windows > MOST_TO_A_GROUP


@for_cpu
def is_grouped_and_strided(problem: Problem) -> bool:
    """A strided input gradient of groups of some channels, as loops over residues that waste no
    product. A loop over all residues at once is as fast for a channel alone, or half the work. Of
    many channels, mostly as convolutions by oneDNN, which has groups of its own: channels first,
    which it turns, where they are many; not where all residues have as many taps, and are one
    problem."""
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
