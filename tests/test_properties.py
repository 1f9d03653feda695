"""Hypothesis over the whole configuration space: what is refused, and values and gradients else.

The oracle decides from the contract's sentences alone whether a configuration is valid. Examples
are derandomised: a red run is red again.
"""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import LAYOUTS, assert_close
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import jaxconv as jc

pytestmark = pytest.mark.usefixtures("quick_compile")

EXAMPLES = settings(
    max_examples=cases.examples(20),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
NAMES = ["valid", "same", "same_lower", "full", "causal", "SAME", "Full"]


#: Batch and channel counts; nothing at all is rare, but there.
COUNT = st.sampled_from([1, 2, 2, 3, 1, 2, 1, 2, 0])


def extent(most):
    """Spatial sizes; nothing at all is rare, but there."""
    return st.sampled_from([*range(1, most + 1), *range(2, most + 1), 0])


def per_axis(rank, values):
    """An int, or one int per axis."""
    return values | st.lists(values, min_size=rank, max_size=rank).map(tuple)


def paddings(rank, low, high):
    side = st.integers(low, high)
    pairs = st.lists(st.tuples(side, side), min_size=rank, max_size=rank).map(tuple)
    return per_axis(rank, side) | pairs | st.sampled_from(NAMES)


@st.composite
def layers(draw, transposed=False):
    """Shapes, options and layout of a `conv` or `conv_transpose` call."""
    rank = draw(st.sampled_from([1, 1, 2, 2, 3]))
    most = {1: 9, 2: 6, 3: 4}[rank]
    groups = draw(st.integers(1, 3))
    per_group, outputs = draw(COUNT), draw(COUNT)
    batch = tuple(draw(st.lists(COUNT, max_size=2)))
    spatial = tuple(draw(st.lists(extent(most), min_size=rank, max_size=rank)))
    window = tuple(draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank)))
    options = {
        "stride": draw(per_axis(rank, st.integers(1, 4))),
        "dilation": draw(per_axis(rank, st.integers(1, 3))),
        "padding": draw(paddings(rank, -2, 2 if transposed else 4)),
        "groups": groups,
    }
    if transposed:
        options["output_padding"] = draw(per_axis(rank, st.sampled_from([0, 0, 1, 2])))
    else:
        options["padding_mode"] = draw(
            st.sampled_from(["zeros"] * 3 + ["reflect", "replicate", "circular"])
        )
    channels = groups * (outputs if transposed else per_group)
    kernel = (groups * outputs, per_group, *window)
    return (*batch, channels, *spatial), kernel, options, draw(st.booleans())


@st.composite
def poolings(draw):
    """Shape, window, options and layout of a pooling call."""
    rank = draw(st.sampled_from([1, 1, 2, 2, 3]))
    most = {1: 12, 2: 7, 3: 4}[rank]
    shape = (
        *draw(st.lists(COUNT, max_size=2)),
        draw(COUNT),
        *draw(st.lists(extent(most), min_size=rank, max_size=rank)),
    )
    window = tuple(draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank)))
    options = {
        "stride": draw(st.none() | per_axis(rank, st.integers(1, 4))),
        "dilation": draw(per_axis(rank, st.integers(1, 3))),
        "padding": draw(paddings(rank, -2, 2)),
        "ceil_mode": draw(st.booleans()),
    }
    return shape, window, options, draw(st.booleans())


def numbers(shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


def check_bilinear(function, form, image, kernel, channels_last, names):
    """Value and both gradients of a call against the form; `names` of (image, result) in it."""
    rank = kernel.ndim - 2
    a, result = names

    def call(image, kernel):
        if channels_last:
            moved = cases.last(image, rank), cases.kernel_last(kernel)
            return cases.first(function(*moved, layout=LAYOUTS[rank]), rank)
        return function(image, kernel)

    event("empty" if 0 in (*image.shape, *kernel.shape) else "computed")
    value, pull = jax.vjp(call, image, kernel)
    flat = cases.one_batch(image, rank)
    want = form.project(result, **{a: flat, "w": kernel})
    assert value.shape == (*image.shape[: -rank - 1], *want.shape[1:])
    assert_close(value.reshape(want.shape), want, 1e-12)
    d_value = numbers(value.shape, 2)
    d_image, d_kernel = pull(d_value)
    d_flat = d_value.reshape(want.shape)
    assert_close(
        d_image.reshape(flat.shape), form.project(a, **{result: d_flat, "w": kernel}), 1e-12
    )
    assert_close(d_kernel, form.project("w", **{a: flat, result: d_flat}), 1e-12)


@EXAMPLES
@given(layers())
def test_conv(layer):
    shape, kernel_shape, options, channels_last = layer
    image, kernel = numbers(shape, 0), numbers(kernel_shape, 1)
    rank = kernel.ndim - 2
    try:
        form = oracles.conv_form(shape[-rank:], kernel_shape[2:], **options)
    except oracles.RefusedError:
        event("refused")
        with pytest.raises(ValueError, match=r"larger than the padded input|padding must be at"):
            jc.conv(image, kernel, **options)
        return

    def function(x, w, layout=None):
        return jc.conv(x, w, layout=layout, **options)

    check_bilinear(function, form, image, kernel, channels_last, ("x", "y"))


@EXAMPLES
@given(layers(transposed=True))
def test_conv_transpose(layer):
    shape, kernel_shape, options, channels_last = layer
    image, kernel = numbers(shape, 0), numbers(kernel_shape, 1)
    rank = kernel.ndim - 2
    try:
        form = oracles.transpose_form(shape[-rank:], kernel_shape[2:], **options)
    except oracles.RefusedError:
        event("refused")
        with pytest.raises(ValueError, match=r"output_padding must|y must|padding removes more"):
            jc.conv_transpose(image, kernel, **options)
        return

    def function(y, w, layout=None):
        return jc.conv_transpose(y, w, layout=layout, **options)

    check_bilinear(function, form, image, kernel, channels_last, ("y", "x"))


def pooled(pool, image, window, options, channels_last):
    rank = len(window)
    if channels_last:
        y = pool(cases.last(image, rank), window, layout=LAYOUTS[rank], **options)
        return jax.tree.map(lambda leaf: cases.first(leaf, rank), y)
    return pool(image, window, **options)


REFUSED_POOL = r"padding must be smaller than the span|larger than the padded input"


@EXAMPLES
@given(poolings(), st.booleans())
def test_max_and_min_pool(pooling, ties):
    shape, window, options, channels_last = pooling
    image = numbers(shape, 0)
    image = np.round(image) if ties else image
    flat = cases.one_batch(image, len(window))
    try:
        want, index = oracles.max_pool(flat, window, **options)
    except oracles.RefusedError:
        event("refused")
        with pytest.raises(ValueError, match=REFUSED_POOL):
            jc.max_pool(image, window, **options)
        return
    both = {"return_indices": True, **options}
    value, where = pooled(jc.max_pool, image, window, both, channels_last)
    np.testing.assert_array_equal(value.reshape(want.shape), want)
    np.testing.assert_array_equal(where.reshape(want.shape), index)
    least = pooled(jc.min_pool, -image, window, options, channels_last)
    np.testing.assert_array_equal(-least, value)
    pull = jax.vjp(lambda x: pooled(jc.max_pool, x, window, options, channels_last), image)[1]
    d_value = numbers(value.shape, 2)
    d_flat = np.zeros((*flat.shape[:2], int(np.prod(flat.shape[2:])) + 1))
    for n, c, *i in np.ndindex(*want.shape):
        d_flat[n, c, index[(n, c, *i)]] += d_value.reshape(want.shape)[(n, c, *i)]
    assert_close(pull(d_value)[0].reshape(flat.shape), d_flat[..., :-1].reshape(flat.shape), 1e-12)


@EXAMPLES
@given(poolings(), st.booleans(), st.sampled_from([None, None, 3, -2]))
def test_avg_pool(pooling, count_include_pad, divisor):
    shape, window, options, channels_last = pooling
    options = {
        **options, "count_include_pad": count_include_pad, "divisor_override": divisor
    }  # fmt: skip
    image = numbers(shape, 0)
    flat = cases.one_batch(image, len(window))
    try:
        want = oracles.avg_pool(flat, window, **options)
    except oracles.RefusedError:
        event("refused")
        with pytest.raises(ValueError, match=REFUSED_POOL):
            jc.avg_pool(image, window, **options)
        return
    pool = lambda x: pooled(jc.avg_pool, x, window, options, channels_last)
    value = pool(image)
    assert_close(value.reshape(want.shape), want, 1e-12)
    # The mean is linear: up() is its transpose, whichever way the derivative is taken.
    d_value, t = jnp.asarray(numbers(value.shape, 2)), jnp.asarray(numbers(shape, 3))
    finite = jnp.where(jnp.isfinite(value), d_value, 0.0)
    pushed = jnp.where(jnp.isfinite(value), jax.jvp(pool, (image,), (t,))[1], 0.0)
    pulled = jax.vjp(lambda x: jnp.where(jnp.isfinite(value), pool(x), 0.0), image)[1](finite)[0]
    left, right = np.vdot(pushed, finite), np.vdot(jnp.nan_to_num(pulled), t)
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)


FEWER = settings(EXAMPLES, max_examples=cases.examples(10))


@FEWER
@given(layers())
def test_unfold_and_fold(layer):
    shape, kernel_shape, options, channels_last = layer
    options = {name: options[name] for name in ("stride", "dilation", "padding")}
    image, window, rank = numbers(shape, 0), kernel_shape[2:], len(kernel_shape) - 2
    layout = LAYOUTS[rank] if channels_last else None
    x = cases.last(image, rank) if channels_last else image
    flat = cases.one_batch(image, rank)
    try:
        want = oracles.unfold(flat, window, **options)
    except oracles.RefusedError:
        event("refused")
        with pytest.raises(ValueError, match="larger than the padded input"):
            jc.unfold(x, window, layout=layout, **options)
        return
    columns = jc.unfold(x, window, layout=layout, **options)
    places, taps = want.shape[-1], want.shape[-2]
    if channels_last:
        assert columns.shape == (*shape[: -rank - 1], places, taps * flat.shape[1])
        split = columns.reshape(len(flat), places, taps, flat.shape[1])
        np.testing.assert_array_equal(jnp.moveaxis(split, (1, 2, 3), (3, 2, 1)), want)
    else:
        assert columns.shape == (*shape[: -rank - 1], flat.shape[1] * taps, places)
        np.testing.assert_array_equal(columns.reshape(want.shape), want)
    dy = numbers(columns.shape, 1)
    folded = jc.fold(dy, shape[-rank:], window, layout=layout, **options)
    assert folded.shape == x.shape
    np.testing.assert_allclose(np.vdot(dy, columns), np.vdot(folded, x), rtol=1e-9, atol=1e-12)


@FEWER
@given(poolings(), st.sampled_from([1, 2, 2.5, 3, np.inf]))
def test_lp_pool(pooling, p):
    shape, window, options, channels_last = pooling
    image = numbers(shape, 0)
    flat = cases.one_batch(image, len(window))
    pool = lambda x, window, **options: jc.lp_pool(x, window, p, **options)
    try:
        want = oracles.lp_pool(flat, window, p, **options)
    except oracles.RefusedError:
        event("refused")
        with pytest.raises(ValueError, match=REFUSED_POOL):
            pool(image, window, **options)
        return
    assert_close(
        pooled(pool, image, window, options, channels_last).reshape(want.shape), want, 1e-12
    )


@st.composite
def adaptive_poolings(draw):
    """Shape, output shape and layout of an adaptive pool."""
    rank = draw(st.sampled_from([1, 1, 2, 2, 3]))
    most = {1: 12, 2: 6, 3: 4}[rank]
    sizes = st.lists(st.integers(1, most), min_size=rank, max_size=rank)
    wanted = st.lists(st.none() | st.integers(0, most + 2), min_size=rank, max_size=rank)
    shape = (*draw(st.lists(COUNT, max_size=2)), draw(COUNT), *draw(sizes))
    return shape, tuple(draw(wanted)), draw(st.booleans())


@FEWER
@given(adaptive_poolings(), st.booleans())
def test_adaptive_pools(pooling, ties):
    shape, output, channels_last = pooling
    image = numbers(shape, 0)
    image = np.round(image) if ties else image
    flat = cases.one_batch(image, len(output))
    mean = pooled(jc.adaptive_avg_pool, image, output, {}, channels_last)
    want = oracles.adaptive_avg_pool(flat, output)
    assert mean.shape == (*shape[: -len(output)], *want.shape[2:])
    assert_close(mean.reshape(want.shape), want, 1e-12)
    got = pooled(jc.adaptive_max_pool, image, output, {"return_indices": True}, channels_last)
    for one, other in zip(got, oracles.adaptive_max_pool(flat, output), strict=True):
        np.testing.assert_array_equal(one.reshape(other.shape), other)
    # Both derivatives: up() of the mean is its adjoint, that of the maximum follows the indices.
    dy = numbers(mean.shape, 1)
    for pool, y in ((jc.adaptive_avg_pool, mean), (jc.adaptive_max_pool, got[0])):
        pull = jax.vjp(lambda x, pool=pool: pooled(pool, x, output, {}, channels_last), image)[1]
        left, right = np.vdot(dy, y), np.vdot(pull(dy)[0], image)
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)
