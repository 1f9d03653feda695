"""Values of the convolutions and pools against oracles, in every dtype and both layouts."""

import functools
import math
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import (
    CONV,
    LAYOUTS,
    MODES,
    POOL,
    TOLERANCE,
    TRANSPOSE,
    assert_close,
    first,
    ids,
    kernel_last,
)

import jaxconv as jc

CONV_DTYPES = ["float32", "bfloat16", "float16", "complex64", "complex128"]
OVER_AXES = ("stride", "dilation")
INTEGERS = ["int8", "uint8", "int16", "int32", "uint32", "int64"]


def both_layouts(function, image, *kernel, rank, **options):
    """The result channels first; the channels-last call must agree to the last bit but rounding."""
    y = function(image, *kernel, **options)
    moved = (kernel_last(kernel[0]), *kernel[1:]) if kernel else ()
    y_last = function(cases.last(image, rank), *moved, layout=LAYOUTS[rank], **options)
    assert y_last.dtype == y.dtype
    tolerance = TOLERANCE.get(str(y.dtype), 0)
    assert_close(first(y_last, rank), y, tolerance)
    return y


def wide(value):
    """An array in the widest dtype of its kind, for the oracle."""
    kind = np.dtype(value.dtype).kind
    return np.asarray(value).astype({"c": complex, "i": np.int64, "u": np.uint64}.get(kind, float))


@pytest.mark.thinned(3)
@pytest.mark.parametrize("case", CONV, ids=ids(CONV))
def test_conv_equals_loops(case):
    x, w, _ = case.arrays()
    y = both_layouts(jc.conv, x, w, rank=case.rank, **case.options)
    want = oracles.conv_loops(cases.one_batch(x, case.rank), w, **case.options)
    assert y.shape == (*x.shape[: -case.rank - 1], *want.shape[1:])
    assert_close(y.reshape(want.shape), want, TOLERANCE["float64"])


@pytest.mark.thinned(9)
@pytest.mark.parametrize("case", CONV + MODES, ids=ids(CONV + MODES))
def test_conv_equals_the_form_and_the_reference(case):
    x, w, bias = case.arrays()
    y = both_layouts(jc.conv, x, w, bias, rank=case.rank, **case.options)
    form = oracles.conv_form(x.shape[-case.rank :], w.shape[2:], **case.options)
    want = form.project("y", x=cases.one_batch(x, case.rank), w=w)
    want = want + bias.reshape(-1, *(1,) * case.rank)
    assert_close(y.reshape(want.shape), want, TOLERANCE["float64"])
    assert_close(jc.reference.conv(x, w, bias, **case.options), y, TOLERANCE["float64"])


@pytest.mark.thinned(9)
@pytest.mark.parametrize("case", CONV, ids=ids(CONV))
def test_reference_is_the_loops_in_both_layouts(case):
    x, w, _ = case.arrays()
    y = both_layouts(jc.reference.conv, x, w, rank=case.rank, **case.options)
    want = oracles.conv_loops(cases.one_batch(x, case.rank), w, **case.options)
    assert_close(y.reshape(want.shape), want, TOLERANCE["float64"])


@pytest.mark.thinned(11)
@pytest.mark.parametrize("dtype", CONV_DTYPES)
@pytest.mark.parametrize("case", CONV, ids=ids(CONV))
def test_conv_in_each_dtype(case, dtype):
    x, w, _ = case.arrays(dtype)
    y = both_layouts(jc.conv, x, w, rank=case.rank, **case.options)
    form = oracles.conv_form(x.shape[-case.rank :], w.shape[2:], **case.options)
    want = form.project("y", x=wide(cases.one_batch(x, case.rank)), w=wide(w))
    assert y.dtype == dtype
    assert_close(y.reshape(want.shape), want, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("case", [CONV[2], CONV[-1]], ids=ids([CONV[2], CONV[-1]]))
def test_integers_are_exact_and_wrap(case, dtype):
    x, w, _ = case.arrays(dtype)
    y = both_layouts(jc.conv, x, w, rank=case.rank, **case.options)
    with np.errstate(over="ignore"):
        want = oracles.conv_loops(x, w, **case.options)
    assert y.dtype == want.dtype == dtype
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("case", TRANSPOSE, ids=ids(TRANSPOSE))
def test_conv_transpose_is_the_forms_projection(case):
    y, w, _ = case.arrays()
    bias = cases.draw(np.random.default_rng(1), (w.shape[1] * case.groups,), "float64")
    x = both_layouts(jc.conv_transpose, y, w, bias, rank=case.rank, **case.options)
    form = oracles.transpose_form(y.shape[-case.rank :], w.shape[2:], **case.options)
    want = form.project("x", y=cases.one_batch(y, case.rank), w=w)
    want = want + bias.reshape(-1, *(1,) * case.rank)
    assert x.shape == (*y.shape[: -case.rank - 1], *want.shape[1:])
    assert_close(x.reshape(want.shape), want, TOLERANCE["float64"])


@pytest.mark.thinned(11)
@pytest.mark.parametrize("dtype", CONV_DTYPES)
@pytest.mark.parametrize("case", TRANSPOSE, ids=ids(TRANSPOSE))
def test_conv_transpose_in_each_dtype(case, dtype):
    y, w, _ = case.arrays(dtype)
    x = jc.conv_transpose(y, w, **case.options)
    form = oracles.transpose_form(y.shape[-case.rank :], w.shape[2:], **case.options)
    want = form.project("x", y=wide(cases.one_batch(y, case.rank)), w=wide(w))
    assert x.dtype == dtype
    assert_close(x.reshape(want.shape), want, TOLERANCE[dtype])


@pytest.mark.parametrize("case", CONV, ids=ids(CONV))
def test_conv_transpose_is_the_adjoint_of_conv(case):
    """<conv(x, w), y> = <x, conv_transpose(y, w)>; output_padding says which size x had."""
    x, w, _ = case.arrays()
    y = np.asarray(jc.conv(x, w, **case.options))
    spatial, window = x.shape[-case.rank :], w.shape[2:]
    stride, dilation = (oracles.per_axis(case.options.get(o, 1), case.rank) for o in OVER_AXES)
    sides = oracles.pairs(case.options.get("padding", 0), spatial, window, stride, dilation)
    tail = [
        (n + sum(side) - d * (k - 1) - 1) % s
        for n, k, s, d, side in zip(spatial, window, stride, dilation, sides, strict=True)
    ]
    options = {**case.options, "padding": sides, "output_padding": tail}
    back = jc.conv_transpose(y, w, **options)
    assert back.shape == x.shape
    np.testing.assert_allclose(np.vdot(y, y), np.vdot(back, x), rtol=1e-12)


def test_bias_for_each_pair_of_channels_is_summed_over_the_inputs():
    case = next(case for case in CONV if case.id == "groups")
    x, w, _ = case.arrays()
    bias = cases.draw(np.random.default_rng(0), w.shape[:2], "float64")
    y = both_layouts(jc.conv, x, w, bias, rank=2, **case.options)
    want = np.asarray(jc.conv(x, w, **case.options)) + bias.sum(1).reshape(1, -1, 1, 1)
    assert_close(y, want, 1e-14)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_sums_in_float32_and_rounds_once(dtype):
    """4096 ones and a bias of 1/2: a half-precision sum would stop at 256 or 2048 and lose both."""
    x, w = jnp.ones((1, 8192), dtype), jnp.ones((1, 1, 8192), dtype)
    assert jc.conv(x, w)[0, 0] == 8192
    assert jc.conv(x, w * 0.25, jnp.asarray([8.0], dtype))[0, 0] == 2056
    assert (
        jc.conv_transpose(jnp.ones((8192, 1), dtype), jnp.ones((8192, 1, 1), dtype))[0, 0] == 8192
    )
    assert jc.avg_pool(x, (8192,))[0, 0] == 1
    # 256 - 1 + the bias's 1: rounding the sum before the bias would lose the 1 in bfloat16.
    pieces = jnp.asarray([[256.0, 1.0]], "bfloat16")
    biased = jc.conv(pieces, jnp.ones((1, 1, 2), "bfloat16"), jnp.asarray([1.0], "bfloat16"))
    assert biased[0, 0] == 258


def test_half_precision_bias_per_pair_is_summed_in_float32():
    bias = jnp.asarray([[256.0, 0.5, 0.5, 0.5, 0.5]], "bfloat16")
    y = jc.conv(jnp.zeros((5, 3), "bfloat16"), jnp.zeros((1, 5, 1), "bfloat16"), bias)
    assert y[0, 0] == 258


@pytest.mark.parametrize(
    ("x", "kernel", "want"),
    [("int8", "float32", "float32"), ("bfloat16", "float32", "float32"),
     ("float32", "complex64", "complex64"), ("int8", "int32", "int32"),
     ("float16", "bfloat16", "float32"), ("bool", "float32", "float32")][:-1],
)  # fmt: skip
def test_dtypes_promote_as_in_numpy(x, kernel, want):
    image, window = jnp.ones((2, 5), x), jnp.ones((3, 2, 2), kernel)
    with jax.numpy_dtype_promotion("standard"):
        assert jc.conv(image, window).dtype == jnp.promote_types(x, kernel) == want
        assert jc.conv(image, image[:, None], jnp.ones(2, kernel), groups=2).dtype == want
        assert jc.conv_transpose(image, jnp.ones((2, 1, 2), kernel)).dtype == want


@pytest.mark.parametrize(
    ("dtype", "preferred"),
    [("bfloat16", "float32"), ("float16", "float64"), ("int8", "int32"), ("int8", "float32"),
     ("uint8", "uint32"), ("float32", "float64"), ("complex64", "complex128")],
)  # fmt: skip
def test_preferred_element_type_is_the_output_and_the_sum(dtype, preferred):
    x, w = (cases.draw(np.random.default_rng(n), (2, 2, 9), dtype) for n in (0, 1))
    want = oracles.conv_form((9,), (9,)).project("y", x=wide(x), w=wide(w))
    y = jc.conv(x, w, preferred_element_type=preferred)
    assert y.dtype == preferred
    tolerance = {"float32": 1e-6, "float64": 1e-14, "complex128": 1e-14}.get(preferred, 0)
    assert_close(y, want, tolerance)
    back = jc.conv_transpose(x, w, preferred_element_type=preferred)
    assert back.dtype == preferred
    form = oracles.transpose_form((9,), (9,))
    assert_close(back, form.project("x", y=wide(x), w=wide(w)), tolerance)


def test_gradients_keep_each_arrays_dtype():
    x, w = jnp.ones((1, 2, 9), "bfloat16"), jnp.ones((3, 2, 4), "bfloat16")

    def loss(x, w):
        return jc.conv(x, w, preferred_element_type="float32").sum()

    dx, dw = jax.grad(loss, argnums=(0, 1))(x, w)
    assert (dx.dtype, dw.dtype) == (x.dtype, w.dtype)
    assert float(dw[0, 0, 0]) == 6
    assert float(dx[0, 0, 4]) == 12


@pytest.mark.thinned(5)
@pytest.mark.parametrize("case", POOL, ids=ids(POOL))
def test_max_pool_and_indices_equal_loops(case):
    x = case.array()
    x.flat[::5] = np.round(x.flat[::5])  # ties
    x.flat[::11] = np.nan
    want, index = oracles.max_pool(cases.one_batch(x, case.rank), case.window, **case.options)
    y = both_layouts(jc.max_pool, x, window=case.window, rank=case.rank, **case.options)
    np.testing.assert_array_equal(y.reshape(want.shape), want)
    both, where = jc.max_pool(x, case.window, return_indices=True, **case.options)
    np.testing.assert_array_equal(both, y)
    assert where.dtype == np.int32
    np.testing.assert_array_equal(where.reshape(index.shape), index)
    moved = cases.last(x, case.rank)
    options = {"return_indices": True, "layout": LAYOUTS[case.rank], **case.options}
    _, where_last = jc.max_pool(moved, case.window, **options)
    np.testing.assert_array_equal(first(where_last, case.rank), where)
    np.testing.assert_array_equal(jc.reference.max_pool(x, case.window, **case.options), y)


@pytest.mark.thinned(11)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "uint8", "int32"])
@pytest.mark.parametrize("case", POOL, ids=ids(POOL))
def test_max_and_min_pool_in_each_dtype(case, dtype):
    x = case.array(dtype)
    want, _ = oracles.max_pool(cases.one_batch(x, case.rank), case.window, **case.options)
    y = jc.max_pool(x, case.window, **case.options)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.reshape(want.shape), want)
    turn = (lambda v: ~v) if np.dtype(x.dtype).kind in "iu" else (lambda v: -v)
    least, _ = oracles.max_pool(turn(cases.one_batch(x, case.rank)), case.window, **case.options)
    got = both_layouts(jc.min_pool, x, window=case.window, rank=case.rank, **case.options)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.reshape(least.shape), turn(least))


@pytest.mark.thinned(9)
@pytest.mark.parametrize("extra", [{}, {"count_include_pad": False}, {"divisor_override": -3}],
                         ids=["counted", "not-counted", "divisor"])  # fmt: skip
@pytest.mark.parametrize("case", POOL, ids=ids(POOL))
def test_avg_pool_equals_loops(case, extra):
    x = case.array()
    options = {**case.options, **extra}
    want = oracles.avg_pool(cases.one_batch(x, case.rank), case.window, **options)
    y = both_layouts(jc.avg_pool, x, window=case.window, rank=case.rank, **options)
    assert y.dtype == np.float64
    assert_close(y.reshape(want.shape), want, TOLERANCE["float64"])
    assert_close(jc.reference.avg_pool(x, case.window, **options), y, TOLERANCE["float64"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
def test_avg_pool_in_each_dtype(dtype):
    case = next(case for case in POOL if case.id == "overlap")
    x = case.array(dtype)
    want = oracles.avg_pool(wide(x), case.window, **case.options)
    y = jc.avg_pool(x, case.window, **case.options)
    assert y.dtype == dtype
    assert_close(y, want, TOLERANCE[dtype])


def test_avg_pool_of_integers_is_a_float():
    y = jc.avg_pool(jnp.arange(4, dtype="int32").reshape(1, 4), (2,))
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, [[0.5, 2.5]])


def test_windows_without_elements():
    """One element, padded by 3 on both sides; the inner windows straddle it."""
    x = jnp.asarray([[1.0]])
    options: dict[str, Any] = {"stride": 1, "padding": 3, "dilation": 3}
    _, index = jc.max_pool(x, (2,), return_indices=True, **options)
    np.testing.assert_array_equal(index, [[0, -1, -1, 0]])
    np.testing.assert_array_equal(jc.max_pool(x, (2,), **options), [[1, -np.inf, -np.inf, 1]])
    np.testing.assert_array_equal(jc.min_pool(x, (2,), **options), [[1, np.inf, np.inf, 1]])
    np.testing.assert_array_equal(jc.avg_pool(x, (2,), **options), [[0.5, 0, 0, 0.5]])
    uncounted = jc.avg_pool(x, (2,), count_include_pad=False, **options)
    np.testing.assert_array_equal(uncounted, [[1, np.nan, np.nan, 1]])
    small = jnp.asarray([[5]], "int8")
    np.testing.assert_array_equal(jc.max_pool(small, (2,), **options), [[5, -128, -128, 5]])
    np.testing.assert_array_equal(jc.min_pool(small, (2,), **options), [[5, 127, 127, 5]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_stay_in_their_windows(bad):
    """Every position of x in turn: `direct` spreads it to the outputs that read it, no further."""
    x, w = np.ones((2, 1, 4, 5)), np.ones((1, 1, 2, 3))
    for n, _, i, j in np.ndindex(*x.shape):
        dirty = x.copy()
        dirty[n, 0, i, j] = bad
        reads = np.zeros((2, 4, 5))
        reads[n, i, j] = 1
        inside = oracles.conv_form((4, 5), (2, 3), padding=1).project(
            "y", x=reads[:, None], w=np.ones((1, 1, 2, 3))
        )
        y = jc.conv(dirty, w, padding=1, algorithm="direct")
        np.testing.assert_array_equal(~np.isfinite(y), inside > 0)
        pooled = jc.avg_pool(dirty, (2, 3), stride=1, padding=1)
        np.testing.assert_array_equal(~np.isfinite(pooled), inside > 0)


#: Sizes of the images and windows below, and the options that say who reads whom.
READ, TAPS = (2, 4, 5, 6), (2, 2)
READERS = [
    {"groups": 2}, {"groups": 4, "padding": 1}, {"stride": (2, 3)}, {"dilation": 2, "padding": 1},
    {"groups": 2, "stride": 2, "padding": ((1, -1), (2, 0)), "dilation": (1, 2)},
]  # fmt: skip


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "complex128"])
@pytest.mark.parametrize("options", READERS, ids=str)
def test_non_finite_values_reach_their_readers_alone(options, dtype):
    """Positions of x and of dy: no other image, window or group of channels sees them."""
    kernel = (4, 4 // options.get("groups", 1), *TAPS)
    form = oracles.conv_form(READ[2:], TAPS, **options)
    w = jnp.ones(kernel, dtype)
    conv = jax.jit(lambda x: jc.conv(x, w, algorithm="direct", **options))
    y, pull = jax.vjp(conv, jnp.ones(READ, dtype))
    back = jax.jit(lambda dy: pull(dy)[0])
    for function, shape, (read, seen) in ((conv, READ, "xy"), (back, y.shape, "yx")):
        for at in list(np.ndindex(*shape))[::5]:
            mark = np.zeros(shape)
            mark[at] = 1
            readers = form.project(seen, **{read: mark, "w": np.ones(kernel)})
            for bad in (np.nan, np.inf):
                result = np.asarray(function(jnp.ones(shape, dtype).at[at].set(bad)))
                np.testing.assert_array_equal(~np.isfinite(result.astype(complex)), readers > 0)


EMPTY = [
    ("batch", (0, 3, 5, 6), (2, 3, 2, 2), (0, 2, 4, 5)),
    ("inputs", (2, 0, 5, 6), (2, 0, 2, 2), (2, 2, 4, 5)),
    ("outputs", (2, 3, 5, 6), (0, 3, 2, 2), (2, 0, 4, 5)),
    ("space", (2, 3, 0, 6), (2, 3, 2, 2), (2, 2, 3, 5)),
]


@pytest.mark.parametrize(("x", "w", "y"), [e[1:] for e in EMPTY], ids=[e[0] for e in EMPTY])
def test_empty_arrays_give_empty_or_zero_results(x, w, y):
    options: dict[str, Any] = {"padding": ((2, 2), (0, 0))} if 0 in x[2:] else {}
    image, kernel = jnp.ones(x), jnp.ones(w)
    out, pull = jax.vjp(lambda x, w: jc.conv(x, w, **options), image, kernel)
    assert out.shape == y
    np.testing.assert_array_equal(out, np.zeros(y))
    dx, dw = pull(out)
    np.testing.assert_array_equal(dx, np.zeros(x))
    np.testing.assert_array_equal(dw, np.zeros(w))
    back = jc.conv_transpose(out, kernel, **options)
    np.testing.assert_array_equal(back, np.zeros(x))
    bias = jnp.arange(float(w[0]))
    np.testing.assert_array_equal(
        jc.conv(image, kernel, bias, **options), np.broadcast_to(bias.reshape(-1, 1, 1), y)
    )


def test_empty_images_pool():
    for shape in ((0, 3, 4), (2, 0, 4)):
        x = jnp.ones(shape)
        y, pull = jax.vjp(lambda x: jc.max_pool(x, (2,)), x)
        assert y.shape == (*shape[:2], 2) == jc.avg_pool(x, (2,)).shape
        assert pull(y)[0].shape == shape
    nothing = jnp.ones((1, 0))
    np.testing.assert_array_equal(
        jc.max_pool(nothing, (2,), padding=1, return_indices=True), [[[-np.inf]], [[-1]]]
    )
    np.testing.assert_array_equal(jc.avg_pool(nothing, (2,), padding=1), [[0]])


def test_arrays_of_numpy_and_wrappers_are_taken():
    class Parameter:
        def __jax_array__(self):
            return jnp.ones((1, 1, 2))

    x = np.arange(4.0).reshape(1, 4)
    np.testing.assert_array_equal(jc.conv(x, Parameter()), [[1, 3, 5]])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize(
    ("window", "stride"),
    [((2, 2), 2), ((3, 3), 1), ((1, 1), 3), ((3, 1), (2, 3)), ((33, 32), 1), ((33, 1), 1)],
)
def test_nan_wins_in_large_arrays(window, stride, last):
    """XLA:CPU gives some maxima of large arrays to a library that passes over NaN."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 32, 33, 32)).astype("float32")
    x[rng.random(x.shape) < 0.001] = np.nan
    steps = stride if isinstance(stride, tuple) else (stride, stride)
    windows = np.lib.stride_tricks.sliding_window_view(x, window, (2, 3))
    windows = windows[:, :, :: steps[0], :: steps[1]].reshape(*x.shape[:2], -1, math.prod(window))
    want, at = windows.max(-1), windows.argmax(-1)  # The first NaN, if there is one.
    corner = np.arange(33 * 32).reshape(33, 32)[
        : 34 - window[0] : steps[0], : 33 - window[1] : steps[1]
    ]
    index = corner.reshape(-1) + at // window[1] * 32 + at % window[1]

    def flat(image):
        image = jnp.moveaxis(image, -1, 1) if last else image
        return image.reshape(*image.shape[:2], -1)

    image, layout = jnp.asarray(np.moveaxis(x, 1, -1) if last else x), "NHWC" if last else "NCHW"
    pool = functools.partial(jc.max_pool, stride=stride, layout=layout)
    y, where = pool(image, window, return_indices=True)
    np.testing.assert_array_equal(flat(y), want)
    np.testing.assert_array_equal(flat(where), index)
    least = jc.min_pool(-image, window, stride=stride, layout=layout)
    np.testing.assert_array_equal(flat(least), -want)
    np.testing.assert_array_equal(
        flat(jc.reference.max_pool(image, window, stride=stride, layout=layout)), want
    )


@pytest.mark.parametrize("size", [(1, 1), (3, 7)])
def test_nan_wins_in_large_adaptive_windows(size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 32, 33, 32)).astype("float32")
    x[rng.random(x.shape) < 0.001] = np.nan
    got = jc.adaptive_max_pool(jnp.asarray(x), size)
    for i, j in np.ndindex(*size):
        rows, columns = (
            slice(at * n // m, -(-(at + 1) * n // m))
            for at, n, m in zip((i, j), (33, 32), size, strict=True)
        )
        np.testing.assert_array_equal(got[..., i, j], x[..., rows, columns].max((2, 3)))
