"""`accelerate`: lax's own results, to rounding, and lax itself again when it is off.

The oracle is lax as it is without it. `taken` counts that something was tested at all.
"""

import contextlib
import itertools
import os
import subprocess
import sys
import warnings
from typing import Any

import equinox
import flax.linen
import flax.nnx
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxconv as jc
from jaxconv import _accelerate, _lax, _views

os.environ.setdefault("KERAS_BACKEND", "jax")

SPACE = {1: "W", 2: "HW", 3: "DHW"}


@pytest.fixture(autouse=True)
def _lax_as_it_is_before_and_after():
    """Nothing is accelerated when a test begins or ends, and small operations count."""
    small, _accelerate.SMALL = _accelerate.SMALL, 0
    assert not _lax.replaced()
    yield
    _accelerate.SMALL = small
    jc.accelerate(False)


def counted(action):
    """What `action` gives with acceleration on, and what was taken and left meanwhile."""
    with jc.accelerate() as acceleration:
        taken, left = acceleration.taken.copy(), acceleration.left.copy()
        result = action()
        return result, acceleration.taken - taken, acceleration.left - left


def assert_equal_to_rounding(got, wanted, roundings=1):
    """Of results that are rounded so often, one after the other, and may differ each time."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        if jnp.issubdtype(w.dtype, jnp.integer):
            np.testing.assert_array_equal(g, w)
            continue
        tolerance = {"float64": 1e-12, "complex128": 1e-12, "bfloat16": 2e-2, "float16": 2e-3}
        kind = complex if jnp.issubdtype(w.dtype, jnp.complexfloating) else float
        g, w, near = np.asarray(g, kind), np.asarray(w, kind), tolerance.get(str(w.dtype), 2e-5)
        finite = np.isfinite(w)
        np.testing.assert_array_equal(g[~finite], w[~finite])
        scale = np.abs(w[finite]).max(initial=1e-3)
        np.testing.assert_allclose(g[finite], w[finite], rtol=0, atol=roundings * near * scale)


def same_as_lax(function, *operands, roundings=1):
    """The same under jit, with acceleration on and off; the counts."""
    wanted = jax.jit(function)(*operands)
    got, taken, left = counted(lambda: jax.jit(function)(*operands))
    assert_equal_to_rounding(got, wanted, roundings)
    return taken, left


def numbers(shape, dtype: Any = np.float32, seed=0):
    values = np.random.default_rng(seed).normal(size=shape)
    if jnp.issubdtype(dtype, jnp.integer):
        values = np.round(4 * values)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values + 1j * np.random.default_rng(seed + 1).normal(size=shape)
    return jnp.asarray(values, dtype)


def orders(rank):
    space = SPACE[rank]
    return [
        (f"NC{space}", f"OI{space}", f"NC{space}"),
        (f"N{space}C", f"{space}IO", f"N{space}C"),
        (f"NC{space}", f"{space}IO", f"N{space}C"),
        (f"{space}NC", f"I{space}O", f"C{space}N"),
    ]


def convolution_case(rank, groups=1, batches=1, order=0, dtype: Any = np.float32, **options):
    sizes = dict(zip(SPACE[rank], (7, 6, 5)[:rank], strict=True))
    window = dict(zip(SPACE[rank], options.pop("window", (3, 2, 2))[:rank], strict=True))
    lhs_order, rhs_order, out_order = orders(rank)[order]
    lhs = {**sizes, "N": 2 * batches, "C": 2 * groups}
    rhs = {**window, "O": 4 * groups * batches, "I": 2}
    kwargs = {
        "window_strides": options.pop("stride", (1,) * rank),
        "padding": options.pop("padding", ((1, 2),) * rank),
        "dimension_numbers": (lhs_order, rhs_order, out_order),
        "feature_group_count": groups,
        "batch_group_count": batches,
        **options,
    }
    x = numbers([lhs[axis] for axis in lhs_order], dtype)
    w = numbers([rhs[axis] for axis in rhs_order], dtype, 1)
    return x, w, kwargs


CONVOLUTIONS = {
    "plain": convolution_case(2),
    "channels last": convolution_case(2, order=1),
    "orders mixed": convolution_case(2, order=2),
    "odd orders": convolution_case(2, order=3),
    "1-D": convolution_case(1, order=1),
    "3-D": convolution_case(3, order=1, stride=(2, 1, 1)),
    "3-D channels first": convolution_case(3),
    "strided": convolution_case(2, stride=(2, 3), order=1),
    "dilated": convolution_case(2, rhs_dilation=(2, 1)),
    "lhs dilated": convolution_case(2, lhs_dilation=(2, 3), order=1),
    "both dilated": convolution_case(2, lhs_dilation=(3, 2), rhs_dilation=(2, 2)),
    "lhs dilated, strided": convolution_case(2, lhs_dilation=(1, 2), stride=(2, 1)),
    "feature groups": convolution_case(2, groups=3),
    "feature groups last": convolution_case(2, groups=3, order=1, stride=(2, 1)),
    "feature groups, lhs dilated": convolution_case(2, groups=2, order=1, lhs_dilation=(2, 2)),
    "batch groups": convolution_case(2, batches=2),
    "batch groups last": convolution_case(2, batches=3, order=1, rhs_dilation=(2, 1)),
    "batch groups, lhs dilated": convolution_case(2, batches=2, lhs_dilation=(2, 1)),
    "1x1": convolution_case(2, window=(1, 1), padding=((0, 0),) * 2, order=1),
    "window as large as lhs": convolution_case(2, window=(7, 6), padding="VALID"),
    "padding beyond the window": convolution_case(2, padding=((5, 0), (0, 6))),
    "same": convolution_case(2, padding="SAME", stride=(2, 2), order=1),
    "precision": convolution_case(2, precision=("high", "highest")),
    "float64": convolution_case(2, dtype=np.float64, groups=2),
    "complex64": convolution_case(2, dtype=np.complex64),
    "bfloat16": convolution_case(2, dtype=jnp.bfloat16),
    "float16 to float32": convolution_case(2, dtype=np.float16, preferred_element_type=jnp.float32),
}
every_convolution = pytest.mark.parametrize("name", CONVOLUTIONS)


def derivatives(function, *operands):
    """The value, the two gradients, and the gradients of those: all three projections, twice."""

    def first(*operands):
        y, back = jax.vjp(function, *operands)
        return y, back(jnp.cos(y))

    y, back = jax.vjp(first, *operands)
    return y, back(jax.tree.map(jnp.sin, y))


@pytest.mark.thinned(3)
@every_convolution
def test_convolutions_are_laxs(name):
    x, w, options = CONVOLUTIONS[name]
    taken, left = same_as_lax(lambda x, w: lax.conv_general_dilated(x, w, **options), x, w)
    mixed = name == "lhs dilated, strided"
    assert (taken["conv_general_dilated"], left["conv_general_dilated"]) == (not mixed, mixed)


@pytest.mark.thinned(7)
@every_convolution
def test_their_derivatives_are_laxs(name):
    x, w, options = CONVOLUTIONS[name]

    def function(x, w):
        return lax.conv_general_dilated(x, w, **options)

    # In bfloat16 lax's own second derivatives are off by 3e-2, ours by less.
    roundings = 2 if x.dtype == jnp.bfloat16 else 1
    taken, left = same_as_lax(lambda x, w: derivatives(function, x, w), x, w, roundings=roundings)
    # Second derivatives, and those with several dilations, may be what there is no form for.
    assert taken["conv_general_dilated"] >= 3 - 2 * (name in ("lhs dilated, strided",))
    assert left["conv_general_dilated"] <= taken["conv_general_dilated"]


def test_negative_padding_is_right():
    """In single precision XLA:CPU may read beyond the array there (openxla/xla#48713)."""
    x, w, options = convolution_case(1, padding=((-1, 1),), stride=(2,), order=2, dtype=np.float64)

    def function(x, w):
        return derivatives(lambda x, w: lax.conv_general_dilated(x, w, **options), x, w)

    wanted = jax.tree.map(lambda a: a.astype(np.float32), jax.jit(function)(x, w))
    got, taken, _ = counted(lambda: jax.jit(function)(x.astype(np.float32), w.astype(np.float32)))
    assert taken["conv_general_dilated"] >= 3
    assert_equal_to_rounding(got, wanted)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", ["plain", "feature groups last", "lhs dilated", "strided"])
def test_vmapped_convolutions_are_laxs(name):
    x, w, options = CONVOLUTIONS[name]

    def function(x, w):
        return jax.vjp(lambda x, w: lax.conv_general_dilated(x, w, **options), x, w)[1]

    def both(x, w):
        y = lax.conv_general_dilated(x, w, **options)
        return y, function(x, w)(jnp.cos(y))

    xs, ws = jnp.stack([x, 2 * x, x - 1], 2), jnp.stack([w, w + 1, 3 * w], -1)
    for axes, operands in (((2, None), (xs, w)), ((None, -1), (x, ws)), ((2, -1), (xs, ws))):
        taken, _ = same_as_lax(jax.vmap(both, axes), *operands)
        assert taken["conv_general_dilated"] >= 3


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8"])
def test_integers_are_laxs(dtype):
    x, w, options = convolution_case(2, dtype=dtype, order=1, stride=(2, 1))
    for preferred in (None, jnp.int32):
        if preferred is not None and dtype == "uint8":
            continue
        options["preferred_element_type"] = preferred
        taken, _ = same_as_lax(lambda x, w: lax.conv_general_dilated(x, w, **options), x, w)
        assert taken["conv_general_dilated"] == 1


WINDOWS = {
    "2x2 s2": ((2, 6, 6, 3), (1, 2, 2, 1), (1, 2, 2, 1), "VALID", {}),
    "3x3 s2 same": ((2, 7, 6, 3), (1, 3, 3, 1), (1, 2, 2, 1), "SAME", {}),
    "channels first": ((2, 3, 7, 6), (1, 1, 3, 2), (1, 1, 1, 2), "SAME", {}),
    "1-D": ((3, 9), (1, 4), (1, 2), ((0, 0), (1, 2)), {}),
    "3-D": ((4, 5, 4, 2), (2, 3, 2, 1), (1, 2, 2, 1), "SAME", {}),
    "long": ((1, 20, 17, 2), (1, 9, 8, 1), (1, 1, 2, 1), "SAME", {}),
    "over channels": ((2, 5, 8), (1, 1, 3), (1, 1, 2), "VALID", {}),
    "whole plane": ((2, 5, 6, 3), (1, 5, 6, 1), (1, 1, 1, 1), "VALID", {}),
    "windows of padding": ((2, 5, 3), (1, 2, 1), (1, 1, 1), ((0, 0), (0, 2), (0, 0)), {}),
    "dilated": ((2, 9, 8), (1, 3, 2), (1, 1, 2), "VALID", {"window_dilation": (1, 2, 3)}),
    "base dilated": ((2, 5, 4), (1, 3, 1), (1, 1, 1), "VALID", {"base_dilation": (1, 2, 1)}),
    "four axes": ((3, 4, 5, 3), (2, 2, 2, 2), (1, 1, 1, 1), "VALID", {}),
    "no windows": ((2, 3, 4), (1, 5, 1), (1, 1, 1), "VALID", {}),
}  # fmt: skip
LEFT = {"windows of padding", "base dilated", "four axes", "no windows"}
MONOIDS = {"max": lax.max, "min": lax.min, "sum": lax.add}


def identity(monoid, dtype):
    inexact = jnp.issubdtype(dtype, jnp.inexact)
    limits = (-np.inf, np.inf) if inexact else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
    return np.asarray({"max": limits[0], "min": limits[1], "sum": 0}[monoid], dtype)


def reduction(monoid, case, dtype):
    _, window, stride, padding, options = WINDOWS[case]
    start = identity(monoid, dtype)
    return lambda x: lax.reduce_window(
        x, start, MONOIDS[monoid], window, stride, padding, **options
    )


def distinct(shape, dtype):
    """Numbers without ties, which lax does not break alike forwards and backwards."""
    order = np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape)
    return jnp.asarray(order - order.size // 2, dtype)


@pytest.mark.thinned(11)
@pytest.mark.parametrize("case", WINDOWS)
@pytest.mark.parametrize("monoid", MONOIDS)
@pytest.mark.parametrize("dtype", ["float32", "int32", "bfloat16"])
def test_windows_are_laxs(monoid, case, dtype):
    x = distinct(WINDOWS[case][0], dtype)
    taken, left = same_as_lax(reduction(monoid, case, x.dtype), x)
    name = f"reduce_window_{monoid}"
    assert (taken[name], left[name]) == (case not in LEFT, case in LEFT)


@pytest.mark.thinned(9)
@pytest.mark.parametrize("case", sorted(set(WINDOWS) - {"no windows"}))
@pytest.mark.parametrize("monoid", MONOIDS)
def test_their_derivatives_and_maps_are_laxs(monoid, case):
    x = distinct(WINDOWS[case][0], np.float32)
    function = reduction(monoid, case, x.dtype)

    def all_of_it(x):
        y, tangent = jax.jvp(function, (x,), (jnp.cos(x),))
        results = [y, tangent, jax.vmap(function, 1, 1)(jnp.stack([x, -x], 1))]
        if monoid == "sum" or case != "dilated":  # lax has no such transpose
            results.append(jax.vjp(function, x)[1](jnp.cos(jnp.arange(y.size)).reshape(y.shape)))
        return results

    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        taken, left = same_as_lax(all_of_it, x)
    if monoid != "sum":
        gradients = {"select_and_scatter_add", "select_and_gather_add"}
        if case == "dilated":
            gradients.remove("select_and_scatter_add")
        assert gradients <= set(taken) | set(left)
        assert (case in LEFT) == (not gradients <= set(taken))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_ties_go_to_the_first(dtype):
    """Also between the two zeros."""
    x = jnp.asarray(list(itertools.product([-1.0, -0.0, 0.0], repeat=4)), dtype)

    start = np.asarray(-np.inf, dtype)

    def function(x):
        return lax.reduce_window(x, start, lax.max, (1, 3), (1, 1), "SAME")

    taken, _ = same_as_lax(lambda x: jax.vjp(function, x)[1](x + 2), x)
    assert taken["select_and_scatter_add"] == 1


def test_windows_of_nan_stay_nan():
    x = numbers((1, 6, 6, 1)).at[0, 2, 3, 0].set(jnp.nan)
    for monoid in MONOIDS:
        taken, _ = same_as_lax(reduction(monoid, "2x2 s2", x.dtype), x)
        assert taken[f"reduce_window_{monoid}"] == 1


# On and off.


def program(x, w):
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", feature_group_count=4)
    pooled = lax.reduce_window(y, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return (pooled**2).sum()


OPERANDS = numbers((2, 4, 12, 12)), numbers((8, 1, 3, 3), seed=3)


def text():
    return jax.jit(jax.grad(program, (0, 1))).lower(*OPERANDS).as_text()


def test_off_is_lax_itself_again():
    step = jax.jit(jax.grad(program, (0, 1)))
    entries = [dict(table) if table else table for table in tables()]
    before, text_before = step(*OPERANDS), text()
    jc.accelerate()
    on, text_on = step(*OPERANDS), text()
    jc.accelerate(False)
    after, text_after = step(*OPERANDS), text()
    jc.accelerate()
    again, text_again = step(*OPERANDS), text()
    jc.accelerate(False)
    assert text_before == text_after != text_on == text_again
    assert "stablehlo.convolution" not in text_on
    assert_equal_to_rounding(on, before)
    for a, b in zip((*before, *on), (*after, *again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [dict(table) if table else table for table in tables()] == entries


def tables():
    by_platform, common, _ = _lax._tables()
    return by_platform["cpu"], common


def test_twice_is_once():
    jc.accelerate()
    first, step = dict(tables()[0]), jax.jit(program)
    step(*OPERANDS)
    taken = jc.accelerate().taken.copy()
    assert dict(tables()[0]) == first
    step(*OPERANDS)
    assert jc.accelerate().taken == taken  # nothing was forgotten
    jc.accelerate(False)
    jc.accelerate(False)
    assert not _lax.replaced()


def test_as_a_context_it_puts_back_what_was():
    with jc.accelerate():
        assert _lax.replaced()
        with jc.accelerate(False):
            assert not _lax.replaced()
        assert _lax.replaced()
        with jc.accelerate():
            pass
        assert _lax.replaced()
        with pytest.raises(KeyError), jc.accelerate(False):
            raise KeyError
        assert _lax.replaced()
    assert not _lax.replaced()


@pytest.mark.parametrize("bad", [1, None, "yes"])
def test_anything_but_a_bool_is_refused(bad):
    with pytest.raises(TypeError, match=r"enable must be True or False; got"):
        jc.accelerate(bad)
    assert not _lax.replaced()


def fail(error):
    raise error


@pytest.mark.parametrize(
    "broken",
    [
        lambda: fail(ImportError("no such table")),
        lambda: fail(AttributeError("no such name")),
        lambda: ({"cpu": {}}, {}, dict),
    ],
)
def test_an_unknown_jax_is_left_alone(monkeypatch, broken):
    monkeypatch.setattr(_lax, "_tables", broken)
    with pytest.warns(RuntimeWarning, match=r"changed nothing: jaxconv does not know jax \d"):
        jc.accelerate()
    assert not _lax.replaced()


def test_unknown_parameters_are_left_alone(monkeypatch):
    known = {**_lax.PARAMETERS, lax.reduce_window_sum_p: {"window"}}
    monkeypatch.setattr(_lax, "PARAMETERS", known)
    with pytest.warns(RuntimeWarning, match="reduce_window_sum has parameters"):
        jc.accelerate()
    assert not _lax.replaced()


def test_this_jax_is_known():
    assert _lax.unexpected() is None
    assert set(_views.VIEWS) == set(_lax.PARAMETERS)


def test_direct_stays_laxs():
    """What asks for lax gets lax, also where lax itself is built of other operations."""
    x, w = OPERANDS

    def direct(x, w):
        return jc.conv(x, w, padding=1, groups=4, algorithm="direct")

    for dtype, convolutions in (("float32", 1), ("complex64", 3)):
        operands = x.astype(dtype), w.astype(dtype)
        if dtype == "complex64":
            operands = operands[0], operands[1][:, :, :1]
        wanted = jax.jit(direct)(*operands)
        with jc.accelerate():
            lowered = jax.jit(direct).lower(*operands).as_text()
            got = jax.jit(direct)(*operands)
        assert lowered.count("stablehlo.convolution") == convolutions
        np.testing.assert_array_equal(got, wanted)


def test_whatis_small_stays_laxs():
    _accelerate.SMALL = 80_000
    x, w, options = CONVOLUTIONS["plain"]
    _, left = same_as_lax(lambda x, w: lax.conv_general_dilated(x, w, **options), x, w)
    assert left["conv_general_dilated"] == 1
    taken, _ = same_as_lax(program, *OPERANDS)
    assert taken["conv_general_dilated"] == 1  # groups are slow at any size


def test_symbolic_sizes_and_other_dtypes_stay_laxs():
    def function(x):
        y = lax.conv(x, jnp.ones((2, 4, 3, 3)), (1, 1), "SAME")
        return lax.reduce_window(y, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    (batch,) = jax.export.symbolic_shape("b")
    argument = jax.ShapeDtypeStruct((batch, 4, 8, 8), jnp.float64)
    exported, taken, left = counted(lambda: jax.export.export(jax.jit(function))(argument))
    assert (sum(taken.values()), sum(left.values())) == (0, 2)
    x = numbers((3, 4, 8, 8), np.float64)
    np.testing.assert_allclose(exported.call(x), function(x), rtol=1e-12)
    small = jnp.ones((1, 2, 5, 5), jnp.float8_e4m3fn)
    taken, left = same_as_lax(lambda x: lax.conv(x, x, (1, 1), "VALID").astype(np.float32), small)
    assert (taken["conv_general_dilated"], left["conv_general_dilated"]) == (0, 1)


def test_a_program_for_several_platforms():
    """What is exported for a TPU as well has jaxconv's algorithms in the CPU's part alone."""
    platforms = ("cpu", "tpu")
    operands = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in OPERANDS]
    wanted = jax.jit(program)(*OPERANDS)
    export = jax.export.export(jax.jit(program), platforms=platforms)
    exported, taken, _ = counted(lambda: export(*operands))
    assert sum(taken.values()) == 2
    assert exported.mlir_module().count("stablehlo.convolution") == 1
    assert_equal_to_rounding(exported.call(*OPERANDS), wanted)


def test_errors_are_laxs():
    def wrong():
        return lax.conv(jnp.ones((1, 3, 5, 5)), jnp.ones((2, 4, 3, 3)), (1, 1), "SAME")

    messages = []
    for on in (False, True):
        with jc.accelerate(on), pytest.raises(ValueError, match="conv_general_dilated") as error:
            wrong()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_eagerly_and_in_loops():
    x, w = OPERANDS

    def loop(x, w):
        def step(x, _):
            y = lax.conv_general_dilated(x, w, (1, 1), "SAME", feature_group_count=4)
            return jnp.tanh(y[:, ::2]), y.sum()

        return lax.scan(jax.checkpoint(step), x, None, 3)

    same_as_lax(lambda x, w: jax.grad(lambda x, w: loop(x, w)[0].sum(), (0, 1))(x, w), x, w)
    wanted = program(x, w)
    got, taken, _ = counted(lambda: program(x, w))
    assert taken["conv_general_dilated"] == 1
    assert_equal_to_rounding(got, wanted)
    with jax.disable_jit():
        assert_equal_to_rounding(counted(lambda: program(x, w))[0], wanted)


def test_strict_settings():
    """Lowering keeps to whatever the caller has jax check."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("strict"))
        stack.enter_context(jax.numpy_rank_promotion("raise"))
        stack.enter_context(jax.enable_checks(True))
        stack.enter_context(jax.checking_leaks())
        stack.enter_context(jax.transfer_guard("disallow_explicit"))
        taken, _ = same_as_lax(jax.grad(program, (0, 1)), *OPERANDS)
        assert taken["conv_general_dilated"] == 3


def test_the_persistent_cache_keeps_them_apart(tmp_path):
    from jax.experimental.compilation_cache import compilation_cache

    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

        def compiled():
            def grouped(x, w):
                return lax.conv_general_dilated(x, w, (1, 1), "SAME", feature_group_count=4)

            return np.asarray(jax.jit(grouped)(*OPERANDS))

        def entries():
            return {path.name for path in tmp_path.iterdir() if path.name.endswith("-cache")}

        wanted = compiled()
        plain = entries()
        with jc.accelerate():
            got = compiled()
        both = entries()
        assert plain < both
        jax.clear_caches()
        np.testing.assert_array_equal(compiled(), wanted)
        with jc.accelerate():
            np.testing.assert_array_equal(compiled(), got)
        assert entries() == both  # each was found again
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


# Whoever calls it.


@pytest.fixture
def _as_users_have_it():
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.enable_x64(False))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


IMAGES = numbers((2, 12, 12, 4))


def by_nnx():
    rngs = flax.nnx.Rngs(0)
    conv = flax.nnx.Conv(4, 8, (3, 3), feature_group_count=4, rngs=rngs)
    up = flax.nnx.ConvTranspose(8, 4, (2, 2), (2, 2), rngs=rngs)
    return lambda x: flax.nnx.avg_pool(flax.nnx.max_pool(up(conv(x)), (2, 2), (2, 2)), (2, 2))


def by_linen():
    network = flax.linen.Sequential([
        flax.linen.Conv(8, (3, 3), feature_group_count=4),
        flax.linen.ConvTranspose(4, (2, 2), (2, 2)),
        lambda x: flax.linen.max_pool(x, (2, 2), (2, 2)),
        lambda x: flax.linen.avg_pool(x, (2, 2)),
    ])  # fmt: skip
    variables = network.init(jax.random.key(0), IMAGES)
    return lambda x: network.apply(variables, x)


def by_equinox():
    keys = jax.random.split(jax.random.key(0))
    network = equinox.nn.Sequential([
        equinox.nn.Conv2d(4, 8, 3, groups=4, key=keys[0]),
        equinox.nn.ConvTranspose2d(8, 4, 2, 2, key=keys[1]),
        equinox.nn.MaxPool2d(2, 2),
        equinox.nn.AvgPool2d(2, 1),
    ])  # fmt: skip
    return lambda x: jax.vmap(network)(jnp.moveaxis(x, -1, 1))


def by_haiku():
    def network(x):
        x = haiku.Conv2D(8, 3, feature_group_count=4)(x)
        x = haiku.Conv2DTranspose(4, 2, 2)(x)
        x = haiku.max_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return haiku.avg_pool(x, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")

    transformed = haiku.without_apply_rng(haiku.transform(network))
    params = transformed.init(jax.random.PRNGKey(0), IMAGES)
    return lambda x: transformed.apply(params, x)


def by_keras():
    import keras

    layers = [
        keras.layers.Conv2D(8, 3, groups=4),
        keras.layers.Conv2DTranspose(4, 2, 2),
        keras.layers.MaxPooling2D(2),
        keras.layers.AveragePooling2D(2, 1),
    ]
    network = keras.Sequential(layers)
    network(np.zeros(IMAGES.shape, np.float32))
    values = [variable.value for variable in network.trainable_variables]
    return lambda x: network.stateless_call(values, [], x)[0]


@pytest.mark.parametrize("library", [by_nnx, by_linen, by_equinox, by_haiku, by_keras])
@pytest.mark.usefixtures("_as_users_have_it")
def test_libraries_take_it(library):
    """Forwards, backwards and mapped: each operation of each network is jaxconv's."""
    network = library()

    def loss(x):
        return (network(x) ** 2).sum()

    for function, operand, least in (
        (network, IMAGES, 2),
        (jax.grad(loss), IMAGES, 4),
        (jax.vmap(jax.grad(loss)), jnp.stack([IMAGES, 2 * IMAGES]), 4),
        (lambda x: jax.jvp(network, (x,), (jnp.cos(x),)), IMAGES, 2),
    ):
        wanted = jax.jit(function)(operand)
        got, taken, left = counted(lambda f=function, x=operand: jax.jit(f)(x))
        assert_equal_to_rounding(got, wanted)
        assert taken["conv_general_dilated"] >= least
        assert taken["reduce_window_max"] >= 1
        assert taken["reduce_window_sum"] >= 1
        assert taken["select_and_scatter_add"] == (least == 4)
        assert taken["select_and_gather_add"] == (least == 2 and function is not network)
        assert sum(left.values()) == 0


BEFORE_ANYTHING = """
import jaxconv
acceleration = jaxconv.accelerate()
import jax, jax.numpy as jnp, equinox, haiku
from flax import nnx
convs = [
    lambda x, c=nnx.Conv(4, 8, (3, 3), feature_group_count=4, rngs=nnx.Rngs(0)): c(x),
    jax.vmap(equinox.nn.Conv2d(4, 8, 3, groups=4, key=jax.random.key(0))),
]
for at, conv in enumerate(convs):
    jax.grad(lambda x: conv(x).sum())(jnp.ones((1, 4, 4, 4)))
    assert acceleration.taken["conv_general_dilated"] >= 2 * at + 2, acceleration.taken
"""


def test_called_before_the_libraries_are_imported():
    ran = subprocess.run(
        [sys.executable, "-c", BEFORE_ANYTHING], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


SIGNALS = {
    "jnp.convolve": lambda x, k: jnp.convolve(x[0], k[0]),
    "jnp.correlate": lambda x, k: jnp.correlate(x[0], k[0], "valid"),
    "scipy convolve": lambda x, k: jax.scipy.signal.convolve(x, k, "same"),
    "scipy correlate2d": lambda x, k: jax.scipy.signal.correlate2d(x, k),
    "scipy convolve2d": lambda x, k: jax.scipy.signal.convolve2d(x, k, "valid"),
}


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.usefixtures("_as_users_have_it")
def test_signals_take_it(name):
    function, x, k = SIGNALS[name], numbers((20, 30)), numbers((3, 5), seed=1)
    taken, _ = same_as_lax(function, x, k)
    assert taken["conv_general_dilated"] == 1
    taken, _ = same_as_lax(jax.grad(lambda x, k: (function(x, k) ** 2).sum(), (0, 1)), x, k)
    assert taken["conv_general_dilated"] == 3
    batch = jnp.stack([x, 2 * x])
    taken, _ = same_as_lax(jax.vmap(function, (0, None)), batch, k)
    assert taken["conv_general_dilated"] == 1


def test_what_was_taken_is_printed():
    with jc.accelerate() as acceleration:
        jax.jit(lambda x: lax.reduce_window(x, 0.0, lax.add, (3, 3), (1, 1), "SAME"))(
            jnp.ones((31, 17), jnp.float32)
        ).block_until_ready()
    taken = acceleration.taken["reduce_window_sum"]
    assert taken >= 1
    assert repr(acceleration).startswith("Acceleration(taken: ")
    assert f"reduce_window_sum {taken}" in repr(acceleration)
    assert "left to lax: " in repr(acceleration)
