"""The core: three projections as primitives, each other's transposes; pools; XLA's defects."""

import re
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import CONV, assert_close

import jaxconv as jc
from jaxconv import _algorithms, _choice
from jaxconv._form import PROJECTIONS, Problem
from jaxconv._primitives import input_grad_p, kernel_grad_p, output_p

CASE = next(case for case in CONV if case.id == "all-2d")


def primitives(function, *args):
    """Names of all equations, those of inner jaxprs included."""
    return re.findall(r"jaxconv_\w+|conv_general_dilated|reduce_window\w*|scatter\w*",
                      str(jax.make_jaxpr(function)(*args)))  # fmt: skip


def conv(x, w):
    return jc.conv(x, w, **CASE.options)


def test_every_derivative_is_one_of_the_three_projections():
    x, w, _ = CASE.arrays()
    names = {p.name for p in (output_p, input_grad_p, kernel_grad_p)}
    assert primitives(conv, x, w) == ["jaxconv_output"]
    gradient = jax.grad(lambda x, w: conv(x, w).sum(), (0, 1))
    assert sorted(primitives(gradient, x, w)) == sorted(names)
    second = jax.jacfwd(jax.jacrev(lambda x, w: jnp.sin(conv(x, w)).sum(), (0, 1)), (0, 1))
    third = jax.jvp(gradient, (x, w), (x, w))
    assert set(primitives(second, x, w)) == names
    assert third[1][0].shape == x.shape


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_transposing_twice_is_the_same_map(projection):
    x, w, _ = CASE.arrays()
    y = np.cos(conv(x, w))
    a, b = {"output": (x, w), "input_grad": (y, w), "kernel_grad": (x, y)}[projection]
    maps = {
        "output": conv,
        "input_grad": lambda y, w: jax.vjp(lambda x: conv(x, w), x)[1](y)[0],
        "kernel_grad": lambda x, y: jax.vjp(lambda w: conv(x, w), w)[1](y)[0],
    }
    project = maps[projection]
    result = project(a, b)
    for function, operand in ((lambda v: project(v, b), a), (lambda v: project(a, v), b)):
        once = lambda ct: jax.linear_transpose(function, operand)(ct)[0]
        twice = jax.linear_transpose(once, result)(operand)[0]
        assert_close(twice, result, 1e-13)


def test_pools_are_window_maps_and_their_derivatives_too():
    x = jnp.ones((2, 3, 8, 9))
    pull = lambda pool: jax.grad(lambda x: pool(x, (2, 3)).sum())
    assert primitives(lambda x: jc.max_pool(x, (2, 3)), x) == ["jaxconv_window_max"]
    assert sorted(set(primitives(pull(jc.max_pool), x))) == [
        "jaxconv_place", "jaxconv_window_argmax", "jaxconv_window_max"
    ]  # fmt: skip
    assert primitives(pull(jc.avg_pool), x)[-1] == "jaxconv_window_spread"


def test_direct_is_laxs_own_convolution():
    x, w, _ = CASE.arrays()
    options = dict(CASE.options)
    want = jax.lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(w),
        options["stride"],
        options["padding"],
        rhs_dilation=options["dilation"],
        feature_group_count=options["groups"],
    )
    np.testing.assert_array_equal(jc.conv(x, w, algorithm="direct", **options), want)


def convolutions(function, *args):
    """The convolutions in the lowered program, as text."""
    text = jax.jit(function).lower(*args).as_text()
    return re.findall(r"stablehlo\.convolution.*", text)


@pytest.mark.parametrize("case", CONV, ids=cases.ids(CONV))
def test_no_convolution_is_given_negative_padding(case):
    """XLA:CPU may read out of bounds on it (openxla/xla#48713): what it crops is cut off before."""
    x, w, _ = case.arrays("float32")
    direct = lambda x, w: jc.conv(x, w, algorithm="direct", **case.options)
    y = direct(x, w)
    both = lambda x, w: jax.vjp(direct, x, w)
    lines = convolutions(lambda x, w, y: (both(x, w)[0], both(x, w)[1](y)), x, w, y)
    pads = [re.search(r"pad = \[(.*?)\]\s*(,|\})", line) for line in lines]
    assert len(lines) == 3
    assert all(found and "-" not in found.group(1) for found in pads)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [8, 8192])
def test_negative_low_padding_small_and_large(n, dtype):
    rng = np.random.default_rng(n)
    x, w = (cases.draw(rng, shape, dtype) for shape in ((1, 2, n), (3, 2, 3)))
    for padding in (((-2, 0),), ((-1, -1),), ((-3, 2),)):
        options: Any = {"padding": padding, "dilation": 2, "algorithm": "direct"}
        y, pull = jax.vjp(lambda x, w: jc.conv(x, w, **options), x, w)
        low, high = padding[0]
        whole = x[:, :, -low : n + min(high, 0)].astype(float)
        whole = np.pad(whole, ((0, 0), (0, 0), (0, max(high, 0))))
        want = sum(
            np.einsum("ncl,oc->nol", whole[..., 2 * a : 2 * a + y.shape[-1]], w[:, :, a])
            for a in range(3)
        )
        assert_close(y, want, cases.TOLERANCE[dtype] * 2)
        dx, _ = pull(y)
        np.testing.assert_array_equal(dx[..., :-low], 0)
        back = np.zeros((1, 2, n))
        for a in range(3):
            stop = min(2 * a - low + y.shape[-1], n)
            cut = np.asarray(y, float)[..., : stop - (2 * a - low)]
            back[..., 2 * a - low : stop] += np.einsum("nol,oc->ncl", cut, w[:, :, a])
        assert_close(dx, back, cases.TOLERANCE[dtype] * 4)


@pytest.mark.parametrize("n", [8, 8192])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_dilated_reductions_small_and_large(n, dilation, stride):
    """XLA's reduce_window has been wrong on large dilated arrays (openxla/xla#48714)."""
    rng = np.random.default_rng(n)
    x = cases.draw(rng, (1, 1, n), "float32")
    options = {"stride": stride, "dilation": dilation, "padding": 1}
    padded = np.pad(x.astype(float), ((0, 0), (0, 0), (1, 1)), constant_values=-np.inf)
    outputs = (n + 2 - 2 * dilation - 1) // stride + 1
    at = np.arange(outputs)[:, None] * stride + np.arange(3) * dilation
    windows = padded[0, 0][at]
    y, pull = jax.vjp(lambda x: jc.max_pool(x, (3,), **options), x)
    np.testing.assert_array_equal(y[0, 0], windows.max(1).astype("float32"))
    want = np.zeros(n + 2)
    np.add.at(want, at[np.arange(outputs), windows.argmax(1)], 1.0)
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0][0, 0], want[1:-1])
    held = np.where(np.isfinite(windows), windows, 0)
    mean, pull = jax.vjp(lambda x: jc.avg_pool(x, (3,), **options), x)
    assert_close(mean[0, 0], held.mean(1), 1e-6)
    spread = np.zeros(n + 2)
    np.add.at(spread, at.ravel(), 1 / 3)
    np.testing.assert_allclose(pull(jnp.ones_like(mean))[0][0, 0], spread[1:-1], rtol=1e-6)


@pytest.mark.parametrize("size", [8, 8192])
def test_strided_input_gradients_small_and_large(size):
    x, w = np.ones((1, 1, size), "float32"), np.asarray([[[1.0, 2.0, 4.0]]], "float32")
    y, pull = jax.vjp(lambda x: jc.conv(x, w, stride=2, padding=1), x)
    form = oracles.conv_form((16,), (3,), stride=2, padding=1)
    want = form.project("x", y=np.ones((1, 1, 8)), w=w)[0, 0]
    got = np.asarray(pull(jnp.ones_like(y))[0][0, 0])
    np.testing.assert_array_equal(got[1:-1].reshape(-1, 2), np.tile(want[1:3], (size // 2 - 1, 1)))


def test_the_register_and_the_table():
    assert "direct" in jc.algorithms()
    assert "auto" not in jc.algorithms()
    for row in _choice.TABLE:
        assert row.algorithm in _algorithms.REGISTER
        assert row.reason
    for name, algorithm in _algorithms.REGISTER.items():
        assert name == algorithm.name
        assert algorithm.maps


def test_the_choice_depends_on_the_problem_alone(monkeypatch):
    """A registered algorithm is taken where its row fits, and only there."""
    calls = []

    def output(problem, x, w):
        calls.append(problem)
        return _algorithms.REGISTER["direct"].maps["output"](problem, x, w)

    spy = _algorithms.Algorithm(
        "spy", {"output": output}, lambda p: "only 1-D" if len(p.form.geometry.window) > 1 else None
    )
    monkeypatch.setitem(_algorithms.REGISTER, "spy", spy)
    row = _choice.Row("spy", lambda problem: problem.platform == "cpu", "to be seen")
    monkeypatch.setattr(_choice, "TABLE", (row, *_choice.TABLE))
    x, w = jnp.ones((1, 1, 7)), jnp.ones((1, 1, 3))
    assert jc.algorithms()[0] == "direct"
    assert jc.algorithms()[-1] == "spy"
    jax.grad(lambda w: jc.conv(x * 2, w, padding=5).sum())(w)
    assert [problem.projection for problem in calls] == ["output"]
    assert calls[0].shapes == (x.shape, w.shape)
    jc.conv(x[..., None], w[..., None], padding=6)  # 2-D: refused, so the table goes on
    assert len(calls) == 1
    with pytest.raises(ValueError, match=r"algorithm 'spy' cannot compute this output: only 1-D"):
        jc.conv(x[..., None], w[..., None], padding=4, algorithm="spy")
    with pytest.raises(ValueError, match=r"algorithm 'spy' cannot compute this input_grad"):
        jc.conv_transpose(x, w, algorithm="spy")
    jc.conv(x, w, padding=7, algorithm="direct")
    assert len(calls) == 1
    jc.conv(x, w, padding=8, algorithm="spy")
    assert len(calls) == 2


def test_a_table_without_a_row_says_so(monkeypatch):
    monkeypatch.setattr(_choice, "TABLE", ())
    form = None
    with pytest.raises(LookupError, match="no row of the table"):
        _choice.choose(Problem("output", form, ((1,),), "cpu"))


def test_precision_reaches_lax():
    x, w = jnp.ones((1, 9), "float32"), jnp.ones((1, 1, 2), "float32")

    def precisions(**options):
        return convolutions(lambda x: jc.conv(x, w, algorithm="direct", **options), x)[0]

    highest = "precision HIGHEST, precision HIGHEST"
    assert highest not in precisions().replace("#stablehlo<", "").replace(">", "")
    for given in ("highest", jax.lax.Precision.HIGHEST, ("float32", "highest")):
        text = precisions(precision=given).replace("#stablehlo<", "").replace(">", "")
        assert highest in text
    with jax.default_matmul_precision("highest"):
        text = precisions().replace("#stablehlo<", "").replace(">", "")
    assert highest in text
    with jax.default_matmul_precision("highest"):
        traced = jax.jit(lambda x: jc.conv(x, w, padding=1, algorithm="direct")).trace(x)
    later = traced.lower().as_text()  # lowered outside: what held when it was traced counts
    assert highest in later.replace("#stablehlo<", "").replace(">", "")
    mixed = precisions(precision=("high", None)).replace("#stablehlo<", "").replace(">", "")
    assert "precision HIGH, precision DEFAULT" in mixed
    with jax.default_matmul_precision("F32_F32_F32"):  # a preset of dot products: left to lax
        np.testing.assert_array_equal(jc.conv(x[:, :4], w), [[2, 2, 2]])
