"""The functions beside the plain pools: columns, adaptive and p-norm pools, and unpooling.

Values against loops, layouts, dtypes, derivatives to third order in both modes, and odd input.
"""

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
    POOL,
    TOLERANCE,
    assert_close,
    distinct,
    first,
    ids,
    last,
    one_batch,
)
from jax.test_util import check_grads

import jaxconv as jc

pytestmark = pytest.mark.usefixtures("quick_compile")

#: As in `test_gradients`: third order by central differences of derivatives.
DIFFERENCES: dict[str, Any] = {
    "order": 3, "modes": ["fwd", "rev"], "atol": 1e-5, "rtol": 1e-5
}  # fmt: skip
FLOATS = ["float32", "bfloat16", "float16", "complex64"]

#: Windows of `unfold` and `fold`: the sizes and steps of `conv`'s cases, each once.
COLUMNS = [
    case._replace(options={k: v for k, v in case.options.items() if k != "groups"})
    for case in CONV
    if case.id not in {"padding-per-axis", "same-odd", "1x1", "groups", "depthwise-1d", "all-2d"}
]
#: (image, output_shape) of adaptive pools.
ADAPTIVE = [
    ((2, 3, 7), (3,)),
    ((3, 8), (4,)),
    ((2, 1, 2, 5), (8,)),
    ((2, 3, 5, 7), (2, 3)),
    ((1, 2, 6, 4), (3, 2)),
    ((1, 2, 4, 5), (None, 3)),
    ((1, 2, 3, 5), (7, None)),
    ((1, 2, 5, 4), (1, 1)),
    ((1, 2, 4, 3, 5), (3, 2, 2)),
    ((1, 2, 4, 3), (0, 2)),
]
adaptive = pytest.mark.parametrize(("image", "output"), ADAPTIVE, ids=str)


def numbers(shape, dtype="float64", seed=0):
    return cases.draw(np.random.default_rng(seed), shape, dtype)


def channels_last_columns(columns, taps):
    """(*batch, c * K, L) as (*batch, L, K * c)."""
    split = columns.reshape(*columns.shape[:-2], -1, taps, columns.shape[-1])
    return np.moveaxis(split, (-3, -2, -1), (-1, -2, -3)).reshape(
        *columns.shape[:-2], columns.shape[-1], -1
    )


# Columns.


@pytest.mark.parametrize("case", COLUMNS, ids=ids(COLUMNS))
def test_unfold_equals_loops_in_both_layouts(case):
    x, window = case.arrays()[0], case.kernel[2:]
    want = oracles.unfold(one_batch(x, case.rank), window, **case.options)
    want = want.reshape(*x.shape[: -case.rank - 1], -1, want.shape[-1])
    np.testing.assert_array_equal(jc.unfold(x, window, **case.options), want)
    moved = jc.unfold(last(x, case.rank), window, layout=LAYOUTS[case.rank], **case.options)
    np.testing.assert_array_equal(moved, channels_last_columns(want, math.prod(window)))


@pytest.mark.parametrize("case", COLUMNS, ids=ids(COLUMNS))
def test_fold_is_the_adjoint_of_the_loops_in_both_layouts(case):
    window, spatial = case.kernel[2:], case.image[-case.rank :]
    plane = math.prod(spatial)
    basis = oracles.unfold(np.eye(plane).reshape(plane, 1, *spatial), window, **case.options)[:, 0]
    columns = numbers((2, 3, *basis.shape[1:]))
    want = np.tensordot(columns, basis, ((2, 3), (1, 2))).reshape(2, 3, *spatial)
    flat = columns.reshape(2, -1, columns.shape[-1])
    got = jc.fold(flat, spatial, window, **case.options)
    assert_close(got, want, TOLERANCE["float64"])
    options = {"layout": LAYOUTS[case.rank], **case.options}
    moved = jc.fold(channels_last_columns(flat, math.prod(window)), spatial, window, **options)
    assert_close(first(moved, case.rank), want, TOLERANCE["float64"])


@pytest.mark.parametrize("layout", [None, "NHWC"])
def test_conv_is_a_matrix_product_with_columns(layout):
    x, w = numbers((2, 3, 6, 7)), numbers((4, 3, 3, 2), seed=1)
    options: dict[str, Any] = {"stride": (2, 1), "padding": 1, "dilation": (1, 2)}
    want = jc.conv(x, w, **options)
    if layout is None:
        got = w.reshape(4, -1) @ jc.unfold(x, (3, 2), **options)
    else:
        w = np.asarray(cases.kernel_last(w))
        columns = jc.unfold(last(x, 2), (3, 2), layout=layout, **options)
        got = jnp.swapaxes(columns @ w.reshape(-1, 4), 1, 2)
    assert_close(got.reshape(want.shape), want, 1e-13)


def test_columns_of_long_windows():
    """Beyond the longest window whose taps are slices of their own."""
    x = numbers((1, 2, 40))
    options: dict[str, Any] = {"stride": 3, "padding": (3,), "dilation": 2}
    want = oracles.unfold(x, (17,), **options)
    np.testing.assert_array_equal(jc.unfold(x, (17,), **options).reshape(want.shape), want)
    flat = numbers((1, 34, want.shape[-1]))
    back = jax.linear_transpose(lambda x: jc.unfold(x, (17,), **options), x)(flat)[0]
    assert_close(jc.fold(flat, (40,), (17,), **options), back, 1e-13)
    assert_close(np.vdot(back, x), np.vdot(flat, want), 1e-12)


@pytest.mark.parametrize("dtype", [*FLOATS, "int8", "uint32"])
def test_columns_keep_their_dtype(dtype):
    x = numbers((2, 3, 5), dtype)
    columns = jc.unfold(x, (2,), dilation=2)
    assert columns.dtype == dtype
    want = oracles.unfold(x, (2,), dilation=2).reshape(columns.shape)
    np.testing.assert_array_equal(columns, want)
    folded = jc.fold(columns, (5,), (2,), dilation=2)
    assert folded.dtype == dtype
    assert_close(folded, x * np.asarray([1, 1, 2, 1, 1], dtype), TOLERANCE.get(dtype, 0))


@pytest.mark.parametrize("case", [COLUMNS[4], COLUMNS[-1]], ids=str)
def test_derivatives_of_columns(case):
    x, window, spatial = case.arrays()[0], case.kernel[2:], case.image[-case.rank :]
    check_grads(lambda x: jc.unfold(x, window, **case.options) ** 2, (x,), **DIFFERENCES)
    columns = np.cos(jc.unfold(x, window, **case.options))
    fold = lambda columns: jc.fold(columns, spatial, window, **case.options) ** 2
    check_grads(fold, (columns,), **DIFFERENCES)


def test_fold_sums_half_precision_in_float32():
    """4096 ones on one element: a bfloat16 sum would stop at 256."""
    columns = jnp.ones((4096, 4096), "bfloat16")
    folded = jc.fold(columns, (1,), (4096,), padding=4095)
    assert folded.dtype == "bfloat16"
    assert folded.tolist() == [[4096.0]]
    spread = jax.grad(lambda x: jc.unfold(x, (4096,), padding=4095).astype("float32").sum())
    assert spread(jnp.ones((1, 1), "bfloat16"))[0, 0] == 4096


# Adaptive pools.


@pytest.mark.thinned(5)
@adaptive
def test_adaptive_pools_equal_loops_in_both_layouts(image, output):
    rank = len(output)
    x = numbers(image)
    flat = one_batch(x, rank)
    mean = jc.adaptive_avg_pool(x, output)
    want = oracles.adaptive_avg_pool(flat, output)
    assert mean.shape == (*x.shape[:-rank], *want.shape[2:])
    assert_close(mean.reshape(want.shape), want, TOLERANCE["float64"])
    moved = jc.adaptive_avg_pool(last(x, rank), output, layout=LAYOUTS[rank])
    assert_close(first(moved, rank), mean, TOLERANCE["float64"])

    values, index = oracles.adaptive_max_pool(np.round(flat), output)
    both: dict[str, Any] = {"return_indices": True}
    got = jc.adaptive_max_pool(np.round(x), output, **both)
    moved = jc.adaptive_max_pool(last(np.round(x), rank), output, layout=LAYOUTS[rank], **both)
    for one, two, wanted in zip(got, moved, (values, index), strict=True):
        np.testing.assert_array_equal(one.reshape(wanted.shape), wanted)
        np.testing.assert_array_equal(first(two, rank), one)
    assert got[1].dtype == np.int32
    np.testing.assert_array_equal(jc.adaptive_max_pool(np.round(x), output), got[0])


@pytest.mark.thinned(9)
@pytest.mark.parametrize("pool", [jc.adaptive_avg_pool, jc.adaptive_max_pool])
@adaptive
def test_derivatives_of_adaptive_pools(image, output, pool):
    x = distinct(numbers(image))
    check_grads(lambda x: pool(x, output) ** 2, (x,), **DIFFERENCES)


@pytest.mark.parametrize("dtype", [*FLOATS, "int8", "uint32"])
def test_adaptive_pools_in_each_dtype(dtype):
    x = numbers((2, 3, 7), dtype)
    kind = np.dtype(getattr(jnp, dtype)).kind
    wide = np.asarray(x).astype(complex if kind == "c" else float)
    mean = jc.adaptive_avg_pool(x, (3,))
    assert mean.dtype == ("float64" if kind in "iu" else dtype)
    want = oracles.adaptive_avg_pool(wide, (3,))
    assert_close(mean, want, TOLERANCE[str(mean.dtype)])
    if kind != "c":
        greatest = jc.adaptive_max_pool(x, (3,))
        assert greatest.dtype == dtype
        np.testing.assert_array_equal(greatest, oracles.adaptive_max_pool(np.asarray(x), (3,))[0])


def test_adaptive_means_sum_half_precision_in_float32():
    x = jnp.ones((1, 4095), "bfloat16")
    assert jc.adaptive_avg_pool(x, (2,)).tolist() == [[1.0, 1.0]]
    narrow = jnp.ones((1, 1), "bfloat16")
    many = jax.grad(lambda x: jc.adaptive_avg_pool(x, (4095,)).astype("float32").sum())
    assert many(narrow)[0, 0] == 4096  # 4095 rounded once


def test_adaptive_ties_go_to_the_first():
    x = np.zeros((1, 1, 5, 5))
    x[0, 0, 3, 2:4] = np.nan
    for values in (np.zeros((1, 1, 5, 5)), x, np.full((1, 1, 5, 5), -np.inf)):
        _, index = oracles.adaptive_max_pool(values, (3, 2))
        dy = np.arange(1.0, 7.0).reshape(1, 1, 3, 2)
        want = np.zeros(25)
        np.add.at(want, index.ravel(), dy.ravel())
        pulled = jax.vjp(lambda x: jc.adaptive_max_pool(x, (3, 2)), values)[1](dy)[0]
        np.testing.assert_array_equal(pulled.ravel(), want)


# The p-norm.


@pytest.mark.thinned(11)
@pytest.mark.parametrize("p", [1, 2.0, 1.5, 3, math.inf])
@pytest.mark.parametrize("case", POOL, ids=ids(POOL))
def test_lp_pool_equals_loops(case, p):
    x = case.array()
    want = oracles.lp_pool(one_batch(x, case.rank), case.window, p, **case.options)
    y = jc.lp_pool(x, case.window, p, **case.options)
    assert y.shape == (*x.shape[: -case.rank], *want.shape[2:])
    assert_close(y.reshape(want.shape), want, TOLERANCE["float64"])
    moved = last(x, case.rank)
    y_last = jc.lp_pool(moved, case.window, p, layout=LAYOUTS[case.rank], **case.options)
    assert_close(first(y_last, case.rank), y, TOLERANCE["float64"])


@pytest.mark.thinned(5)
@pytest.mark.parametrize("p", [1, 2, 2.5, 3, 4, 0.5, np.inf, np.float32(1.5)], ids=str)
def test_derivatives_of_lp_pool(p):
    x = distinct(numbers((1, 2, 5, 6))) + 1 / 32
    pool = lambda x: jc.lp_pool(x, (2, 3), p, stride=1, padding=1)
    check_grads(pool, (x,), order=2, modes=["fwd", "rev"], atol=1e-4, rtol=1e-4, eps=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "uint32"])
@pytest.mark.parametrize("p", [1, 2, 1.5, math.inf])
def test_lp_pool_in_each_dtype(dtype, p):
    x = numbers((2, 3, 7), dtype)
    if dtype in ("int8", "uint32"):
        x = x % 100
    y = jc.lp_pool(x, (3,), p)
    assert y.dtype == ("float64" if dtype in ("int8", "uint32") else dtype)
    want = oracles.lp_pool(np.asarray(x).astype(float), (3,), p)
    assert_close(y, want, TOLERANCE[str(y.dtype)])


def test_lp_pool_of_zeros_has_derivative_zero():
    x = np.asarray([[0.0, 0.0, 3.0, 0.0, -4.0, 0.0]])
    with jax.debug_nans(True):
        for p in (1, 1.5, 2, 3, math.inf):
            pool = lambda x, p=p: jc.lp_pool(x, (2,), p)
            np.testing.assert_allclose(pool(x), [[0, 3, 4]])
            want = np.zeros((3, 6))
            want[1, 2], want[2, 4] = 1, -1
            for jacobian in (jax.jacfwd(pool), jax.jacrev(pool)):
                np.testing.assert_allclose(jacobian(x).reshape(3, 6), want, atol=1e-15)
            assert np.isfinite(jax.hessian(lambda x, pool=pool: pool(x).sum())(x)).all()


def test_the_squares_second_derivative_at_zero_is_right():
    """At (0, 3) the norm's Hessian is diag(1/3, 0): an |x|**2 by powers would lose the 1/3."""
    hessian = jax.hessian(lambda x: jc.lp_pool(x, (2,)).sum())(np.asarray([[0.0, 3.0]]))
    np.testing.assert_allclose(hessian.reshape(2, 2), [[1 / 3, 0], [0, 0]], atol=1e-15)


# Unpooling.


@pytest.mark.thinned(5)
@pytest.mark.parametrize("case", POOL, ids=ids(POOL))
def test_max_unpool_puts_winners_back(case):
    x = case.array()
    spatial, rank = x.shape[-case.rank :], case.rank
    y, index = jc.max_pool(x, case.window, return_indices=True, **case.options)
    got = jc.max_unpool(y, index, spatial)
    want = oracles.max_unpool(one_batch(y, rank), one_batch(index, rank), spatial)
    np.testing.assert_array_equal(got.reshape(want.shape), want)
    moved = jc.max_unpool(last(y, rank), last(index, rank), spatial, layout=LAYOUTS[rank])
    np.testing.assert_array_equal(first(moved, rank), got)


def test_repeated_indices_keep_the_last_value_and_its_derivative():
    y, index = numbers((2, 3, 4, 5)), np.random.default_rng(1).integers(-1, 12, (2, 3, 4, 5))
    unpool = functools.partial(jc.max_unpool, indices=index, output_shape=(3, 4))
    want = oracles.max_unpool(y, index, (3, 4))
    np.testing.assert_array_equal(unpool(y), want)
    jacobian = jax.jacrev(unpool)(y).reshape(want.size, y.size)
    np.testing.assert_array_equal(jacobian, jax.jacfwd(unpool)(y).reshape(want.size, y.size))
    np.testing.assert_array_equal(jacobian @ y.ravel(), want.ravel())
    assert (jacobian.sum(axis=0) <= 1).all()
    check_grads(lambda y: unpool(y) ** 2, (y,), **DIFFERENCES)


@pytest.mark.parametrize("dtype", [*FLOATS, "int8", "uint32"])
def test_unpooling_keeps_the_dtype(dtype):
    y, index = numbers((1, 2), dtype), jnp.asarray([[3, 1]], "uint8")
    x = jc.max_unpool(y, index, (300,))
    assert x.dtype == dtype
    np.testing.assert_array_equal(x[0, np.asarray([3, 1])], y[0])
    assert not x[0, 4:].any()


def test_positions_outside_of_the_plane():
    """An error where they are known, left out where they are traced."""
    y = jnp.ones((1, 3))
    for bad in (4, -2, 2**40):
        index = np.asarray([[0, bad, 2]])
        with pytest.raises(ValueError, match=rf"^indices must be positions 0 to 3 .*got {bad}$"):
            jc.max_unpool(y, index, (4,))
        x = jax.jit(lambda y, index: jc.max_unpool(y, index, (4,)))(y, index)
        assert x.tolist() == [[1, 0, 1, 0]]
    assert jc.max_unpool(y, np.asarray([[0, -1, 2]]), (4,)).tolist() == [[1, 0, 1, 0]]


def test_vmap_over_indices_alone():
    y = numbers((2, 5))
    index = np.stack([np.random.default_rng(seed).permutation(6)[:5] for seed in range(3)])
    index = np.broadcast_to(index[:, None], (3, 2, 5))
    got = jax.vmap(lambda index: jc.max_unpool(y, index, (6,)))(index)
    np.testing.assert_array_equal(got, [jc.max_unpool(y, one, (6,)) for one in index])


# Odd input.

POOLS = {
    "max_pool": (lambda x: jc.max_pool(x, (2, 2), stride=1), (2, 2)),
    "min_pool": (lambda x: -jc.min_pool(-x, (2, 2), stride=1), (2, 2)),
    "avg_pool": (lambda x: jc.avg_pool(x, (2, 2), stride=1), (2, 2)),
    "lp_pool": (lambda x: jc.lp_pool(x, (2, 2), stride=1), (2, 2)),
    "lp_pool-inf": (lambda x: jc.lp_pool(x, (2, 2), math.inf, stride=1), (2, 2)),
    "adaptive_avg_pool": (lambda x: jc.adaptive_avg_pool(x, (2, 3)), None),
    "adaptive_max_pool": (lambda x: jc.adaptive_max_pool(x, (2, 3)), None),
    "unfold": (lambda x: jc.unfold(x, (2, 2)).reshape(2, 1, 4, 2, 3), (2, 2)),
}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", POOLS)
def test_non_finite_values_in_every_position(name, bad):
    """They reach the outputs whose windows hold them and no others, let alone another image.

    Whether one does is read off the finite function: where x counts, moving it moves y.
    """
    pool, _ = POOLS[name]
    plain = np.abs(distinct(numbers((2, 1, 3, 4)))) + 1
    for position in np.ndindex(*plain.shape):
        x = plain.copy()
        x[position] = 1e6
        touched = np.asarray(pool(x) != pool(plain))
        x[position] = bad
        y = np.asarray(pool(x))
        assert not touched[1 - position[0]].any()
        if bad == -np.inf and name in ("max_pool", "min_pool", "adaptive_max_pool"):
            np.testing.assert_array_equal(y[~touched], np.asarray(pool(plain))[~touched])
            assert (y[touched] > -np.inf).all()
        else:
            np.testing.assert_array_equal(~np.isfinite(y), touched)
            assert (np.isnan(y) == (touched & np.isnan(bad))).all()


@pytest.mark.parametrize("image", [(0, 2, 4, 5), (2, 0, 4, 5), (0, 3, 2, 4, 5)], ids=str)
def test_empty_batches_and_channels(image):
    x = jnp.ones(image)
    batch = image[:-2]
    assert jc.adaptive_avg_pool(x, (3, 2)).shape == (*batch, 3, 2)
    assert jc.adaptive_max_pool(x, (3, 2), return_indices=True)[1].shape == (*batch, 3, 2)
    assert jc.lp_pool(x, (2, 2)).shape == (*batch, 2, 2)
    columns = jc.unfold(x, (2, 2))
    assert columns.shape == (*image[:-3], image[-3] * 4, 12)
    assert jc.fold(columns, (4, 5), (2, 2)).shape == image
    y, index = jc.max_pool(x, (2, 2), return_indices=True)
    assert jc.max_unpool(y, index, (4, 5)).shape == image
    for function in (
        lambda x: jc.adaptive_max_pool(x, (3, 2)),
        lambda x: jc.unfold(x, (2, 2)),
        lambda x: jc.lp_pool(x, (2, 2)),
    ):
        assert jax.grad(lambda x, f=function: (f(x) ** 2).sum())(x).shape == image


def test_unpooling_into_nothing():
    empty = jnp.ones((2, 0)), jnp.ones((2, 0), int)
    assert jc.max_unpool(*empty, (0,)).shape == (2, 0)
    assert jc.max_unpool(*empty, (3,)).tolist() == [[0, 0, 0], [0, 0, 0]]
    traced = jax.jit(lambda y, index: jc.max_unpool(y, index, (2, 0)))
    assert traced(jnp.ones((2, 3, 2)), jnp.ones((2, 3, 2), int)).shape == (2, 2, 0)


def test_one_taps_dilation_may_be_any_number():
    x = jnp.arange(60.0).reshape(2, 1, 5, 6)
    for dilation in (2**31 - 1, 2**30):
        y, where = jc.max_pool(x, (1, 1), dilation=(dilation, 2), return_indices=True)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(where, np.broadcast_to(np.arange(30).reshape(5, 6), x.shape))
