"""Every algorithm through every case: its three projections against the form, in both layouts."""

import functools
import itertools
import math
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import CONV, POOL, TOLERANCE, Case, assert_close, ids
from jax import lax

import jaxconv as jc
from jaxconv import _algorithms, _choice
from jaxconv._algorithms import (
    _by_rows,
    _frame,
    _library,
    _regions,
    _tiles,
    _windows,
    batches,
    phases,
    shift,
    slices,
)
from jaxconv._algorithms.fft import fast_size
from jaxconv._explain import _equations
from jaxconv._form import PROJECTIONS, Problem

pytestmark = pytest.mark.usefixtures("quick_compile")

NAMES = jc.algorithms()
#: The dtypes of algorithms that are not for double precision.
SINGLE = {"onednn": "float32"}


def forced(name, projection, form, operands):
    """One projection by one algorithm, whatever the table says; None where it refuses."""
    algorithm = _algorithms.REGISTER[name]
    shapes = tuple(operand.shape for operand in operands)
    problem = Problem(projection, form, shapes, "cpu", choose=_choice.choose)
    if projection not in algorithm.maps or algorithm.refuses(problem):
        return None
    return algorithm.maps[projection](problem, *operands)


def the_form(case, dtype, last=False):
    """The static form of a case, as `conv` makes it."""
    operands = case.arrays(dtype)[:2]
    options = dict(case.options)
    if last:
        operands = cases.last(operands[0], case.rank), cases.kernel_last(operands[1])
        options["layout"] = cases.LAYOUTS[case.rank]
    jaxpr = jax.make_jaxpr(lambda x, w: jc.conv(x, w, **options))(*operands)
    found = list(_equations(jaxpr.jaxpr, "jaxconv_output"))
    return found[0].params["form"], tuple(var.aval.shape for var in found[0].invars)


def able(name, case):
    """Whether an algorithm computes any projection of a case: the layout does not matter."""
    form, (x, w) = the_form(case, SINGLE.get(name, "float64"))
    algorithm = _algorithms.REGISTER[name]
    y = form.result_shape("output", x, w)
    shapes = {"output": (x, w), "input_grad": (y, w), "kernel_grad": (x, y)}
    problems = (Problem(projection, form, shapes[projection], "cpu") for projection in shapes)
    return not all(algorithm.refuses(problem) for problem in problems)


ABLE = [(name, case) for name in NAMES for case in CONV if able(name, case)]


@pytest.mark.thinned(15)
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize(("name", "case"), ABLE, ids=[f"{name}-{case.id}" for name, case in ABLE])
def test_projections_equal_the_form(name, case, last, monkeypatch):
    monkeypatch.setattr(batches, "MOST_PART", 1)
    assert_projections(name, case, last)


def assert_projections(name, case, last):
    """All projections that an algorithm has of a case, against the form."""
    dtype = SINGLE.get(name, "float64")
    form, _ = the_form(case, dtype, last)
    x, w, _ = (np.asarray(array, float) for array in case.arrays(dtype))
    x = cases.one_batch(x, case.rank)
    oracle = oracles.conv_form(x.shape[2:], w.shape[2:], **case.options)
    y = np.cos(oracle.project("y", x=x, w=w)).astype(dtype).astype(float)
    arrays = {"x": x, "y": y, "w": w}
    want = {array: oracle.project(array, **{k: v for k, v in arrays.items() if k != array})
            for array in arrays}  # fmt: skip

    def placed(array, value):
        if not last:
            return jnp.asarray(value)
        return cases.kernel_last(value) if array == "w" else cases.last(value, case.rank)

    computed = 0
    for projection, (a, b, result) in PROJECTIONS.items():
        operands = tuple(placed(one, arrays[one]).astype(dtype) for one in (a, b))
        got = jax.jit(lambda *operands: forced(name, projection, form, operands))(*operands)
        if got is not None:
            computed += 1
            assert got.dtype == dtype
            assert_close(got, placed(result, want[result]), TOLERANCE[dtype])
    assert computed


#: What the table of cases is too small for, each under the algorithms that it was written for.
LARGER = [
    (Case("rows", (3, 4, 40, 9), (4, 1, 3, 3), {"groups": 4, "padding": 1}), "shift"),
    (Case("rows-strided", (2, 3, 61, 8), (6, 1, 5, 3), {"groups": 3, "stride": 2}), "shift"),
    (Case("many-rows", (1, 8, 250, 3), (8, 1, 3, 2), {"groups": 8, "dilation": (2, 1)}), "shift"),
    (Case("two-chunks", (2, 3, 70, 5), (3, 1, 3, 2), {"groups": 3, "stride": (1, 2)}), "shift"),
    (Case("line", (2, 3, 150), (3, 1, 4), {"groups": 3, "padding": ((3, 0),)}), "shift"),
    (Case("line-strided", (2, 2, 151), (4, 2, 7), {"stride": 3, "padding": 2}), "shift"),
    (Case("line-lanes", (2, 9, 70), (9, 1, 4), {"groups": 9, "padding": "causal"}), "shift"),
    (Case("lanes", (2, 9, 7, 6), (9, 1, 3, 3), {"groups": 9, "padding": 1}), "shift"),
    (Case("cropped-lanes", (2, 8, 6, 7), (8, 1, 2, 3),
          {"groups": 8, "padding": ((3, -1), (-1, 2)), "dilation": (2, 1)}), "shift"),
    (Case("volume-lanes", (1, 8, 4, 3, 6), (8, 1, 3, 2, 2),
          {"groups": 8, "padding": ((1, 2), (0, 1), (1, 0))}), "shift"),
    (Case("pairs", (2, 6, 20, 7), (4, 3, 3, 3), {"groups": 2, "padding": 1}), "shift"),
    (Case("volume", (2, 4, 5, 6, 7), (4, 1, 3, 2, 3), {"groups": 4, "stride": (1, 2, 1)}), "shift"),
    (Case("many-groups", (1, 18, 5, 4), (9, 2, 3, 2), {"groups": 9}), "groups"),
    (Case("tiles", (5, 4, 11, 8), (6, 4, 3, 3), {"padding": 1}), "winograd"),
    (Case("odd-tiles", (2, 3, 7, 9), (2, 3, 3, 3), {"padding": ((2, 0), (-1, 3))}), "winograd"),
    (Case("more-tiles", (10, 3, 7, 6), (4, 3, 3, 3), {"padding": 1}), "winograd"),
    (Case("bands-of-three", (3, 4, 23, 8), (5, 4, 3, 3), {"padding": 1}), "winograd"),
    (Case("bands", (1, 4, 23, 8), (6, 4, 3, 3), {"padding": 1}), "winograd"),
    (Case("two-bands", (1, 1, 8, 5), (2, 1, 3, 3),
          {"dilation": (2, 1), "padding": (2, 1)}), "winograd"),
    (Case("high-tiles", (1, 2, 16, 6), (2, 2, 3, 3), {"padding": 1}), "winograd"),
    (Case("tiles-apart", (2, 3, 13, 17), (4, 3, 3, 3), {"dilation": (2, 3),
          "padding": ((3, 2), (-1, 4))}), "winograd"),
    (Case("blocks", (3, 17, 9, 7), (4, 17, 3, 3), {"padding": 1, "stride": (2, 1)}), "patches"),
    (Case("few-blocks", (2, 3, 12, 11), (9, 3, 5, 4), {"padding": 2, "stride": 2}), "patches"),
    (Case("long-runs", (2, 33, 7, 6), (3, 33, 3, 2), {"padding": ((1, 0), (-1, 2))}), "patches"),
    (Case("apart-runs", (2, 35, 7, 6), (3, 35, 2, 3), {"dilation": (1, 2)}), "patches"),
    (Case("lines", (3, 7, 9, 13), (10, 7, 3, 4), {"stride": (2, 3), "dilation": (1, 2),
          "padding": ((1, -1), (2, 3))}), "patches"),
    (Case("rows-of-lines", (2, 3, 17, 12), (9, 3, 3, 3), {"padding": 1}), "patches"),
    (Case("images-of-lines", (5, 1, 4, 5), (8, 1, 2, 2), {"stride": (1, 2)}), "patches"),
    (Case("errors-in-lines", (3, 1, 6, 5), (32, 1, 2, 1), {"padding": 1}), "patches"),
    (Case("line-blocks", (3, 5, 130), (9, 5, 4), {"stride": 3, "padding": 2}), "patches"),
    (Case("lines-volume", (3, 2, 5, 6, 7), (8, 2, 2, 3, 2),
          {"stride": (1, 2, 2), "padding": 1}), "patches"),
    (Case("one-row-more", (2, 5, 9, 12), (4, 5, 3, 3), {"padding": 1}), "eigen"),
    (Case("one-column-more", (3, 4, 7, 15), (6, 4, 2, 4), {"dilation": (1, 2)}), "eigen"),
    (Case("cropped-more", (2, 3, 12, 9), (2, 3, 4, 3), {"padding": ((-1, 2), (1, -2))}), "eigen"),
    (Case("one-row-blocks", (2, 7, 13, 9), (5, 7, 4, 3), {"padding": 2}), "kn2row"),
    (Case("few-results", (3, 9, 14, 16), (2, 9, 3, 4), {"dilation": (2, 1)}), "kn2row"),
    (Case("row-blocks", (3, 5, 17, 4), (9, 5, 3, 3), {"dilation": (2, 1)}), "kn2row"),
    (Case("row-volume", (3, 3, 5, 4, 5), (11, 3, 3, 2, 2), {"stride": (1, 2, 1)}), "kn2row"),
    (Case("errors-blocks", (3, 13, 9, 6), (2, 13, 3, 4), {"dilation": (2, 1)}), "kn2row"),
    (Case("errors-volume", (2, 9, 4, 5, 5), (1, 9, 2, 3, 2), {"padding": 1}), "kn2row"),
    (Case("row-line", (3, 5, 130), (4, 5, 3), {"padding": 1}), "kn2row"),
    (Case("slim-groups", (3, 6, 9, 5), (8, 3, 3, 2), {"groups": 2, "padding": 1}), "grouped"),
    (Case("group-by-group", (2, 24, 9, 5), (12, 4, 3, 3), {"groups": 6, "padding": 1}), "grouped"),
    (Case("some-groups", (1, 32, 7, 5), (16, 2, 3, 2), {"groups": 16, "stride": 2}), "grouped"),
    (Case("taps-of-groups", (1, 4, 14, 13), (4, 1, 12, 11), {"groups": 4, "stride": 2}), "grouped"),
    (Case("images", (7, 4, 6, 5), (4, 2, 3, 3), {"groups": 2, "padding": 1}), "batches"),
    (Case("image-pairs", (8, 2, 31), (3, 2, 4), {"stride": 2}), "batches"),
    (Case("large-window", (2, 3, 30, 21), (3, 1, 13, 11), {"groups": 3, "padding": 5}), "fft"),
    (Case("wide-stride", (2, 3, 11, 9), (4, 3, 2, 3), {"stride": 4, "padding": 1}), "phases"),
    (Case("stride-twice", (2, 3, 11, 9), (4, 3, 3, 3), {"stride": 2, "padding": 3}), "phases"),
    (Case("no-room", (2, 3, 10, 9), (4, 3, 4, 4), {"stride": 2, "padding": 1}), "phases"),
    (Case("groups-twice", (2, 6, 9, 8), (8, 3, 3, 3), {"stride": (2, 3), "groups": 2}), "phases"),
    (Case("whole-rows", (2, 3, 4, 12), (5, 3, 4, 3), {"stride": (1, 3)}), "matmul"),
    (Case("long-rows", (2, 3, 9, 8), (2, 3, 1, 1), {"stride": 2, "padding": 1}), "matmul"),
    (Case("by-image", (2, 2, 16, 16), (3, 2, 2, 2), {"stride": 2}), "matmul"),
    (Case("tiles-in-runs", (3, 17, 7, 9), (5, 17, 2, 2), {"stride": 2, "padding": 1}), "matmul"),
    (Case("eights", (2, 16, 3, 3), (8, 16, 1, 1), {}), "matmul"),
]  # fmt: skip


@pytest.mark.thinned(9)
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize(("case", "name"), LARGER, ids=[case.id for case, _ in LARGER])
def test_larger_projections_equal_the_form(case, name, last, monkeypatch):
    monkeypatch.setattr(phases, "FEW_CHANNELS", 0)
    monkeypatch.setattr(phases, "FEW_OF_GROUP", 0)
    monkeypatch.setattr(_regions, "LEAST_BYTES", 0)
    monkeypatch.setattr(shift, "LEAST_INSIDE", 0)
    monkeypatch.setattr(_tiles, "MOST_BYTES", 4096)
    monkeypatch.setattr(_frame, "MOST_BLOCK", 4096)
    monkeypatch.setattr(batches, "MOST_PART", 4096)
    monkeypatch.setattr(_windows, "MOST_CONSTANTS", 4 if last or "line" in case.id else 4096)
    assert_projections(name, case, last)


LANES = [case for case, _ in LARGER if "lanes" in case.id]


@pytest.mark.parametrize("case", LANES, ids=[case.id for case in LANES])
def test_channels_whose_positions_share_sets_of_a_cache_are_more_for_a_while(case, monkeypatch):
    monkeypatch.setattr(_by_rows, "MOST_OVER", 0)
    monkeypatch.setattr(_by_rows, "LANES", 3)
    assert_projections("shift", case, True)


def test_windows_of_which_residues_make_3x3_are_taken_by_tiles():
    for window, forward in ((5, False), (6, True)):
        shapes = (8, 56, 56, 64), (window, window, 64, 128)
        options = {"stride": 2, "padding": 2, "layout": "NHWC", "platform": "cpu"}
        found = jc.explain(*shapes, **options)
        for projection in ("output", "input_grad", "kernel_grad"):
            names = [step.algorithm for step in getattr(found, projection)]
            tiled = forward or projection != "output"
            assert (names == ["phases", "winograd"]) == tiled, (window, projection)


def convolved(name, case, x, w):
    """A call by the public argument; by oneDNN channels last, which it has on more processors."""
    if name not in SINGLE:
        return jc.conv(x, w, algorithm=name, **case.options)
    options = {**case.options, "layout": cases.LAYOUTS[case.rank], "algorithm": name}
    y = jc.conv(cases.last(x, case.rank), cases.kernel_last(w), **options)
    return cases.first(y, case.rank)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex128", "int32"])
@pytest.mark.parametrize("name", NAMES)
def test_each_dtype(name, dtype):
    """By the public argument, so what an algorithm lacks is the table's to choose."""
    taken = 0
    own = (case for case, its in LARGER if its == name)
    for case in (*(CONV[at] for at in (2, 8, 23, 24, 25)), *itertools.islice(own, 4)):
        x, w, _ = case.arrays(dtype)
        try:
            y = convolved(name, case, x, w)
        except ValueError:
            continue
        taken += 1
        assert y.dtype == dtype
        if dtype == "int32":
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(y, oracles.conv_loops(x, w, **case.options))
            continue
        wide = [np.asarray(value, complex if dtype == "complex128" else float) for value in (x, w)]
        form = oracles.conv_form(x.shape[2:], w.shape[2:], **case.options)
        assert_close(y, form.project("y", x=wide[0], w=wide[1]), TOLERANCE[dtype])
    assert taken or (name, dtype[:3]) in {(one, two) for one in ("fft", "winograd", "onednn")
                                          for two in ("com", "int")}  # fmt: skip


def scaled(rng, shape, badly):
    """Normal numbers; badly scaled ones are spread over eight powers of ten."""
    values = rng.normal(size=shape)
    return values * 10.0 ** rng.uniform(-4, 4, shape) if badly else values


@pytest.mark.parametrize("badly", [False, True], ids=["normal", "badly-scaled"])
@pytest.mark.parametrize(
    ("image", "kernel", "options"),
    [
        ((2, 64, 32, 32), (64, 64, 3, 3), {"padding": 1}),
        ((1, 1, 64, 64), (1, 1, 21, 21), {"padding": 10}),
        ((2, 24, 28, 28), (24, 1, 5, 5), {"padding": 2, "groups": 24}),
        ((2, 48, 14, 14), (96, 48, 1, 1), {}),
        ((2, 16, 21, 21), (24, 16, 3, 3), {"padding": 1, "stride": 2}),
        ((1, 16, 9, 9, 9), (16, 16, 3, 3, 3), {"padding": 1}),
        ((2, 64, 20, 20), (64, 64, 3, 3), {"padding": 2, "dilation": 2}),
        ((2, 3, 32, 32), (8, 3, 3, 3), {"padding": 1}),
        ((2, 24, 13, 13), (48, 12, 3, 3), {"padding": 1, "groups": 2}),
        ((1, 64, 34, 34), (24, 64, 5, 5), {"padding": 2}),
        ((2, 32, 24, 24), (32, 8, 3, 3), {"padding": 1, "groups": 4}),
        ((2, 32, 40, 40), (32, 4, 3, 3), {"padding": 1, "groups": 8, "stride": 2}),
    ],
    ids=[
        "winograd",
        "fft",
        "shift",
        "matmul",
        "phases",
        "3d",
        "patches",
        "few",
        "groups",
        "kn2row",
        "grouped",
        "strided-groups",
    ],
)
def test_auto_is_within_four_times_the_error_of_direct(image, kernel, options, badly):
    """Largest error over largest output, in float32 against direct in float64: the bound that the
    choice promises. Rounding is random: an error below two units in the last place is none."""
    rng = np.random.default_rng(7)
    x, w = scaled(rng, image, badly), scaled(rng, kernel, badly)
    exact, pull = jax.vjp(lambda *a: jc.conv(*a, algorithm="direct", **options), x, w)
    y = scaled(rng, exact.shape, badly)
    want = (exact, *pull(y))

    def errors(algorithm):
        narrow = [np.float32(value) for value in (x, w, y)]
        found, pull = jax.vjp(lambda *a: jc.conv(*a, algorithm=algorithm, **options), *narrow[:2])
        got = (found, *pull(narrow[2]))
        return [
            np.abs(np.asarray(one, float) - two).max() / np.abs(two).max()
            for one, two in zip(got, want, strict=True)
        ]

    for projection, auto, direct in zip(PROJECTIONS, errors("auto"), errors("direct"), strict=True):
        assert auto <= 4 * max(direct, 2**-23), (projection, auto, direct)


def test_tiles_of_long_sums_are_those_that_are_exact():
    """Six points to an axis are twice as far off as four: not where sums are long, whichever of the
    projections sums over the many channels."""
    sizes = {"x": (2, 128, 32, 32), "y": (2, 256, 32, 32), "w": (256, 128, 3, 3)}
    case = Case("", sizes["x"], sizes["w"], {"padding": 1})
    form, _ = the_form(case, "float32")
    for projection, exact in zip(PROJECTIONS, (False, True, False), strict=True):
        given = tuple(sizes[name] for name in PROJECTIONS[projection][:2])
        found = _tiles.tiles(Problem(projection, form, given, "cpu"))
        assert (found.size == (2, 2)) == exact


def test_kernel_gradients_of_parts_of_a_batch_are_rounded_once(monkeypatch):
    """64 parts, added up in half precision, would be off by several units in the last place."""
    monkeypatch.setattr(batches, "MOST_PART", 1)
    rng = np.random.default_rng(5)
    x, w, y = (
        jnp.asarray(rng.uniform(size=shape), jnp.bfloat16)
        for shape in ((64, 2, 9), (2, 2, 3), (64, 2, 7))
    )
    got = jax.vjp(lambda w: jc.conv(x, w, algorithm="batches"), w)[1](y)[0]
    wide = [np.asarray(value, float) for value in (x, y)]
    want = oracles.conv_form((9,), (3,)).project("w", x=wide[0], y=wide[1])
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, float), want, rtol=2**-8)


def test_every_row_of_the_table_is_taken(monkeypatch):
    """A row that nothing reaches is dead; here is a call for each algorithm of convolutions, where
    XLA has no oneDNN."""
    monkeypatch.setattr(_library, "is_there", lambda: False)
    calls = {
        "batches": ((32, 32, 112, 112), (32, 1, 3, 3), {"groups": 32, "padding": 1}),
        "matmul": ((8, 64, 56, 56), (256, 64, 1, 1), {}),
        "fft": ((1, 1, 512, 512), (1, 1, 31, 31), {"padding": 15}),
        "shift": ((8, 96, 56, 56), (96, 1, 3, 3), {"groups": 96, "padding": 1}),
        "groups": ((8, 96, 27, 27), (256, 48, 5, 5), {"groups": 2, "padding": 2}),
        "winograd": ((8, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
        "patches": ((8, 64, 28, 28), (128, 64, 3, 3), {"stride": 2, "padding": 1}),
        "kn2row": ((1, 64, 56, 56), (2, 64, 3, 3), {"padding": 1}),
        "eigen": ((8, 128, 14, 14), (128, 128, 5, 5), {"padding": 2}),
        "grouped": ((4, 256, 14, 14), (256, 8, 3, 3), {"groups": 32, "padding": 1}),
        "taps": ((1, 160, 8, 16, 16), (64, 160, 3, 3, 3), {"padding": 1}),
        "direct": ((8, 128, 14, 14), (128, 128, 5, 5), {"padding": 4}),
    }
    for name, (x, w, options) in calls.items():
        found = jc.explain(x, w, platform="cpu", **options)
        assert found.output[0].algorithm == name
        assert found.output[0].reason in [
            row.reason for row in _choice.TABLE if row.algorithm == name
        ]
    strided = jc.explain((4, 16, 64, 64), (32, 16, 3, 3), stride=2, padding=1, platform="cpu")
    assert [step.algorithm for step in strided.input_grad] == ["phases", "patches"]
    options: Any = {"groups": 32, "stride": 2, "padding": 1, "platform": "cpu"}
    grouped = jc.explain((1, 128, 56, 56), (128, 4, 3, 3), **options)
    assert [step.algorithm for step in grouped.input_grad] == ["phases", "shift"]
    many = jc.explain(*calls["batches"][:2], **calls["batches"][2], platform="cpu")
    assert [[step.algorithm for step in steps] for steps in many] == [["batches", "shift"]] * 3
    images = jnp.zeros((64, 32, 80, 80))
    for pool in (jc.max_pool, jc.avg_pool):
        traced = jax.jit(lambda x, pool=pool: pool(x, (3, 3), stride=2, padding=1)).trace(images)
        lowered = traced.lower(lowering_platforms=("cpu",))
        assert "stablehlo.while" in lowered.as_text()  # some images at a time
    named = {row.algorithm for row in _choice.TABLE}
    assert named == set(_algorithms.REGISTER)


@pytest.mark.parametrize(
    ("last", "image", "kernel", "options", "name"),
    [
        (True, (8, 56, 56, 64), (3, 3, 64, 64), {"padding": 1}, "winograd"),
        (True, (8, 56, 56, 64), (5, 5, 64, 64), {"padding": 2}, "onednn"),
        (True, (8, 14, 14, 48), (3, 3, 48, 48), {"padding": 1}, "onednn"),
        (True, (8, 56, 56, 64), (3, 3, 64, 2), {"padding": 1}, "kn2row"),
        (True, (8, 56, 56, 96), (3, 3, 1, 96), {"padding": 1, "groups": 96}, "onednn"),
        (True, (8, 56, 56, 96), (2, 2, 1, 96), {"groups": 96}, "shift"),
        (True, (8, 56, 56, 96), (3, 3, 1, 96), {"dilation": 2, "groups": 96}, "onednn"),
        (True, (8, 400, 96), (15, 1, 96), {"groups": 96}, "onednn"),
        (True, (1, 512, 512, 32), (3, 3, 32, 3), {"padding": 1}, "direct"),
        (True, (2, 512, 512, 32), (3, 3, 32, 3), {"padding": 1}, "onednn"),
        (True, (8, 56, 56, 64), (1, 1, 64, 64), {}, "matmul"),
        (True, (1, 512, 512, 1), (31, 31, 1, 1), {"padding": 15}, "fft"),
        (True, (4, 14, 14, 256), (3, 3, 8, 256), {"padding": 1, "groups": 32}, "onednn"),
        (False, (8, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}, "winograd"),
        (False, (8, 64, 56, 56), (64, 64, 5, 5), {"padding": 2}, "onednn"),
        (False, (8, 96, 56, 56), (96, 1, 3, 3), {"padding": 1, "groups": 96}, "shift"),
        (False, (8, 96, 56, 56), (96, 1, 7, 7), {"padding": 3, "groups": 96}, "onednn"),
        (False, (2, 3, 64, 64), (48, 3, 3, 3), {"padding": 1, "stride": 2}, "onednn"),
        (False, (2, 3, 64, 64), (32, 3, 3, 3), {"padding": 1}, "patches"),
        (False, (4, 256, 14, 14), (256, 8, 3, 3), {"padding": 1, "groups": 32}, "onednn"),
    ],
)
def test_with_onednn_its_rows_are_taken_and_what_is_faster_stays(
    last, image, kernel, options, name, monkeypatch
):
    """On a processor with AVX-512, whatever this one has: nothing is computed."""
    monkeypatch.setattr(_library, "is_there", lambda: True)
    monkeypatch.setattr(_library, "_features", lambda: _library.BFLOAT16)
    layout = cases.LAYOUTS[len(image) - 2] if last else None
    found = jc.explain(image, kernel, layout=layout, platform="cpu", **options)
    assert found.output[0].algorithm == name


def test_with_onednn_one_large_image_of_bfloat16_is_its_own(monkeypatch):
    monkeypatch.setattr(_library, "is_there", lambda: True)
    monkeypatch.setattr(_library, "_features", lambda: _library.BFLOAT16)
    for dtype, name in [("bfloat16", "onednn"), ("float32", "direct")]:
        shapes = (1, 512, 512, 32), (3, 3, 32, 3)
        found = jc.explain(*shapes, layout="NHWC", dtype=dtype, platform="cpu")
        assert found.output[0].algorithm == name


def test_with_onednn_residues_are_its_own_too(monkeypatch):
    monkeypatch.setattr(_library, "is_there", lambda: True)
    monkeypatch.setattr(_library, "_features", lambda: _library.BFLOAT16)
    for image, kernel, stride, name in [
        ((4, 16, 64, 64), (32, 16, 3, 3), 2, "onednn"),
        ((8, 1, 112, 112), (64, 1, 7, 7), 2, "kn2row"),
        ((4, 1, 16000), (80, 1, 400), 160, "onednn"),
    ]:
        strided = jc.explain(image, kernel, stride=stride, platform="cpu")
        assert [step.algorithm for step in strided.input_grad][:2] == ["phases", name]


def test_with_onednn_kernel_gradients_of_large_windows_are_by_rows(monkeypatch):
    monkeypatch.setattr(_library, "is_there", lambda: True)
    for channels, size, name in [(16, 64, "kn2row"), (4, 64, "fft"), (16, 40, "direct")]:
        shapes = (2, channels, size, size), (channels, channels, 21, 21)
        found = jc.explain(*shapes, padding=10, platform="cpu")
        assert found.kernel_grad[0].algorithm == name


@pytest.mark.parametrize(
    ("last", "image", "kernel", "options", "names"),
    [
        (True, (4, 14, 14, 128), (3, 3, 32, 128), {"stride": 2}, ["phases", "onednn"]),
        (False, (4, 128, 14, 14), (128, 32, 3, 3), {"stride": 2}, ["phases", "groups"]),
        (False, (8, 96, 56, 56), (96, 16, 3, 3), {"stride": 2, "groups": 6}, ["groups"]),
        (True, (4, 14, 14, 128), (4, 4, 32, 128), {"stride": 2}, ["groups"]),
        (True, (1, 70, 70, 128), (33, 33, 32, 128), {"stride": 32, "padding": 0}, ["groups"]),
    ],
)
def test_with_onednn_strided_groups_are_taken_by_their_few_residues(
    last, image, kernel, options, names, monkeypatch
):
    monkeypatch.setattr(_library, "is_there", lambda: True)
    monkeypatch.setattr(_library, "_features", lambda: _library.BFLOAT16)
    options = {"groups": 4, "padding": 1, "layout": "NHWC" if last else None} | options
    found = jc.explain(image, kernel, platform="cpu", **options)
    assert [step.algorithm for step in found.input_grad][: len(names)] == names


@pytest.mark.parametrize(
    ("last", "image", "kernel", "name"),
    [
        (False, (8, 64, 56, 56), (128, 64, 2, 2), "patches"),
        (True, (8, 56, 56, 64), (2, 2, 64, 128), "matmul"),
        (False, (8, 64, 56, 56), (4, 64, 2, 2), "matmul"),
    ],
)
def test_with_onednn_windows_of_their_own_are_read_in_lines(last, image, kernel, name, monkeypatch):
    monkeypatch.setattr(_library, "is_there", lambda: True)
    layout = "NHWC" if last else None
    found = jc.explain(image, kernel, stride=2, layout=layout, platform="cpu")
    assert found.kernel_grad[0].algorithm == name


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_elsewhere_than_on_a_cpu_it_is_direct(platform):
    """Nothing was measured to be better there."""
    for x, w, options in (
        ((8, 64, 56, 56), (256, 64, 1, 1), {}),
        ((8, 96, 56, 56), (96, 1, 3, 3), {"groups": 96}),
        ((1, 1, 512, 512), (1, 1, 31, 31), {}),
    ):
        found = jc.explain(x, w, platform=platform, **options)
        assert [[step.algorithm for step in steps] for steps in found] == [["direct"]] * 3


def test_over_several_devices_it_is_direct():
    form, shapes = the_form(CONV[25], "float32")
    for devices, name in ((1, "shift"), (4, "direct")):
        problem = Problem("output", form, shapes, "cpu", devices)
        assert _choice.choose(problem)[0].name == name


def test_explain_reads_well_and_refuses():
    found = jc.explain((2, 8, 9, 9), (8, 8, 3, 3), algorithm="direct")
    assert found.output == (("direct", "asked for"),)
    assert str(found).splitlines()[0] == "output       direct: asked for"
    nothing = jc.explain((0, 8, 9, 9), (8, 8, 3, 3))
    assert [len(steps) for steps in nothing] == [1, 1, 1]
    last = jc.explain((9, 9, 8), (3, 3, 8, 8), layout="NHWC", padding_mode="reflect", padding=1)
    assert last.output
    bad: list[tuple[type[Exception], str, tuple[Any, Any]]] = [
        (ValueError, "kernel", ((2, 8, 9, 9), (8, 7, 3, 3))),
        (TypeError, "x_shape", (5, (8, 7, 3, 3))),
        (TypeError, r"kernel_shape\[1\]", ((2, 8, 9, 9), (8, 7.5, 3, 3))),
    ]
    for error, word, arguments in bad:
        with pytest.raises(error, match=word):
            jc.explain(*arguments)
    with pytest.raises(ValueError, match="platform must be one of cpu"):
        jc.explain((2, 8, 9, 9), (8, 8, 3, 3), platform="abacus")
    with pytest.raises(TypeError, match="dtype"):
        jc.explain((2, 8, 9, 9), (8, 8, 3, 3), dtype="bool")


def test_asking_for_what_cannot_be_done_says_why():
    x, w = jnp.ones((1, 4, 9, 9)), jnp.ones((4, 4, 3, 3))
    refusals: list[tuple[str, dict[str, Any], str]] = [
        ("matmul", {}, "may overlap"),
        ("groups", {}, "one group only"),
        ("phases", {}, "no axis has a stride"),
        ("winograd", {"stride": 2}, "without stride"),
        ("fft", {"stride": 2}, "no stride"),
        ("taps", {"groups": 2}, "no groups"),
    ]
    for name, options, why in refusals:
        kernel = w[:, : 4 // options.get("groups", 1)]
        with pytest.raises(ValueError, match=f"algorithm '{name}' cannot compute .*{why}"):
            jc.conv(x, kernel, algorithm=name, **options)
    many = jnp.ones((1, 40, 9, 9)), jnp.ones((40, 40, 3, 3))
    with pytest.raises(ValueError, match=f"at most {shift.MOST_TERMS} products"):
        jc.conv(*many, algorithm="shift")
    kernel = jax.ShapeDtypeStruct((2, 2, 1, 2), jnp.float32)
    for name, groups in (("patches", 1), ("kn2row", 1), ("grouped", 2)):
        # Nothing of this size is held.
        part = jax.ShapeDtypeStruct((1, 2**16, 2**15, groups), jnp.float32)
        options = {"layout": "NHWC", "algorithm": name, "groups": groups}
        with pytest.raises(ValueError, match="at most 2147483647 numbers of an image"):
            jax.eval_shape(lambda x, w, o=options: jc.conv(x, w, **o), part, kernel)


def test_fast_sizes():
    for least in (1, 2, 7, 11, 97, 128, 1021, 1054, 4097):
        size = fast_size(least)
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        assert rest == 1
        assert least <= size <= 1.1 * least + 1


#: What ceil mode crops is gone before a map sees it.
UNCROPPED = [case for case in POOL if not case.id.startswith("ceil-crops")]
WINDOW_MAPS = ("reduce_window", "axes", "slices", "whole", "winners", "batches")


@pytest.mark.thinned(9)
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("case", UNCROPPED, ids=ids(UNCROPPED))
@pytest.mark.parametrize("name", WINDOW_MAPS)
def test_window_maps_equal_the_oracle(name, case, last, monkeypatch):
    """Maxima, winners and sums by their definition; the maps back by theirs. Some in parts."""
    monkeypatch.setattr(batches, "MOST_PART", 1)
    if last:
        monkeypatch.setattr(slices, "MOST_BYTES", 64)
    else:
        monkeypatch.setattr(_regions, "LEAST_BYTES", 0)
        monkeypatch.setattr(_regions, "LEAST_CHANNELS", 1)
    jaxpr = jax.make_jaxpr(lambda x: jc.max_pool(x, case.window, **case.options))(case.array())
    form = next(_equations(jaxpr.jaxpr, "jaxconv_window_max")).params["form"]
    x = cases.one_batch(case.array(), case.rank)

    def planes(image):
        if last:
            return np.moveaxis(image, 1, -1)
        return image.reshape(-1, *image.shape[2:], 1)

    def run(projection, *operands):
        return jax.jit(lambda *a: forced(name, projection, form, a))(*map(jnp.asarray, operands))

    rng = np.random.default_rng(0)
    hardly = rng.choice([-np.inf, np.nan, 1.0], x.shape, p=[0.8, 0.1, 0.1])
    for image in (hardly, np.round(x)):  # ties in both, then finite
        value, index = oracles.max_pool(image, case.window, **case.options)
        if (got := run("window_max", planes(image))) is not None:
            np.testing.assert_array_equal(got, planes(value))
        if (got := run("window_argmax", planes(image))) is not None:
            np.testing.assert_array_equal(got, planes(index))
    y = np.cos(np.arange(value.size)).reshape(value.shape)
    if (summed := run("window_sum", planes(x))) is not None:
        padded = oracles.avg_pool(x, case.window, **{**case.options, "divisor_override": 1})
        assert_close(summed, planes(padded), 1e-12)
        spread = run("window_spread", planes(y))
        if spread is not None:
            np.testing.assert_allclose(np.vdot(summed, planes(y)), np.vdot(planes(x), spread))
    picked = run("pick", planes(x), planes(index))
    if picked is not None:
        flat = np.append(x.reshape(*x.shape[:2], -1), np.zeros((*x.shape[:2], 1)), -1)
        found = np.take_along_axis(flat, index.reshape(*x.shape[:2], -1), -1)  # -1: no winner
        np.testing.assert_array_equal(picked, planes(found.reshape(index.shape)))
    back = run("place", planes(y), planes(index))
    if back is not None:
        want = np.zeros((*x.shape[:2], math.prod(x.shape[2:]) + 1))  # the last one for no winner
        for at in np.ndindex(*index.shape):
            want[(*at[:2], index[at])] += y[at]
        assert_close(back, planes(want[..., :-1].reshape(x.shape)), 1e-12)


@pytest.mark.parametrize("name", ["reduce_window", "axes", "slices"])
@pytest.mark.parametrize(
    ("window", "stride"), [((2, 2), (2, 2)), ((1, 3), (3, 1)), ((33, 1), (1, 1))]
)
def test_maxima_of_large_arrays_keep_nan(name, window, stride):
    """XLA:CPU gives what it takes for maxima of whole axes to a library that passes over NaN."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 33, 32, 32)).astype("float32")
    x[rng.random(x.shape) < 0.001] = np.nan
    pool = functools.partial(jc.max_pool, window=window, stride=stride, layout="NHWC")
    form = next(_equations(jax.make_jaxpr(pool)(x).jaxpr, "jaxconv_window_max")).params["form"]
    got = jax.jit(lambda x: forced(name, "window_max", form, (x,)))(x)
    windows = np.lib.stride_tricks.sliding_window_view(x, window, (1, 2))
    np.testing.assert_array_equal(got, windows[:, :: stride[0], :: stride[1]].max((-1, -2)))


def test_loops_keep_no_positions():
    """What a step does not change XLA computes ahead of a loop, and keeps: numbers of one image and
    channel, not of all."""
    x = jnp.zeros((4, 64, 64, 16), jnp.float32)
    pool = functools.partial(jc.max_pool, window=(3, 3), stride=2, padding=1, layout="NHWC")
    y, pull = jax.vjp(pool, x)

    def step(x, _):
        return pull(y * x[0, 0, 0, 0])[0], None

    def looped(y, x):
        return lax.scan(step, x, None, length=3)[0]

    def held(function, *operands):
        compiled = jax.jit(function).lower(*operands).compile()
        found = compiled.memory_analysis()
        assert found is not None
        return found.temp_size_in_bytes / x.nbytes

    assert held(looped, y, x) < held(lambda y: pull(y)[0], y) + 0.5
