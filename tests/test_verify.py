"""`jaxconv.verify`: right formulas pass, every slip is found and named, nothing else is."""

import functools
import itertools
import os
import subprocess
import sys
import textwrap

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import lax

import jaxconv as jc
from jaxconv._verify import differences, function, report, slips, traced, trilinear
from jaxconv.verify import Kink, Report, Row, assert_gradients, check_gradients

pytestmark = pytest.mark.usefixtures("quick_compile")

first_order = functools.partial(check_gradients, order=1)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rows(found, check, against=None):
    return [r for r in found.rows if r.check == check and against in (None, r.against)]


# Gradients by hand, in NumPy: the notes' formulas, each with the slips that one makes.


def spread(z, steps, rank):
    """Zeros between the elements of the last axes."""
    shape = [(n - 1) * s + 1 for n, s in zip(z.shape[-rank:], steps, strict=True)]
    out = np.zeros((*z.shape[:-rank], *shape))
    out[(..., *(slice(None, None, s) for s in steps))] = z
    return out


def fit(z, begin, shape):
    """The window of the last axes that begins at `begin`, zeros where there is nothing."""
    for axis, (b, n) in enumerate(zip(begin, shape, strict=True), start=z.ndim - len(shape)):
        index = np.arange(b, b + n)
        inside = (index >= 0) & (index < z.shape[axis])
        taken = np.take(z, np.clip(index, 0, z.shape[axis] - 1), axis)
        z = taken * inside.reshape(-1, *(1,) * (z.ndim - axis - 1))
    return z


def valid(z, k, spec):
    """Cross-correlation of the last axes, the others contracted as `spec` says."""
    rank = len(k.shape) - 2
    shape = [n - m + 1 for n, m in zip(z.shape[-rank:], k.shape[-rank:], strict=True)]
    total = np.zeros(())
    for tap in itertools.product(*(range(m) for m in k.shape[-rank:])):
        seen = z[(..., *(slice(a, a + n) for a, n in zip(tap, shape, strict=True)))]
        total = total + np.einsum(spec, seen, k[(..., *tap)])
    return total


def input_grad(dy, w, spatial, *, stride, low, dilation=None, groups=1, slip=""):
    """dX: the full convolution of dy with the kernel, one group after the other."""
    rank = w.ndim - 2
    dilation = dilation or (1,) * rank
    ones = (1,) * rank
    z = spread(dy, ones if slip == "compact" else stride, rank)
    k = spread(w, dilation, rank)
    turned = k if slip == "unrotated" else np.flip(k, tuple(range(2, rank + 2)))
    reach = [m - 1 for m in k.shape[2:]]
    off = {"more": 1, "less": -1}.get(slip, 0)
    parts = []
    for part, kernel in zip(np.split(z, groups, 1), np.split(turned, groups, 0), strict=True):
        sizes = [n + 2 * r for n, r in zip(part.shape[2:], reach, strict=True)]
        wide = fit(part, [-r for r in reach], sizes)
        full = valid(wide, kernel, "no...,oi->ni...")
        parts.append(fit(full, [p + off for p in low], spatial))
    return np.concatenate(parts, 1)


def kernel_grad(x, dy, window, *, stride, low, dilation=None, groups=1, slip=""):
    """dW: the input correlated with dy, whose elements lie `stride` apart."""
    rank = len(window)
    dilation = dilation or (1,) * rank
    z = spread(dy, (1,) * rank if slip == "compact" else stride, rank)
    if slip == "dy rotated":
        z = np.flip(z, tuple(range(2, rank + 2)))
    off = {"more": 1, "less": -1}.get(slip, 0)
    shape = [n + d * (k - 1) for n, d, k in zip(z.shape[2:], dilation, window, strict=True)]
    padded = fit(x, [-p - off for p in low], shape)
    parts = []
    for image, error in zip(np.split(padded, groups, 1), np.split(z, groups, 1), strict=True):
        # Summed over the batch: channels of the image stand where the batch stood, and so on.
        gradient = valid(np.swapaxes(image, 0, 1), np.swapaxes(error, 0, 1), "in...,on->oi...")
        parts.append(gradient[(..., *(slice(None, None, d) for d in dilation))])
    gradient = np.concatenate(parts, 0)
    return np.flip(gradient, tuple(range(2, rank + 2))) if slip == "rotated" else gradient


class Conv:
    """A call of `conv` and its gradients by hand, in either layout."""

    def __init__(self, x, w, *, stride=1, low=0, dilation=1, groups=1, last=False):
        rank = len(w) - 2
        self.x, self.w, self.last, self.rank = draw(*x), draw(*w, seed=1), last, rank
        self.options = {
            "stride": (stride,) * rank,
            "low": (low,) * rank,
            "dilation": (dilation,) * rank,
            "groups": groups,
        }
        self.layout = cases.LAYOUTS[rank] if last else None

    def __call__(self, x, w):
        options = {**self.options, "padding": self.options["low"], "layout": self.layout}
        del options["low"]
        return jc.conv(x, w, **options)

    @property
    def args(self):
        if not self.last:
            return self.x, self.w
        return np.moveaxis(self.x, 1, -1), np.moveaxis(self.w, (0, 1), (-1, -2))

    def by_hand(self, dx="", dw=""):
        """The closed form, with a slip in either gradient."""

        def closed_form(x, w, dy):
            x, w, dy = (np.asarray(array) for array in (x, w, dy))
            if self.last:
                x, dy = np.moveaxis(x, -1, 1), np.moveaxis(dy, -1, 1)
                w = np.moveaxis(w, (-1, -2), (0, 1))
            gx = input_grad(dy, w, x.shape[2:], **self.options, slip=dx)
            gw = kernel_grad(x, dy, w.shape[2:], **self.options, slip=dw)
            if self.last:
                return np.moveaxis(gx, 1, -1), np.moveaxis(gw, (0, 1), (-1, -2))
            return gx, gw

        return closed_form


PLAIN = Conv((2, 2, 5, 6), (3, 2, 3, 2))
PADDED = Conv((1, 2, 5, 5), (2, 2, 3, 3), low=1)
STRIDED = Conv((2, 2, 7, 6), (2, 2, 3, 2), stride=2, low=1)
DILATED = Conv((1, 2, 7, 7), (2, 2, 3, 2), dilation=2, low=1)
GROUPED = Conv((2, 4, 5, 5), (4, 2, 2, 3), groups=2)
LAST = Conv((2, 2, 7, 6), (3, 2, 3, 2), stride=2, low=1, last=True)
GROUPED_LAST = Conv((2, 4, 5, 4), (6, 2, 2, 2), groups=2, stride=2, last=True)
ONE = Conv((2, 2, 9), (3, 2, 3), stride=2, low=1)
THREE = Conv((1, 2, 4, 4, 3), (2, 2, 2, 2, 2), low=1)
CONVS = {
    "plain": PLAIN,
    "padded": PADDED,
    "strided": STRIDED,
    "dilated": DILATED,
    "grouped": GROUPED,
    "last": LAST,
    "grouped-last": GROUPED_LAST,
    "1d": ONE,
    "3d": THREE,
}
every_conv = pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS)


# Right formulas pass.


@pytest.mark.thinned(3)
@every_conv
def test_right_closed_forms_pass(conv):
    found = first_order(conv, conv.args, closed_form=conv.by_hand())
    assert found.ok, str(found)
    assert found.max_error < 1e-9
    assert found.likely == ()
    assert [r.argument for r in rows(found, "closed form", "reverse")] == ["x", "w"]
    assert all(r.compared for r in found.rows)


def dense(weights, x):
    return jnp.tanh(x @ weights["w"] + weights["b"])


def dense_by_hand(weights, x, dy):
    error = dy * (1 - jnp.tanh(x @ weights["w"] + weights["b"]) ** 2)
    return {"w": x.T @ error, "b": error.sum(0)}, error @ weights["w"].T


DENSE = ({"w": draw(3, 2), "b": draw(2)}, draw(4, 3))


def own_conv(x, k):
    """A valid correlation through lax, channels last."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, k, (2, 1), ((1, 0), (0, 1)), dimension_numbers=numbers)


def written_out(image, kernel):
    """A single-channel correlation without a convolution: the definition."""
    h, w = (n - k + 1 for n, k in zip(image.shape, kernel.shape, strict=True))
    taps = itertools.product(range(kernel.shape[0]), range(kernel.shape[1]))
    return sum(kernel[a, b] * image[a : a + h, b : b + w] for a, b in taps)


RIGHT = {
    "dense": (dense, DENSE, dense_by_hand),
    "conv_transpose": (
        lambda y, w: jc.conv_transpose(y, w, stride=2, padding=1),
        (draw(1, 2, 3), draw(2, 2, 4)),
        lambda y, w, dy: (
            jc.conv(dy, w, stride=2, padding=1),
            kernel_grad(np.asarray(dy), np.asarray(y), (4,), stride=(2,), low=(1,)),
        ),
    ),
    "avg_pool": (
        lambda x: jc.avg_pool(x, (2, 2)),
        (draw(1, 4, 4),),
        lambda x, dy: jnp.repeat(jnp.repeat(dy, 2, 1), 2, 2) / 4,
    ),
    "max_pool": (lambda x: jc.max_pool(x, (2, 2), padding=1, stride=1), (draw(1, 3, 4),), None),
    "min_pool": (lambda x: jc.min_pool(x, (2,), dilation=2, stride=1), (draw(1, 6),), None),
    "lax": (own_conv, (draw(1, 5, 4, 2), draw(3, 2, 2, 2)), None),
    "written-out": (written_out, (draw(4, 5), draw(2, 3)), None),
    "scalar": (
        lambda a, b: a * jnp.sin(b),
        (2, 0.5),
        lambda a, b, u: (jnp.sin(b) * u, a * jnp.cos(b) * u),
    ),
    "constant": (lambda x: jnp.ones(3), (draw(2),), lambda x, dy: jnp.zeros(2)),
    "shift-invariant": (lambda x: jax.nn.softmax(x).sum(axis=1), (draw(2, 3),), None),
}


@pytest.mark.thinned(5)
@pytest.mark.parametrize("name", RIGHT)
def test_right_functions_pass(name):
    fn, args, closed_form = RIGHT[name]
    found = check_gradients(fn, args, closed_form=closed_form)
    assert found.ok, str(found)
    assert found.max_error < 1e-7
    assert found.kinks == ()
    checks = {r.check for r in found.rows}
    assert {"forward", "reverse", "adjoint: <Jv,u>"} <= checks
    assert {f"order 2: {way}" for way in ("fwd over rev", "rev over rev", "rev over fwd")} <= checks
    assert ("closed form" in checks) == (closed_form is not None)


def test_every_argument_has_its_rows():
    found = first_order(dense, DENSE, closed_form=dense_by_hand)
    names = ["weights['b']", "weights['w']", "x"]
    for check in ("forward", "reverse", "closed form"):
        single = [r.argument for r in rows(found, check, "differences")]
        assert single == [*names, report.TOGETHER]
    assert [r.compared for r in rows(found, "closed form", "reverse")] == [
        8 * n for n in (2, 6, 12)
    ]


# Slips in closed forms: found, named, and in the right argument.

OFF = "padding off by one: right for a low padding of "
#: The call; the slip in its input gradient, and in its kernel gradient, each with its name.
SLIPS = {
    "plain-rotation": (
        PLAIN,
        ("unrotated", "kernel not rotated"),
        ("rotated", "kernel not rotated: its gradient comes out rotated"),
    ),
    "plain": (PLAIN, ("more", OFF + "(1, 1), not (0, 0)"), ("dy rotated", "dy rotated, where")),
    "padded": (PADDED, ("less", OFF + "(0, 0), not (1, 1)"), ("less", OFF + "(0, 0), not (1, 1)")),
    "strided": (
        STRIDED,
        ("compact", "stride not re-inserted"),
        ("compact", "stride not re-inserted"),
    ),
    "strided-rotation": (
        STRIDED,
        ("unrotated", "kernel not rotated"),
        ("rotated", "kernel not rotated"),
    ),
    "strided-off": (STRIDED, ("more", OFF + "(2, 2)"), ("more", OFF + "(2, 2)")),
    "dilated": (DILATED, ("less", OFF + "(0, 0)"), ("more", OFF + "(2, 2)")),
    "grouped-rotation": (
        GROUPED,
        ("unrotated", "kernel not rotated"),
        ("rotated", "kernel not rotated"),
    ),
    "last": (LAST, ("compact", "stride not re-inserted"), ("less", OFF + "(0, 0)")),
    "last-rotation": (
        LAST,
        ("unrotated", "kernel not rotated"),
        ("rotated", "kernel not rotated"),
    ),
    "grouped-last": (
        GROUPED_LAST,
        ("compact", "stride not re-inserted"),
        ("compact", "stride not re-inserted"),
    ),
    "1d": (ONE, ("compact", "stride not re-inserted"), ("compact", "stride not re-inserted")),
    "1d-rotation": (ONE, ("unrotated", "kernel not rotated"), ("dy rotated", "dy rotated, where")),
    "3d": (THREE, ("unrotated", "kernel not rotated"), ("less", OFF + "(0, 0, 0)")),
}


def assert_named(found, **words):
    """Exactly these arguments are wrong, and why is said."""
    wrong = [r for r in found.wrong if r.argument != report.TOGETHER]
    assert {(r.check, r.argument) for r in wrong} == {("closed form", name) for name in words}
    for row in wrong:
        assert words[row.argument] in row.likely, str(found)
        assert row.likely in " ".join(str(found).split())
        assert row.against in ("reverse", "differences")


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", SLIPS)
def test_slips_are_named(name):
    conv, (dx, in_x), (dw, in_w) = SLIPS[name]
    found = first_order(conv, conv.args, closed_form=conv.by_hand(dx, dw))
    assert_named(found, x=in_x, w=in_w)


def test_a_slip_in_one_gradient_leaves_the_other_right():
    found = first_order(STRIDED, STRIDED.args, closed_form=STRIDED.by_hand(dx="unrotated"))
    assert_named(found, x="kernel not rotated")
    found = first_order(STRIDED, STRIDED.args, closed_form=STRIDED.by_hand(dw="compact"))
    assert_named(found, w="stride not re-inserted")


def changed(conv, dx=lambda g: g, dw=lambda g: g):
    """The right closed form with something done to its results."""

    def closed_form(x, w, dy):
        gx, gw = conv.by_hand()(x, w, dy)
        return dx(gx), dw(gw)

    return closed_form


GROUP_SLIPS = {
    "interleaved": lambda g, axis: np.take(g, [0, 2, 1, 3], axis),
    "exchanged": lambda g, axis: np.roll(g, 2, axis),
}


@pytest.mark.parametrize("slip", GROUP_SLIPS)
def test_groups_mixed_in_the_result(slip):
    mixed = GROUP_SLIPS[slip]
    both = changed(GROUPED, dx=lambda g: mixed(g, 1), dw=lambda g: mixed(g, 0))
    found = first_order(GROUPED, GROUPED.args, closed_form=both)
    assert_named(found, x="groups mixed", w="groups mixed")


@pytest.mark.thinned(3)
@pytest.mark.parametrize("conv", [GROUPED, GROUPED_LAST], ids=["first", "last"])
@pytest.mark.parametrize("what", ["operands", "dy"])
def test_groups_mixed_in_the_data(conv, what):
    """Interleaved channels in place of blocks, in what a gradient is computed from."""
    image_axis, kernel_axis = (-1, -1) if conv.last else (1, 0)

    def closed_form(x, w, dy):
        n = np.shape(dy)[image_axis]
        blocks = np.arange(n).reshape(2, -1).T.ravel()
        if what == "dy":
            return conv.by_hand()(x, w, jnp.take(dy, blocks, image_axis))
        mixed_x = jnp.take(x, jnp.array([0, 2, 1, 3]), image_axis)
        return conv.by_hand()(mixed_x, jnp.take(w, blocks, kernel_axis), dy)

    found = first_order(conv, conv.args, closed_form=closed_form)
    assert_named(found, x="groups mixed", w="groups mixed")


def test_all_groups_added_up():
    def closed_form(x, w, dy):
        gx, gw = GROUPED.by_hand()(x, w, dy)
        both = gx[:, :2] + gx[:, 2:]
        return np.concatenate([both, both], 1), gw

    found = first_order(GROUPED, GROUPED.args, closed_form=closed_form)
    assert_named(found, x="groups mixed: every group gets the gradients of all of them")


def test_two_slips_at_once():
    def closed_form(x, w, dy):
        options = {**STRIDED.options, "low": (2, 2)}
        _, gw = STRIDED.by_hand()(x, w, dy)
        args = np.asarray(dy), np.asarray(w), x.shape[2:]
        return input_grad(*args, **options, slip="unrotated"), gw

    found = first_order(STRIDED, STRIDED.args, closed_form=closed_form)
    assert_named(found, x="kernel not rotated, and padding off by one")


def test_other_slips_of_convolutions():
    dilated = {**DILATED.options, "dilation": (1, 1)}

    def forgotten(x, w, dy):
        _, gw = DILATED.by_hand()(x, w, dy)
        return input_grad(np.asarray(dy), np.asarray(w), x.shape[2:], **dilated), gw

    found = first_order(DILATED, DILATED.args, closed_form=forgotten)
    assert_named(found, x="dilation left out")

    def exchanged(x, w, dy):
        _, gw = PADDED.by_hand()(x, w, dy)
        return PADDED.by_hand()(x, jnp.swapaxes(w, 0, 1), dy)[0], gw

    found = first_order(PADDED, PADDED.args, closed_form=exchanged)
    assert_named(found, x="axes transposed: the kernel's channel axes are exchanged")

    wide = Conv((1, 1, 7), (2, 1, 3), low=2)
    options = {**wide.options, "low": (0,)}

    def uncropped(x, w, dy):
        return input_grad(np.asarray(dy), np.asarray(w), x.shape[2:], **options), wide.by_hand()(
            x, w, dy
        )[1]

    found = first_order(wide, wide.args, closed_form=uncropped)
    assert_named(found, x="padding left out")


@pytest.mark.parametrize("centred", [False, True])
def test_a_correlation_filled_up_with_zeros(centred):
    """As a wrong shape it is in SHAPES below; somebody may have padded it to fit."""

    def closed_form(x, w, dy):
        _, gw = PLAIN.by_hand()(x, w, dy)
        small = valid(np.asarray(dy), np.asarray(w), "no...,oi->ni...")
        gaps = [n - m for n, m in zip(x.shape[2:], small.shape[2:], strict=True)]
        pads = [(g // 2, g - g // 2) if centred else (0, g) for g in gaps]
        return np.pad(small, [(0, 0), (0, 0), *pads]), gw

    found = first_order(PLAIN, PLAIN.args, closed_form=closed_form)
    assert_named(found, x="correlation where full convolution is due")


FACTORS = {
    "twice": (lambda g: 2 * g, "factor 2: twice what is right"),
    "half": (lambda g: g / 2, "factor 1/2: half of what is right"),
    "sign": (lambda g: -g, "sign: the negative of what is right"),
    "zero": (lambda g: 0 * g, "left out: the gradient is zero everywhere"),
    "odd": (lambda g: 1.7 * g, "constant factor 1.7"),
}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", FACTORS)
def test_constant_factors(name):
    change, words = FACTORS[name]
    found = first_order(PADDED, PADDED.args, closed_form=changed(PADDED, dx=change, dw=change))
    assert_named(found, x=words, w=words)


def test_sum_and_mean():
    def mean(x, w):
        return (PLAIN(x, w) ** 2).mean()

    def summed(x, w):
        return (PLAIN(x, w) ** 2).sum()

    def of(loss, factor=1.0):
        return lambda x, w, dy: tuple(g * dy * factor for g in jax.grad(loss, (0, 1))(x, w))

    size = 2 * 3 * 3 * 5
    found = first_order(mean, PLAIN.args, closed_form=of(summed))
    assert found.likely == (f"sum instead of mean: {size} times what is right",)
    found = first_order(summed, PLAIN.args, closed_form=of(mean))
    assert found.likely == (f"mean instead of sum: 1/{size} of what is right",)
    # Of the batch alone, and a number that no mean is over.
    found = first_order(summed, (draw(3, 2, 5, 6), PLAIN.w), closed_form=of(summed, 3.0))
    assert found.likely == ("sum instead of mean: 3 times what is right",)
    found = first_order(summed, PLAIN.args, closed_form=of(summed, 101.0))
    assert found.likely == ("constant factor 101",)


def test_pools_that_forget_to_divide():
    x = draw(2, 6, 6)
    found = first_order(
        lambda x: jc.avg_pool(x, (3, 3)),
        (x,),
        closed_form=lambda x, dy: jnp.repeat(jnp.repeat(dy, 3, 1), 3, 2),
    )
    assert_named(found, x="sum instead of mean: 9 times what is right")


def test_weight_decay_without_its_factor():
    def objective(x, w):
        return (PLAIN(x, w) ** 2).sum() + 0.1 * (w**2).sum()

    def closed_form(x, w, dy):
        gx, gw = jax.grad(lambda x, w: (PLAIN(x, w) ** 2).sum(), (0, 1))(x, w)
        return gx * dy, (gw + 0.1 * w) * dy

    found = first_order(objective, PLAIN.args, closed_form=closed_form)
    assert_named(found, w="off by -0.1 * w: a term like lambda*|w|^2")
    assert "factor 2" in found.likely[0]


def test_gradients_in_another_order():
    found = first_order(
        lambda a, b: a * b,
        (draw(3), draw(3, seed=1)),
        closed_form=lambda a, b, dy: (a * dy, b * dy),
    )
    assert found.likely == (
        "gradients in another order: this is the one of b",
        "gradients in another order: this is the one of a",
    )


def test_a_slip_behind_other_layers():
    """The second layer's kernel is not rotated, which spoils the first layer's gradients."""
    x, w1, w2 = draw(1, 1, 7, 7), draw(2, 1, 2, 3), draw(2, 2, 3, 2, seed=2)

    def network(x, w1, w2):
        return jnp.sin(jc.conv(jc.avg_pool(jnp.tanh(jc.conv(x, w1)), (2, 2), stride=1), w2))

    def closed_form(x, w1, w2, dy):
        first, back1 = jax.vjp(
            lambda x, w: jc.avg_pool(jnp.tanh(jc.conv(x, w)), (2, 2), stride=1), x, w1
        )
        error = dy * jnp.cos(jc.conv(first, w2))
        delta = jc.conv_transpose(error, jnp.flip(w2, (2, 3)))
        right = jax.vjp(lambda w: jc.conv(first, w), w2)[1](error)
        return (*back1(delta), *right)

    found = first_order(network, (x, w1, w2), closed_form=closed_form)
    assert {r.argument for r in found.wrong if r.argument != report.TOGETHER} == {"x", "w1"}
    assert found.likely == ("kernel not rotated",)


WRITTEN_OUT_SLIPS = {
    "unrotated": (lambda g, dy, k: full(dy, k), "kernel not rotated: right if kernel were flipped"),
    "rotated": (lambda g, dy, k: g[::-1, ::-1], "kernel not rotated: the right gradient, but"),
    "moved": (lambda g, dy, k: np.pad(g[1:], ((0, 1), (0, 0))), "padding off by one: the gradient"),
    "no-dy": (lambda g, dy, k: full(np.ones_like(dy), k[::-1, ::-1]), "dy left out"),
}


def full(z, k):
    """Full correlation of two planes."""
    reach = [m - 1 for m in k.shape]
    wide = fit(z, [-r for r in reach], [n + 2 * r for n, r in zip(z.shape, reach, strict=True)])
    return valid(wide[None, None], k[None, None], "no...,oi->ni...")[0, 0]


@pytest.mark.parametrize("name", WRITTEN_OUT_SLIPS)
def test_slips_without_a_convolution_to_look_into(name):
    change, words = WRITTEN_OUT_SLIPS[name]

    def closed_form(image, kernel, dy):
        dy, k = np.asarray(dy), np.asarray(kernel)
        right = full(dy, k[::-1, ::-1])
        return change(right, dy, k), valid(
            np.asarray(image)[None, None], dy[None, None], "no...,oi->ni..."
        )[0, 0]

    found = first_order(written_out, (draw(5, 6), draw(2, 3)), closed_form=closed_form)
    assert_named(found, image=words)


def test_groups_without_a_convolution_to_look_into():
    def blocks(x, w):
        return jnp.einsum("gi,goi->go", x.reshape(2, 3), w).ravel()

    def closed_form(x, w, dy):
        right = jax.vjp(blocks, x, w)[1](dy)
        return right[0].reshape(2, 3).T.ravel(), right[1]

    found = first_order(blocks, (draw(6), draw(2, 2, 3)), closed_form=closed_form)
    assert_named(found, x="groups mixed: the right gradient, but given with its channels")


# No false alarms.


def test_symmetric_kernels_need_no_rotation():
    w = PADDED.w + PADDED.w[:, :, ::-1, ::-1]
    found = first_order(PADDED, (PADDED.x, w), closed_form=PADDED.by_hand(dx="unrotated"))
    assert found.ok, str(found)


def test_what_no_slip_explains_is_not_explained():
    noise = draw(*PADDED.x.shape, seed=5)
    found = first_order(PADDED, PADDED.args, closed_form=changed(PADDED, dx=lambda g: g + noise))
    assert found.likely == ()
    assert "likely" not in str(found)
    assert [r.argument for r in rows(found, "closed form", "reverse") if r.verdict == "WRONG"] == [
        "x"
    ]


def test_one_wrong_entry_is_named_and_not_explained():
    def one(g):
        g = g.copy()
        g[0, 1, 2, 3] += 1.0
        return g

    found = first_order(PADDED, PADDED.args, closed_form=changed(PADDED, dx=one))
    (row,) = [r for r in rows(found, "closed form", "reverse") if r.verdict == "WRONG"]
    assert (row.argument, row.entry) == ("x", (0, 1, 2, 3))
    assert row.got - row.expected == pytest.approx(1.0)
    assert found.likely == ()


def test_a_constant_gradient_is_not_a_shifted_one():
    """Wrong in its last column only: away from that it is its own neighbour."""

    def closed_form(x, dy):
        return jnp.ones((3, 4)).at[:, -1].set(0.0) * dy

    found = first_order(lambda x: x.sum(), (draw(3, 4),), closed_form=closed_form)
    assert not found.ok
    assert found.likely == ()


def test_rounding_is_not_a_slip():
    def closed_form(x, w, dy):
        gx, gw = PADDED.by_hand()(x, w, dy)
        return gx.astype(np.float32), gw

    found = first_order(PADDED, PADDED.args, closed_form=closed_form)
    assert "rounding" in found.likely[0]
    assert "the closed form returned float32" in str(found)


# Wrong shapes.

CORRELATION, COMPACT = "correlation where full convolution is due", "stride not re-inserted"
WIDE = Conv((1, 1, 9), (1, 1, 7), low=3)
#: The call, the argument, the shape of its gradient, and what that betrays.
SHAPES = {
    "correlation": (PLAIN, "x", (2, 2, 1, 4), CORRELATION),
    "correlation-last": (LAST, "x", (2, 2, 3, 2), CORRELATION),
    "compact": (STRIDED, "x", (2, 2, 6, 5), COMPACT),
    "compact-cropped": (STRIDED, "x", (2, 2, 4, 3), COMPACT),
    "compact-last": (GROUPED_LAST, "x", (2, 3, 3, 4), COMPACT),
    "tail": (Conv((1, 1, 8), (1, 1, 3), stride=2), "x", (1, 1, 7), "which no window reads"),
    "off": (PADDED, "x", (1, 2, 6, 6), "padding off by one"),
    "off-last": (LAST, "x", (2, 8, 7, 2), "padding off by one"),
    "uncropped": (WIDE, "x", (1, 1, 15), "padding not cropped off again"),
    "dy": (WIDE, "x", (1, 1, 5), ""),
    "kernel-compact": (STRIDED, "w", (2, 2, 6, 5), COMPACT),
    "kernel-all-groups": (GROUPED, "w", (4, 4, 2, 3), "groups mixed"),
    "kernel-dilated": (DILATED, "w", (2, 2, 5, 3), "dilation left out"),
    "kernel-off": (PADDED, "w", (2, 2, 4, 4), "padding off by one"),
    "transposed": (PLAIN, "w", (2, 3, 3, 2), "axes transposed"),
    "exchanged": (PLAIN, "x", (3, 2, 3, 2), "gradients in another order: this is the shape of w"),
    "batch": (PLAIN, "w", (2, 3, 2, 3, 2), "not summed over axes 0"),
    "strange": (PLAIN, "x", (9, 9, 9, 9), ""),
    "flat": (PLAIN, "x", (120,), ""),
}


@pytest.mark.thinned(7)
@pytest.mark.parametrize("name", SHAPES)
def test_wrong_shapes(name):
    conv, argument, shape, words = SHAPES[name]

    def closed_form(x, w, dy):
        right = dict(zip("xw", conv.by_hand()(x, w, dy), strict=True))
        return tuple({**right, argument: np.zeros(shape)}.values())

    found = first_order(conv, conv.args, closed_form=closed_form)
    (row,) = found.wrong
    assert (row.check, row.against, row.argument) == ("closed form", "shape", argument)
    needed = dict(zip("xw", conv.args, strict=True))[argument].shape
    assert row.note == f"returned shape {shape}; needed is the argument's, {needed}"
    assert words in row.likely
    assert bool(row.likely) == bool(words)
    assert found.max_error == np.inf


def test_wrong_shapes_without_a_convolution_to_look_into():
    found = first_order(
        written_out,
        (draw(6, 7), draw(2, 3)),
        closed_form=lambda image, k, dy: (jnp.zeros((4, 3)), jnp.zeros((2, 3))),
    )
    assert found.wrong[0].likely == "correlation where full convolution is due"
    found = first_order(
        lambda x, b: x + b, (draw(3, 4), draw(4)), closed_form=lambda x, b, dy: (dy, dy)
    )
    assert [r.likely for r in found.wrong] == ["not summed over axes 0"]


def closed_form_says(closed_form, fn=dense, args=DENSE):
    found = first_order(fn, args, closed_form=closed_form)
    assert not found.ok
    return str(found).split("\n\n")[0].replace("\n       ", "")


def test_wrong_numbers_structures_and_types():
    said = closed_form_says(lambda p, x, dy: (dy,))
    assert said.startswith("wrong: closed form: returned 1 gradients; needed is a tuple of 2, one ")
    assert "returned NoneType; needed is a tuple of 2" in closed_form_says(lambda p, x, dy: None)
    assert "returned ArrayImpl; needed is" in closed_form_says(lambda p, x, dy: dy)
    said = closed_form_says(lambda p, x, dy: ({"w": p["w"]}, x))
    assert "closed form of weights['b']: returned the structure PyTreeDef({'w': *})" in said
    assert "{'b': *, 'w': *}" in said
    said = closed_form_says(lambda p, x, dy: (dense_by_hand(p, x, dy)[0], x + 1j))
    assert "closed form of x: returned dtype complex128; needed are real numbers" in said
    said = closed_form_says(lambda p, x, dy: (dense_by_hand(p, x, dy)[0], "x"))
    assert "closed form of x: returned dtype" in said


def test_gradients_that_are_not_given():
    found = first_order(
        dense, DENSE, closed_form=lambda p, x, dy: (None, dense_by_hand(p, x, dy)[1])
    )
    assert found.ok
    not_given = [r.argument for r in found.rows if r.verdict == "not given"]
    assert not_given == ["weights['b']", "weights['w']"]
    assert "None was returned" in str(found)


def test_a_single_gradient_needs_no_tuple():
    for given in (
        lambda x, dy: 2 * x * dy,
        lambda x, dy: [2 * x * dy],
        lambda x, dy: (2 * x * dy,),
    ):
        assert first_order(lambda x: x**2, (draw(3),), closed_form=given).ok


def test_what_a_closed_form_raises_is_not_caught():
    def closed_form(x, dy):
        raise RuntimeError("half done")

    with pytest.raises(RuntimeError, match="half done"):
        check_gradients(lambda x: x, (draw(2),), closed_form=closed_form)


def test_closed_forms_see_float64_and_the_output_s_structure():
    seen = []

    def closed_form(x, dy):
        seen.append((x.dtype, dy["y"].dtype, dy["y"].shape, dy["n"].dtype))
        return 3 * dy["y"]

    found = first_order(
        lambda x: {"y": 3 * x, "n": jnp.arange(4)},
        (np.arange(2, dtype=np.int8),),
        closed_form=closed_form,
    )
    assert found.ok, str(found)
    assert set(seen) == {(np.dtype(float), np.dtype(float), (2,), jax.dtypes.float0)}


# Kinks.


def test_a_corner_is_named():
    found = first_order(lambda x: jax.nn.relu(x), (np.array([1.0, 0.0, -1.0]),))
    assert found.ok, str(found)
    (kink,) = found.kinks
    assert kink[:4] == ("x", (1,), "output", (1,))
    assert (kink.left, kink.right, kink.jump) == (0.0, 1.0, False)
    assert "output[1] along x[1]: left 0, right 1" in str(found)


@pytest.mark.parametrize(
    ("slope", "ok"), [(0.0, True), (0.3, True), (1.0, True), (1.1, False), (-0.1, False)]
)
def test_at_a_corner_slopes_between_the_two_are_right(slope, ok):
    x = np.array([1.0, 0.0, -1.0])
    gradient = np.array([1.0, slope, 0.0])
    found = first_order(jax.nn.relu, (x,), closed_form=lambda x, dy: gradient * dy)
    assert found.ok == ok, str(found)
    if not ok:
        row = found.wrong[0]
        assert row.entry == (1,)
        assert row.expected / row.got == pytest.approx(np.clip(slope, 0, 1) / slope)


def test_away_from_the_corner_nothing_is_forgiven():
    found = first_order(jax.nn.relu, (np.array([1.0, 0.0]),), closed_form=lambda x, dy: 0.5 * dy)
    assert [r.entry for r in rows(found, "closed form", "reverse")] == [(0,)]
    assert not found.ok


@pytest.mark.parametrize("winner", ["first", "last", "even", "loser"])
def test_ties_of_a_pool(winner):
    """Any of the winners may get the error, or all a share; a loser may not."""
    x = np.array([[1.0, 3.0, 3.0, 0.0, 5.0, 5.0, 5.0, 2.0]])
    share = {
        "first": [0, 1, 0, 0, 1, 0, 0, 0],
        "last": [0, 0, 1, 0, 0, 0, 1, 0],
        "even": [0, 1 / 2, 1 / 2, 0, 1 / 3, 1 / 3, 1 / 3, 0],
        "loser": [1, 0, 0, 0, 0, 0, 0, 1],
    }[winner]
    found = check_gradients(
        lambda x: jc.max_pool(x, (4,)),
        (x,),
        closed_form=lambda x, dy: jnp.repeat(dy, 4, 1) * jnp.array([share]),
    )
    assert found.ok == (winner != "loser"), str(found)
    assert {kink.entry for kink in found.kinks} == {(0, i) for i in (1, 2, 4, 5, 6)}
    assert {(kink.left, kink.right) for kink in found.kinks} == {(0.0, 1.0)}
    if winner == "loser":
        assert found.wrong[0].entry in ((0, 0), (0, 7))


def test_jumps_are_named():
    found = first_order(jnp.floor, (np.array([0.5, 2.0]),))
    assert found.ok, str(found)
    (kink,) = found.kinks
    assert kink[1:] == ((1,), "output", (1,), 0.0, 0.0, True)
    assert "and a jump" in str(found)


def test_corners_are_left_out_of_second_order():
    x = np.array([[1.0, 1.0, 0.5, 2.0]])

    def fn(x):
        return jc.max_pool(x**3, (2,))

    found = check_gradients(fn, (x,))
    assert found.ok, str(found)
    (row,) = rows(found, "order 2: fwd over rev")
    assert row.compared == 2 * 4 - 2 * 2
    assert "2 entries left out, whose gradient has a kink" in row.note


def test_kinks_nearby_do_not_spoil_the_differences():
    distances = np.array([0.3, 1e-2, 1e-3, -1e-3, 1e-4, 1e-5, -2e-6])
    found = first_order(lambda x: jnp.abs(x) + x**2, (distances,))
    assert found.ok, str(found)
    assert found.kinks == ()
    assert found.max_error < 1e-8


def test_a_kink_in_one_output_does_not_excuse_another():
    """Of dy's single outputs some see the smooth one alone."""
    found = first_order(
        lambda x: jnp.stack([jnp.abs(x), 3 * x]),
        (np.array(0.0),),
        closed_form=lambda x, dy: 0.0 * dy[0] + 2 * dy[1],
    )
    assert not found.ok


def test_forward_mode_outside_of_the_corner_s_slopes_is_wrong():
    @jax.custom_jvp
    def relu(x):
        return jnp.maximum(x, 0)

    relu.defjvp(lambda x, t: (relu(*x), jnp.where(x[0] >= 0, 1.5, 0.0) * t[0]))
    found = first_order(relu, (np.array([0.0, -1.0]),))
    assert {r.check for r in found.wrong} == {"forward", "reverse"}
    (row,) = [r for r in rows(found, "forward") if r.argument == "x"]
    assert (row.entry, row.output, row.got, row.expected) == ((0,), "output[0]", 1.5, 1.0)


# Numbers that are none.


def test_nan_is_named():
    with np.errstate(invalid="ignore"):
        found = check_gradients(jnp.log, (np.array([2.0, -1.0, 0.0, 1.0]),))
    assert not found.ok
    row = found.wrong[0]
    assert (row.check, row.compared) == ("values", 2)
    assert row.note.startswith("fn gives nan at [1], -inf at [2]: no derivative")
    assert str(found).startswith("wrong: values of output: fn gives nan at [1]")


def test_a_nan_gradient_of_a_finite_value_is_wrong():
    """The branch that where() does not take still sends its NaN back."""

    def fn(x):
        return jnp.where(x > 0, jnp.log(x), 0.0) * 2

    found = first_order(fn, (np.array([-1.0, 0.0, 2.0]),))
    wrong = [r for r in rows(found, "reverse") if r.argument == "x"]
    assert (wrong[0].verdict, wrong[0].entry) == ("WRONG", (1,))
    assert np.isnan(wrong[0].got)
    assert not np.isnan(wrong[0].expected) or "no slope to compare with" in wrong[0].note


def test_the_edge_of_a_domain_is_said():
    found = first_order(jnp.sqrt, (np.array([0.0, 4.0]),))
    assert not found.ok
    assert "no slope to compare with: next to this point fn is not finite, or vertical" in str(
        found
    ).replace("\n       ", " ")


def test_infinite_outputs_leave_the_others_checked():
    found = first_order(
        lambda x: jnp.append(jnp.inf, x**2),
        (np.array([1.0, 2.0]),),
        closed_form=lambda x, dy: jnp.stack([2.0, 3.0]) * x * dy[1:],
    )
    assert found.wrong[0].note.startswith("fn gives inf at [0]")
    assert [r.entry for r in rows(found, "closed form", "reverse")] == [(1,)]
    assert {r.check for r in found.wrong} == {"values", "closed form"}


# Modes that a function lacks, and rules of its own.


def bilinear(forward, backward):
    """A custom_vjp: how people bring their own gradients into jax."""
    fn = jax.custom_vjp(lambda x, w: forward(x, w))
    fn.defvjp(lambda x, w: (forward(x, w), (x, w)), lambda kept, dy: backward(*kept, dy))
    return fn


def same_conv(x, w):
    return jc.conv(x, w, padding=1)


def test_custom_vjp_has_no_forward_mode_and_that_is_fine():
    fn = bilinear(same_conv, lambda x, w, dy: jax.vjp(same_conv, x, w)[1](dy))
    found = check_gradients(fn, PADDED.args)
    assert found.ok, str(found)
    assert [r.verdict for r in rows(found, "forward")] == ["none"]
    assert rows(found, "adjoint: <Jv,u>") == []
    assert [r.verdict for r in rows(found, "order 2: rev over fwd")] == ["none"]
    assert [r.verdict for r in rows(found, "order 2: fwd over rev")] == ["ok"]
    assert "fn has no such mode (TypeError: can't apply forward-mode" in str(found)


def test_slips_in_a_custom_vjp_are_named():
    def unrotated(x, w, dy):
        right = jax.vjp(same_conv, x, w)[1](dy)
        return jc.conv_transpose(dy, jnp.flip(w, (2, 3)), padding=1), right[1]

    found = first_order(bilinear(same_conv, unrotated), PADDED.args)
    single = [r for r in found.wrong if r.argument != report.TOGETHER]
    assert [(r.check, r.argument) for r in single] == [("reverse", "x")]
    assert found.likely == ("kernel not rotated",)


def test_a_closed_form_is_checked_without_a_mode_to_trust():
    """Reverse mode is wrong here: the closed form is compared with differences instead."""
    fn = bilinear(lambda a, b: a * b, lambda a, b, dy: (5 * b * dy, a * dy))
    args = (draw(3), draw(3, seed=1))
    found = first_order(fn, args, closed_form=lambda a, b, dy: (b * dy, 2 * a * dy))
    wrong = {(r.check, r.argument) for r in found.wrong if r.argument != report.TOGETHER}
    assert wrong == {("reverse", "x"), ("closed form", "w")}
    assert rows(found, "closed form", "reverse") == []
    assert set(found.likely) == {"factor 2: twice what is right", "constant factor 5"}


def test_a_rule_that_does_not_fit_is_wrong_and_not_missing():
    fn = bilinear(lambda a, b: a * b, lambda a, b, dy: (dy[:1], dy))
    found = first_order(fn, (draw(3), draw(3)))
    assert found.wrong[0].check == "reverse"
    assert "raised ValueError: Custom VJP bwd rule" in found.wrong[0].note

    def broken(a, b, dy):
        raise IndexError("in the rule")

    found = first_order(bilinear(lambda a, b: a * b, broken), (draw(3), draw(3)))
    assert "raised IndexError: in the rule" in str(found)


def test_functions_without_reverse_mode():
    def grow(x):
        return lax.while_loop(lambda c: c.sum() < 10, lambda c: c * 2.0, x**2)

    found = check_gradients(grow, (draw(3),))
    assert found.ok, str(found)
    assert [r.verdict for r in rows(found, "reverse")] == ["none"]
    assert not [r for r in found.rows if r.check.startswith("order")]
    right = first_order(grow, (np.array([1.1, 2.0]),), closed_form=lambda x, dy: 8 * x * dy)
    assert [r.verdict for r in rows(right, "closed form")] == ["WRONG", "WRONG"]
    right = first_order(grow, (np.array([1.1, 2.0]),), closed_form=lambda x, dy: 4 * x * dy)
    assert right.ok, str(right)


def test_functions_written_in_numpy():
    def fn(x):
        return np.sin(np.asarray(x)) * 2

    found = check_gradients(fn, (draw(4),), closed_form=lambda x, dy: 2 * np.cos(x) * dy)
    assert found.ok, str(found)
    assert {r.verdict for r in rows(found, "forward") + rows(found, "reverse")} == {"none"}
    found = check_gradients(fn, (draw(4),), closed_form=lambda x, dy: 4 * np.cos(x) * dy)
    assert found.likely == ("factor 2: twice what is right",)
    found = check_gradients(fn, (draw(4),))
    assert not found.ok
    assert "fn has no derivative by jax, and there is no closed form" in str(found)


def test_python_branches_on_values():
    def fn(x):
        return x**2 if x[0] > 0 else -x

    found = check_gradients(fn, (np.array([1.0, 2.0]),), closed_form=lambda x, dy: 2 * x * dy)
    assert found.ok, str(found)
    assert len(rows(found, "order 2: fwd over rev")) == 1
    assert not check_gradients(
        fn, (np.array([-1.0, 2.0]),), closed_form=lambda x, dy: 2 * x * dy
    ).ok


# Higher orders.


def test_third_order_in_every_mixture():
    found = check_gradients(lambda x, w: jnp.tanh(x * w).sum(), (draw(2), draw(2, seed=1)), order=3)
    assert found.ok, str(found)
    ways = [r.check for r in found.rows if r.check.startswith("order 3")]
    mixtures = set(itertools.product(("fwd", "rev"), repeat=3)) - {("fwd",) * 3}
    assert set(ways) == {f"order 3: {' over '.join(mixture)}" for mixture in mixtures}
    assert len(ways) == 7


def test_order_one_checks_no_second():
    assert not [r for r in first_order(jnp.sin, (draw(2),)).rows if r.check.startswith("order")]


@jax.custom_jvp
def curved(x):
    """The right slope, held constant: wrong from the second derivative on."""
    return jnp.sin(x)


curved.defjvp(lambda x, t: (curved(*x), lax.stop_gradient(jnp.cos(x[0])) * t[0]))


def test_a_wrong_second_derivative():
    found = check_gradients(curved, (draw(3),))
    checks = {r.check for r in found.wrong}
    assert checks == {f"order 2: {w}" for w in ("fwd over rev", "rev over rev", "rev over fwd")}
    row = found.wrong[0]
    assert row.argument == "x"
    assert row.got == 0
    assert abs(row.expected) > 0.01


@jax.custom_jvp
def cubic(x):
    """Right up to the second derivative."""
    return x**3


@jax.custom_jvp
def slope(x):
    return 3 * x**2


cubic.defjvp(lambda x, t: (cubic(*x), slope(x[0]) * t[0]))
slope.defjvp(lambda x, t: (slope(*x), 6 * lax.stop_gradient(x[0]) * t[0]))


def test_a_wrong_third_derivative():
    assert check_gradients(cubic, (draw(3),)).ok
    found = check_gradients(cubic, (draw(3),), order=3)
    assert {r.check[:7] for r in found.wrong} == {"order 3"}
    assert len(found.wrong) == 7


# Arguments and settings.


def test_pytrees_in_and_out():
    def fn(params, scale=2.0):
        return {"y": [params["a"] * scale, params["b"][0].sum()]}

    found = check_gradients(fn, ({"a": draw(2), "b": (draw(2, 2),)}, 3))
    assert found.ok, str(found)
    names = [r.argument for r in rows(found, "reverse")][:-1]
    assert names == ["params['a']", "params['b'][0]", "scale"]
    (row, *_) = rows(found, "forward")
    assert row.output.startswith("output['y'][")


def test_names_without_a_signature():
    def fn(*arrays):
        return arrays[0] * arrays[1]

    found = first_order(fn, [draw(2), draw(2)])
    assert [r.argument for r in rows(found, "reverse")][:-1] == ["arrays[0]", "arrays[1]"]
    found = first_order(jax.jit(lambda u: u * 2), [draw(2)])
    assert rows(found, "reverse")[0].argument == "u"
    assert function.argument_names(max, 1) == ["args[0]"] or sys.version_info >= (3, 14)


def test_none_and_numbers_as_arguments():
    def fn(x, bias, scale):
        return x * scale if bias is None else x + bias

    found = check_gradients(
        fn, (draw(2), None, 3), closed_form=lambda x, b, s, dy: (s * dy, None, x @ dy)
    )
    assert found.ok, str(found)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (1, 0, 4, 4)])
def test_arguments_without_entries(shape):
    w = np.zeros((2, shape[1], 3, 3))
    found = check_gradients(
        PADDED,
        (np.zeros(shape), w),
        closed_form=lambda x, w, dy: (jnp.zeros(shape), jnp.zeros(w.shape)),
    )
    assert found.ok, str(found)
    found = first_order(PADDED, (np.zeros(shape), w), closed_form=lambda x, w, dy: (x[:, :, 1:], w))
    assert shape[0] == 0 or not found.ok


def test_max_pool_with_indices():
    found = check_gradients(lambda x: jc.max_pool(x, (2, 2), return_indices=True), (draw(1, 4, 4),))
    assert found.ok, str(found)


def test_large_arguments_are_sampled_and_seen_whole():
    """Entry by entry a sample, but the closed form everywhere: a single wrong one is found."""
    x = draw(4000)
    at = 3456

    def closed_form(x, dy):
        return (jnp.cos(x) * dy).at[at].multiply(1.01)

    found = first_order(jnp.sin, (x,), closed_form=closed_form)
    assert [(r.against, r.entry) for r in found.wrong if r.entry] == [("reverse", (at,))]
    assert rows(found, "forward")[0].compared == 100 * 4000
    # Without reverse mode to compare with, the random vectors have to see it.
    found = first_order(lambda x: np.sin(np.asarray(x)), (x,), closed_form=closed_form)
    assert not found.ok


def test_seeds_draw_other_numbers():
    found = [first_order(jnp.sin, (draw(3),), seed=seed) for seed in (0, 0, 1)]
    errors = [[r.got for r in one.rows] for one in found]
    assert errors[0] == errors[1]
    assert errors[0] != errors[2]


def test_tolerances():
    def closed_form(x, dy):
        return 2 * x * dy * (1 + 1e-5)

    args = (lambda x: x**2, (1 + np.arange(3.0),))
    assert not first_order(*args, closed_form=closed_form).ok
    assert first_order(*args, closed_form=closed_form, rtol=2e-5).ok
    assert first_order(*args, closed_form=closed_form, atol=1e-3).ok
    assert not first_order(*args, closed_form=closed_form, atol=1e-9).ok
    assert not first_order(*args, closed_form=closed_form, rtol=0.9e-5).ok
    assert {r.limit for r in check_gradients(*args).rows} == {1e-7, 1e-10, 1e-6}
    assert {r.limit for r in check_gradients(*args, rtol=1e-3).rows} == {1e-3}


def test_small_entries_beside_large_ones_are_checked():
    """A gradient of 1 beside one of 1e6, wrong by a tenth."""
    scale = np.array([1e6, 1.0])
    for wrong, ok in ((1.0, True), (0.9, False)):
        found = first_order(
            lambda x: scale * jnp.sin(x),
            (draw(2),),
            closed_form=lambda x, dy, wrong=wrong: scale * jnp.cos(x) * dy * jnp.array([1, wrong]),
        )
        assert found.ok == ok, str(found)


@pytest.mark.parametrize("factor", [1e-200, 1e-9, 1e9, 1e200])
def test_any_scale_of_values_and_arguments(factor):
    found = check_gradients(
        lambda x: factor * x**3, (draw(3),), closed_form=lambda x, dy: factor * 3 * x**2 * dy
    )
    assert found.ok, str(found)
    found = first_order(
        lambda x: factor * x**3, (draw(3),), closed_form=lambda x, dy: factor * 2 * x**2 * dy
    )
    assert not found.ok
    if 1e-10 < factor < 1e10:
        found = check_gradients(lambda x: x**3, (factor * draw(3),))
        assert found.ok, str(found)


def test_float32_inside_is_told():
    with pytest.raises(
        TypeError, match=r"^fn must return float64 for float64 arguments; got float32"
    ):
        check_gradients(lambda x: x.astype(jnp.float32), (draw(2),))
    found = first_order(lambda x: jnp.sin(x.astype(jnp.float32)).astype(float), (draw(2),))
    assert str(found).startswith("wrong: precision: fn casts float64 to float32 inside")
    # Constants in float32 lose nothing of the arguments.
    half = jnp.float32(0.5)
    assert first_order(lambda x: half * x, (draw(2, 2).astype(np.float32),)).ok


def test_settings_of_the_caller_do_not_matter():
    """Strict promotion and ranks are on in all tests; here NaN is an error, and float32 rules."""
    bias = jnp.ones(3, jnp.float32)

    def fn(x):
        return jnp.where(x > 0, jnp.log(x), 0.0) + bias  # of two ranks and dtypes, NaN inside

    with jax.enable_x64(False), jax.debug_nans(True):
        found = check_gradients(fn, (-np.ones((2, 3), np.float32),))
        assert jnp.ones(1).dtype == jnp.float32
    assert found.ok, str(found)
    assert found.max_error < 1e-8


def test_float32_as_the_default():
    """A fresh process, in which nothing has asked for float64."""
    code = """
        import jax, jax.numpy as jnp, jaxconv as jc
        fn = lambda x, w: jnp.tanh(jc.conv(x, w, stride=2))
        x, w = jnp.ones((1, 2, 5)) / 3, jnp.ones((2, 2, 3)) / 7
        fn(x, w)
        report = jc.verify.check_gradients(fn, (x, w))
        assert report.ok and report.max_error < 1e-8, str(report)
        assert fn(x, w).dtype == jnp.float32 and not jax.config.jax_enable_x64
    """
    subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        check=True,
        env={**os.environ, "JAX_ENABLE_X64": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def of_sine(**options):
    return lambda: check_gradients(jnp.sin, (1.0,), **options)


def of(fn, *args):
    return lambda: check_gradients(fn, args)


BAD = {
    "fn": (of(3, 1.0), TypeError, r"^fn must be callable; got 3 \(int\)"),
    "closed_form": (of_sine(closed_form=3), TypeError, "^closed_form must be callable"),
    "array": (
        lambda: check_gradients(jnp.sin, np.ones(2)),  # pyright: ignore[reportArgumentType]
        TypeError,
        r"^args must be a tuple or list .*ndarray of shape \(2,\)",
    ),
    "none": (of(jnp.sin), ValueError, "^args must hold at least one"),
    "many": (of(lambda x: x, 1.0, 2.0), TypeError, r"^args must be what fn takes, \(x\); got 2"),
    "flag": (
        of(lambda x, flag: x, 1.0, True),
        TypeError,
        "^flag must be real numbers; got True.*close over it",
    ),
    "string": (of(lambda x, mode: x, 1.0, "a"), TypeError, "^mode must be real numbers; got 'a'"),
    "key": (lambda: of(lambda k: k, jax.random.key(0))(), TypeError, "^k must be real numbers"),
    "complex": (
        of(lambda z: z, 1j * draw(2)),
        TypeError,
        r"^z must be real; got complex128 of shape \(2,\)",
    ),
    "complex-out": (
        of(lambda x: 1j * x, draw(2)),
        TypeError,
        "^fn must return float64 .*real and imaginary parts",
    ),
    "int-out": (of(lambda x: x.astype(int), draw(2)), TypeError, "^fn must return at least one"),
    "order": (of_sine(order=0), ValueError, "^order must be at least 1; got 0"),
    "high": (of_sine(order=6), ValueError, "^order must be 1 to 5; got 6"),
    "half": (of_sine(order=1.5), TypeError, "^order must be a Python int"),
    "seed": (of_sine(seed=-1), ValueError, "^seed must be at least 0"),
    "rtol": (of_sine(rtol="1e-3"), TypeError, "^rtol must be a number or None; got '1e-3'"),
    "atol": (of_sine(atol=-1.0), ValueError, "^atol must be at least 0 and finite; got -1.0"),
    "nan": (of_sine(rtol=np.nan), ValueError, "^rtol must be at least 0"),
    "shapes": (
        of(lambda x: x[x > 0], np.array([1e-3, 1.0])),
        ValueError,
        "^fn must return the same shapes",
    ),
    "assert": (lambda: assert_gradients(jnp.sin, (1.0,), order=0), ValueError, "^order must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_calls(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


def test_what_fn_raises_is_not_caught():
    def fn(x):
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        check_gradients(fn, (1.0,))


# The report.


def wrong_report():
    return first_order(
        STRIDED, STRIDED.args, closed_form=STRIDED.by_hand(dx="compact", dw="rotated")
    )


def test_a_failing_report_says_first_what_is_wrong():
    found = wrong_report()
    lines = str(found).splitlines()
    row = found.wrong[0]
    place = ", ".join(map(str, row.entry or ()))
    assert lines[0] == (
        f"wrong: closed form of x[{place}]: got {row.got:.8g}, expected {row.expected:.8g}"
    )
    assert lines[1] == "likely: stride not re-inserted"
    assert lines[2].startswith("wrong: closed form of w[")
    assert lines[3].startswith("likely: kernel not rotated")
    assert lines[4] == ""
    assert lines[5].split() == ["check", "against", "argument", "compared", "error", "limit"]
    (line,) = [
        line for line in lines if line.startswith("closed form") and " reverse     x " in line
    ]
    assert line.endswith("1e-10 WRONG")
    assert max(map(len, lines)) <= 100
    assert not any(line != line.rstrip() for line in lines)


def test_worst_entry_and_numbers():
    found = wrong_report()
    (row,) = [r for r in rows(found, "closed form", "reverse") if r.argument == "x"]
    x, w = STRIDED.args
    with jax.enable_x64(True):
        y, back = jax.vjp(STRIDED, jnp.asarray(x), jnp.asarray(w))
        # The first cotangents are random: one of them gives these two numbers at this entry.
        pairs = []
        for u in cotangents(STRIDED, STRIDED.args):
            dy = u.reshape(y.shape)
            pairs.append(
                (STRIDED.by_hand(dx="compact")(x, w, dy)[0][row.entry], back(dy)[0][row.entry])
            )
    assert any(np.allclose(pair, (row.got, row.expected), rtol=1e-12) for pair in pairs)


def cotangents(fn, args):
    from jaxconv._verify.compare import Limits
    from jaxconv._verify.sample import sample

    return sample(function.function(fn, args), Limits(None, None), 0).cotangents


def test_a_good_report_is_short():
    found = first_order(jnp.sin, (draw(2),))
    compared = sum(r.compared for r in found.rows)
    assert str(found).splitlines()[0] == (
        f"gradients agree: {compared} comparisons, largest error {found.max_error:.1e}"
    )
    assert repr(found) == str(found)
    assert bool(found) is found.ok is True


def test_long_names_and_many_arguments_stay_readable():
    params = {f"a_rather_long_layer_name_{i}": {"kernel": draw(2)} for i in range(12)}

    def fn(params):
        return sum(jnp.sin(layer["kernel"]).sum() for layer in params.values())

    found = first_order(
        fn, (params,), closed_form=lambda p, dy: jax.tree.map(lambda a: 2 * jnp.cos(a) * dy, p)
    )
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 100
    assert "  ... and 4 more wrong" in lines
    assert sum(line.startswith("wrong: ") for line in lines) == 8


def test_many_kinks_are_counted():
    found = first_order(jnp.abs, (np.zeros(20),))
    assert len(found.kinks) == 20
    assert "  ... and 12 more kinks" in str(found)
    assert isinstance(found.kinks[0], Kink)


def test_the_truth_of_a_report():
    wrong = Report((Row("reverse", "differences", "x", "WRONG", 1, 2.0),))
    assert not wrong
    assert wrong.max_error == 2.0
    missing = Report((Row("forward", "differences", "", "none"),))
    assert missing
    assert missing.max_error == 0.0


def test_assert_gradients():
    assert assert_gradients(STRIDED, STRIDED.args, closed_form=STRIDED.by_hand(), order=1) is None
    with pytest.raises(AssertionError) as raised:
        assert_gradients(
            STRIDED, STRIDED.args, closed_form=STRIDED.by_hand(dx="compact", dw="rotated"), order=1
        )
    assert str(raised.value) == str(wrong_report())


def test_a_pytest_failure_reads_well(tmp_path):
    code = """
        import jax.numpy as jnp
        from jaxconv.verify import assert_gradients

        def test_square():
            assert_gradients(lambda x: x**2, (jnp.arange(3.0),), closed_form=lambda x, dy: x * dy)
    """
    (tmp_path / "test_mine.py").write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1, done.stdout
    said = [line for line in done.stdout.splitlines() if line.startswith("E  ")]
    assert said[0].startswith("E           AssertionError: wrong: closed form of x[")
    assert said[1].split() == [
        "E",
        "likely:",
        "factor",
        "1/2:",
        "half",
        "of",
        "what",
        "is",
        "right",
    ]
    assert any(line.split()[:2] == ["E", "check"] for line in said)


# The parts.


def test_extrapolation_against_the_exact_slope():
    point = np.array([0.3, 1.2])
    found = differences.slopes(
        lambda z: np.array([np.exp(z[0]) * z[1], np.sin(9 * z[1])]), point, [0, 1]
    )
    exact = [[np.exp(0.3) * 1.2, 0.0], [np.exp(0.3), 9 * np.cos(9 * 1.2)]]
    np.testing.assert_allclose(found.left, exact, rtol=0, atol=3e-11)
    assert (np.abs(found.left - exact) <= 10 * found.error + 1e-15).all()
    assert not found.kink.any()
    assert found.left is not found.right
    np.testing.assert_array_equal(found.left, found.right)


def test_extrapolation_beats_a_single_difference():
    """Plain central differences cannot do better than about 1e-10; these do."""
    exact = np.exp(1.0)
    found = differences.slopes(np.exp, np.array([1.0]), [0]).left[0, 0]
    plain = min(
        abs((np.exp(1 + h) - np.exp(1 - h)) / (2 * h) - exact) for h in 10.0 ** -np.arange(1, 12)
    )
    assert abs(found - exact) < plain / 10


def test_smaller_steps_win_over_larger_ones_that_agree_by_chance():
    """A bump of width 1e-3, which larger steps do not see at all."""
    width = 1e-3

    def bump(z):
        return np.exp(-(((z - width) / width) ** 2))

    found = differences.slopes(bump, np.array([0.0]), [0])
    assert found.left[0, 0] == pytest.approx(2 / width * np.exp(-1.0), rel=1e-8)


@pytest.mark.parametrize("point", [1e-8, 1e-3, 1.0, 1e6, 1e12])
def test_steps_find_the_scale_of_a_function(point):
    found = differences.slopes(np.log, np.array([point]), [0])
    assert found.left[0, 0] == pytest.approx(1 / point, rel=1e-8)
    found = differences.slopes(lambda z: z**2, np.array([point]), [0])
    assert found.left[0, 0] == pytest.approx(2 * point, rel=1e-8)


def test_one_sided_slopes():
    found = differences.slopes(lambda z: np.maximum(np.exp(z) - 1, -3 * z), np.zeros(1), [0])
    assert (found.left[0, 0], found.right[0, 0]) == pytest.approx((-3.0, 1.0), rel=1e-7)
    assert found.kink[0, 0]
    assert not found.jump[0, 0]


def test_vertical_tangents_have_no_slope():
    found = differences.slopes(np.cbrt, np.zeros(1), [0])
    assert np.isnan(found.left[0, 0])


@pytest.mark.parametrize("case", cases.CONV, ids=cases.ids(cases.CONV))
def test_projections_in_numpy(case):
    """The three projections against the oracle's, which has them as dense sums."""
    x, w, _ = case.arrays()
    x = cases.one_batch(x, case.rank)
    form = oracles.conv_form(x.shape[2:], w.shape[2:], **case.options)
    y = form.project("y", x=x, w=w)
    arrays = {"x": x, "w": w, "y": np.cos(y)}
    axes = (
        oracles.per_axis(case.options.get("stride", 1), case.rank),
        oracles.per_axis(case.options.get("dilation", 1), case.rank),
    )
    pairs = oracles.pairs(case.options.get("padding", 0), x.shape[2:], w.shape[2:], *axes)
    steps = trilinear.Steps(*axes, tuple(low for low, _ in pairs), case.groups)
    sizes = {name: array.shape for name, array in arrays.items()}
    for name in "xwy":
        given = {other: array for other, array in arrays.items() if other != name}
        got = trilinear.project(name, given, sizes, steps)
        cases.assert_close(got, form.project(name, **given), 1e-12)


def seen_from_inside(fn, *args):
    flat = function.function(fn, args)
    with jax.enable_x64(True):
        return flat, traced.trace(flat)


INSIDE = {
    "plain": same_conv,
    "jit": jax.jit(lambda x, w: jnp.tanh(jax.jit(same_conv)(x, w)) * 2),
    "checkpoint": jax.checkpoint(lambda x, w: jax.nn.relu(same_conv(x, w))),
    "custom_vjp": bilinear(same_conv, lambda x, w, dy: (0 * x, 0 * w)),
    "lax": lambda x, w: lax.conv_general_dilated(x, w, (2, 1), "SAME", feature_group_count=1),
}


@pytest.mark.parametrize("name", INSIDE)
def test_the_view_from_inside(name):
    """Gradients and cotangents are those of what fn computes, whatever rules it brings along."""
    fn = INSIDE[name]
    plain = same_conv if name == "custom_vjp" else fn
    flat, inside = seen_from_inside(fn, *PADDED.args)
    assert inside is not None
    (one,) = inside.convolutions
    u = draw(flat.size, seed=9)
    x, w = PADDED.args
    y, back = jax.vjp(plain, x, w)
    want = np.concatenate([np.ravel(g) for g in back(jnp.asarray(u.reshape(y.shape)))])
    np.testing.assert_allclose(inside.gradient(flat.point, u), want, atol=1e-12)
    (arrays,) = inside.arrays(u)
    for operand in ("x", "w"):
        given = {k: v for k, v in arrays.items() if k != operand}
        gradient = trilinear.project(operand, given, one.sizes, one.steps)
        own = np.arange(want.size) < x.size
        expected = np.where(own if operand == "x" else ~own, want, 0)
        np.testing.assert_allclose(inside.spread(0, operand, gradient), expected, atol=1e-12)


def test_regroupings_are_permutations_but_one():
    found = list(slips.regroupings(6, 3))
    assert len({how for how, _ in found}) == 5
    for how, index in found:
        assert not np.array_equal(index, np.arange(6))
        assert sorted(index) == list(range(6)) or how == "all taken from the first group"
