"""jit, vmap and the other transformations over the shared cases; the core closed under them."""

import inspect
import itertools

import cases
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CONV, LAYOUTS, POOL, TRANSPOSE, assert_close, ids
from functions import FUNCTIONS
from jax import export
from jax.flatten_util import ravel_pytree

import jaxconv as jc

pytestmark = pytest.mark.usefixtures("quick_compile")

COPIES = 3


def mapped(function, operands, axes):
    """`vmap` over these axes (None: shared), and the loop that it stands for."""
    stacked = [
        value if axis is None else np.stack([value, 2 * value - 1, np.sin(value)], axis)
        for value, axis in zip(operands, axes, strict=True)
    ]
    got = jax.vmap(function, axes)(*stacked)
    one_by_one = [
        function(
            *(
                value if axis is None else np.take(value, copy, axis)
                for value, axis in zip(stacked, axes, strict=True)
            )
        )
        for copy in range(COPIES)
    ]
    return got, jax.tree.map(lambda *leaves: np.stack(leaves), *one_by_one)


def all_three(function):
    """A bilinear function with both of its gradients, so that all projections are mapped."""

    def run(a, b):
        value, pull = jax.vjp(function, a, b)
        return value, *pull(jnp.cos(value))

    return run


@pytest.mark.thinned(21)
@pytest.mark.parametrize("which", ["image", "kernel", "both"])
@pytest.mark.parametrize("case", CONV, ids=ids(CONV))
def test_vmap_of_conv_and_its_gradients(case, which):
    x, w, _ = case.arrays()
    function = all_three(lambda x, w: jc.conv(x, w, **case.options))
    axis = {"image": (0, None), "kernel": (None, -1), "both": (1, 2)}[which]
    got, want = mapped(function, (x, w), axis)
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, 1e-12)


@pytest.mark.thinned(17)
@pytest.mark.parametrize("which", ["image", "kernel", "both"])
@pytest.mark.parametrize("case", CONV[::3], ids=ids(CONV[::3]))
def test_vmap_channels_last(case, which):
    x, w, _ = case.arrays()
    layout = LAYOUTS[case.rank]
    function = all_three(lambda x, w: jc.conv(x, w, layout=layout, **case.options))
    axis = {"image": (-1, None), "kernel": (None, 0), "both": (0, -1)}[which]
    got, want = mapped(function, (cases.last(x, case.rank), cases.kernel_last(w)), axis)
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, 1e-12)


@pytest.mark.thinned(17)
@pytest.mark.parametrize(
    ("image", "kernel"), list(itertools.product([None, *range(5)], repeat=2))[1:]
)
def test_vmap_over_every_axis(image, kernel):
    case = next(case for case in CONV if case.id == "groups")
    x, w, _ = case.arrays()
    function = all_three(lambda x, w: jc.conv(x, w, **case.options))
    got, want = mapped(function, (x, w), (image, kernel))
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, 1e-12)


@pytest.mark.thinned(17)
@pytest.mark.parametrize("case", TRANSPOSE, ids=ids(TRANSPOSE))
@pytest.mark.parametrize("axes", [(0, None), (None, 1), (2, 0)], ids=str)
def test_vmap_of_conv_transpose(case, axes):
    y, w, _ = case.arrays()
    function = all_three(lambda y, w: jc.conv_transpose(y, w, **case.options))
    got, want = mapped(function, (y, w), axes)
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, 1e-12)


@pytest.mark.thinned(17)
@pytest.mark.parametrize("axis", [0, 2, -1])
@pytest.mark.parametrize("pool", [jc.max_pool, jc.min_pool, jc.avg_pool])
@pytest.mark.parametrize("case", POOL[1:9:2], ids=ids(POOL[1:9:2]))
def test_vmap_of_pools(case, pool, axis):
    def function(x):
        value, pull = jax.vjp(lambda x: pool(x, case.window, **case.options), x)
        return value, pull(jnp.cos(value))[0]

    got, want = mapped(function, (case.array(),), (axis,))
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, 1e-12)


def test_vmap_of_a_cotangent_alone():
    """The window maps' other operand, the winners, is shared: it is repeated."""
    x = cases.distinct(POOL[5].array())
    y, pull = jax.vjp(lambda x: jc.max_pool(x, (3, 3), padding=1), x)
    basis = jnp.eye(y.size).reshape(y.size, *y.shape)
    rows = jax.vmap(pull)(basis)[0]
    np.testing.assert_array_equal(rows, np.stack([pull(row)[0] for row in basis]))


def test_nested_vmap_of_different_arguments():
    """x by one axis, w by another, both by a third: every fold inside of another."""
    case = next(case for case in CONV if case.id == "groups")
    x, w, _ = case.arrays()
    function = all_three(lambda x, w: jc.conv(x, w, **case.options))
    xs = np.stack([np.stack([x * i + j for j in range(3)], 2) for i in range(2)])
    ws = np.stack([np.stack([w * i - k for k in range(4)], -1) for i in range(2)])
    over_w = jax.vmap(function, (None, -1))
    over_x = jax.vmap(over_w, (2, None))
    got = jax.vmap(over_x)(xs, ws)
    for i, j, k in itertools.product(range(2), range(3), range(4)):
        want = function(xs[i, :, :, j], ws[i, ..., k])
        for one, other in zip(got, want, strict=True):
            assert_close(one[i, j, k], other, 1e-12)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=str)
def test_vmap_over_nothing(axes):
    x = jnp.ones((0, 2, 3, 8) if axes[0] == 0 else (2, 3, 8))
    w = jnp.ones((0, 4, 3, 2) if axes[1] == 0 else (4, 3, 2))
    assert jax.vmap(jc.conv, axes)(x, w).shape == (0, 2, 4, 7)


@pytest.mark.parametrize("pool", [jc.max_pool, jc.min_pool, jc.avg_pool])
def test_vmap_of_pools_over_nothing(pool):
    x = jnp.ones((0, 2, 3, 8))
    function = lambda x: (pool(x, (2,)) ** 2).sum()
    assert jax.vmap(lambda x: pool(x, (2,)))(x).shape == (0, 2, 3, 4)
    assert jax.vmap(jax.grad(function))(x).shape == x.shape
    assert jax.vmap(jax.hessian(function))(x).shape == (0, 2, 3, 8, 2, 3, 8)
    with jax.disable_jit():
        assert jax.vmap(jax.grad(function))(x).shape == x.shape


def assert_derivatives(function, args):
    """First and second derivatives, each way of taking them against the others."""
    flat, unravel = ravel_pytree(args)
    y = function(*args)
    ct = np.sin(np.arange(y.size)).reshape(y.shape)
    t = np.cos(flat)
    on_flat = lambda flat: function(*unravel(flat))
    pushed = jax.jvp(on_flat, (flat,), (t,))[1]
    assert_close(jax.linearize(on_flat, flat)[1](t), pushed, 1e-13)
    pulled = jax.vjp(on_flat, flat)[1](ct)[0]
    np.testing.assert_allclose(np.vdot(pushed, ct), np.vdot(pulled, t), rtol=1e-11)
    assert_close(jax.jit(jax.grad(lambda x: (on_flat(x) * ct).sum()))(flat), pulled, 1e-13)
    kept = jax.checkpoint(on_flat)
    assert_close(jax.grad(lambda x: (kept(x) * ct).sum())(flat), pulled, 1e-13)
    assert_close(jax.jacfwd(on_flat)(flat), jax.jacrev(on_flat)(flat), 1e-13)

    def loss(x):
        return (jnp.sin(on_flat(x)) * ct).sum()

    hessian = jax.hessian(loss)(flat)
    assert_close(hessian, jax.jacrev(jax.grad(loss))(flat), 1e-12)
    assert_close(hessian, hessian.T, 1e-12)


def assert_mapped(function, args):
    """`vmap` over axes of each argument, over all arguments, and one inside of another."""
    for at, value in enumerate(args):
        for axis in range(0, np.ndim(value) + 1, 1 if cases.FULL else 2):
            axes = [axis if other == at else None for other in range(len(args))]
            assert_close(*mapped(function, args, axes), 1e-12)
    assert_close(*mapped(function, args, [-1] * len(args)), 1e-12)
    inner = jax.vmap(function, [1] + [None] * (len(args) - 1))
    stacked = jnp.stack([args[0], args[0] / 2], 1)
    got = jax.vmap(inner, [0] * len(args))(*(jnp.stack([a, 3 * a]) for a in (stacked, *args[1:])))
    for i, j in itertools.product(range(2), range(2)):
        scaled = [(1, 3)[i] * value for value in args]
        scaled[0] = scaled[0] / (1, 2)[j]
        assert_close(got[i, j], function(*scaled), 1e-12)


def assert_linear(function, args, at):
    """`linear_transpose` in one argument, against the derivative there."""

    def alone(value):
        return function(*args[:at], value, *args[at + 1 :])

    y, pull = jax.vjp(alone, args[at])
    ct = np.sin(np.arange(y.size)).reshape(y.shape)
    assert_close(jax.linear_transpose(alone, args[at])(ct)[0], pull(ct)[0], 1e-13)


def assert_exported(function, args):
    """Serialised, read again, called."""
    written = export.export(jax.jit(function))(*args).serialize()
    assert_close(export.deserialize(written).call(*args), function(*args), 1e-13)


def assert_compiled(function, args):
    """One value whether compiled, run step by step, traced for its shape or scanned."""
    y = function(*args)
    assert_close(jax.jit(function)(*args), y, 1e-14)
    with jax.disable_jit():
        assert_close(function(*args), y, 1e-14)
    assert jax.eval_shape(function, *args) == jax.ShapeDtypeStruct(y.shape, y.dtype)
    stacked = tuple(jnp.stack([value, 2 * value]) for value in args)
    scanned = jax.lax.scan(lambda sum, x: (sum + function(*x), None), 0 * y, stacked)
    assert_close(scanned[0], y + function(*(2 * value for value in args)), 1e-13)


@pytest.mark.thinned(23)
@pytest.mark.parametrize(
    "assert_right", [assert_compiled, assert_derivatives, assert_mapped, assert_exported]
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_under_every_transformation(name, assert_right):
    assert_right(FUNCTIONS[name].function, FUNCTIONS[name].arrays())


@pytest.mark.thinned(9)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_linear_in_an_argument_is_transposed(name):
    for at in FUNCTIONS[name].linear:
        assert_linear(FUNCTIONS[name].function, FUNCTIONS[name].arrays(), at)


def test_the_table_has_every_function():
    """Those of `jaxconv` and `gradients` that take arrays; a NamedSharding: `test_sharding`."""
    called = {name.split(",")[0] for name in FUNCTIONS}
    modules = {"": jc, "gradients.": jc.gradients}
    public = {
        prefix + name
        for prefix, module in modules.items()
        for name, value in vars(module).items()
        if inspect.isfunction(value) and (module is jc or value.__module__ == module.__name__)
    }
    assert called == public - {"accelerate", "algorithms", "explain"} | {"filters.apply"}


@pytest.mark.thinned(9)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_debug_nans_finds_none(name):
    """Nothing computes a NaN on the way to a finite result, derivatives included."""
    function, args = FUNCTIONS[name].function, FUNCTIONS[name].arrays()
    with jax.debug_nans(True):
        y, pull = jax.vjp(function, *args)
        pulled = pull(jnp.ones_like(y))
        pushed = jax.jvp(function, args, args)[1]
    assert all(np.isfinite(value).all() for value in (y, pushed, *pulled))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_traced_once_per_shape(name):
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(FUNCTIONS[name].function, n=1))
    args = FUNCTIONS[name].arrays()
    for factor in range(1, 4):
        traced(*(factor * value for value in args))


def test_linear_transposes_where_linear():
    x, w, _ = CONV[1].arrays()
    y = jc.conv(x, w)
    assert_close(
        jax.linear_transpose(lambda x: jc.conv(x, w), x)(y)[0], jc.conv_transpose(y, w), 1e-13
    )
    back = jax.linear_transpose(lambda y: jc.conv_transpose(y, w), y)(x)[0]
    assert_close(back, jc.conv(x, w), 1e-13)
    spread = jax.linear_transpose(lambda x: jc.avg_pool(x, (3,)), x)(jnp.ones((2, 3, 3)))[0]
    np.testing.assert_allclose(spread, np.full((2, 3, 9), 1 / 3))


def test_same_call_same_program():
    """Equal calls share one compiled program; ints of other types are the same call."""
    x = jnp.ones((1, 8))
    first = str(jax.make_jaxpr(lambda x: jc.conv(x, jnp.ones((1, 1, 2)), stride=2))(x))
    second = str(jax.make_jaxpr(lambda x: jc.conv(x, jnp.ones((1, 1, 2)), stride=np.array([2])))(x))
    assert first == second
