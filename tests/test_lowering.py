"""Every function lowers for CPU, CUDA and TPU, forward and gradient, without a device at hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxconv as jc

IMAGES = jax.ShapeDtypeStruct((2, 4, 9, 8), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((6, 2, 3, 2), jnp.float32)
TRANSPOSED = jax.ShapeDtypeStruct((4, 3, 3, 2), jnp.float32)
IMAGE = jax.ShapeDtypeStruct((9, 8), jnp.float32)
WINDOW = jax.ShapeDtypeStruct((3, 2), jnp.float32)
STACK = jax.ShapeDtypeStruct((2, 3, 2), jnp.float32)
PLAIN = jax.ShapeDtypeStruct((2, 9, 8), jnp.float32)

CALLS = {
    "conv": (
        lambda x, k: jc.conv(x, k, groups=2, stride=2, padding=((1, -1), (2, 0)), dilation=(1, 2)),
        (IMAGES, KERNEL),
    ),
    "conv-reflect": (
        lambda x, k: jc.conv(x, k, groups=2, padding="same", padding_mode="reflect"),
        (IMAGES, KERNEL),
    ),
    "conv_transpose": (lambda y, k: jc.conv_transpose(y, k, stride=2), (IMAGES, TRANSPOSED)),
    "max_pool": (lambda x: jc.max_pool(x, (3, 2), padding=1, dilation=2, stride=1), (IMAGES,)),
    "max_pool-long": (lambda x: jc.max_pool(x, (9, 8), padding=7, stride=1), (IMAGES,)),
    "max_pool-indices": (
        lambda x: jc.max_pool(x, (3, 2), ceil_mode=True, return_indices=True)[0],
        (IMAGES,),
    ),
    "min_pool": (lambda x: jc.min_pool(x, (3, 2)), (IMAGES,)),
    "avg_pool": (lambda x: jc.avg_pool(x, (3, 2), padding=1, count_include_pad=False), (IMAGES,)),
    "lp_pool": (lambda x: jc.lp_pool(x, (3, 2), padding=1), (IMAGES,)),
    "adaptive_avg_pool": (lambda x: jc.adaptive_avg_pool(x, (4, 3)), (IMAGES,)),
    "adaptive_max_pool": (lambda x: jc.adaptive_max_pool(x, (4, 3)), (IMAGES,)),
    "max_unpool": (
        lambda x: jc.max_unpool(*jc.max_pool(x, (3, 2), return_indices=True), (9, 8)),
        (IMAGES,),
    ),
    "unfold": (lambda x: jc.unfold(x, (3, 2), padding=1, dilation=2), (IMAGES,)),
    "unfold-long": (lambda x: jc.unfold(x, (17, 1), padding=(8, 0)), (IMAGES,)),
    "fold": (lambda x: jc.fold(x, (6, 4), (3, 3)), (IMAGES,)),
    "correlate": (lambda x, k: jc.correlate(x, k, "same"), (IMAGE, WINDOW)),
    "convolve": (jc.convolve, (IMAGE, WINDOW)),
    "corr2d": (jc.corr2d, (IMAGE, WINDOW)),
    "corr2d_multi_in": (jc.corr2d_multi_in, (PLAIN, STACK)),
    "corr2d_multi_in_out": (
        jc.corr2d_multi_in_out,
        (PLAIN, jax.ShapeDtypeStruct((5, 2, 3, 2), jnp.float32)),
    ),
    "corr2d_multi_in_out_1x1": (
        jc.corr2d_multi_in_out_1x1,
        (PLAIN, jax.ShapeDtypeStruct((5, 2, 1, 1), jnp.float32)),
    ),
    "pool2d": (lambda x: jc.pool2d(x, (2, 3), "avg"), (IMAGE,)),
    "filters.apply": (jc.filters.apply, (IMAGES, WINDOW)),
    "reference.conv": (lambda x, k: jc.reference.conv(x, k, groups=2), (IMAGES, KERNEL)),
    "reference.max_pool": (lambda x: jc.reference.max_pool(x, (3, 2)), (IMAGES,)),
}
EVERY_CALL = pytest.mark.parametrize("name", CALLS)
DTYPES = ["float32", "bfloat16", "float64", "complex64", "int32"]


def with_gradients(function, operands):
    """Forward value, gradients in reverse, and a second derivative by jvp."""

    def loss(*operands):
        return (function(*operands) ** 2).sum().real

    def run(*operands):
        gradients = jax.grad(loss, tuple(range(len(operands))))
        return function(*operands), gradients(*operands), jax.jvp(gradients, operands, operands)[1]

    return run if jnp.issubdtype(operands[0].dtype, jnp.floating) else function


@pytest.mark.thinned(5)
@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
@EVERY_CALL
def test_lowers_for(name, platform):
    function, operands = CALLS[name]
    traced = jax.jit(with_gradients(function, operands)).trace(*operands)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo" in text
    assert "jaxconv" not in text.replace("jaxconv/", "")  # no primitive of ours is left over


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["conv", "conv_transpose", "avg_pool", "corr2d_multi_in_out_1x1"])
def test_lowers_in_each_dtype(name, dtype, platform):
    function, operands = CALLS[name]
    typed = tuple(jax.ShapeDtypeStruct(operand.shape, dtype) for operand in operands)
    traced = jax.jit(with_gradients(function, typed)).trace(*typed)
    assert traced.lower(lowering_platforms=(platform,)).as_text()


def test_half_precision_stays_narrow_where_the_device_sums_wide():
    """On GPU and TPU the convolution takes bfloat16 itself; on CPU it is given float32."""
    operands = [jax.ShapeDtypeStruct(a.shape, jnp.bfloat16) for a in (IMAGES, KERNEL)]

    def lines(platform, function):
        traced = jax.jit(function).trace(*operands)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return [line for line in text.splitlines() if "stablehlo.convolution" in line]

    def plain(x, k):
        return jc.conv(x, k, groups=2, algorithm="direct")

    def biased(x, k):
        return jc.conv(x, k, jnp.ones(6, jnp.bfloat16), groups=2, algorithm="direct")

    (cuda,), (tpu,), (cpu,) = lines("cuda", plain), lines("tpu", biased), lines("cpu", plain)
    assert cuda.count("xbf16>") == 3
    assert tpu.count("xbf16>") == 2
    assert tpu.endswith("xf32>")  # the bias is added before the one rounding
    assert cpu.count("xf32>") == 3


@EVERY_CALL
def test_exports_for_all_platforms_and_comes_back(name):
    """One artefact for three platforms, which runs here and equals the call itself."""
    function, shapes = CALLS[name]
    rng = np.random.default_rng(0)
    operands = tuple(rng.normal(size=shape.shape).astype("float32") for shape in shapes)
    exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*operands)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    np.testing.assert_allclose(exported.call(*operands), function(*operands), rtol=1e-5, atol=1e-6)


def test_a_batch_may_be_symbolic():
    """A model is exported for any batch; spatial sizes must be known."""
    batch = export.symbolic_shape("b, 4, 9, 8")
    kernel = jnp.ones((2, 4, 3, 2), jnp.float32)

    def model(x):
        def loss(x):
            y, index = jc.max_pool(jc.conv(x, kernel), (2, 2), return_indices=True)
            y = jc.avg_pool(jc.max_unpool(y, index, (7, 7)), (2, 2))
            y = jc.fold(jc.unfold(y, (2, 2)), (3, 3), (2, 2))
            y = jc.adaptive_max_pool(jc.lp_pool(y, (2, 1)), (2, 2))
            return jc.adaptive_avg_pool(y, (3, None)).sum()

        return jax.value_and_grad(loss)(x)

    exported = export.export(jax.jit(model))(jax.ShapeDtypeStruct(batch, jnp.float32))
    for size in (1, 3):
        x = jnp.asarray(np.random.default_rng(size).normal(size=(size, 4, 9, 8)), jnp.float32)
        for one, other in zip(exported.call(x), model(x), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)
    channels = jax.ShapeDtypeStruct(export.symbolic_shape("b, 5, 5, c"), jnp.float32)
    pooled = jax.grad(lambda x: jc.max_pool(x, (2, 2), layout="NHWC").sum())
    x = jnp.arange(100.0, dtype=jnp.float32).reshape(2, 5, 5, 2)
    got = export.export(jax.jit(pooled))(channels).call(x)
    np.testing.assert_array_equal(got, pooled(x))
    space = jax.ShapeDtypeStruct(export.symbolic_shape("4, h, 8"), jnp.float32)
    with pytest.raises(ValueError, match="x must have static spatial sizes"):
        jax.eval_shape(lambda x: jc.conv(x, kernel), space)
    with pytest.raises(ValueError, match="x must have static spatial sizes"):
        jax.eval_shape(lambda x: jc.max_pool(x, (2, 2)), space)
    plane = jax.ShapeDtypeStruct(export.symbolic_shape("h, 8"), jnp.float32)
    for function in (lambda X: jc.corr2d(X, kernel[0, 0]), lambda X: jc.pool2d(X, (2, 2))):
        with pytest.raises(ValueError, match="X must have static spatial sizes"):
            jax.eval_shape(function, plane)


def test_no_large_constants():
    """Positions and counts are computed where they are needed, not written into the program."""
    x = jax.ShapeDtypeStruct((1, 512, 512), jnp.float32)
    uncounted = functools.partial(jc.avg_pool, count_include_pad=False)
    columns = lambda x, window, **options: jc.unfold(x, (300, 2), **options)
    adaptive = lambda x, *_, **__: jc.adaptive_avg_pool(x, (3, 200)) + x[:, :1, :1]
    for pool in (jc.max_pool, jc.avg_pool, uncounted, columns, adaptive):

        def loss(x, pool=pool):
            return (pool(x, (3, 3), stride=1, padding=1) ** 2).sum()

        assert len(jax.jit(jax.grad(loss)).lower(x).as_text()) < 40_000


@pytest.mark.thinned(3)
@pytest.mark.parametrize("layout", [None, "NHWC"])
@pytest.mark.parametrize("algorithm", ["auto", *jc.algorithms()])
@pytest.mark.parametrize(("channels", "groups"), [((1, 8), 1), ((8, 8), 1), ((16, 16), 2)])
def test_programs_do_not_grow_with_the_batch(channels, groups, algorithm, layout):
    """A product to each image of a batch of 1,000 takes half a minute to compile."""
    (c_i, c_o), batch = channels, 1000
    shapes = [(batch, c_i, 28, 28), (c_o, c_i // groups, 3, 3)]
    if layout:
        shapes = [(batch, 28, 28, c_i), (3, 3, c_i // groups, c_o)]

    def step(x, w):
        options = {"groups": groups, "layout": layout, "algorithm": algorithm}
        return jax.vjp(lambda x, w: jc.conv(x, w, padding=1, **options), x, w)[1]

    x, w = (jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)
    y = jax.eval_shape(lambda x, w: jc.conv(x, w, padding=1, groups=groups, layout=layout), x, w)
    try:
        lowered = jax.jit(lambda x, w, y: step(x, w)(y)).trace(x, w, y)
    except ValueError as error:
        if f"algorithm {algorithm!r} cannot compute this output" in str(error):
            return
        raise
    text = lowered.lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("stablehlo.dot_general") + text.count("stablehlo.convolution") <= 100


@pytest.mark.parametrize(("groups", "algorithm"), [(1, "auto"), (4, "auto"), (1, "patches")])
@pytest.mark.parametrize("window", [(5, 25), (5, 31)])
def test_programs_do_not_grow_with_the_stride(window, groups, algorithm):
    """Residues by the stride are computed one after the other where they are few."""
    shapes = (2, 64, 64, 64), (64, 64 // groups, *window)
    x, w = (jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)
    conv = functools.partial(jc.conv, stride=30, groups=groups, algorithm=algorithm)
    try:
        y = jax.eval_shape(conv, x, w)
    except ValueError:
        assert (algorithm, window) == ("patches", (5, 31))
        return
    text = jax.jit(lambda x, w, y: jax.vjp(conv, x, w)[1](y)).lower(x, w, y).as_text()
    assert len(text) < 25_000
