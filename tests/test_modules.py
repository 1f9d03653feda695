"""`jaxconv.nnx` and `jaxconv.linen`: Flax's modules, parameter for parameter and result for result.

Flax's own modules are the oracle, and torch's where weights are taken over from there.
"""

import copy
import pickle
import re
from typing import Any

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxconv.linen
import jaxconv.nnx

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """Flax promotes dtypes implicitly."""
    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        yield


CONV = [
    ((3, 6, (3,)), {}),
    ((3, 6, 5), {"strides": 2, "padding": "CAUSAL"}),
    ((4, 6, (3, 2)), {"strides": (2, 1), "padding": "VALID"}),
    ((4, 6, (3, 3)), {"feature_group_count": 2, "padding": 1}),
    ((4, 8, (3, 3)), {"feature_group_count": 4, "padding": "CIRCULAR", "use_bias": False}),
    ((2, 3, (3, 3)), {"padding": "REFLECT", "kernel_dilation": 2}),
    ((2, 3, (2, 3)), {"padding": [(1, 0), (2, 1)], "input_dilation": (2, 1)}),
    ((2, 3, (3, 2, 2)), {"padding": "SAME", "strides": (1, 2, 1)}),
    ((2, 3, (3, 3)), {"dtype": jnp.bfloat16, "param_dtype": jnp.float32}),
    ((2, 3, (3, 3)), {"param_dtype": jnp.bfloat16, "precision": "highest"}),
]
TRANSPOSED = [
    ((3, 6, (3,)), {}),
    ((4, 6, (2, 2)), {"strides": (2, 2)}),
    ((4, 6, (3, 2)), {"strides": (2, 1), "padding": "VALID", "transpose_kernel": True}),
    ((4, 6, (4, 4)), {"strides": 2, "padding": "CIRCULAR"}),
    ((4, 3, (5, 3)), {"strides": (2, 3), "padding": [(1, 2), (0, 1)], "kernel_dilation": (1, 2)}),
    ((2, 3, (3, 2, 2)), {"strides": (2, 1, 2), "use_bias": False}),
    ((2, 3, (3, 3)), {"dtype": jnp.float16}),
]
POOLS = [
    ((2,), {"strides": (2,)}),
    ((3, 3), {}),
    ((3, 2), {"strides": (2, 1), "padding": "SAME"}),
    ((2, 2), {"strides": (2, 2), "padding": ((1, 0), (0, 1))}),
    ((2, 3, 2), {"strides": (1, 2, 2), "padding": "SAME"}),
]
SIZES = (7, 8, 6)


def images(channels, rank, batch=(2,), seed=0, dtype=jnp.float32):
    shape = (*batch, *SIZES[:rank], channels)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def rank(kernel_size):
    return 1 if isinstance(kernel_size, int) else len(kernel_size)


def assert_close(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        coarse = w.dtype in (jnp.bfloat16, jnp.float16)
        scale = float(jnp.abs(w).max()) if w.size else 1.0
        tolerance = (2e-2 if coarse else 2e-5) * max(scale, 1e-3)
        np.testing.assert_allclose(np.asarray(g, float), np.asarray(w, float), atol=tolerance)


def names(cases):
    return [f"{args}-{'-'.join(map(str, options))}" for args, options in cases]


def each(cases):
    return pytest.mark.parametrize(("args", "options"), cases, ids=names(cases))


def check_nnx(name, args, options):
    """The same parameters from the same key, and the same results and gradients."""
    ours, flaxs = (
        getattr(library, name)(*args, **options, rngs=flax.nnx.Rngs(5))
        for library in (jaxconv.nnx, flax.nnx)
    )
    graph, state = flax.nnx.split(ours)
    flaxs_graph, flaxs_state = flax.nnx.split(flaxs)
    chex_equal(state, flaxs_state)
    for batch in ((), (2,), (2, 3)):
        x = images(args[0], rank(args[2]), batch)

        def loss(state, x, graph=graph):
            return (flax.nnx.merge(graph, state)(x).astype(jnp.float32) ** 2).sum()

        assert_close(ours(x), flaxs(x))
        if len(batch) == 1:
            got = jax.jit(jax.grad(loss, (0, 1)))(state, x)
            assert_close(got, jax.grad(lambda s, x: loss(s, x, flaxs_graph), (0, 1))(state, x))


def chex_equal(state, other):
    assert jax.tree.structure(state) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a, float), np.asarray(b, float))


@pytest.mark.thinned(5)
@each(CONV)
def test_nnx_conv_is_flaxs(args, options):
    check_nnx("Conv", args, options)


@pytest.mark.thinned(5)
@each(TRANSPOSED)
def test_nnx_conv_transpose_is_flaxs(args, options):
    check_nnx("ConvTranspose", args, options)


def check_linen(name, args, options):
    inputs, *rest = args
    ours, flaxs = (
        getattr(library, name)(*rest, **options) for library in (jaxconv.linen, flax.linen)
    )
    for batch in ((), (2,), (2, 3)):
        x = images(inputs, rank(args[2]), batch)
        y, variables = ours.init_with_output(jax.random.key(3), x)
        flaxs_y, flaxs_variables = flaxs.init_with_output(jax.random.key(3), x)
        chex_equal(variables, flaxs_variables)
        assert_close(y, flaxs_y)

        def loss(variables, x, module=ours):
            return (module.apply(variables, x).astype(jnp.float32) ** 2).sum()

        if len(batch) == 1:
            got = jax.jit(jax.grad(loss, (0, 1)))(variables, x)
            assert_close(got, jax.grad(lambda v, x: loss(v, x, flaxs), (0, 1))(variables, x))


@pytest.mark.thinned(5)
@each(CONV)
def test_linen_conv_is_flaxs(args, options):
    check_linen("Conv", args, options)


@pytest.mark.thinned(5)
@each(TRANSPOSED)
def test_linen_conv_transpose_is_flaxs(args, options):
    check_linen("ConvTranspose", args, options)


@pytest.mark.thinned(5)
@each(POOLS)
@pytest.mark.parametrize("name", ["MaxPool", "AvgPool"])
def test_pools_are_flaxs(name, args, options):
    function = {"MaxPool": flax.linen.max_pool, "AvgPool": flax.linen.avg_pool}[name]
    for counts in [{}] if name == "MaxPool" else [{}, {"count_include_pad": False}]:
        ours = getattr(jaxconv.nnx, name)(args, **options, **counts)
        linens = getattr(jaxconv.linen, name)(args, **options, **counts)
        named = isinstance(options.get("padding", ""), str)
        for batch in ((), (2,), (2, 3))[: 3 if named else 2]:  # Flax pads one batch axis alone
            x = images(3, len(args), batch)
            wanted = function(x, args, **options, **counts)
            assert_close(ours(x), wanted)
            assert_close(linens.apply({}, x), wanted)
            u = jnp.cos(jnp.arange(wanted.size, dtype=jnp.float32)).reshape(wanted.shape)
            gradient = jax.vjp(lambda x: function(x, args, **options, **counts), x)[1](u)
            assert_close(jax.vjp(ours, x)[1](u), gradient)


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                yield from primitives(inner)


@pytest.mark.parametrize("library", [jaxconv.nnx, jaxconv.linen])
def test_modules_compute_by_jaxconv(library):
    """Nothing of lax's is left, forwards and backwards."""
    x = images(4, 2)
    if library is jaxconv.nnx:
        rngs = flax.nnx.Rngs(0)
        modules = [library.Conv(4, 4, (3, 3), rngs=rngs)]
        modules += [library.ConvTranspose(4, 4, (3, 3), (2, 2), rngs=rngs)]
        modules += [library.MaxPool((2, 2)), library.AvgPool((2, 2))]
    else:
        made = [library.Conv(4, (3, 3)), library.ConvTranspose(4, (3, 3), (2, 2))]
        made += [library.MaxPool((2, 2)), library.AvgPool((2, 2))]
        modules = [m.bind(m.init(jax.random.key(0), x)) for m in made]
    met = set()
    for module in modules:
        met |= set(primitives(jax.make_jaxpr(jax.grad(lambda x, m=module: m(x).sum()))(x).jaxpr))
    assert {"jaxconv_output", "jaxconv_input_grad", "jaxconv_place"} <= met
    assert {"jaxconv_window_sum", "jaxconv_window_spread"} <= met
    lax = ("conv_general_dilated", "reduce_window", "select_and")
    assert not [name for name in met if name.startswith(lax)]


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["SAME", 2, [(1, 2), (0, 3)]])
def test_padding_modes(mode, padding):
    """As `jnp.pad` beforehand."""
    x = images(3, 2)
    options = {"padding": padding, "strides": (2, 1), "rngs": flax.nnx.Rngs(1)}
    got = jaxconv.nnx.Conv(3, 4, (3, 4), padding_mode=mode, **options)(x)
    pairs: Any = [(1, 1), (1, 2)] if padding == "SAME" else padding
    pairs = [(2, 2)] * 2 if padding == 2 else pairs
    names = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    around = jnp.pad(x, [(0, 0), *pairs, (0, 0)], mode=names[mode])
    options |= {"padding": "VALID", "rngs": flax.nnx.Rngs(1)}
    assert_close(got, flax.nnx.Conv(3, 4, (3, 4), **options)(around))
    linens = jaxconv.linen.Conv(4, (3, 4), (2, 1), padding, padding_mode=mode)
    y, variables = linens.init_with_output(jax.random.key(0), x)
    flaxs = flax.linen.Conv(4, (3, 4), (2, 1), "VALID")
    assert_close(y, flaxs.apply(variables, around))


def test_bad_arguments():
    rngs, x = flax.nnx.Rngs(0), images(3, 2)
    said: Any = {"padding": "CIRCULAR", "padding_mode": "replicate"}
    needed = r"inputs must be \(\*batch, \*spatial, c\) with in_features = 4 channels; got shape"
    for kind in (jaxconv.nnx.Conv, jaxconv.nnx.ConvTranspose):
        with pytest.raises(ValueError, match=needed):
            kind(4, 4, (3, 3), rngs=rngs)(x)
    message = "padding_mode must be 'zeros' where padding is 'CIRCULAR', which says what is added"
    with pytest.raises(ValueError, match=message):
        jaxconv.nnx.Conv(3, 4, (3, 3), **said, rngs=rngs)
    with pytest.raises(ValueError, match=message):
        jaxconv.linen.Conv(4, (3, 3), **said).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="padding_mode must be one of zeros"):
        jaxconv.nnx.Conv(3, 4, (3, 3), padding_mode="mirror", rngs=rngs)
    with pytest.raises(ValueError, match="padding_mode must be one of zeros"):
        jaxconv.linen.Conv(4, (3, 3), padding_mode="mirror").init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="where input_dilation is not 1"):
        jaxconv.nnx.Conv(3, 4, 3, padding_mode="circular", input_dilation=2, rngs=rngs)(x[0])
    with pytest.raises(ValueError, match="at most 6 on axis 0"):
        jaxconv.nnx.Conv(3, 4, (3, 3), padding=7, padding_mode="reflect", rngs=rngs)(x)
    with pytest.raises(ValueError, match=r"layout 'NCW' has 1 spatial axes but kernel_size"):
        jaxconv.nnx.Conv(3, 4, (3, 3), layout="NCW", rngs=rngs)
    with pytest.raises(ValueError, match="inputs must be"):
        jaxconv.nnx.Conv(3, 4, (3, 3), layout="NCHW", rngs=rngs)(x[0, 0])
    with pytest.raises(ValueError, match="feature_group_count must divide"):
        jaxconv.nnx.ConvTranspose(3, 4, (3, 3), feature_group_count=2, rngs=rngs)
    conv = jaxconv.nnx.Conv(3, 4, (3, 3), rngs=rngs)
    weight, bias = np.zeros((4, 3, 3, 3), np.float32), np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"weight must fit .* \(3, 3, 3, 4\); got \(3, 3, 4, 3\)"):
        conv.load_torch(weight.swapaxes(0, 1), bias)
    with pytest.raises(ValueError, match=r"bias must fit .* \(4,\); got None"):
        conv.load_torch(weight)
    with pytest.raises(ValueError, match=r"bias must fit .* None; got"):
        jaxconv.nnx.Conv(3, 4, (3, 3), use_bias=False, rngs=rngs).load_torch(weight, bias)


def in_linen(name, *args, **options):
    """What a module of linen's does with images of these many channels."""
    channels, *rest = args
    module = getattr(jaxconv.linen, name)(*rest, **options)
    return module.init(jax.random.key(0), images(channels, 2))


def in_nnx(name, *args, **options):
    return getattr(jaxconv.nnx, name)(*args, **options, rngs=flax.nnx.Rngs(0))(images(args[0], 2))


@pytest.mark.parametrize("name", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize(("c_i", "c_o", "groups"), [(3, 4, 2), (4, 3, 2), (3, 3, 4)])
def test_groups_must_divide_the_channels(name, c_i, c_o, groups):
    """In nnx when a module is made, in linen when its input is known."""
    needed = f"feature_group_count must divide in_features = {c_i} and out_features = {c_o}"
    with pytest.raises(ValueError, match=rf"^{needed}; got {groups}$"):
        getattr(jaxconv.nnx, name)(
            in_features=c_i, out_features=c_o, kernel_size=(3, 3), feature_group_count=groups,
            rngs=flax.nnx.Rngs(0),
        )  # fmt: skip
    shape = re.escape(f"inputs (*batch, *spatial, c) = (2, 7, 8, {c_i})")
    needed = f"the {c_i} channels of {shape} and features = {c_o}"
    with pytest.raises(ValueError, match=rf"^feature_group_count .* {needed}; got {groups}\b"):
        in_linen(name, c_i, c_o, (3, 3), feature_group_count=groups)


@pytest.mark.parametrize("called", [in_linen, in_nnx])
@pytest.mark.parametrize("name", ["Conv", "ConvTranspose"])
def test_bad_convolutions(called, name):
    for groups in (0, -1):
        with pytest.raises(ValueError, match=f"^feature_group_count .* at least 1; got {groups}"):
            called(name, 3, 4, (3, 3), feature_group_count=groups)
    with pytest.raises(TypeError, match=r"^feature_group_count must be .* got 1.0"):
        called(name, 3, 4, (3, 3), feature_group_count=1.0)
    with pytest.raises(ValueError, match=r"^inputs must be .* with 4 spatial axes"):
        called(name, 3, 4, (1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"for 1D|^padding must be an int"):
        called(name, 3, 4, (3, 3), padding="CAUSAL")
    for padding in ("smae", "FULL", "circular", ""):
        with pytest.raises(ValueError, match=rf"^padding must .*SAME_LOWER.*; got '{padding}'"):
            called(name, 3, 4, (3, 3), padding=padding)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("padding", ["same", "Valid", "SAME_LOWER"])
@pytest.mark.parametrize("called", [check_nnx, check_linen])
def test_names_of_paddings_are_flaxs(called, padding):
    """In any case, which Flax's own names are not."""
    called("Conv", (2, 3, (2, 3)), {"strides": 2, "padding": padding})
    called("ConvTranspose", (2, 3, (2, 3)), {"padding": padding})
    pool = jaxconv.nnx.MaxPool((2, 3), (2, 1), padding)
    x = images(3, 2)
    assert_close(pool(x), flax.nnx.max_pool(x, (2, 3), (2, 1), padding))


POOL_ERRORS = [
    (TypeError, "window_shape must be a sequence of ints.*; got 2 .int", {"window_shape": 2}),
    (TypeError, "window_shape must be a sequence of ints.*; got '22'", {"window_shape": "22"}),
    (TypeError, r"window_shape\[0\] must be .*; got 2.0", {"window_shape": (2.0, 2)}),
    (ValueError, r"window_shape\[1\] must be at least 1; got 0", {"window_shape": (2, 0)}),
    (ValueError, "inputs must be .* with 4 spatial axes", {"window_shape": (1, 1, 1, 1)}),
    (TypeError, "strides must be .*; got 2.0", {"strides": 2.0}),
    (ValueError, "strides must be at least 1; got 0", {"strides": 0}),
    (ValueError, r"strides\[1\] must be at least 1; got -1", {"strides": (1, -1)}),
    (ValueError, "strides must be an int or a sequence of 2", {"strides": (2,)}),
    (ValueError, "padding must be 2 .* or one of SAME, VALID, .*'FULL'", {"padding": "FULL"}),
    (ValueError, "padding must be 2 .low, high. pair.*CIRCULAR", {"padding": "CIRCULAR"}),
    (TypeError, "padding must be 2 .low, high. pair.*; got 1 .int", {"padding": 1}),
    (TypeError, r"padding\[0\] must be a .low, high. pair", {"padding": (1, 1)}),
    (ValueError, r"padding must be 2 .*; got \(\(1, 1\),\)", {"padding": ((1, 1),)}),
    (ValueError, r"padding\[1\] must be a .low, high. pair", {"padding": ((1, 1), (1,))}),
]


@pytest.mark.parametrize(("error", "message", "options"), POOL_ERRORS, ids=lambda v: str(v)[:40])
@pytest.mark.parametrize("name", ["MaxPool", "AvgPool"])
def test_bad_pools(name, error, message, options):
    options, x = {"window_shape": (2, 2), **options}, images(3, 2)
    with pytest.raises(error, match=f"^{message}"):
        getattr(jaxconv.nnx, name)(**options)(x)
    with pytest.raises(error, match=f"^{message}"):
        getattr(jaxconv.linen, name)(**options).apply({}, x)


@pytest.mark.parametrize("name", ["MaxPool", "AvgPool"])
def test_an_int_is_the_stride_of_every_axis_and_none_at_all_is_1(name):
    x, pools = images(3, 2), (jaxconv.nnx, jaxconv.linen)
    flaxs = getattr(flax.linen, {"MaxPool": "max_pool", "AvgPool": "avg_pool"}[name])
    for strides, meant in [(2, (2, 2)), ((), (1, 1)), ([2, np.int64(1)], (2, 1))]:
        ours, linens = (getattr(library, name)((2, 3), strides=strides) for library in pools)
        assert_close(ours(x), flaxs(x, (2, 3), meant))
        assert_close(linens.apply({}, x), flaxs(x, (2, 3), meant))
    with pytest.raises(
        ValueError, match=r"^padding must be one of .* for inputs \(1, 2, 7, 8, 3\)"
    ):
        getattr(jaxconv.nnx, name)((2, 2), padding=((1, 1), (0, 0)))(x[None])


@pytest.mark.parametrize("name", ["Conv", "ConvTranspose"])
def test_equal_modules_are_equal(name):
    """Compared, hashed, copied and put together as Flax's are; one trace for all of them."""

    def made(seed, library=jaxconv.nnx):
        return getattr(library, name)(3, 3, (3, 3), rngs=flax.nnx.Rngs(seed))

    one, other = made(0), made(1)
    for like in (other, copy.deepcopy(one), flax.nnx.clone(one), pickle.loads(pickle.dumps(one))):
        assert flax.nnx.graphdef(one) == flax.nnx.graphdef(like)
        assert hash(flax.nnx.graphdef(one)) == hash(flax.nnx.graphdef(like))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, one, other)
    np.testing.assert_allclose(mean.kernel[...], (one.kernel[...] + other.kernel[...]) / 2)
    layers = [getattr(jaxconv.linen, name)(8, (3, 3)) for _ in range(2)]
    assert layers[0] == layers[1]
    assert hash(layers[0]) == hash(layers[1])
    flaxs = getattr(flax.linen, name)(8, (3, 3))
    fields = [
        line for line in repr(flaxs).splitlines() if "init" not in line and " at 0x" not in line
    ]
    assert set(fields) <= set(repr(layers[0]).splitlines())


def test_clones_are_what_they_say():
    x, key = images(4, 2), jax.random.key(0)
    plain = jaxconv.linen.Conv(4, (3, 3))
    variables = plain.init(key, x)
    for mode in ("reflect", "zeros"):
        wanted = jaxconv.linen.Conv(4, (3, 3), padding_mode=mode).apply(variables, x)
        assert_close(plain.clone(padding_mode=mode).apply(variables, x), wanted)
        plain = plain.clone(padding_mode=mode)
    two = jaxconv.linen.ConvTranspose(4, (2, 2), feature_group_count=2)
    for groups in (1, 4, 2):
        kernel: Any = two.clone(feature_group_count=groups).init(key, x)["params"]["kernel"]
        assert jnp.shape(kernel) == (2, 2, 4 // groups, 4)


def test_in_the_place_of_flaxs_own(monkeypatch):
    """Where somebody puts these classes into Flax, they still find Flax's code."""
    for library, ours in ((flax.nnx, jaxconv.nnx), (flax.linen, jaxconv.linen)):
        for name in ("Conv", "ConvTranspose"):
            monkeypatch.setattr(library, name, getattr(ours, name))
    x = images(3, 2)
    assert flax.nnx.ConvTranspose(3, 4, (2, 2), (2, 2), rngs=flax.nnx.Rngs(0))(x).shape[-1] == 4
    assert flax.linen.ConvTranspose(4, (2, 2)).init_with_output(jax.random.key(0), x)[0].ndim == 4


def test_masks_and_metadata_are_flaxs():
    mask = jnp.asarray(np.tril(np.ones((3, 3))).reshape(3, 3, 1, 1) * np.ones((1, 1, 2, 4)))
    x = images(2, 2)
    options = {
        "mask": mask, "kernel_init": flax.nnx.initializers.normal(0.3),
        "kernel_metadata": {"role": "edges"}, "bias_metadata": {"role": "offset"},
    }  # fmt: skip
    ours, flaxs = (
        library.Conv(2, 4, (3, 3), **options, rngs=flax.nnx.Rngs(2))
        for library in (jaxconv.nnx, flax.nnx)
    )
    assert ours.kernel.role == "edges"
    assert ours.bias.role == "offset"
    assert_close(ours(x), flaxs(x))


def test_sharding_annotations_are_flaxs():
    names = (None, None, None, "model")
    init = flax.nnx.with_partitioning(flax.nnx.initializers.lecun_normal(), names)
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))

    def specs(library, **options):
        rngs = flax.nnx.Rngs(0)
        module = library.ConvTranspose(4, 6, (3, 3), (2, 2), kernel_init=init, rngs=rngs, **options)
        module(images(4, 2))
        return jax.tree.leaves(flax.nnx.get_partition_spec(flax.nnx.state(module)))

    with jax.set_mesh(mesh):
        ours, grouped = specs(jaxconv.nnx), specs(jaxconv.nnx, feature_group_count=2)
        assert ours == grouped == specs(flax.nnx)
    assert jax.sharding.PartitionSpec(*names) in ours


def torch_module(transposed, rank, args, options):
    name = f"Conv{'Transpose' if transposed else ''}{rank}d"
    torch.manual_seed(rank)
    return getattr(torch.nn, name)(*args, **options)


def weights(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


def assert_as_torch(ours, theirs, x, layout):
    """On torch's own arrays in its layout, else on theirs moved to channels last."""
    wanted = theirs(torch.from_numpy(np.asarray(x).copy())).detach().numpy()
    if layout is None:
        x, wanted = jnp.moveaxis(x, 1, -1), np.moveaxis(wanted, 1, -1)
    np.testing.assert_allclose(ours(x), wanted, atol=1e-5)


LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
both_layouts = pytest.mark.parametrize("first", [False, True], ids=["last", "first"])


@pytest.mark.thinned(11)
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("biased", [True, False])
@both_layouts
def test_torch_conv_moves_over(axes, groups, biased, first):
    layout = LAYOUTS[axes] if first else None
    options = {"stride": 2, "padding": 1, "dilation": 2, "groups": groups, "bias": biased}
    theirs = torch_module(False, axes, (4, 8, 2), options)
    ours = jaxconv.nnx.Conv(
        4, 8, (2,) * axes, 2, padding=1, kernel_dilation=2, feature_group_count=groups,
        use_bias=biased, layout=layout, rngs=flax.nnx.Rngs(0),
    ).load_torch(**weights(theirs))  # fmt: skip
    assert_as_torch(ours, theirs, jnp.moveaxis(images(4, axes), -1, 1), layout)


@pytest.mark.thinned(11)
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("transpose_kernel", [True, False])
@both_layouts
def test_torch_conv_transpose_moves_over(axes, groups, transpose_kernel, first):
    layout = LAYOUTS[axes] if first else None
    options = {"stride": 2, "padding": 1, "output_padding": 1, "dilation": 2, "groups": groups}
    theirs = torch_module(True, axes, (4, 8, 3), options)
    padding = [(2 * 2 - 1, 2 * 2 - 1 + 1)] * axes
    ours = jaxconv.nnx.ConvTranspose(
        4, 8, (3,) * axes, 2, padding=padding, kernel_dilation=2, feature_group_count=groups,
        transpose_kernel=transpose_kernel, layout=layout, rngs=flax.nnx.Rngs(0),
    ).load_torch(**weights(theirs))  # fmt: skip
    assert_as_torch(ours, theirs, jnp.moveaxis(images(4, axes), -1, 1), layout)


@pytest.mark.parametrize("transpose_kernel", [True, False])
def test_grouped_conv_transpose_in_linen(transpose_kernel):
    """As nnx's with the same kernel, and as one group for each of them."""
    x, options = images(4, 2), {"padding": "SAME", "transpose_kernel": transpose_kernel}
    ours = jaxconv.linen.ConvTranspose(6, (3, 2), (2, 1), feature_group_count=2, **options)
    y, variables = ours.init_with_output(jax.random.key(0), x)
    kernel: Any = variables["params"]["kernel"]
    assert kernel.shape == ((3, 2, 3, 4) if transpose_kernel else (3, 2, 2, 6))
    alone = flax.linen.ConvTranspose(3, (3, 2), (2, 1), **options)
    parts: Any = [
        alone.apply({"params": {"kernel": k, "bias": jnp.zeros(3)}}, part)
        for k, part in zip(jnp.split(kernel, 2, -1), jnp.split(x, 2, -1), strict=True)
    ]
    assert_close(y, jnp.concatenate(parts, -1))
    assert_close(ours.clone().apply(variables, x), y)


@pytest.mark.parametrize("forth", [True, False])
def test_checkpoints_move_over(tmp_path, forth):
    """An orbax checkpoint of the one library's network is read into the other's."""
    import orbax.checkpoint as ocp

    def network(library):
        rngs = flax.nnx.Rngs(7 if library is flax.nnx else 8)
        return flax.nnx.List([
            library.Conv(3, 4, (3, 3), rngs=rngs),
            library.ConvTranspose(4, 2, (2, 2), (2, 2), rngs=rngs),
        ])  # fmt: skip

    source, target = (jaxconv.nnx, flax.nnx) if forth else (flax.nnx, jaxconv.nnx)
    saved, read = network(source), network(target)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", flax.nnx.state(saved))
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", flax.nnx.state(read))
    flax.nnx.update(read, restored)
    chex_equal(flax.nnx.state(read), flax.nnx.state(saved))
    x = images(3, 2)
    assert_close(read[1](read[0](x)), saved[1](saved[0](x)))
