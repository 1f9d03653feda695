"""Which algorithm computes which problem: one table, read from the top, the first row that fits.

A choice depends on the static `Problem` alone (shapes, dtypes, geometry, platform), so the same
call always takes the same algorithm. Each row says why it stands there. A row must only name an
algorithm where it is at least as exact as `direct` within the documented bound, and faster as
measured by `experiments/`; the last rows hold for everything, on every platform.
"""

from collections.abc import Callable
from typing import NamedTuple

from ._algorithms import REGISTER, Algorithm
from ._by_onednn import (
    is_called,
    is_cut_in_lines,
    is_half_turned,
    is_rest,
    is_tiled,
    is_transformed,
)
from ._by_winograd import is_winograds, is_winograds_in_residues
from ._form import Problem
from ._of_groups import is_between, is_grouped_and_strided, is_slim
from ._of_pools import is_adaptive, is_axis_by_axis, is_columns, is_in_pairs, is_large_pool
from ._rules import (
    is_anything,
    is_convolution,
    is_cut_up,
    is_elemental,
    is_large,
    is_of_few,
    is_strided_gradient,
    is_thick,
    on_cpu_convolution,
    on_one_cpu,
)
from ._written_out import is_eigens, is_row_wise, is_written_out


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


TABLE: tuple[Row, ...] = (
    Row(
        "turned", is_half_turned, "half precision: oneDNN has it with channels last, twice as fast"
    ),
    Row("batches", is_large, "more than the cache holds: some images at a time"),
    Row("onednn", is_tiled, "windows of their own: XLA's own call of oneDNN, which copies none"),
    Row("patches", is_cut_up, "a volume in windows of its own: written out tap by tap"),
    Row("patches", is_cut_in_lines, "windows of their own: lines as they lie, no image turned"),
    Row("matmul", on_cpu_convolution, "windows that do not overlap: one matrix product"),
    Row("fft", is_transformed, "a large window of few channels: products of spectra"),
    Row("winograd", is_winograds, "3x3: tiles of outputs, a third to a half of the products"),
    Row(
        "phases",
        is_winograds_in_residues,
        "strided windows, on residues 3x3: by tiles",
    ),
    Row("onednn", is_called, "XLA's own call of oneDNN, the library of torch's convolutions"),
    Row(
        "grouped",
        is_between,
        "groups of some channels: windows written out, one batch of products",
    ),
    Row("phases", is_grouped_and_strided, "strided groups of channels: of stride 1 on residues"),
    Row("kn2row", is_of_few, "few results: those of all taps by one product, shifted and added"),
    Row("shift", is_slim, "few channels to a group: all taps in one loop of vectors"),
    Row("groups", on_cpu_convolution, "groups of many channels: one after the other"),
    Row("eigen", is_eigens, "one row too many: XLA then takes Eigen's convolution, YNNPACK's else"),
    Row("kn2row", is_row_wise, "windows written out by rows, the rows as channels of a product"),
    Row("patches", is_written_out, "windows written out in blocks, one product for all taps"),
    Row("onednn", is_rest, "XLA's own call of oneDNN: faster than XLA's own convolution"),
    Row("phases", is_strided_gradient, "a strided input gradient as one of stride 1 on residues"),
    Row("taps", is_thick, "3-D or few positions: one matrix product to a tap"),
    Row("taps", is_elemental, "one matrix product to a tap, where XLA convolves one by one"),
    Row("phases", is_elemental, "strided, to be one of stride 1 that has matrix products"),
    Row("direct", is_convolution, "XLA's own convolution; nothing faster is known for it"),
    Row("batches", is_large_pool, "more than the cache holds: some images at a time"),
    Row("adaptive", is_adaptive, "windows of unequal sizes, which window reductions do not have"),
    Row("columns", is_columns, "slices move each element once for each tap of an axis"),
    Row("whole", on_one_cpu, "one window that is all of the input: reductions and a comparison"),
    Row("axes", is_axis_by_axis, "windows of one axis at a time: vectors, and no padded copy"),
    Row("reduce_window", is_in_pairs, "windows of two taps: XLA's own reduction is in vectors"),
    Row("winners", on_one_cpu, "each element asks the few windows that it lies in who won"),
    Row("slices", on_one_cpu, "windows as shifted slices: vectors, and log2(k) steps on an axis"),
    Row("reduce_window", is_anything, "XLA's own window reduction; nothing faster is known for it"),
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
