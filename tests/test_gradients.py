"""Derivatives to order 3, forward and reverse, of every projection, option and pool."""

from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import CONV, MODES, POOL, TRANSPOSE, assert_close, distinct, ids
from jax.test_util import check_grads

import jaxconv as jc

pytestmark = pytest.mark.usefixtures("quick_compile")

#: Central differences are exact up to rounding for what is at most quadratic in each argument.
DIFFERENCES = {"modes": ["fwd", "rev"], "atol": 1e-5, "rtol": 1e-5}


#: Every option once: the rest of the table differs in sizes only, and its gradients are compared
#: with the form's projections below.
VARIED = [
    case
    for case in CONV
    if case.id
    not in {"1x1", "window-is-input", "padding-per-axis", "unused-tail", "plain-3d", "same-odd",
            "over-padded", "depthwise-1d", "stride", "padding", "negative", "two-by-two-steps"}
]  # fmt: skip
VARIED_MODES = [case for case in MODES if case.id.endswith(("-uneven", "-crop"))]


def projections(case):
    """The three bilinear maps of `conv` with a case's options, each with seeded operands."""
    x, w, _ = case.arrays()

    def output(x, w):
        return jc.conv(x, w, **case.options)

    y = np.cos(np.asarray(output(x, w)))

    def input_grad(y, w):
        return jax.linear_transpose(lambda x: output(x, w), x)(y)[0]

    def kernel_grad(x, y):
        return jax.linear_transpose(lambda w: output(x, w), w)(y)[0]

    return [(output, (x, w)), (input_grad, (y, w)), (kernel_grad, (x, y))]


def order():
    """Of what is quadratic itself, or made of projections: the third derivative is only zero."""
    return 3 if cases.FULL else 2


@pytest.mark.thinned(17)
@pytest.mark.parametrize("projection", range(3), ids=["output", "input_grad", "kernel_grad"])
@pytest.mark.parametrize("case", VARIED, ids=ids(VARIED))
def test_every_projection_to_third_order(case, projection):
    function, operands = projections(case)[projection]
    check_grads(function, operands, order=3, **DIFFERENCES)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("case", VARIED_MODES, ids=ids(VARIED_MODES))
def test_padding_modes(case):
    x, w, bias = case.arrays()
    check_grads(lambda *args: jc.conv(*args, **case.options), (x, w, bias), order(), **DIFFERENCES)


@pytest.mark.thinned(9)
@pytest.mark.parametrize("case", TRANSPOSE, ids=ids(TRANSPOSE))
def test_conv_transpose(case):
    y, w, _ = case.arrays()
    bias = np.arange(float(w.shape[1] * case.groups))
    check_grads(
        lambda *args: jc.conv_transpose(*args, **case.options),
        (y, w, bias),
        order(),
        **DIFFERENCES,
    )


@pytest.mark.thinned(17)
@pytest.mark.parametrize("pool", [jc.max_pool, jc.min_pool, jc.avg_pool])
@pytest.mark.parametrize("case", POOL, ids=ids(POOL))
def test_pools(case, pool):
    x = distinct(case.array())
    finite = np.isfinite(pool(x, case.window, **case.options))

    def squares(x):
        y = jax.lax.select(finite, pool(x, case.window, **case.options), np.ones(finite.shape))
        return y**2

    check_grads(squares, (x,), order(), **DIFFERENCES)


@pytest.mark.parametrize(
    "options", [{"count_include_pad": False, "padding": 1}, {"divisor_override": 5}], ids=str
)
def test_avg_pool_divisors(options):
    x = cases.draw(np.random.default_rng(0), (1, 2, 6, 5), "float64")
    check_grads(lambda x: jc.avg_pool(x, (3, 2), **options) ** 2, (x,), order(), **DIFFERENCES)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("case", CONV, ids=ids(CONV))
def test_gradients_equal_the_forms_projections(case):
    x, w, _ = case.arrays()
    y, pull = jax.vjp(lambda x, w: jc.conv(x, w, **case.options), x, w)
    dy = np.sin(np.arange(y.size)).reshape(y.shape)
    dx, dw = pull(dy)
    form = oracles.conv_form(x.shape[-case.rank :], w.shape[2:], **case.options)
    flat = {"x": cases.one_batch(x, case.rank), "y": cases.one_batch(dy, case.rank)}
    assert_close(dw, form.project("w", **flat), 1e-12)
    assert_close(dx, form.project("x", y=flat["y"], w=w).reshape(x.shape), 1e-12)


@pytest.mark.thinned(9)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("layout", [None, "NHWC"])
@pytest.mark.parametrize("name", ["all-2d", "two-by-two-steps"])
def test_gradients_in_low_precision(name, dtype, layout):
    case = next(case for case in CONV if case.id == name)
    x, w, _ = case.arrays(dtype)
    form = oracles.conv_form(x.shape[-2:], w.shape[2:], **case.options)
    dy = cases.draw(np.random.default_rng(3), jc.conv(x, w, **case.options).shape, dtype)
    wide = [np.asarray(value, float) for value in (x, w, dy)]
    want_x = form.project("x", y=wide[2], w=wide[1])
    want_w = form.project("w", x=wide[0], y=wide[2])
    if layout:
        x, w, dy = cases.last(x, 2), cases.kernel_last(w), cases.last(dy, 2)
        want_x, want_w = cases.last(want_x, 2), cases.kernel_last(want_w)
    dx, dw = jax.vjp(lambda x, w: jc.conv(x, w, layout=layout, **case.options), x, w)[1](dy)
    assert dx.dtype == dw.dtype == dtype
    assert_close(dx, want_x, cases.TOLERANCE[dtype])
    assert_close(dw, want_w, cases.TOLERANCE[dtype])


def test_complex_transposes_do_not_conjugate():
    case = next(case for case in CONV if case.id == "all-2d")
    x, w, _ = case.arrays("complex128")
    check_grads(lambda x, w: jc.conv(x, w, **case.options), (x, w), order=2)
    y = cases.draw(np.random.default_rng(3), jc.conv(x, w, **case.options).shape, "complex128")
    form = oracles.conv_form(x.shape[-2:], w.shape[2:], **case.options)
    pulled = jax.linear_transpose(lambda x: jc.conv(x, w, **case.options), x)(y)[0]
    assert_close(pulled, form.project("x", y=y, w=w), 1e-12)


@pytest.mark.parametrize("dilation", [1, 2])
def test_max_pools_derivative_goes_to_the_first_winner(dilation):
    """Equal values everywhere, a NaN, and -inf only: one winner in each window, the first."""
    flat = np.zeros((1, 1, 7, 6))
    flat[0, 0, 3:5, 1:4] = np.nan  # several in one window, along each axis
    for x in (np.zeros((1, 1, 7, 6)), flat, np.full((1, 1, 7, 6), -np.inf)):
        options = {"stride": (1, 2), "padding": 1, "dilation": dilation}
        value, index = oracles.max_pool(x, (3, 2), **options)
        dy = np.arange(1.0, value.size + 1).reshape(value.shape)
        want = np.zeros(x.size)
        np.add.at(want, index.ravel(), dy.ravel())
        pull = jax.vjp(lambda x: jc.max_pool(x, (3, 2), **options), x)[1]
        np.testing.assert_array_equal(pull(dy)[0].ravel(), want)
        tangent = np.random.default_rng(0).normal(size=x.shape)
        pushed = jax.jvp(lambda x: jc.max_pool(x, (3, 2), **options), (x,), (tangent,))[1]
        np.testing.assert_array_equal(pushed.ravel(), tangent.ravel()[index.ravel()])


def test_no_winner_no_derivative():
    x = jnp.asarray([[1.0]])
    pool = lambda x: jc.max_pool(x, (2,), stride=1, padding=3, dilation=3)
    np.testing.assert_array_equal(jax.jacrev(pool)(x).ravel(), [1, 0, 0, 1])
    np.testing.assert_array_equal(jax.jacfwd(pool)(x).ravel(), [1, 0, 0, 1])


def test_indices_have_no_derivative_but_values_do():
    x = distinct(np.random.default_rng(0).normal(size=(1, 6)))
    y, index = jc.max_pool(x, (2,), return_indices=True)
    loss = lambda x: (jc.max_pool(x, (2,), return_indices=True)[0] ** 2).sum()
    want = np.zeros(6)
    want[np.asarray(index).ravel()] = 2 * np.asarray(y).ravel()
    np.testing.assert_allclose(jax.grad(loss)(x).ravel(), want)


def test_half_precision_gradients_are_summed_in_float32():
    """8192 windows of one weight: the kernel's gradient counts them all, as do up() and dX."""
    x, w = jnp.ones((1, 8192), "bfloat16"), jnp.ones((1, 1, 1), "bfloat16")
    assert jax.grad(lambda w: jc.conv(x, w).sum().astype("float32"))(w)[0, 0, 0] == 8192
    narrow, wide = jnp.ones((1, 1), "bfloat16"), jnp.ones((8192, 1, 1), "bfloat16")
    assert jax.grad(lambda x: jc.conv(x, wide).sum().astype("float32"))(narrow)[0, 0] == 8192
    options: dict[str, Any] = {"padding": 4095, "stride": 1}
    top = jnp.asarray([[1.0]], "bfloat16")
    assert jax.grad(lambda x: jc.max_pool(x, (4096,), **options).sum())(top)[0, 0] == 4096
    # 1/4096 each, 4096 times.
    assert jax.grad(lambda x: jc.avg_pool(x, (4096,), **options).sum())(top)[0, 0] == 1
