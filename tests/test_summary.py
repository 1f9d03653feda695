"""Summaries of networks: known totals, fields against NaNs that spread, layers against modules.

Totals are those published for the networks, derived here in plain products. Apart from the NaNs,
which run through nets of a few numbers, nothing is computed.
"""

import contextlib
import functools
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import jaxconv as jc
import jaxconv.nnx as jn
from jaxconv.geometry import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    MaxPool,
    ReceptiveField,
    Residual,
    Row,
    Summary,
    receptive_field,
    summary,
)


@pytest.fixture(autouse=True)
def everyday_settings():
    """jax's own settings: Flax's modules mix dtypes and ranks."""
    with contextlib.ExitStack() as settings:
        settings.enter_context(jax.enable_x64(False))
        settings.enter_context(jax.numpy_dtype_promotion("standard"))
        settings.enter_context(jax.numpy_rank_promotion("allow"))
        yield


# Known networks, as layers.

LENET = [
    Conv(6, (5, 5), padding=2), AvgPool((2, 2)), Conv(16, (5, 5)), AvgPool((2, 2)),
    Flatten(), Dense(120), Dense(84), Dense(10),
]  # fmt: skip

VGG_FEATURES = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
VGG = [
    *(Conv(c, (3, 3), padding=1) if c else MaxPool((2, 2)) for c in VGG_FEATURES),
    Flatten(), Dense(4096), Dense(4096), Dense(1000),
]  # fmt: skip


def block(features: int, stride: int, widens: bool) -> Residual:
    body = [
        Conv(features, (3, 3), stride=stride, padding=1, bias=False), BatchNorm(),
        Conv(features, (3, 3), padding=1, bias=False), BatchNorm(),
    ]  # fmt: skip
    shortcut = [Conv(features, (1, 1), stride=stride, bias=False), BatchNorm()]
    return Residual(body, shortcut if widens else ())


#: Features, stride, and whether the block has a convolution in its shortcut.
RESNET_BLOCKS = tuple(
    (features, 2 if first and features > 64 else 1, first and features > 64)
    for features in (64, 128, 256, 512)
    for first in (True, False)
)
RESNET = [
    Conv(64, (7, 7), stride=2, padding=3, bias=False), BatchNorm(),
    MaxPool((3, 3), stride=2, padding=1), *itertools.starmap(block, RESNET_BLOCKS),
    AdaptiveAvgPool((1, 1)), Flatten(), Dense(1000),
]  # fmt: skip


def test_lenet():
    """Every entry of every kernel, and every product."""
    found = summary(LENET, (1, 28, 28))
    kernels = (6 * 25, 16 * 6 * 25, 400 * 120, 120 * 84, 84 * 10)
    biases = 6 + 16 + 120 + 84 + 10
    products = (28 * 28 * 150, 10 * 10 * 2400, 48000, 10080, 840)
    assert found.parameters == sum(kernels) + biases == 61_706
    assert found.multiply_adds == sum(products) == 416_520
    assert [row.output_shape for row in found.rows] == [
        (6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (400,), (120,), (84,), (10,),
    ]  # fmt: skip
    sizes = [row.receptive_field.size[0] for row in found.rows[:4] if row.receptive_field]
    assert sizes == [5, 6, 14, 16]
    assert [row.receptive_field for row in found.rows[4:]] == [None] * 4
    assert found.receptive_field is None


def test_vgg():
    found = summary(VGG, (3, 224, 224), platform="cpu")
    assert found.parameters == 138_357_544
    dense = 512 * 7 * 7 * 4096 + 4096 * 4096 + 4096 * 1000
    assert found.multiply_adds - dense == 15_346_630_656
    assert found.multiply_adds == 15_470_264_320
    *_, conv5_3, pool5, _, _, _, _ = found.rows
    assert conv5_3.receptive_field == ReceptiveField((196, 196), (16, 16), (-90, -90))
    assert pool5.receptive_field == ReceptiveField((212, 212), (32, 32), (-90, -90))
    assert pool5.output_shape == (512, 7, 7)


def test_resnet():
    found = summary(RESNET, (3, 224, 224), platform="cpu")
    assert found.parameters == 11_689_512
    assert found.multiply_adds == 1_814_073_344
    last = next(row for row in found.rows if row.name == "10 residual")
    assert last.output_shape == (512, 7, 7)
    assert last.receptive_field is not None
    assert last.receptive_field.size == (435, 435)
    assert last.receptive_field.jump == (32, 32)


NETWORKS = {"lenet": (LENET, 1, 28), "vgg": (VGG, 3, 64), "resnet": (RESNET, 3, 64)}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_multiplies_products_and_nothing_else(name: str):
    layers, channels, size = NETWORKS[name]
    one = summary(layers, (channels, size, size), platform="cuda")
    many = summary(layers, (2, 3, channels, size, size), platform="cuda")
    assert many.multiply_adds == 6 * one.multiply_adds
    assert many.parameters == one.parameters
    for a, b in zip(one.rows, many.rows, strict=True):
        assert (2, 3, *(a.output_shape or ())) == b.output_shape
        assert a.receptive_field == b.receptive_field


@pytest.mark.parametrize("name", NETWORKS)
def test_layouts_agree(name: str):
    layers, channels, size = NETWORKS[name]
    first = summary(layers, (1, channels, size, size), platform="cuda")
    last = summary(layers, (1, size, size, channels), layout="NHWC", platform="cuda")
    for a, b in zip(first.rows, last.rows, strict=True):
        shape = a.output_shape or ()
        moved = (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape
        assert b == a._replace(output_shape=moved)
    assert first[1:] == last[1:]


# The same networks as modules.


class Lenet(nnx.Module):
    def __init__(self, conv: Any, rngs: nnx.Rngs):
        self.convs = nnx.List(
            [conv(1, 6, (5, 5), rngs=rngs), conv(6, 16, (5, 5), padding="VALID", rngs=rngs)]
        )
        self.dense = nnx.List(
            [nnx.Linear(a, b, rngs=rngs) for a, b in ((400, 120), (120, 84), (84, 10))]
        )

    def __call__(self, x: Any) -> Any:
        for conv in self.convs:
            x = jn.AvgPool((2, 2), (2, 2))(nnx.sigmoid(conv(x)))
        x = x.reshape(x.shape[0], -1)
        for dense in self.dense:
            x = dense(nnx.sigmoid(x))
        return x


class Vgg(nnx.Module):
    def __init__(self, conv: Any, rngs: nnx.Rngs):
        layers, channels = [], 3
        for features in VGG_FEATURES:
            if features:
                layers += [conv(channels, features, (3, 3), rngs=rngs), nnx.relu]
                channels = features
            else:
                layers.append(jn.MaxPool((2, 2), (2, 2)))
        self.features = nnx.Sequential(*layers)
        sizes = ((25088, 4096), (4096, 4096), (4096, 1000))
        self.dense = nnx.Dict({f"fc{a}_{b}": nnx.Linear(a, b, rngs=rngs) for a, b in sizes})
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.features(x)
        x = x.reshape(x.shape[0], -1)
        for name in ("fc25088_4096", "fc4096_4096", "fc4096_1000"):
            x = self.dense[name](self.dropout(x))
        return x


class Block(nnx.Module):
    def __init__(self, conv: Any, given: int, features: int, stride: int, widens: bool, rngs: Any):
        make = functools.partial(conv, use_bias=False, rngs=rngs)
        ones, steps = ((1, 1), (1, 1)), (stride, stride)
        self.conv1 = make(given, features, (3, 3), strides=steps, padding=ones)
        self.conv2 = make(features, features, (3, 3), padding=ones)
        self.norm1, self.norm2 = (nnx.BatchNorm(features, rngs=rngs) for _ in range(2))
        self.shortcut = nnx.Sequential()
        if widens:
            project = make(given, features, (1, 1), strides=steps)
            self.shortcut = nnx.Sequential(project, nnx.BatchNorm(features, rngs=rngs))

    def __call__(self, x: Any) -> Any:
        y = self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x)))))
        return nnx.relu(y + self.shortcut(x))


class Resnet(nnx.Module):
    def __init__(self, conv: Any, rngs: nnx.Rngs):
        padding = ((3, 3), (3, 3))
        options = {"strides": (2, 2), "padding": padding, "use_bias": False}
        self.stem = conv(3, 64, (7, 7), rngs=rngs, **options)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.pool = jn.MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)))
        given = (64, *(features for features, _, _ in RESNET_BLOCKS))
        self.blocks = nnx.List(
            [Block(conv, c, *each, rngs) for c, each in zip(given, RESNET_BLOCKS, strict=False)]
        )
        self.head = nnx.Linear(512, 1000, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.pool(nnx.relu(self.norm(self.stem(x))))
        for part in self.blocks:
            x = part(x)
        return self.head(x.mean(axis=(1, 2)))


def abstract(make: Callable[..., Any], *args: Any) -> Any:
    """The module, without a number in it."""
    return nnx.eval_shape(lambda: make(*args, nnx.Rngs(0)))


MODULES = {"lenet": (Lenet, (1, 28, 28, 1)), "vgg": (Vgg, (1, 224, 224, 3)),
           "resnet": (Resnet, (1, 224, 224, 3))}  # fmt: skip
#: Layers that are no module and no operation of those that have rows.
WITHOUT_ROWS = ("flatten", "residual", "adaptive_avg_pool")


@pytest.mark.parametrize("conv", [nnx.Conv, jn.Conv], ids=["flax", "jaxconv"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_agree_with_layers(name: str, conv: Any):
    make, shape = MODULES[name]
    traced = jn.summary(abstract(make, conv), shape, platform="cpu")
    layers = summary(NETWORKS[name][0], shape, layout="NHWC", platform="cpu")
    rows = [row for row in layers.rows if row.name.split()[-1] not in WITHOUT_ROWS]
    for ours, expected in zip(traced.rows, rows, strict=True):
        if conv is nnx.Conv and ours.name.endswith(" Conv"):
            expected = expected._replace(algorithms=("lax",) * 3)
        assert ours._replace(name="") == expected._replace(name="")
    assert traced[1:] == layers[1:]


def test_rows_of_modules_are_named_by_path_and_class():
    names = [row.name for row in jn.summary(abstract(Resnet, nnx.Conv), (1, 64, 64, 3)).rows]
    assert names[:5] == [
        "stem Conv", "norm BatchNorm", "pool MaxPool", "blocks.0.conv1 Conv",
        "blocks.0.norm1 BatchNorm",
    ]  # fmt: skip
    assert "blocks.2.shortcut.layers.0 Conv" in names
    assert names[-1] == "head Linear"


@pytest.mark.parametrize("name", MODULES)
def test_parameters_are_those_of_the_state(name: str):
    make, shape = MODULES[name]
    module = abstract(make, nnx.Conv)
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))]
    assert jn.summary(module, shape).parameters == sum(sizes)


# Algorithms.


@pytest.mark.parametrize("platform", ["cpu", "cuda", None])
def test_algorithms_are_those_that_explain_says(platform: str | None):
    layers = [
        Conv(64, (3, 3), padding=1, bias=False), Conv(64, (3, 3), padding="same", groups=64),
        Conv(96, (3, 3), stride=2, dilation=2), ConvTranspose(32, (4, 4), stride=2, padding=1),
    ]  # fmt: skip
    shape = (2, 64, 56, 56)
    rows = summary(layers, shape, platform=platform).rows
    kernels = [(64, 64, 3, 3), (64, 1, 3, 3), (96, 64, 3, 3)]
    options = [{"padding": 1}, {"padding": "same", "groups": 64}, {"stride": 2, "dilation": 2}]
    for kernel, given, row in zip(kernels, options, rows, strict=False):
        steps = jc.explain(shape, kernel, platform=platform, **given)
        assert row.algorithms == tuple(step[0].algorithm for step in steps)
        shape = row.output_shape or ()
    # The transposed convolution: its output is what is the input gradient there.
    steps = jc.explain((2, 32, 52, 52), (96, 32, 4, 4), stride=2, padding=1, platform=platform)
    taken = tuple(step[0].algorithm for step in (steps[1], steps[0], steps[2]))
    assert rows[3].output_shape == (2, 32, 52, 52)
    assert rows[3].algorithms == taken


def test_pools_have_the_algorithm_of_the_table():
    layers = [MaxPool((3, 3), stride=2), AvgPool((2, 2)), AdaptiveAvgPool((3, 2)), ((1, 1),)]
    rows = summary(layers, (8, 57, 57), platform="cpu").rows
    assert [row.algorithms for row in rows] == [("axes",), ("slices",), ("adaptive",), ()]
    rows = summary(layers[:2], (8, 57, 57), platform="tpu").rows
    assert [row.algorithms for row in rows] == [("reduce_window",)] * 2


def test_dtype_counts():
    layers = [Conv(32, (3, 3), bias=False)]
    for dtype in ("float32", "int32", "bfloat16"):
        row = summary(layers, (1, 32, 9, 9), dtype=dtype, platform="cpu").rows[0]
        steps = jc.explain((1, 32, 9, 9), (32, 32, 3, 3), dtype=dtype, platform="cpu")
        assert row.algorithms == tuple(step[0].algorithm for step in steps)


class Plain(nnx.Module):
    """Any function, as a module."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def test_accelerated_operations_have_the_algorithms_that_acceleration_takes():
    module, shape = abstract(Resnet, nnx.Conv), (1, 224, 224, 3)
    before = jn.summary(module, shape, platform="cpu")
    with jc.accelerate():
        on = jn.summary(module, shape, platform="cpu")
        elsewhere = jn.summary(module, shape, platform="cuda")
        small = jn.summary(Plain(lambda x: lax.conv(x, x, (1, 1), "SAME")), (1, 1, 3, 3))
    ours = jn.summary(abstract(Resnet, jn.Conv), shape, platform="cpu")
    assert {row.algorithms for row in before.rows if " Conv" in row.name} == {("lax",) * 3}
    assert [row.algorithms for row in on.rows] == [row.algorithms for row in ours.rows]
    assert {row.algorithms for row in elsewhere.rows if " Conv" in row.name} == {("lax",) * 3}
    assert small.rows[0].algorithms[0] == "lax"
    assert jn.summary(module, shape, platform="cpu") == before


# Receptive fields, against NaNs that spread.

N = 48


def seen(function: Callable[..., Any], n: int) -> np.ndarray:
    """`[j, p]`: whether element j of a row of n makes output p a NaN, in any channel."""
    rows = jnp.where(jnp.eye(n, dtype=bool), jnp.nan, 1.0)[:, None, :]
    return np.asarray(jnp.isnan(function(rows)).any(axis=1))


def ones(*shape: int) -> Any:
    return jnp.ones(shape)


def conv(x: Any, k: int, **options: Any) -> Any:
    return jc.conv(x, ones(1, x.shape[1], k), algorithm="direct", **options)


def laxs(x: Any, k: int, stride: int = 1, low: int = 0, gap: int = 1, dilation: int = 1) -> Any:
    return lax.conv_general_dilated(
        x, ones(1, 1, k), (stride,), [(low, 3)], lhs_dilation=(gap,), rhs_dilation=(dilation,)
    )


def up(x: Any, k: int, **options: Any) -> Any:
    return jc.conv_transpose(x, ones(1, 1, k), algorithm="direct", **options)


def pooled(x: Any, k: int, stride: int, **options: Any) -> Any:
    return jc.max_pool(x, (k,), stride=stride, **options)


def lax_pooled(x: Any, k: int, stride: int) -> Any:
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 1, k), (1, 1, stride), "SAME", window_dilation=(1, 1, 2)
    )


def rows_first(x: Any) -> Any:
    """Through other orders and shapes, with axes added and taken away."""
    y = jnp.moveaxis(x, 1, -1)[:, None, :, :, None].reshape(x.shape[0], 1, -1, 1)
    y = nnx.relu(jnp.broadcast_to(y, (*y.shape[:-1], 4)) * jnp.arange(1.0, 5) + 1)
    return jnp.moveaxis((y @ ones(4, 2))[:, 0], -1, 1)


TRACED: dict[str, Callable[[Any], Any]] = {
    "conv": lambda x: conv(x, 3),
    "stride": lambda x: conv(conv(x, 3, stride=2, padding=1), 4, stride=3),
    "dilation": lambda x: conv(conv(x, 3, dilation=4), 2, dilation=3, stride=2),
    "lax": lambda x: laxs(laxs(x, 3, 2, 1), 2, dilation=3),
    "lax upwards": lambda x: laxs(laxs(x, 3, 2, 1), 4, 1, 2, gap=2),
    "max pool": lambda x: pooled(conv(x, 2), 3, 2, padding=1),
    "ceil": lambda x: conv(pooled(x, 4, 3, ceil_mode=True), 2),
    "lax pool": lambda x: conv(lax_pooled(x, 3, 2), 3),
    "avg pool": lambda x: jc.avg_pool(conv(x, 3, padding="same"), (3,), dilation=2),
    "adaptive": lambda x: conv(jc.adaptive_avg_pool(x, (16,)), 2),
    "transposed": lambda x: up(conv(x, 3, stride=2), 5, stride=2, padding=1),
    "transposed, wide": lambda x: up(conv(x, 2, stride=4), 3, stride=4, padding="same"),
    "transposed, dilated": lambda x: up(conv(x, 4, stride=2), 3, stride=2, dilation=3, padding=2),
    "transposed, 1": lambda x: up(x, 4, padding=2),
    "residual": lambda x: conv(x, 5, stride=2, padding=2) + conv(x, 1, stride=2),
    "uneven": lambda x: conv(x, 3, padding=((0, 2),)) + conv(x, 2, padding=((1, 0),)),
    "padded": lambda x: conv(jnp.pad(x, ((0, 0), (0, 0), (3, 1))), 3, stride=2),
    "spread": lambda x: conv(lax.pad(x[..., ::2], 0.0, ((0, 0, 0), (0, 0, 0), (2, 1, 1))), 3),
    "sliced": lambda x: conv(conv(x[..., 5:], 3)[..., 2:-1:3], 2),
    "reflected": lambda x: conv(x, 5, padding=2, padding_mode="reflect"),
    "wrapped": lambda x: conv(x, 5, padding=2, padding_mode="circular"),
    "channels": lambda x: conv(jnp.concatenate([conv(x, 3, padding=1), x], axis=1), 2),
    "shapes": lambda x: conv(rows_first(conv(x, 3, stride=2)), 3),
    "jit": lambda x: conv(jax.jit(jax.checkpoint(lambda x: nnx.gelu(conv(x, 3))))(x), 3, stride=2),
    "vmap": lambda x: jax.vmap(lambda y: conv(y[None], 3)[0])(conv(x, 2)),
}


@pytest.mark.parametrize("function", TRACED.values(), ids=TRACED)
@pytest.mark.usefixtures("quick_compile")
def test_a_field_is_what_nans_spread_over(function: Callable[..., Any]):
    """No output sees beyond its window; of those inside, some see its first, some its last."""
    found = jn.summary(Plain(function), (1, 1, N)).receptive_field
    assert found is not None
    (size,), (jump,), (start,) = found
    firsts, lasts = [], []
    for p, column in enumerate(seen(function, N).T):
        begin = start + p * jump
        (where,) = np.nonzero(column)  # none, between the kernels that are laid down apart
        if begin >= 0 and begin + size <= N and len(where):
            firsts.append(where[0] - begin)
            lasts.append(where[-1] - begin - size + 1)
    assert len(firsts) >= 3
    assert (min(firsts), max(lasts)) == (0, 0)


ALL = {
    "sum": lambda x: conv(x - x.mean(axis=-1, keepdims=True), 3),
    "cumsum": lambda x: conv(jnp.cumsum(x, axis=-1), 3),
    "sort": lambda x: conv(jnp.sort(x), 3),
    "flat": lambda x: jnp.concatenate([conv(x, 3)] * 2, axis=1).reshape(x.shape[0], -1),
    "product": lambda x: jnp.einsum("bcn,nm->bcm", conv(x, 3), ones(N - 2, N)),
    "reversed": lambda x: conv(x, 3) + conv(x, 3)[..., ::-1],
    "against": lambda x: conv(x, 3)[..., :20] + conv(x, 3)[..., ::2][..., :20],
    "one for all": lambda x: conv(x, 3) + conv(x, 3)[..., 5:6],
    "fraction": lambda x: up(x, 3, stride=2),
    "itself": lambda x: jnp.einsum("bcn,bcm->bnm", conv(x, 3), conv(x, 3)),
    "loop": lambda x: lax.fori_loop(0, 2, lambda _, y: conv(y, 3, padding=1), x),
    "unknown": lambda x: conv(jnp.fft.irfft(jnp.fft.rfft(x), n=N), 3),
}


@pytest.mark.parametrize("function", ALL.values(), ids=ALL)
def test_what_no_windows_describe_has_no_field(function: Callable[..., Any]):
    found = jn.summary(Plain(function), (1, 1, N))
    assert found.receptive_field is None
    assert found.rows


#: Layers, and the same as functions of `(n, 1, N)`; every layer has one channel.
SAME: dict[str, tuple[list[Any], Callable[[Any], Any]]] = {
    "pools": (
        [Conv(1, (3,), padding=1), MaxPool((4,), stride=3, ceil_mode=True), AvgPool((2,))],
        lambda x: jc.avg_pool(pooled(conv(x, 3, padding=1), 4, 3, ceil_mode=True), (2,)),
    ),
    "transposed": (
        [Conv(1, (3,), stride=4, dilation=2), ConvTranspose(1, (5,), 2, 1, 1, 3), ((2,), 3, 1)],
        lambda x: conv(
            up(conv(x, 3, stride=4, dilation=2), 5, stride=2, padding=1, output_padding=1,
               dilation=3), 2, stride=3, padding=1,
        ),
    ),
    "transposed, 1": ([ConvTranspose(1, (4,), padding="same")], lambda x: up(x, 4, padding="same")),
    "fraction": ([ConvTranspose(1, (4,), stride=2)], lambda x: up(x, 4, stride=2)),
    "residual": (
        [Residual([Conv(1, (5,), 2, "same"), Conv(1, (4,), 1, "same")], [Conv(1, (1,), stride=2)])],
        lambda x: conv(conv(x, 5, stride=2, padding="same"), 4, padding="same")
        + conv(x, 1, stride=2),
    ),
    "shortcut": (
        [Residual([Conv(1, (2,), padding=((0, 1),))], [Conv(1, (3,), padding=((2, 0),))])],
        lambda x: conv(x, 2, padding=((0, 1),)) + conv(x, 3, padding=((2, 0),)),
    ),
    "steps": (
        [Residual([Conv(1, (25,), padding=0)], [Conv(1, (1,), stride=2)])],
        lambda x: conv(x, 25) + conv(x, 1, stride=2),
    ),
    "adaptive": ([AdaptiveAvgPool((12,))], lambda x: jc.adaptive_avg_pool(x, (12,))),
    "unequal": ([AdaptiveAvgPool((9,))], lambda x: jc.adaptive_avg_pool(x, (9,))),
    "all": ([AdaptiveAvgPool((None,)), Conv(1, (2,))], lambda x: conv(x, 2)),
}  # fmt: skip


@pytest.mark.parametrize(("layers", "function"), SAME.values(), ids=SAME)
def test_layers_see_what_their_trace_sees(layers: list[Any], function: Callable[..., Any]):
    ours, traced = summary(layers, (2, 1, N)), jn.summary(Plain(function), (2, 1, N))
    assert ours.receptive_field == traced.receptive_field
    result = jax.eval_shape(function, jax.ShapeDtypeStruct((2, 1, N), jnp.float32))
    assert ours.rows[-1].output_shape == result.shape
    if not isinstance(layers[-1], tuple) or hasattr(layers[-1], "_fields"):
        assert ours.multiply_adds == traced.multiply_adds


def test_plain_tuples_are_receptive_fields_layers():
    layers = [((3, 2), 2, 1, 1), ((2, 2),), ((3, 3), (1, 2), "same_lower", 2)][:2]
    assert summary(layers, (4, 30, 30)).receptive_field == receptive_field(layers)
    row = summary(layers, (4, 30, 30)).rows[0]
    assert row == Row("0 window", (4, 15, 16), 0, 0, ReceptiveField((3, 2), (2, 2), (-1, -1)), ())


@pytest.mark.parametrize("conv", [nnx.Conv, jn.Conv], ids=["flax", "jaxconv"])
def test_axes_are_told_apart(conv: Any):
    """Three axes, no two alike, last channels in modules and first ones in functions."""
    window, stride, padding = (3, 2, 1), (2, 1, 3), ((1, 0), (0, 2), (1, 1))

    def make(rngs: nnx.Rngs) -> nnx.Module:
        first = conv(2, 3, window, strides=stride, padding=padding, rngs=rngs)
        return nnx.Sequential(first, conv(3, 4, (2, 2, 3), padding="VALID", rngs=rngs))

    def function(x: Any) -> Any:
        y = jc.conv(x, ones(3, 2, *window), stride=stride, padding=padding)
        return jc.conv(y, ones(4, 3, 2, 2, 3))

    layers = [Conv(3, window, stride, padding), Conv(4, (2, 2, 3))]
    last = summary(layers, (2, 8, 9, 10, 2), layout="NDHWC")
    first = summary(layers, (2, 2, 8, 9, 10))
    assert last.receptive_field == receptive_field([layer[1:4] for layer in layers])
    modules = jn.summary(abstract(make), (2, 8, 9, 10, 2))
    functions = jn.summary(Plain(function), (2, 2, 8, 9, 10))
    for ours, expected in ((modules, last), (functions, first)):
        assert ours.receptive_field == expected.receptive_field
        for row, other in zip(ours.rows, expected.rows, strict=False):
            assert row.output_shape == other.output_shape
            assert row.receptive_field == other.receptive_field
            assert row.multiply_adds == other.multiply_adds


# Products of transposed convolutions.

TRANSPOSED = [
    ((3, 3), (2, 2), "SAME"), ((3, 3), (1, 1), "VALID"), ((2, 5), (1, 2), "VALID"),
]  # fmt: skip


@pytest.mark.parametrize("kind", [nnx.ConvTranspose, jn.ConvTranspose], ids=["flax", "jaxconv"])
@pytest.mark.parametrize(("window", "stride", "padding"), TRANSPOSED)
def test_transposed_convolutions_multiply_each_element_with_each_tap(
    kind: Any, window: Any, stride: Any, padding: str
):
    def make(rngs: nnx.Rngs) -> nnx.Module:
        return kind(4, 6, window, strides=stride, padding=padding, rngs=rngs)

    (row,) = jn.summary(abstract(make), (2, 7, 9, 4)).rows
    layer = ConvTranspose(6, window, stride, padding.lower())
    (expected,) = summary([layer], (2, 7, 9, 4), layout="NHWC").rows
    assert row.multiply_adds == expected.multiply_adds == 2 * 7 * 9 * 4 * 6 * math.prod(window)
    assert row.parameters == expected.parameters == 4 * 6 * math.prod(window) + 6
    assert row.output_shape == expected.output_shape


def test_groups_divide_products():
    whole, halves = (summary([Conv(6, (3,), groups=g)], (4, 9)) for g in (1, 2))
    assert whole.multiply_adds == 2 * halves.multiply_adds == 7 * 6 * 4 * 3
    assert whole.parameters - 6 == 2 * (halves.parameters - 6)


# Modules of every kind.


class Small(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.parts = nnx.Dict({"a": nnx.List([nnx.Linear(4, 5, use_bias=False, rngs=rngs)])})
        self.scale = nnx.Param(jnp.ones(5))
        self.unused = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x: Any, *, pool: bool = True) -> Any:
        x = self.drop(nnx.relu(self.norm(self.conv(x))))
        x = nnx.max_pool(x, (2, 2), (2, 2)) if pool else x
        return {"result": self.parts["a"][0](x) * self.scale}


def test_every_row_of_a_module():
    field = ReceptiveField((4, 4), (2, 2), (-1, -1))
    before = ReceptiveField((3, 3), (1, 1), (-1, -1))
    assert jn.summary(abstract(Small), (2, 8, 8, 3)) == Summary(
        (
            Row("conv Conv", (2, 8, 8, 4), 112, 13824, before, ("lax",) * 3),
            Row("norm BatchNorm", (2, 8, 8, 4), 8, 0, before, ()),
            Row("max_pool", (2, 4, 4, 4), 0, 0, field, ("lax",)),
            Row("parts.a.0 Linear", (2, 4, 4, 5), 20, 640, field, ()),
            Row("Small", (2, 4, 4, 5), 5, 0, field, ()),
            Row("unused Linear", None, 9, 0, None, ()),
        ),
        154,
        14464,
        field,
    )


def test_inputs_are_arrays_or_shapes_and_options_are_passed_on():
    module = abstract(Small)
    found = jn.summary(module, (2, 8, 8, 3))
    for x in (np.zeros((2, 8, 8, 3)), jnp.zeros((2, 8, 8, 3)),
              jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)):  # fmt: skip
        assert jn.summary(module, x) == found
    names = [row.name for row in jn.summary(module, (2, 8, 8, 3), pool=False).rows]
    assert "max_pool" not in names
    assert len(names) == len(found.rows) - 1


def test_the_module_stays_as_it_is():
    module = Small(nnx.Rngs(0))
    kinds = [type(part) for _, part in nnx.iter_modules(module)]
    names = [sorted(vars(part)) for _, part in nnx.iter_modules(module)]

    def numbers() -> list[np.ndarray]:
        leaves = jax.tree.leaves(nnx.state(module))
        is_key = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
        plain = zip(leaves, is_key, strict=True)
        return [np.asarray(jax.random.key_data(a) if key else a) for a, key in plain]

    before = numbers()
    x = jnp.ones((2, 8, 8, 3))
    jn.summary(module, x)
    for a, b in zip(before, numbers(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [type(part) for _, part in nnx.iter_modules(module)] == kinds
    assert [sorted(vars(part)) for _, part in nnx.iter_modules(module)] == names
    graph, state = nnx.split(module)
    trace = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, x)
    assert "jaxconv" not in str(trace)


class Twice(nnx.Module):
    """One module called twice, by two names, and a parameter that two modules share."""

    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
        self.b = self.a
        self.c = nnx.Linear(4, 4, rngs=rngs)
        self.c.kernel = self.a.kernel

    def __call__(self, x: Any) -> Any:
        return self.c(self.b(self.a(x)))


def test_what_is_shared_is_counted_once_and_multiplied_each_time():
    found = jn.summary(abstract(Twice), (3, 4))
    assert [(row.parameters, row.multiply_adds) for row in found.rows] == [
        (16, 48),
        (0, 48),
        (4, 48),
    ]
    assert found.parameters == 20


class Wrapped(nnx.Module):
    """Calls within calls that Flax takes apart and puts together."""

    def __init__(self, rngs: nnx.Rngs):
        self.inner = nnx.Sequential(nnx.Conv(2, 2, (3,), rngs=rngs), nnx.BatchNorm(2, rngs=rngs))

    @nnx.jit
    def __call__(self, x: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return nnx.remat(lambda inner, x: inner(x))(self.inner, self.inner(x))


def test_transformed_calls_have_their_rows():
    found = jn.summary(abstract(Wrapped), (1, 9, 2))
    names = [row.name for row in found.rows]
    assert names == ["inner.layers.0 Conv", "inner.layers.1 BatchNorm", "inner.layers.0 Conv"]
    assert found.parameters == 2 * 2 * 3 + 2 + 4
    assert found.receptive_field == ReceptiveField((5,), (1,), (-2,))


def test_loops_count_as_often_as_they_run_and_branches_once():
    kernel = ones(1, 1, 3)

    def body(y: Any, _: Any) -> Any:
        return jc.conv(y, kernel, padding=1), None

    def branches(x: Any) -> Any:
        return lax.cond(x[0, 0, 0] > 0, lambda x: x, lambda x: body(body(x, 0)[0], 0)[0], x)

    scanned = jn.summary(Plain(lambda x: lax.scan(body, x, None, length=5)[0]), (1, 1, 8))
    assert scanned.multiply_adds == 5 * 8 * 3
    assert jn.summary(Plain(branches), (1, 1, 8)).multiply_adds == 2 * 8 * 3


def test_what_runs_on_a_mesh_is_one_devices():
    automatic = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((2,), ("i",), axis_types=automatic)
    spec = jax.sharding.PartitionSpec("i")
    spread = jax.shard_map(
        lambda x: jc.conv(x, ones(2, 1, 3)), mesh=mesh, in_specs=spec, out_specs=spec
    )
    assert jn.summary(Plain(spread), (4, 1, 8)).multiply_adds == 2 * 6 * 2 * 3


class Chosen(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a, self.b = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return lax.cond(x.sum() > 0, lambda x: self.a(self.b(x)), lambda x: self.a(x), x)


def test_a_branch_that_is_left_out_takes_no_parameters_along():
    found = jn.summary(abstract(Chosen), (2, 4))
    assert [row.parameters for row in found.rows] == [20, 20]


def test_fields_are_of_the_first_image():
    def both(x: Any, y: Any, z: Any) -> Any:
        return jc.conv(y, ones(1, 1, 3)) * x + jc.conv(z, ones(1, 1, 2))[..., 1:]

    found = jn.summary(Plain(both), (1,), (1, 1, 9), (1, 1, 9))
    assert found.receptive_field == ReceptiveField((3,), (1,), (0,))
    assert [row.multiply_adds for row in found.rows] == [21, 16]
    assert found.rows[1].receptive_field is None


def test_functions_of_a_module_have_the_shapes_that_they_give():
    def run(x: Any) -> Any:
        y = jc.max_pool(jc.conv(x, ones(4, 3, 3, 3)), (2, 2))
        return jc.conv(y[0], ones(2, 4, 1, 1))

    rows = jn.summary(Plain(run), (2, 3, 8, 8)).rows
    shapes = [(2, 4, 6, 6), (2, 4, 3, 3), (2, 3, 3)]
    assert [(row.name, row.output_shape) for row in rows] == list(
        zip(("conv", "max_pool", "conv"), shapes, strict=True)
    )


# Tables.


def test_the_table_is_aligned_and_has_everything():
    found = summary(LENET, (1, 1, 28, 28), platform="cpu")
    text = str(found)
    assert repr(found) == text
    head, *rows, total = text.splitlines()
    assert len(rows) == len(found.rows)
    assert head.split() == ["layer", "output", "parameters", "multiply-adds", "sees", "algorithm"]
    assert total.split() == ["total", "61,706", "416,520"]
    end = head.index("multiply-adds") + len("multiply-adds")
    assert all(line[end : end + 2] == "  " for line in rows)
    for line, row in zip(rows[:4], found.rows, strict=False):
        alike = len(set(row.algorithms)) == 1
        written = row.algorithms[0] if alike else " / ".join(row.algorithms)
        assert row.receptive_field is not None
        size = "x".join(map(str, row.receptive_field.size))
        assert line.endswith(f"{size:5}  {written}")
    assert rows[4].endswith("-")


def test_numbers_are_plain_ints():
    sizes = (np.int64(1), np.int32(28), 28)
    window: Any = np.array([5, 5])
    found = summary([Conv(np.int16(6), window), *LENET[1:4]], sizes)
    assert found.receptive_field is not None
    for row in found.rows:
        numbers = (*(row.output_shape or ()), row.parameters, row.multiply_adds)
        assert {type(number) for number in numbers} == {int}
    assert {type(n) for part in found.receptive_field for n in part} == {int}


def test_without_windows_a_layout_says_what_is_spatial():
    layers = [Flatten(), Dense(10)]
    assert summary(layers, (2, 3, 4, 4), layout="NCHW").parameters == 490
    assert summary([Dense(5), BatchNorm(), Dense(2)], (7, 3)).parameters == 20 + 10 + 12


# Errors.

#: What takes anything, for what no checker of types lets pass.
loose: Any = Conv

WRONG: dict[str, tuple[Any, tuple[int, ...], type[Exception], str]] = {
    "no sequence": (5, (1, 9), TypeError, r"^layers must be a sequence of layers; got 5"),
    "a layer": (Conv(1, (3,)), (1, 9), TypeError, r"^layers must be a sequence of .* got Conv"),
    "none": ([], (1, 9), ValueError, "^layers must be one or more"),
    "no layer": ([Conv(1, (3,)), "relu"], (1, 9), TypeError, r"^layers\[1\] must be one of Conv,"),
    "fields": ([((3,), 1, 0, 1, 1)], (1, 9), ValueError, r"^layers\[0\] must be one of .* got"),
    "window": ([loose(1, 3)], (1, 9), TypeError, r"^layers\[0\] window must be a seq.* got 3"),
    "ranks": (
        [Conv(1, (3,)), MaxPool((2, 2))], (1, 9), ValueError,
        r"^layers\[1\] window must have as many axes as layers\[0\] window = \(3,\); got \(2, 2\)",
    ),
    "body": (
        [Conv(1, (3,)), Residual([Conv(2, (3,), padding=1), Conv(1, (9,))])], (1, 9), ValueError,
        r"^layers\[1\]\.body\[1\]: window \(9,\) .* its input has spatial shape \(7,\)",
    ),
    "body is a layer": (
        [Residual(Conv(1, (3,)))], (1, 9), TypeError, r"^layers\[0\]\.body must be a sequence",
    ),
    "branches": (
        [Residual([Conv(1, (3,))])], (1, 9), ValueError,
        r"^layers\[0\] must have branches of the same shape.*\(1, 7\) and shortcut with \(1, 9\)",
    ),
    "groups": (
        [Conv(4, (3,), groups=3)], (6, 9), ValueError,
        r"^layers\[0\]: groups must divide the 6 channels that come and the 4 features; got 3",
    ),
    "too large": ([Conv(1, (3,)), ((9,),)], (1, 9), ValueError, r"^layers\[1\]: window \(9,\)"),
    "pool padding": ([MaxPool((2,), padding=2)], (1, 9), ValueError, r"^layers\[0\]: padding must"),
    "transposed": (
        [ConvTranspose(1, (2,), output_padding=1)], (1, 9), ValueError,
        r"^layers\[0\]: output_padding must be smaller",
    ),
    "features": ([loose(1.5, (3,))], (1, 9), TypeError, r"^layers\[0\]: features must be"),
    "bias": ([loose(1, (3,), bias=1)], (1, 9), TypeError, r"^layers\[0\]: bias must be True"),
    "not flat": (
        [Conv(1, (3,)), Dense(4)], (1, 9), ValueError, r"^layers\[1\]: Flatten\(\) is needed",
    ),
    "flat": (
        [Flatten(), Conv(1, (3,))], (1, 9), ValueError, r"^layers\[1\]: an image .* \(9,\)",
    ),
    "input axes": ([Conv(1, (3, 3))], (9, 9), ValueError, r"^input_shape must be \(\*batch, c, "),
    "input size": ([Conv(1, (3,))], (1, -9), ValueError, r"^input_shape\[1\] must be at least 0"),
    "nothing spatial": ([Flatten()], (1, 9), ValueError, "^layout must be given where no layer"),
    "empty": ([AdaptiveAvgPool((2,))], (1, 0), ValueError, r"^layers\[0\]: at least one element"),
    "padding": (
        [Conv(1, (3,), padding=2**27)], (1, 9), ValueError, r"^layers\[0\]: padding must add at mo",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("layers", "shape", "kind", "message"), WRONG.values(), ids=WRONG)
def test_errors_name_the_layer(layers: Any, shape: Any, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        summary(layers, shape)


def test_errors_name_the_option():
    layers = [Conv(1, (3, 3))]
    with pytest.raises(ValueError, match=r"^layout 'NCW' has 1 .* layers\[0\] window \(3, 3\)"):
        summary(layers, (1, 9, 9), layout="NCW")
    with pytest.raises(ValueError, match=r"^platform must be one of cpu"):
        summary(layers, (1, 9, 9), platform="gpu")
    with pytest.raises(TypeError, match=r"^dtype must be a dtype"):
        summary(layers, (1, 9, 9), dtype="floaty")
    with pytest.raises(TypeError, match=r"^input_shape must be a sequence"):
        summary(layers, 9)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"^module must be an nnx module"):
        jn.summary(lambda x: x, (1, 9))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^platform must be one of cpu"):
        jn.summary(abstract(Small), (2, 8, 8, 3), platform="gpu")


def test_signature_of_the_modules_summary():
    stripped = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in inspect.signature(jn.summary).parameters.values()
    ]
    assert str(inspect.Signature(stripped)) == "(module, *inputs, platform=None, **kwargs)"


# What other people's modules do.


class Counting(nnx.Module):
    """Statistics of its own, and a mean that is none of theirs."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.seen = nnx.BatchStat(jnp.zeros(()))
        self.conv = jn.Conv(3, 8, (3, 3), rngs=rngs)
        self.dense = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dense(self.conv(x).mean((1, 2)))


class Queries(nnx.Module):
    """A product of nothing but parameters, and one with the input."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.queries = nnx.Param(jnp.ones((2, 4)))
        self.dense = nnx.Linear(4, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dense(self.queries[...]) @ x


REGISTERED: dict[str, type] = {}


class Registered(nnx.Module):
    """Its subclasses are looked up by name, and must say a tag."""

    def __init_subclass__(cls, *, tag: str, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        REGISTERED[cls.__name__] = cls


class Strict(Registered, tag="strict"):
    """Takes no attributes but its own."""

    dense: nnx.Linear

    def __init__(self, *, rngs: nnx.Rngs):
        object.__setattr__(self, "dense", nnx.Linear(3, 4, rngs=rngs))

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "dense":
            raise AttributeError(f"no {name}")
        object.__setattr__(self, name, value)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dense(x)


@pytest.mark.parametrize(
    ("module", "shape", "multiply_adds"),
    [
        (Counting, (1, 8, 8, 3), 8 * 8 * 27 * 8 + 80),
        (Queries, (10, 5), 2 * 4 * 10 + 2 * 10 * 5),
        (Strict, (2, 3), 2 * 3 * 4),
    ],
)
def test_modules_as_others_write_them(module: Any, shape: tuple[int, ...], multiply_adds: int):
    before = dict(REGISTERED)
    made = module(rngs=nnx.Rngs(0))
    found = jn.summary(made, shape)
    assert found.multiply_adds == multiply_adds
    assert found.parameters == sum(
        leaf.size for leaf in jax.tree.leaves(nnx.state(made, nnx.Param))
    )
    assert type(made) is module
    assert before == REGISTERED


def test_a_dot_in_a_name_is_no_path():
    outer = nnx.Sequential(nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0))))
    setattr(outer, "layers.0", nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    assert jn.summary(outer, (1, 2)).parameters == 6 + 9


@pytest.mark.parametrize("conv", [nnx.Conv, jn.Conv])
def test_empty_results_have_a_summary(conv: Any):
    module = conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
    found = jn.summary(module, (0, 8, 8, 3))
    assert (found.parameters, found.multiply_adds) == (112, 0)
    with pytest.raises(ValueError, match=r"^inputs must have sizes of 0 or more; got \(-1, 8"):
        jn.summary(module, (-1, 8, 8, 3))
