"""Four devices: sharded batches and `shard_map` give what one device gives, gradients included.

jax reads the number of host devices once, so that this runs itself in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from functions import FUNCTIONS
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv as jc

pytestmark = pytest.mark.usefixtures("quick_compile")

INSIDE = "JAXCONV_TEST_DEVICES" in os.environ
inside = pytest.mark.skipif(not INSIDE, reason="runs in the process with four devices")


@pytest.mark.skipif(INSIDE, reason="the process that this starts")
def test_on_four_devices():
    root = Path(__file__).parent.parent
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    environment = {**os.environ, "JAXCONV_TEST_DEVICES": "4", "XLA_FLAGS": flags}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(__file__)]
    command += ["--full"] if cases.FULL else []
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{79 if cases.FULL else 36} passed, 1 skipped" in ran.stdout


X = np.random.default_rng(0).normal(size=(8, 9, 8, 3))
W = np.random.default_rng(1).normal(size=(3, 2, 3, 4))


def network(x, w):
    """Convolution and both kinds of pool, channels last; a number for each image."""
    hidden = jc.max_pool(jc.conv(x, w, padding=1, layout="NHWC"), (2, 2), layout="NHWC")
    back = jc.conv_transpose(hidden, w, stride=2, layout="NHWC")
    return jc.avg_pool(jnp.sin(back), (3, 3), layout="NHWC").sum(axis=(1, 2, 3))


def loss(x, w):
    return network(x, w).sum()


GRADIENTS = jax.value_and_grad(loss, (0, 1))


def assert_same(got, want):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def sharded(kind):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    x = jax.device_put(X, NamedSharding(mesh, P("data")))
    return mesh, x, jax.device_put(W, NamedSharding(mesh, P()))


@inside
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("jit", [True, False])
def test_a_sharded_batch(kind, jit):
    mesh, x, w = sharded(kind)
    with jax.set_mesh(mesh):
        got = (jax.jit(GRADIENTS) if jit else GRADIENTS)(x, w)
    assert_same(got, GRADIENTS(X, W))
    if jit:  # one program: the batch stays where it is
        assert got[1][0].sharding.spec[0] == "data"


@inside
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_channels_first_and_two_batch_axes(kind):
    """The reshapes at the doors keep the sharding of the first axis."""

    def network(x, w):
        hidden = jc.max_pool(jc.conv(x, w, padding=1), (2, 2))
        return jnp.sin(jc.avg_pool(jc.conv_transpose(hidden, w), (2, 3))).sum()

    gradients = jax.value_and_grad(network, (0, 1))
    x, w = X.transpose(0, 3, 1, 2).reshape(4, 2, 3, 9, 8), W.transpose(3, 2, 0, 1)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, NamedSharding(mesh, P("data")))
        shared = jax.device_put(w, NamedSharding(mesh, P()))
        got = jax.jit(gradients)(placed, shared)
    assert_same(got, gradients(x, w))


@pytest.mark.thinned(5)
@inside
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_shard_map(kind, check):
    mesh, x, w = sharded(kind)

    def total(x, w):
        return jax.lax.psum(loss(x, w), "data")

    with jax.set_mesh(mesh):
        mapped = jax.shard_map(
            total, mesh=mesh, in_specs=(P("data"), P()), out_specs=P(), check_vma=check
        )
        assert_same(jax.jit(mapped)(x, w), loss(X, W))
        assert_same(jax.grad(mapped, (0, 1))(x, w), GRADIENTS(X, W)[1])


@inside
def test_a_shared_kernels_gradient_inside_of_shard_map_is_the_sum_over_devices():
    """Differentiated inside: the kernel is cast to vary, and the cast's transpose is a sum."""
    mesh, x, w = sharded(AxisType.Auto)
    inner = jax.shard_map(
        lambda x, w: jax.grad(loss, 1)(x, w), mesh=mesh, in_specs=(P("data"), P()), out_specs=P()
    )
    assert_same(jax.jit(inner)(x, w), GRADIENTS(X, W)[1][1])


@inside
@pytest.mark.parametrize("kernel", [P(), P("data"), P(None, "data")], ids=str)
@pytest.mark.parametrize("image", [P(), P("data"), P(None, "data"), P(None, None, None, "data")],
                         ids=str)  # fmt: skip
def test_explicit_shardings_of_any_axis(image, kernel):
    """Only a batch stays sharded; values, and the gradients' types, are right for all of them."""
    x, w = np.ones((8, 4, 7, 8)), np.arange(4 * 4 * 3 * 2.0).reshape(4, 4, 3, 2)

    def loss(x, w):
        y = jc.conv(x, w)
        return (y**2).sum() + jc.max_pool(x * 2, (2, 2)).sum()

    want = jax.value_and_grad(loss, (0, 1))(x, w)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, NamedSharding(mesh, image))
        moved = jax.device_put(w, NamedSharding(mesh, kernel))
        assert_same(jax.jit(jax.value_and_grad(loss, (0, 1)))(placed, moved), want)


@pytest.mark.thinned(9)
@inside
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_kernel_gradients_on_two_mesh_axes(kind, groups):
    """XLA's partitioner sums batch groups over the copies on the other axis too: twice too much."""
    x, w = X[..., :2].repeat(2, axis=-1), np.ones((4, 4 // groups, 3, 2))
    x = np.moveaxis(x, -1, 1)

    def loss(x, w):
        return (jc.conv(x, w, groups=groups) ** 2).sum()

    want = jax.grad(loss, (0, 1))(x, w)
    mesh = jax.make_mesh((2, 2), ("data", "other"), axis_types=(kind,) * 2)
    for spec in (P("data"), P("other"), P(("data", "other")), P(None, "data")):
        with jax.set_mesh(mesh):
            placed = jax.device_put(x, NamedSharding(mesh, spec))
            shared = jax.device_put(w, NamedSharding(mesh, P()))
            assert_same(jax.jit(jax.grad(loss, (0, 1)))(placed, shared), want)


SHARDED = [(name, AxisType.Auto) for name in FUNCTIONS] + [
    (name, AxisType.Explicit)
    for name, entry in FUNCTIONS.items()
    if len(entry.shapes[0]) > 2 and not name.startswith("corr2d")
]


@pytest.mark.thinned(5)
@inside
@pytest.mark.parametrize(("name", "kind"), SHARDED)
def test_every_function_of_a_sharded_array(name, kind):
    """The first array split over the devices: same values and gradients.

    With explicit axes it must be a batch: what lies in an image's space is not kept apart there.
    """
    function, args = FUNCTIONS[name].function, FUNCTIONS[name].arrays()

    def both(*args):
        y, pull = jax.vjp(function, *args)
        return y, pull(jnp.cos(y))

    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        # An error has the batch of the images that it belongs to, and is split with it.
        split = [
            at == 0 or (name.startswith("grad") and len(args[at]) == 4) for at in range(len(args))
        ]
        placed = [
            jax.device_put(value, NamedSharding(mesh, P("data") if data else P()))
            for value, data in zip(args, split, strict=True)
        ]
        got = jax.jit(both)(*placed)
    assert len(placed[0].sharding.device_set) == 4
    assert_same(got, both(*args))


@inside
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_unpooling_at_sharded_indices(kind):
    def loss(x):
        y, index = jc.max_pool(x, (3, 2), return_indices=True, layout="NHWC")
        return (jc.max_unpool(y, index, (9, 8), layout="NHWC") ** 3).sum()

    mesh, x, _ = sharded(kind)
    with jax.set_mesh(mesh):
        got = jax.jit(jax.value_and_grad(loss))(x)
    assert_same(got, jax.value_and_grad(loss)(X))


@inside
@pytest.mark.parametrize("operand", ["image", "kernel"])
def test_vmap_over_a_sharded_axis(operand):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    x, w = np.stack([X[:2]] * 4), np.stack([W, W - 1, 2 * W, -W])
    axes = (0, None) if operand == "image" else (None, 0)
    arguments = (x, W) if operand == "image" else (X[:2], w)
    specs = [NamedSharding(mesh, P("data") if axis == 0 else P()) for axis in axes]
    placed = [jax.device_put(value, spec) for value, spec in zip(arguments, specs, strict=True)]
    function = jax.vmap(network, axes)
    assert_same(jax.jit(function)(*placed), function(*arguments))


def of_lax(x, w):
    """What people have: a network written with lax, channels last."""
    order = ("NHWC", "HWIO", "NHWC")
    kernel = jnp.moveaxis(w, (0, 1), (3, 2))
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order)
    pooled = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jnp.sin(pooled).sum()


OF_LAX = jax.value_and_grad(of_lax, (0, 1))
NARROW = np.random.default_rng(2).normal(size=(2, 3, 3, 3))


@inside
def test_accelerated_over_devices_it_is_lax_itself():
    mesh, x, _ = sharded(AxisType.Auto)
    want = jax.jit(OF_LAX)(X, NARROW)
    with jax.set_mesh(mesh), jc.accelerate() as acceleration:
        taken, left = acceleration.taken.copy(), acceleration.left.copy()
        got = jax.jit(OF_LAX)(x, NARROW)
        assert not acceleration.taken - taken
        assert sum((acceleration.left - left).values()) >= 4
    assert_same(got, want)


@inside
def test_accelerated_inside_shard_map():
    """There is one device to each program: convolutions and windows are jaxconv's."""
    mesh, x, _ = sharded(AxisType.Auto)
    want = jax.jit(OF_LAX)(X, NARROW)

    def step(x, w):
        value, (dx, dw) = OF_LAX(x, w)
        return jax.lax.psum(value, "data"), (dx, dw)

    specs = (P(), (P("data"), P()))
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(P("data"), P()), out_specs=specs)
    with jc.accelerate() as acceleration:
        taken = acceleration.taken.copy()
        got = jax.jit(mapped)(x, NARROW)
        assert sum((acceleration.taken - taken).values()) >= 4
    assert_same(got, want)
