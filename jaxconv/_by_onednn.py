"""Where XLA's own call of oneDNN is faster than what can be written for XLA: see `_choice`.

From 350 layers drawn by lot (`experiments/speed.py --random`), both gradients of images and both
layouts, under oneDNN and under what the rest of the table takes. oneDNN computes results 16 at a
time, and channels last: what has fewer wastes most of its work, and channels first are turned on
the way in and out, which pays where there are products enough to each number.
"""

import math

import jax.numpy as jnp
import numpy as np

from ._algorithms import matmul, onednn
from ._algorithms._frame import blocks, sum_dtype
from ._algorithms._layouts import turned
from ._algorithms._library import factor_dtype, is_for
from ._algorithms.patches import FEWEST_RESULTS
from ._form import Problem
from ._of_groups import is_slim
from ._rules import area, for_cpu, is_in_one, is_large_window, is_little, widths

#: Results that fill its vectors well enough, and that fill half of one.
MANY, SOME = 8, 4
#: Results that it is as fast for as `kn2row` is; channels first, of small images and windows.
SEVERAL = 6
#: Channels of one, or of few, that it sums as if they were more.
FEW = 4
#: Products to each number read and written that pay for turning it: groups, few channels.
WORTH, WORTH_OF_FEW = 36, 70
#: Taps of channels on their own: what loops of vectors are as fast for, in either layout.
PLAIN_TAPS, TURNED_TAPS = 4, 48
#: The least that half precision is turned for, and what computes with it as it is.
TURNED_TAPS_OF_HALF, OF_HALF = 16, ("onednn", "matmul", "phases", "groups")
#: Pairs of channels to a group up to which loops of vectors are as fast.
MOST_IN_LOOPS = 64
#: Channels on their own that fill a vector.
LANES = 12
#: Results to a vector; picoseconds of a product in one, and of a number of a spectrum.
RESULTS, BY_TAP, TO_SPECTRUM = 16, 5, 1500


@for_cpu
def is_called(problem: Problem) -> bool:
    """Where it is faster than all else that there is, but for XLA's own convolution."""
    if problem.projection == "kernel_grad":
        return False
    groups, *pair = blocks(problem.form, problem.shapes, problem.projection)
    results, summed, taps = widths(problem)
    last, rank = problem.form.layout.channels_last, problem.form.geometry.rank
    if groups > 1 and max(pair) == 1:
        return (groups >= LANES and taps > PLAIN_TAPS) if last else taps > TURNED_TAPS
    if last:
        some = results > SOME and (summed <= 32 or groups > 1)
        some |= groups > 1 and results >= 2 and results * summed > MOST_IN_LOOPS
        pair_of_few = results > 1 and results * summed > SOME and summed <= 12 and rank < 3
        return results >= SEVERAL or some or pair_of_few
    worth = taps * results * summed / (results + summed)
    if groups > 1:
        return results > MANY or (results > SOME and worth >= WORTH)
    if summed <= FEW:
        return results > MANY and worth >= WORTH_OF_FEW
    small = results >= SEVERAL and taps <= 16 and (rank == 3 or area(problem) < 900)
    return results > MANY or small or (results > SOME and summed <= 32 and rank < 3)


@for_cpu
def is_transformed(problem: Problem) -> bool:
    """A large window, unless oneDNN takes less time tap by tap than its spectra: in single
    precision, products in vectors of results, and numbers of the spectra of all arrays."""
    if not is_large_window(problem) or onednn.refuses(problem) or not is_called(problem):
        return is_large_window(problem)
    groups, *_ = blocks(problem.form, problem.shapes, problem.projection)
    results, summed, taps = widths(problem)
    images, read = problem.shapes[0][0], math.prod(problem.form.geometry.padded)
    alone = results == summed == 1
    filled = -(-(groups if alone else results) // RESULTS) * RESULTS
    products = images * area(problem) * taps * summed * filled * (1 if alone else groups)
    numbers = read * groups * (images * (results + summed) + results * summed)
    return numbers * TO_SPECTRUM < products * BY_TAP


@for_cpu
def is_tiled(problem: Problem) -> bool:
    """Outputs of windows that do not overlap, several channels to several results: a product of
    windows would have these written out, but for a window that is all of an image."""
    results, summed, taps = widths(problem)
    if problem.projection != "output" or taps == 1 or matmul.refuses(problem):
        return False
    few = summed <= FEW and not problem.form.layout.channels_last
    if few and taps * results * summed < WORTH_OF_FEW * (results + summed):
        return False
    several = results >= MANY and summed > 1 and math.prod(problem.form.geometry.output) > 1
    return several and not is_little(problem)


@for_cpu
def is_cut_in_lines(problem: Problem) -> bool:
    """Kernel gradients of small windows that do not overlap, channels first: oneDNN has a product
    for lines as they lie, where one of whole windows would have them turned."""
    if problem.projection != "kernel_grad" or problem.form.layout.channels_last:
        return False
    if not is_for(problem) or matmul.refuses(problem) or is_little(problem):
        return False
    results, _, taps = widths(problem)
    return 1 < taps <= 4 and results >= FEWEST_RESULTS and sum_dtype(problem) == np.float32


@for_cpu
def is_half_turned(problem: Problem) -> bool:
    """Images in half precision, channels first, that oneDNN has fast convolutions or products for
    once they are turned; not few channels, which loops of vectors take as they lie."""
    half = factor_dtype(problem) == jnp.bfloat16 and not problem.form.layout.channels_last
    if not half or problem.projection == "kernel_grad" or is_little(problem):
        return False
    groups, *pair = blocks(problem.form, problem.shapes, problem.projection)
    alone = groups > 1 and max(pair) == 1
    paid = widths(problem)[2] >= TURNED_TAPS_OF_HALF if alone else min(pair) >= MANY
    if is_slim(problem) and not paid:
        return False
    if problem.choose is None:
        raise TypeError(f"a problem to be turned needs a choice for what it becomes; got {problem}")
    return problem.choose(turned(problem))[0].name in OF_HALF


@for_cpu
def is_rest(problem: Problem) -> bool:
    """Where it is faster than XLA's own convolution, if nothing else is."""
    image = problem.projection != "kernel_grad" and widths(problem)[2] > 1
    return image and not is_in_one(problem)
