"""`jaxconv.gradients`: against the trilinear oracle, `jax.vjp`, and the notes' sums as loops.

The oracles know nothing of correlation, rotation or padding rules: the form's tensor of incidences,
and every window of a pool one by one.
"""

import ast
import functools
import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import CONV, LAYOUTS, MODES, POOL, TOLERANCE, assert_close, draw, ids
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads
from test_properties import EXAMPLES, REFUSED_POOL, layers, numbers, poolings

import jaxconv as jc
from jaxconv import gradients

pytestmark = pytest.mark.usefixtures("quick_compile")

EACH_LAYOUT = pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])


class Conv:
    """A call of `conv` with an error, and the oracle's gradients, all in the layout asked for."""

    def __init__(self, x, w, options, channels_last=False, dtype="float64"):
        rank = w.ndim - 2
        form = oracles.conv_form(x.shape[-rank:], w.shape[2:], **options)
        wide = complex if np.iscomplexobj(x) else float
        flat, kernel = cases.one_batch(x, rank).astype(wide), np.asarray(w).astype(wide)
        outputs = [len(incidence) for incidence in form.incidences]
        dy = draw(np.random.default_rng(7), (len(flat), len(w), *outputs), dtype)
        error = dy.astype(wide)
        self.dx = form.project("x", y=error, w=kernel).reshape(x.shape)
        self.dw = form.project("w", x=flat, y=error)
        self.db = error.sum((0, *range(2, error.ndim)))
        self.x, self.w = x, w
        self.dy = dy.reshape(*x.shape[: -rank - 1], *dy.shape[1:])
        self.layout = LAYOUTS[rank] if channels_last else f"NC{'DHW'[-rank:]}"
        if channels_last:
            for name in ("x", "dx", "dy"):
                setattr(self, name, cases.last(getattr(self, name), rank))
            self.w, self.dw = cases.kernel_last(self.w), cases.kernel_last(self.dw)
        self.options = {**options, "layout": self.layout}

    def gradients(self, x, w, dy):
        """Of the kernel, the input and the bias, as the closed forms have them."""
        return (
            gradients.conv_kernel_grad(x, dy, w.shape, **self.options),
            gradients.conv_input_grad(dy, w, x.shape, **self.options),
            gradients.conv_bias_grad(dy, layout=self.layout),
        )

    def pulled(self, x, w, dy):
        """The same as `jax.vjp` has them."""
        bias = jnp.zeros(self.db.shape, w.dtype)
        dx, dw, db = jax.vjp(functools.partial(jc.conv, **self.options), x, w, bias)[1](dy)
        return dw, dx, db

    @property
    def arrays(self):
        return self.x, self.w, self.dy

    @property
    def wanted(self):
        return self.dw, self.dx, self.db


# The convolution's gradients.


@pytest.mark.thinned(9)
@EACH_LAYOUT
@pytest.mark.parametrize("case", CONV + MODES, ids=ids(CONV + MODES))
def test_conv_gradients(case, channels_last):
    x, w, _ = case.arrays()
    call = Conv(x, w, case.options, channels_last)
    both = jax.jit(lambda *arrays: (call.gradients(*arrays), call.pulled(*arrays)))
    got, pulled = both(*call.arrays)
    for one, want, other in zip(got, call.wanted, pulled, strict=True):
        assert_close(one, want, 1e-12)
        assert_close(one, other, 1e-12)


def test_the_notes_sums_on_one_image():
    """dW[a,b] = sum_ij delta[i,j] X[i+a,j+b]; dX[s,t] = sum_ij W[s-i,t-j] delta[i,j], W zero
    outside: the full correlation of delta with rot180 W; dB = sum_ij delta[i,j]."""
    rng = np.random.default_rng(0)
    X, W, delta = (rng.normal(size=size) for size in ((5, 7), (3, 2), (3, 6)))
    dW, dX, full = np.zeros_like(W), np.zeros_like(X), np.zeros_like(X)
    for (i, j), (a, b) in itertools.product(np.ndindex(3, 6), np.ndindex(3, 2)):
        dW[a, b] += delta[i, j] * X[i + a, j + b]
    for (s, t), (i, j) in itertools.product(np.ndindex(5, 7), np.ndindex(3, 6)):
        if 0 <= s - i < 3 and 0 <= t - j < 2:
            dX[s, t] += W[s - i, t - j] * delta[i, j]
    wide, rot180 = np.pad(delta, ((2, 2), (1, 1))), W[::-1, ::-1]
    for (s, t), (a, b) in itertools.product(np.ndindex(5, 7), np.ndindex(3, 2)):
        full[s, t] += wide[s + a, t + b] * rot180[a, b]
    got = gradients.conv_kernel_grad(X[None], delta[None], (1, 1, 3, 2))[0, 0]
    assert_close(got, dW, 1e-14)
    got = gradients.conv_input_grad(delta[None], W[None, None], (1, 5, 7))[0]
    assert_close(got, dX, 1e-14)
    assert_close(got, full, 1e-14)
    assert_close(gradients.conv_bias_grad(delta[None, None], layout=None), delta.sum()[None], 1e-14)


def test_the_notes_sums_with_channels():
    """dW[p,d] = corr(X[d], delta[p]); dX[d] = sum_p full(delta[p], rot180 W[p,d])."""
    rng = np.random.default_rng(1)
    X, W, delta = (rng.normal(size=size) for size in ((2, 4, 5), (3, 2, 2, 3), (3, 3, 3)))
    dW = [[jc.corr2d(X[d], delta[p]) for d in range(2)] for p in range(3)]
    assert_close(gradients.conv_kernel_grad(X, delta, W.shape), np.array(dW), 1e-14)
    turned = [[jc.corr2d(np.pad(delta[p], ((1, 1), (2, 2))), W[p, d, ::-1, ::-1]) for d in range(2)]
              for p in range(3)]  # fmt: skip
    assert_close(gradients.conv_input_grad(delta, W, X.shape), np.sum(turned, axis=0), 1e-14)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_bias_gradient(rank, batch):
    """In every layout, with any number of batch axes; a bias per pair gets the sum in each."""
    sizes = (3, 2, 4)[:rank]
    dy = draw(np.random.default_rng(rank), (*batch, 4, *sizes), "float64")
    want = dy.sum(tuple(axis for axis in range(dy.ndim) if axis != len(batch)))
    got = gradients.conv_bias_grad(dy, layout=f"NC{'DHW'[-rank:]}")
    assert_close(got, want, 1e-14)
    moved = cases.last(dy, rank)
    assert_close(gradients.conv_bias_grad(moved, layout=LAYOUTS[rank]), want, 1e-14)
    if len(batch) == 1:
        assert_close(gradients.conv_bias_grad(dy, layout=None), want, 1e-14)
    image, kernel = np.zeros((*batch, 2, *sizes)), np.zeros((4, 2, *(1,) * rank))
    pairs = jax.vjp(lambda bias: jc.conv(image, kernel, bias), np.zeros((4, 2)))[1](dy)[0]
    assert_close(pairs, np.stack([got, got], axis=1), 1e-14)


# The pools' up().


def spread(dy, shape, window, *, count_include_pad=True, divisor_override=None, **options):
    """Each error over the elements of its window, in equal shares: window after window."""
    windows = oracles.Windows(shape[2:], window, **options)
    dx = np.zeros(shape)
    for n, c, *i in np.ndindex(*dy.shape):
        held = windows.elements(i)
        count = windows.counted(i) if count_include_pad else len(held)
        for position in held:
            dx[(n, c, *position)] += dy[(n, c, *i)] / (divisor_override or count)
    return dx


def place(dy, index, shape):
    """Each error to the position that its window's winner has; -1 nowhere."""
    dx = np.zeros((*shape[:2], math.prod(shape[2:])))
    for n, c, *i in np.ndindex(*dy.shape):
        if index[(n, c, *i)] >= 0:
            dx[n, c, index[(n, c, *i)]] += dy[(n, c, *i)]
    return dx.reshape(shape)


def in_layout(function, rank, channels_last, *images, **options):
    """The result, channels first, of a call in one layout or the other."""
    if not channels_last:
        return function(*images, **options)
    moved = (cases.last(image, rank) for image in images)
    return cases.first(function(*moved, layout=LAYOUTS[rank], **options), rank)


def up(name, window, channels_last=False, **options):
    """`max_pool_grad` or `avg_pool_grad` as functions of x and dy, channels first."""

    def call(x, dy, **options):
        if name == "max":
            return gradients.max_pool_grad(x, dy, window, **options)
        return gradients.avg_pool_grad(dy, x.shape, window, **options)

    return lambda x, dy: in_layout(call, len(window), channels_last, x, dy, **options)


def pulled(pool, window, channels_last=False, **options):
    """The same by `jax.vjp`."""
    call = lambda x, **options: pool(x, window, **options)
    forward = lambda x: in_layout(call, len(window), channels_last, x, **options)
    return lambda x, dy: jax.vjp(forward, x)[1](dy)[0]


@pytest.mark.thinned(9)
@pytest.mark.parametrize("kind", ["first", "last", "ties"])
@pytest.mark.parametrize("case", POOL, ids=ids(POOL))
def test_max_pool_gradient(case, kind):
    x = np.round(case.array()) if kind == "ties" else case.array()
    flat = cases.one_batch(x, case.rank)
    value, index = oracles.max_pool(flat, case.window, **case.options)
    dy = numbers(value.shape, 3)
    want = place(dy, index, flat.shape).reshape(x.shape)
    dy = dy.reshape(*x.shape[: -case.rank], *value.shape[2:])
    closed = up("max", case.window, kind == "last", **case.options)
    vjp = pulled(jc.max_pool, case.window, **case.options)
    got, other = jax.jit(lambda x, dy: (closed(x, dy), vjp(x, dy)))(x, dy)
    assert_close(got, want, 1e-12)
    assert_close(got, other, 1e-12)


DIVISORS = [{}, {"count_include_pad": False}, {"divisor_override": -3}]


@pytest.mark.thinned(9)
@EACH_LAYOUT
@pytest.mark.parametrize("case", POOL, ids=ids(POOL))
def test_avg_pool_gradient(case, channels_last):
    x = case.array()
    flat = cases.one_batch(x, case.rank)
    sizes = oracles.Windows(flat.shape[2:], case.window, **case.options).sizes
    errors = numbers((*flat.shape[:2], *sizes), 3)
    dy = errors.reshape(*x.shape[: -case.rank], *sizes)
    every = [{**case.options, **divisor} for divisor in DIVISORS]
    closed = [up("avg", case.window, channels_last, **options) for options in every]
    vjps = [pulled(jc.avg_pool, case.window, **options) for options in every]
    both = jax.jit(lambda x, dy: [[function(x, dy) for function in all] for all in (closed, vjps)])
    for got, other, options in zip(*both(x, dy), every, strict=True):
        want = spread(errors, flat.shape, case.window, **options).reshape(x.shape)
        assert_close(got, want, 1e-12)
        assert_close(got, other, 1e-12)


@pytest.mark.parametrize("dilation", [1, 2])
def test_up_goes_to_the_first_winner(dilation):
    """Equal values everywhere, NaNs, and -inf only: one winner in each window, the first."""
    flat = np.zeros((1, 1, 7, 6))
    flat[0, 0, 3, 2:4] = np.nan
    options = {"stride": (1, 2), "padding": 1, "dilation": dilation}
    for x in (np.zeros((1, 1, 7, 6)), flat, np.full((1, 1, 7, 6), -np.inf)):
        value, index = oracles.max_pool(x, (3, 2), **options)
        dy = np.arange(1.0, value.size + 1).reshape(value.shape)
        got = gradients.max_pool_grad(x, dy, (3, 2), **options)
        np.testing.assert_array_equal(got, place(dy, index, x.shape))


def test_no_winner_takes_nothing():
    """Two windows of three hold padding only; their errors, even NaN, go nowhere."""
    x, dy = jnp.asarray([[5.0]]), jnp.asarray([[2.0, jnp.nan, jnp.nan, 3.0]])
    options: dict[str, Any] = {"stride": 1, "padding": 3, "dilation": 3}
    value = jc.max_pool(x, (2,), **options)
    assert value.tolist() == [[5.0, -math.inf, -math.inf, 5.0]]
    assert gradients.max_pool_grad(x, dy, (2,), **options).tolist() == [[5.0]]


@pytest.mark.parametrize("error", [2.0, 0.0, math.inf, math.nan])
def test_an_average_of_nothing_takes_nothing(error):
    """Its count is 0 and its value NaN, yet no element is due a share: as `jax.vjp` has it."""
    options: dict[str, Any] = {"stride": 1, "padding": 3, "dilation": 3, "count_include_pad": False}
    dy = jnp.asarray([[2.0, error, error, 3.0]])
    value, pull = jax.vjp(lambda x: jc.avg_pool(x, (2,), **options), jnp.ones((1, 1)))
    assert np.isnan(value).tolist() == [[False, True, True, False]]
    got = gradients.avg_pool_grad(dy, (1, 1), (2,), **options)
    assert got.tolist() == pull(dy)[0].tolist() == [[5.0]]
    if error == 0:  # and no 0/0 on the way there
        with jax.disable_jit(), jax.debug_nans(True):
            assert gradients.avg_pool_grad(dy, (1, 1), (2,), **options).tolist() == [[5.0]]


@pytest.mark.parametrize("error", [math.inf, math.nan])
def test_what_is_not_finite_stays_where_it_belongs(error):
    """One such error, everywhere in turn: it is in the gradients of what its window holds and of
    its own channel's kernel and bias, and nowhere else."""
    x, w = numbers((2, 1, 5), 0), numbers((2, 1, 2), 1)
    options: dict[str, Any] = {"stride": 2, "padding": 1, "algorithm": "direct"}
    call = Conv(x, w, {"stride": 2, "padding": 1})
    pool: dict[str, Any] = {"stride": 2, "padding": ((1, 1),)}
    for n, p, i in np.ndindex(*call.dy.shape):
        dy = np.copy(call.dy)
        dy[n, p, i] = error
        held = [t for t in (2 * i - 1, 2 * i) if 0 <= t < 5]
        touched = np.zeros(x.shape, bool)
        touched[n, 0, held] = True
        dx = gradients.conv_input_grad(dy, w, x.shape, **options)
        np.testing.assert_array_equal(~np.isfinite(dx), touched)
        dw = gradients.conv_kernel_grad(x, dy, w.shape, **options)
        assert not np.isfinite(dw[p]).all()
        assert np.isfinite(dw[1 - p]).all()
        db = gradients.conv_bias_grad(dy, layout="NCW")
        assert np.isfinite(db).tolist() == [p == 1, p == 0]
        spread = gradients.avg_pool_grad(dy[:, :1], x.shape, (2,), **pool)
        np.testing.assert_array_equal(~np.isfinite(spread), touched & (p == 0))
        placed = gradients.max_pool_grad(x, dy[:, :1], (2,), **pool)
        assert (~np.isfinite(placed)).sum() == (p == 0)
        assert not np.isfinite(placed[touched]).all() or p == 1


# Types.

EVERYTHING = next(case for case in CONV if case.id == "all-2d")
COPYING = [next(case for case in MODES if case.id == f"{mode}-uneven")
           for mode in ("reflect", "replicate", "circular")]  # fmt: skip
FLOATS = ["float64", "float32", "bfloat16", "float16", "complex64", "complex128"]


@pytest.mark.thinned(9)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", [EVERYTHING, *COPYING], ids=ids([EVERYTHING, *COPYING]))
def test_floats_and_complex_keep_their_dtype(case, dtype):
    """Half precision is rounded once; complex numbers are not conjugated."""
    x, w, _ = case.arrays(dtype)
    call = Conv(x, w, case.options, dtype=dtype)
    for got, want in zip(call.gradients(*call.arrays), call.wanted, strict=True):
        assert got.dtype == dtype
        assert_close(got, want, TOLERANCE[dtype])


@pytest.mark.thinned(3)
@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8"])
@pytest.mark.parametrize("case", [EVERYTHING, *COPYING], ids=ids([EVERYTHING, *COPYING]))
def test_integers_are_exact_and_wrap(case, dtype):
    rng = np.random.default_rng(0)
    x, w = (rng.integers(0, 100, shape).astype(dtype) for shape in (case.image, case.kernel))
    call = Conv(x, w, case.options, dtype=dtype)
    for got, want in zip(call.gradients(*call.arrays), call.wanted, strict=True):
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want.astype("int64").astype(dtype))


@pytest.mark.parametrize("dtype", [*FLOATS[:4], "int32"])
def test_pools_keep_the_errors_dtype(dtype):
    case = next(case for case in POOL if case.id == "ceil-padding")
    x = case.array()
    value, index = oracles.max_pool(x, case.window, **case.options)
    dy = draw(np.random.default_rng(5), value.shape, dtype)
    if dtype == "int32":
        dy = dy % 100
    got = gradients.max_pool_grad(x, dy, case.window, **case.options)
    assert got.dtype == dtype
    assert_close(got, place(dy.astype(float), index, x.shape), TOLERANCE.get(dtype, 0))
    for divisor in DIVISORS:
        options = {**case.options, **divisor}
        got = gradients.avg_pool_grad(dy, x.shape, case.window, **options)
        mean = "float64" if dtype == "int32" else dtype
        assert got.dtype == mean
        want = spread(dy.astype(float), x.shape, case.window, **options)
        assert_close(got, want, TOLERANCE[mean])
        if dtype in ("bfloat16", "float16"):  # the shares are not rounded, the sum is, and once
            np.testing.assert_array_equal(got, want.astype(got.dtype))


def test_means_of_complex_numbers():
    dy = np.asarray([[2.0 + 6j, 4.0 - 2j]])
    for options in ({}, {"count_include_pad": False, "padding": ((1, 0),)}):
        n = 4 - len(options) // 2
        got = gradients.avg_pool_grad(dy, (1, n), (2,), **options)
        want = [1 + 3j, 1 + 3j, 2 - 1j, 2 - 1j] if not options else [2 + 6j, 2 - 1j, 2 - 1j]
        assert got.tolist() == [want]


def test_half_precision_is_summed_in_float32():
    """Sums that a bfloat16 accumulator gets wrong: it stays at 256."""
    one, long, wide = (jnp.ones(shape, "bfloat16") for shape in ((1, 1), (1, 8192), (8192, 1, 1)))
    kernel = jnp.ones((1, 1, 1), "bfloat16")
    assert gradients.conv_kernel_grad(long, long, (1, 1, 1)).tolist() == [[[8192]]]
    assert gradients.conv_input_grad(wide[:, 0], wide, (1, 1)).tolist() == [[8192]]
    assert gradients.conv_bias_grad(long, layout="NCW").tolist() == [8192]
    # 1 of the element's own and 257 of its copies, which bfloat16 would round to 256.
    copies: dict[str, Any] = {"padding": ((257, 0),), "padding_mode": "replicate"}
    errors = jnp.ones((1, 258), "bfloat16")
    assert gradients.conv_input_grad(errors, kernel, (1, 1), **copies).tolist() == [[258]]
    pool: dict[str, Any] = {"padding": 4095, "stride": 1}
    errors = jnp.ones((1, 4096), "bfloat16")
    assert gradients.max_pool_grad(one, errors, (4096,), **pool).tolist() == [[4096]]
    assert gradients.avg_pool_grad(errors, (1, 1), (4096,), **pool).tolist() == [[1]]


def test_preferred_element_type():
    """What `conv` gives for it is the error: no promotion is asked for, none is refused."""
    x, w, _ = EVERYTHING.arrays("bfloat16")
    options = {**EVERYTHING.options, "preferred_element_type": "float32"}
    dy = np.asarray(jc.conv(x, w, **options))
    assert dy.dtype == "float32"
    form = oracles.conv_form(x.shape[2:], w.shape[2:], **EVERYTHING.options)
    dw = gradients.conv_kernel_grad(x, dy, w.shape, **options)
    dx = gradients.conv_input_grad(dy, w, x.shape, **options)
    assert dw.dtype == dx.dtype == "float32"
    wide = {"x": x.astype(float), "w": w.astype(float), "y": dy.astype(float)}
    assert_close(dw, form.project("w", x=wide["x"], y=wide["y"]), 2e-6)
    assert_close(dx, form.project("x", w=wide["w"], y=wide["y"]), 2e-6)
    line, errors = np.full((1, 2), 100, "int8"), np.full((1, 2), 100, "int8")
    dw = gradients.conv_kernel_grad(line, errors, (1, 1, 1), preferred_element_type="int32")
    assert dw.tolist() == [[[20000]]]


def test_dtypes_promote():
    x, dy, w = np.ones((1, 4), "int32"), np.ones((1, 3), "float32"), np.ones((1, 1, 2), "float16")
    with jax.numpy_dtype_promotion("standard"):
        assert gradients.conv_kernel_grad(x, dy, w.shape).dtype == "float32"
        assert gradients.conv_input_grad(dy, w, x.shape).dtype == "float32"
        assert gradients.conv_input_grad(w[0, :, :1], dy[None], (1, 3)).dtype == "float32"
    with pytest.raises(jax.dtypes.TypePromotionError):
        gradients.conv_kernel_grad(x, dy, w.shape)
    # x is only looked at, so that there is nothing to promote.
    assert gradients.max_pool_grad(x, dy[:, :2], (2,)).dtype == "float32"


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("precision", [None, "highest"])
def test_numerics_reach_the_convolution(mode, precision):
    """Seen in the programs as they are traced."""
    x, w = jnp.ones((2, 2, 6), "float32"), jnp.ones((3, 2, 3), "float32")
    dy = jnp.ones((2, 3, 6), "float32")
    options: dict[str, Any] = {"padding": 1, "padding_mode": mode, "precision": precision}
    options["algorithm"] = "direct"
    for function in (
        lambda x, w, dy: gradients.conv_kernel_grad(x, dy, w.shape, **options),
        lambda x, w, dy: gradients.conv_input_grad(dy, w, x.shape, **options),
    ):
        program = str(jax.make_jaxpr(function)(x, w, dy))
        assert ("HIGHEST" in program) == (precision == "highest")
        assert "algorithm='direct'" in program


# Transformations.

X, W = numbers((2, 4, 5, 6), 0), numbers((6, 2, 3, 2), 1)
DY, POOLED = numbers((2, 6, 3, 3), 2), numbers((2, 4, 2, 3), 3)
STRIDED: dict[str, Any] = {"stride": 2, "padding": ((1, 1), (1, 0)), "groups": 2}
FUNCTIONS = {
    "conv_kernel_grad": (
        lambda x, dy: gradients.conv_kernel_grad(x, dy, W.shape, **STRIDED), (X, DY)
    ),
    "conv_kernel_grad-reflect": (
        lambda x, dy: gradients.conv_kernel_grad(
            x, dy, W.shape, padding_mode="reflect", **STRIDED
        ),
        (X, DY),
    ),
    "conv_input_grad": (
        lambda dy, w: gradients.conv_input_grad(dy, w, (*dy.shape[:-3], 4, 5, 6), **STRIDED),
        (DY, W),
    ),
    "conv_input_grad-reflect": (
        lambda dy, w: gradients.conv_input_grad(
            dy, w, (*dy.shape[:-3], 4, 5, 6), padding_mode="reflect", **STRIDED
        ),
        (DY, W),
    ),
    "conv_bias_grad": (lambda dy: gradients.conv_bias_grad(dy, layout="NCHW"), (DY,)),
    "max_pool_grad": (lambda x, dy: gradients.max_pool_grad(x, dy, (2, 2)), (X, POOLED)),
    "avg_pool_grad": (
        lambda dy: gradients.avg_pool_grad(dy, (*dy.shape[:-3], 4, 5, 6), (2, 2)), (POOLED,)
    ),
}  # fmt: skip
each_function = pytest.mark.parametrize("name", FUNCTIONS)


@pytest.mark.thinned(3)
@each_function
def test_jit_vmap_and_eval_shape(name):
    function, operands = FUNCTIONS[name]
    want = function(*operands)
    assert_close(jax.jit(function)(*operands), want, 1e-14)
    with jax.disable_jit():
        assert_close(function(*operands), want, 1e-14)
    assert jax.eval_shape(function, *operands) == jax.ShapeDtypeStruct(want.shape, want.dtype)
    copies = [np.stack([value, np.sin(value), -value], -1) for value in operands]
    for shared in range(len(operands)):
        axes = [None if at == shared and at else -1 for at in range(len(operands))]
        stacked = [
            value if axis is None else copy
            for value, copy, axis in zip(operands, copies, axes, strict=True)
        ]
        got = jax.vmap(function, axes)(*stacked)
        for at in range(3):
            one = [v if axis is None else v[..., at] for v, axis in zip(stacked, axes, strict=True)]
            assert_close(got[at], function(*one), 1e-13)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", list(FUNCTIONS)[1::2] + list(FUNCTIONS)[4::2])
def test_themselves_differentiable(name):
    """To second order both ways; a winner's position is no function to differentiate."""
    function, operands = FUNCTIONS[name]
    operands = [cases.distinct(value) if name == "max_pool_grad" else value for value in operands]
    check_grads(function, operands, order=2, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


@each_function
def test_exported_with_a_symbolic_batch(name):
    function, operands = FUNCTIONS[name]
    (n,) = export.symbolic_shape("n")
    symbolic = [
        jax.ShapeDtypeStruct(value.shape if value is W else (n, *value.shape[1:]), value.dtype)
        for value in operands
    ]
    exported = export.export(jax.jit(function))(*symbolic)
    assert_close(exported.call(*operands), function(*operands), 1e-14)


@each_function
@pytest.mark.parametrize("axis", [0, 1], ids=["batch", "channels"])
def test_explicit_shardings(name, axis):
    """Types that carry the sharding of an axis: what reshapes and scatters must say is said."""
    function, operands = FUNCTIONS[name]
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
    spec = PartitionSpec(*(None,) * axis, "data")
    with jax.set_mesh(mesh):
        placed = [jax.device_put(value, NamedSharding(mesh, spec)) for value in operands]
        got = jax.jit(function)(*placed)
    assert_close(got, function(*operands), 1e-14)


@pytest.mark.parametrize("empty", ["batch", "inputs", "outputs", "space"])
def test_nothing_at_all(empty):
    n, c_i, c_o, size = (
        0 if empty == name else 2 for name in ("batch", "inputs", "outputs", "space")
    )
    x, w = np.ones((n, 2 * c_i, size)), np.ones((2 * c_o, c_i, 2))
    call = Conv(x, w, {"groups": 2, "padding": 1})
    for got, want in zip(call.gradients(*call.arrays), call.wanted, strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.shape == want.shape
    dy = np.ones(jc.max_pool(x, (2,), stride=1, padding=1).shape)
    for name in ("max", "avg"):
        got = up(name, (2,), stride=1, padding=1)(x, dy)
        assert got.shape == x.shape
        assert np.isfinite(got).all()


# Configurations at random.


@settings(EXAMPLES, max_examples=cases.examples(10))
@given(layers())
def test_conv_gradients_of_any_configuration(layer):
    shape, kernel_shape, options, channels_last = layer
    x, w = numbers(shape, 0), numbers(kernel_shape, 1)
    try:
        call = Conv(x, w, options, channels_last)
    except oracles.RefusedError:
        for function, *args in (
            (gradients.conv_kernel_grad, x, x, w.shape),
            (gradients.conv_input_grad, x, w, x.shape),
        ):
            with pytest.raises(ValueError, match=r"larger than the padded|padding must be at most"):
                function(*args, **options)
        return
    for got, want in zip(jax.jit(call.gradients)(*call.arrays), call.wanted, strict=True):
        assert_close(got, want, 1e-12)


@settings(EXAMPLES, max_examples=cases.examples(8))
@given(poolings(), st.sampled_from(DIVISORS), st.booleans())
def test_pool_gradients_of_any_configuration(pooling, divisor, ties):
    shape, window, options, channels_last = pooling
    x = np.round(numbers(shape, 0)) if ties else numbers(shape, 0)
    flat = cases.one_batch(x, len(window))
    closed = [
        up("max", window, channels_last, **options),
        up("avg", window, channels_last, **options, **divisor),
    ]
    try:
        value, index = oracles.max_pool(flat, window, **options)
    except oracles.RefusedError:
        for function in closed:
            with pytest.raises(ValueError, match=REFUSED_POOL):
                function(x, x)
        return
    errors = numbers(value.shape, 3)
    dy = errors.reshape(*x.shape[: -len(window)], *value.shape[2:])
    placed, shared = jax.jit(lambda x, dy: [function(x, dy) for function in closed])(x, dy)
    assert_close(placed, place(errors, index, flat.shape).reshape(shape), 1e-12)
    want = spread(errors, flat.shape, window, **options, **divisor)
    assert_close(shared, want.reshape(shape), 1e-12)


# Bad calls.


class Bad(NamedTuple):
    """A call, the argument its message must start with, and what else it must show."""

    function: Any
    args: tuple[Any, ...]
    options: dict[str, Any]
    error: type[Exception]
    name: str
    shows: str = ""


IMAGE, KERNEL, ERROR = np.ones((2, 4, 8, 9)), np.ones((6, 4, 3, 2)), np.ones((2, 6, 6, 8))
PLANES = np.ones((2, 4, 4, 4))
V, T = ValueError, TypeError


def of_kernel(error, name, shows, x: Any = IMAGE, dy: Any = ERROR, shape: Any = KERNEL.shape, **o):
    return Bad(gradients.conv_kernel_grad, (x, dy, shape), o, error, name, shows)


def of_input(
    error, name, shows, dy: Any = ERROR, kernel: Any = KERNEL, shape: Any = IMAGE.shape, **o
):
    return Bad(gradients.conv_input_grad, (dy, kernel, shape), o, error, name, shows)


def of_bias(error, name, shows, dy: Any = ERROR, layout: Any = None):
    return Bad(gradients.conv_bias_grad, (dy,), {"layout": layout}, error, name, shows)


def of_max(error, name, shows, x: Any = IMAGE, dy: Any = PLANES, window: Any = (2, 2), **o):
    return Bad(gradients.max_pool_grad, (x, dy, window), o, error, name, shows)


def of_avg(
    error, name, shows, dy: Any = PLANES, shape: Any = IMAGE.shape, window: Any = (2, 2), **o
):
    return Bad(gradients.avg_pool_grad, (dy, shape, window), o, error, name, shows)


BAD = [
    of_kernel(T, "x", "list", x=[1.0]),
    of_kernel(T, "x", "bool", x=IMAGE > 0),
    of_kernel(V, "x", "(8, 9)", x=IMAGE[0, 0]),
    of_kernel(T, "dy", "NoneType", dy=None),
    of_kernel(V, "dy", "(2, 6, 6, 7)", dy=ERROR[..., :7]),
    of_kernel(V, "dy", "(2, 6, 6, 8)", dy=ERROR[0]),
    of_kernel(V, "dy", "(2, 6, 3, 4)", stride=2),
    of_kernel(T, "kernel_shape", "int", shape=3),
    of_kernel(T, "kernel_shape", "ndarray of shape (6, 4, 3, 2)", shape=KERNEL),
    of_kernel(T, "kernel_shape[2]", "3.0", shape=(6, 4, 3.0, 2)),
    of_kernel(V, "kernel_shape[3]", "-2", shape=(6, 4, 3, -2)),
    of_kernel(V, "kernel_shape", "(6, 4)", shape=(6, 4)),
    of_kernel(V, "kernel_shape", "(6, 3, 3, 2)", shape=(6, 3, 3, 2)),
    of_kernel(V, "kernel_shape", "(6, 4, 0, 2)", shape=(6, 4, 0, 2)),
    of_kernel(V, "kernel_shape's window", "(9, 2)", shape=(6, 4, 9, 2)),
    of_kernel(V, "groups", "4", groups=4, shape=(6, 1, 3, 2)),
    of_kernel(T, "groups", "2.0", groups=2.0),
    of_kernel(V, "stride", "0", stride=0),
    of_kernel(V, "dilation", "(1,)", dilation=(1,)),
    of_kernel(V, "padding", "'sam'", padding="sam"),
    of_kernel(V, "padding", "(8, 8)", padding=8, padding_mode="reflect"),
    of_kernel(V, "padding_mode", "'mirror'", padding_mode="mirror"),
    of_kernel(V, "layout", "'NWC'", layout="NWC"),
    of_kernel(V, "precision", "'best'", precision="best"),
    of_kernel(T, "preferred_element_type", "float32", preferred_element_type="float32"),
    of_kernel(V, "algorithm", "'fast'", algorithm="fast"),
    of_input(T, "dy", "str", dy="dy"),
    of_input(V, "dy", "(2, 6, 6, 8)", dy=ERROR[:1]),
    of_input(V, "dy", "(2, 6, 8, 9)", padding="same"),
    of_input(T, "kernel", "float", kernel=1.0),
    of_input(V, "kernel", "(4, 3)", kernel=KERNEL[0, :, :, 0]),
    of_input(V, "kernel", "(6, 3, 3, 2)", kernel=KERNEL[:, :3]),
    of_input(V, "kernel's window", "x_shape has spatial shape (2, 9)", shape=(2, 4, 2, 9)),
    of_input(T, "x_shape", "int", shape=8),
    of_input(T, "x_shape", "ndarray of shape (2, 4, 8, 9)", shape=IMAGE),
    of_input(T, "x_shape[1]", "True", shape=(2, True, 8, 9)),
    of_input(V, "x_shape[0]", "-1", shape=(-1, 4, 8, 9)),
    of_input(V, "x_shape", "(8, 9)", shape=(8, 9)),
    of_input(V, "stride[1]", "-1", stride=(1, -1)),
    of_input(V, "padding", "(0, 10)", padding=((0, 0), (0, 10)), padding_mode="circular"),
    of_input(V, "padding", "(1, 1, 134217736, 134217736, 134217736)", padding=2**26, stride=2**26,
             dy=np.ones((1, 1, 3, 3, 3)), kernel=np.ones((1,) * 5), shape=(1, 1, 8, 8, 8)),
    of_kernel(V, "padding", "(67108865, 0)", padding=((67108865, 0), (0, 0))),
    of_input(V, "x_shape", "fits into memory", shape=(2, 4, *(2**31 - 1,) * 2), stride=2**31 - 1,
             kernel=KERNEL[:, :, :1, :1], dy=ERROR[:, :, :1, :1]),
    of_input(T, "preferred_element_type", "'wide'", preferred_element_type="wide"),
    of_input(V, "algorithm", "'fast'", algorithm="fast", shape=(2, 4, 0, 9), padding=2,
             dy=np.ones((2, 6, 2, 12))),
    of_bias(T, "dy", "list", dy=[1.0]),
    of_bias(V, "dy", "(6, 8)", dy=ERROR[0, 0]),
    of_bias(V, "dy", "(1, 1, 2, 6, 6, 8)", dy=ERROR[None, None]),
    of_bias(V, "dy", "(6, 8)", dy=ERROR[0, 0], layout="NHWC"),
    of_bias(V, "layout", "'nchw'", layout="nchw"),
    of_bias(T, "layout", "2", layout=2),
    of_max(T, "x", "complex128", x=IMAGE * 1j),
    of_max(V, "x", "(8, 9)", x=IMAGE[0, 0]),
    of_max(T, "dy", "bool", dy=PLANES > 0),
    of_max(V, "dy", "(2, 4, 4, 5)", ceil_mode=True),
    of_max(V, "dy", "got (4, 4)", dy=PLANES[0, 0]),
    of_max(T, "window", "2", window=2),
    of_max(V, "window", "(9, 2)", window=(9, 2)),
    of_max(V, "padding", "(2, 2)", padding=2),
    of_max(T, "ceil_mode", "1", ceil_mode=1),
    of_avg(T, "dy", "int", dy=1),
    of_avg(V, "dy", "(2, 4, 7, 8)", stride=1),
    of_avg(T, "x_shape", "None", shape=None),
    of_avg(V, "x_shape", "(8, 9)", shape=(8, 9)),
    of_avg(V, "x_shape[3]", "-9", shape=(2, 4, 8, -9)),
    of_avg(V, "window[0]", "0", window=(0, 2)),
    of_avg(V, "dilation", "0", dilation=0),
    of_avg(T, "count_include_pad", "None", count_include_pad=None),
    of_avg(V, "divisor_override", "0", divisor_override=0),
    of_avg(T, "divisor_override", "1.5", divisor_override=1.5),
    of_avg(V, "layout", "'NDHWC'", layout="NDHWC"),
]  # fmt: skip


@pytest.mark.parametrize(
    "bad", BAD, ids=lambda bad: f"{bad.function.__name__}-{bad.name}-{bad.shows}"
)
def test_the_message_names_the_argument_and_shows_what_came(bad):
    with pytest.raises(bad.error) as caught:
        bad.function(*bad.args, **bad.options)
    assert type(caught.value) is bad.error
    message = str(caught.value)
    assert message.startswith(bad.name + " "), message
    assert bad.shows in message, message


# The sources.

OURS = ("gradients", "_closed_forms", "_closed_calls")
#: What differentiates, what transposes, and the core's primitives, which are what the closed forms
#: are compared with.
FORBIDDEN = {
    "grad", "value_and_grad", "vjp", "jvp", "linearize", "linear_transpose", "jacfwd", "jacrev",
    "jacobian", "hessian", "custom_vjp", "custom_jvp", "conv_transpose", "input_grad_p",
    "kernel_grad_p", "output_p", "place_p", "pick_p", "window_spread_p", "bind", "max_unpool",
    "fold", "conv_general_dilated", "_primitives", "_window_maps",
}  # fmt: skip


def words(source):
    """Every name, attribute, import and keyword in a source."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        found |= {getattr(node, field, None) for field in ("id", "attr", "name", "arg", "asname")}
        if isinstance(node, (ast.ImportFrom, ast.alias)):
            found |= set(str(getattr(node, "module", None) or getattr(node, "name", "")).split("."))
    return found


@pytest.mark.parametrize("name", OURS)
def test_nothing_is_differentiated_or_transposed(name):
    source = (Path(jc.__file__).parent / f"{name}.py").read_text()
    assert words(source) & FORBIDDEN == set()


def test_what_is_forbidden_would_be_seen():
    for line in (
        "import jax; jax.vjp(f, x)", "from jax import grad as g", "from . import _primitives",
        "from ._primitives import input_grad_p as p", "from jax.lax import conv_general_dilated",
        "core.kernel_grad_p.bind(x)", "from jaxconv._primitives import output_p",
    ):  # fmt: skip
        assert words(line) & FORBIDDEN


def test_every_gradient_is_tested():
    public = {
        name
        for name, value in vars(gradients).items()
        if getattr(value, "__module__", "") == gradients.__name__
    }
    assert public == {bad.function.__name__ for bad in BAD}
    assert len(BAD) >= 20
