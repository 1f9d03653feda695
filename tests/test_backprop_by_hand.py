"""`experiments/backprop_by_hand.py`: the notes' backward pass on a LeNet, beside `jax.grad`."""

import contextlib
import importlib.util
import io
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d
from sklearn import datasets

SCRIPT = Path(__file__).parents[1] / "experiments" / "backprop_by_hand.py"
BACKWARD = ["F6", "F5", "S4", "C3", "S2", "C1"]
SHAPES = {
    "NCHW": {"S4": (5, 8, 2, 2), "C3": (5, 8, 4, 4), "S2": (5, 4, 6, 6), "C1": (5, 4, 12, 12)},
    "NHWC": {"S4": (5, 2, 2, 8), "C3": (5, 4, 4, 8), "S2": (5, 6, 6, 4), "C1": (5, 12, 12, 4)},
}


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("backprop_by_hand", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load()


def call(*args):
    """Exit code and output."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = script.main([str(arg) for arg in args])
    return code, out.getvalue()


def small(layout, seed=1, size=5):
    weights = script.first_weights(seed, layout)
    return weights, *next(script.read_digits(seed, layout).batches(1, size))


@pytest.fixture(scope="module")
def by_jax():
    return jax.jit(partial(script.by_jax, layout="NCHW"))(*small("NCHW"))


# An account of the network in NumPy and SciPy, channels first.


def channels_first(layout, tree):
    """Weights, or derivatives in them, as the NCHW network would have them."""
    found = {layer: [np.asarray(w) for w in pair] for layer, pair in tree.items()}
    if layout == "NHWC":
        for layer in ("C1", "C3"):
            found[layer][0] = np.moveaxis(found[layer][0], (3, 2), (0, 1))
        rows = [(row * 2 + column) * 8 + c for c in range(8) for row in (0, 1) for column in (0, 1)]
        found["F5"][0] = found["F5"][0][rows]
    return found


def numpy_loss(weights, images, labels, nudge=None):
    """The loss at weights [W, B] of each layer, with `nudge[layer]` added to what the layer gives.

    `images` is (n, 1, 8, 8). Each convolution is SciPy's correlation of one map with one kernel.
    """
    nudge = nudge or {}

    def conv(x, layer, frame):
        W, B = weights[layer]
        x = np.pad(x, [(0, 0), (0, 0), (frame, frame), (frame, frame)])
        maps = [
            [sum(map(correlate, image, kernels)) + b for kernels, b in zip(W, B, strict=True)]
            for image in x
        ]
        return np.array(maps) + nudge.get(layer, 0)

    def correlate(x, k):
        return correlate2d(x, k, mode="valid")

    def windows(x):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).swapaxes(3, 4).reshape(n, c, h // 2, w // 2, 4)

    def dense(x, layer):
        return (
            np.einsum("ni,ij->nj", x, weights[layer][0]) + weights[layer][1] + nudge.get(layer, 0)
        )

    x = np.tanh(conv(images, "C1", 4))
    x = windows(x).mean(axis=-1) + nudge.get("S2", 0)
    x = np.tanh(conv(x, "C3", 0))
    x = windows(x).max(axis=-1) + nudge.get("S4", 0)
    x = np.tanh(dense(x.reshape(len(x), 32), "F5"))
    p = np.exp(dense(x, "F6"))
    p /= p.sum(axis=1, keepdims=True)
    entropy = np.mean([-np.log(row[label]) for row, label in zip(p, labels, strict=True)])
    return entropy + 1e-3 * sum(np.linalg.norm(W) ** 2 for W, _ in weights.values())


def as_numpy(layout, weights, images, labels):
    images = np.moveaxis(images, -1, 1) if layout == "NHWC" else np.asarray(images)
    return channels_first(layout, weights), images, np.asarray(labels)


@pytest.mark.parametrize("layout", SHAPES)
def test_loss_is_that_of_numpy(layout, by_jax):
    first = small(layout)
    found = script.by_hand(*first, layout)
    expected = numpy_loss(*as_numpy(layout, *first))
    np.testing.assert_allclose(found.loss, expected, rtol=1e-13)
    assert found.loss.dtype == np.float64
    # Both layouts are one network, and both ways take the same loss.
    np.testing.assert_allclose(by_jax.loss, expected, rtol=1e-13)


@pytest.mark.parametrize("layout", SHAPES)
def test_derivatives_are_the_differences_of_numpys_loss(layout):
    first = small(layout)
    found = script.by_hand(*first, layout)
    weights, images, labels = as_numpy(layout, *first)
    random = np.random.default_rng(0)
    step = 1e-5

    def check(name, derivative, loss_at):
        # Along a random direction, which every entry of the derivative enters.
        way = random.normal(size=derivative.shape)
        difference = (loss_at(step * way) - loss_at(-step * way)) / (2 * step)
        assert np.sum(derivative * way) == pytest.approx(difference, rel=1e-6, abs=1e-9), name

    for layer, pair in channels_first(layout, found.weights).items():
        for index, derivative in enumerate(pair):

            def moved(by, layer=layer, index=index):
                new = [w + by if i == index else w for i, w in enumerate(weights[layer])]
                return numpy_loss(weights | {layer: new}, images, labels)

            check(f"{layer}, {'WB'[index]}", derivative, moved)
    for layer, delta in found.delta.items():
        delta = np.moveaxis(delta, -1, 1) if layout == "NHWC" and delta.ndim == 4 else delta
        check(layer, delta, lambda by, at=layer: numpy_loss(weights, images, labels, {at: by}))


# The rules.

AUTODIFF = (
    "grad", "value_and_grad", "vjp", "jvp", "jacfwd", "jacrev", "hessian", "linearize",
    "linear_transpose",
)  # fmt: skip


def test_by_hand_differentiates_nothing(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the half by hand called autodiff")

    for name in AUTODIFF:
        monkeypatch.setattr(jax, name, refuse)
    first = small("NCHW", size=2)  # a new size: nothing traced before is reused
    found = jax.eval_shape(partial(script.by_hand, layout="NCHW"), *first)
    assert sorted(found.delta) == sorted(BACKWARD)
    with pytest.raises(AssertionError, match="called autodiff"):
        jax.eval_shape(partial(script.by_jax, layout="NCHW"), *first)


def bias_halved(rule):
    return lambda *args: rule(*args)._replace(B=rule(*args).B / 2)


def kernel_turned(rule):
    return lambda *args: rule(*args)._replace(W=jnp.flip(rule(*args).W))


# Each rule with a slip in it, and the first quantity, backwards from the loss, that shows it.
SLIPS = {
    "loss_back, sum for mean": ("loss_back", lambda rule: lambda H, t: rule(H, t) * 5, "F6 delta"),
    "f_prime, no square": ("f_prime", lambda rule: lambda H: 1 - jnp.tanh(H), "F5 delta"),
    "f_prime, of f(H)": ("f_prime", lambda rule: lambda H: rule(jnp.tanh(H)), "F5 delta"),
    "dense_back, rows reversed": (
        "dense_back", lambda rule: lambda delta, W: rule(delta, W[::-1]), "F5 delta"
    ),
    "dense_weights, dW": ("dense_weights", kernel_turned, "F6 dW"),
    "dense_weights, dB": ("dense_weights", bias_halved, "F6 dB"),
    "decay, lambda W": ("decay", lambda rule: lambda W: rule(W) / 2, "F6 dW"),
    "decay, none": ("decay", lambda rule: jnp.zeros_like, "F6 dW"),
    "up_max, to all": (
        "up_max", lambda rule: lambda X, delta, _: delta.repeat(2, 2).repeat(2, 3), "C3 delta"
    ),
    "up_max, to the smallest": (
        "up_max", lambda rule: lambda X, delta, layout: rule(-X, delta, layout), "C3 delta"
    ),
    "conv_back, not rotated": (
        "conv_back",
        lambda rule: lambda delta, W, *args: rule(delta, W[:, :, ::-1, ::-1], *args),
        "S2 delta",
    ),
    "conv_weights, dW rotated": ("conv_weights", kernel_turned, "C3 dW"),
    "conv_weights, dB": ("conv_weights", bias_halved, "C3 dB"),
    "up_avg, not divided": ("up_avg", lambda rule: lambda *args: 4 * rule(*args), "C1 delta"),
}  # fmt: skip


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_a_rule_is_found_and_named(slip, by_jax, monkeypatch, capsys):
    name, wrong, first = SLIPS[slip]
    monkeypatch.setattr(script, name, wrong(getattr(script, name)))
    rows = script.compare(script.by_hand(*small("NCHW"), "NCHW"), by_jax)
    assert [row.layer for row in rows] == BACKWARD
    found = [f"{row.layer} {quantity}" for row in rows for quantity in row.wrong]
    assert found[0] == first
    assert not script.print_rows(script.Console(width=100), rows)
    layer, quantity = first.split()
    out = capsys.readouterr().out
    assert f"{len(found)} of 14 are NOT below 1e-12: {layer}'s {quantity}" in out
    assert f"the first is {layer}'s {quantity}." in out


def test_without_a_slip_nothing_is_found(by_jax, capsys):
    rows = script.compare(script.by_hand(*small("NCHW"), "NCHW"), by_jax)
    assert [row.layer for row in rows] == BACKWARD == list(script.RULES)
    assert [list(row.errors) for row in rows] == [
        ["delta"] if row.layer in ("S2", "S4") else ["delta", "dW", "dB"] for row in rows
    ]
    assert all(error < 1e-14 for row in rows for error in row.errors.values())
    assert script.print_rows(script.Console(width=100), rows)
    assert "All 14 are below 1e-12." in capsys.readouterr().out


def test_relative_error():
    x = jnp.asarray([[1.0, -4.0]])
    assert script.relative(x, x) == 0
    assert script.relative(x + 1, x) == 0.25
    assert script.relative(x[0], x) == script.relative(x, x[0]) == math.inf
    assert script.relative(x, 0 * x) == math.inf
    assert script.relative(0 * x, 0 * x) == 0
    for other in (x.at[0, 0].set(jnp.nan), x.at[0, 0].set(jnp.inf)):
        for pair in ((x, other), (other, x), (other, other)):
            error = script.relative(*pair)
            assert not error < 1e-12
            assert script.Row("C1", (), {"delta": error}).wrong == ["delta"]
    assert script.Row("C1", (), {"delta": 9e-13, "dW": 1.1e-12}).wrong == ["dW"]


# Digits, first weights, training.


@pytest.mark.parametrize("layout", SHAPES)
def test_digits_are_scikit_learns_in_a_seeded_order(layout):
    digits = script.read_digits(3, layout)
    assert digits.images.shape == ((1797, 1, 8, 8) if layout == "NCHW" else (1797, 8, 8, 1))
    assert digits.images.dtype == np.float64
    pixels, labels = datasets.load_digits(return_X_y=True)
    rows = np.column_stack([digits.images.reshape(1797, 64) * 16, digits.labels])
    expected = np.column_stack([pixels, labels])
    assert not np.array_equal(rows, expected)
    assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))
    other = script.read_digits(4, layout)
    assert not np.array_equal(other.labels, digits.labels)


def test_batches_follow_each_other_and_begin_anew():
    digits = script.Digits(jnp.arange(7.0)[:, None], jnp.arange(7))
    batches = list(digits.batches(4, 3))
    expected = [[0, 1, 2], [3, 4, 5], [6, 0, 1], [2, 3, 4]]
    assert [labels.tolist() for _, labels in batches] == expected
    assert [images[:, 0].tolist() for images, _ in batches] == expected


def test_first_weights():
    first, last = script.first_weights(0, "NCHW"), script.first_weights(0, "NHWC")
    assert {layer: pair.W.shape for layer, pair in last.items()} == {
        "C1": (5, 5, 1, 4), "C3": (3, 3, 4, 8), "F5": (32, 16), "F6": (16, 10)
    }  # fmt: skip
    jax.tree.map(
        np.testing.assert_array_equal, channels_first("NHWC", last), channels_first("", first)
    )
    for pair in first.values():
        fans = pair.W.shape[:2]
        bound = math.sqrt(6 / (sum(fans) * pair.W[0, 0].size))
        assert 0.5 * bound < np.abs(pair.W).max() < bound
        assert np.all(np.asarray(pair.B) != 0)
    assert not np.array_equal(script.first_weights(1, "NCHW")["F6"].W, first["F6"].W)


@pytest.mark.usefixtures("quick_compile")
def test_training_takes_plain_gradient_steps():
    weights, digits = script.first_weights(0, "NCHW"), script.read_digits(0, "NCHW")
    batches = list(digits.batches(2, 5))
    derive = partial(script.by_hand, layout="NCHW")
    trained = script.train(derive, weights, batches, 0.25)
    losses = []
    for batch in batches:
        losses.append(numpy_loss(*as_numpy("NCHW", weights, *batch)))
        found = derive(weights, *batch).weights
        weights = {
            layer: script.Weights(pair.W - 0.25 * found[layer].W, pair.B - 0.25 * found[layer].B)
            for layer, pair in weights.items()
        }
    np.testing.assert_allclose(trained.losses, losses, rtol=1e-13)
    close = lambda got, expected: np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)
    jax.tree.map(close, trained.weights, weights)


# The command.


@pytest.fixture(scope="module")
def runs():
    """Exit code and lines in both layouts, one of them with float32 as the process's default."""
    options = ("--steps", 8, "--batch", 5, "--layout")
    jax.config.update("jax_disable_most_optimizations", True)  # `quick_compile`, for a module
    try:
        with jax.enable_x64(False):
            last = call(*options, "NHWC")
        found = {"NCHW": call(*options, "NCHW"), "NHWC": last}
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    return {layout: SimpleNamespace(code=code, out=out) for layout, (code, out) in found.items()}


@pytest.mark.parametrize("layout", SHAPES)
def test_main_prints_one_table_of_errors(layout, runs):
    run = runs[layout]
    assert run.code == 0
    assert f"5 to a batch, {layout}, float64" in run.out
    lines = [line for line in run.out.splitlines() if line.startswith(tuple(BACKWARD))]
    assert [line.split()[0] for line in lines] == BACKWARD
    shapes = SHAPES[layout] | {"F6": (5, 10), "F5": (5, 16)}
    count = 0
    for line in lines:
        assert str(shapes[line.split()[0]]) in line
        errors = [float(word) for word in line.split()[-3:] if word != "-"]
        assert all(error < 1e-12 for error in errors)
        count += len(errors)
    assert count == 14
    assert "All 14 are below 1e-12." in run.out


@pytest.mark.parametrize("layout", SHAPES)
def test_main_ends_on_the_same_weights(layout, runs):
    lines = runs[layout].out.split("Loss before each step:")[1].splitlines()
    steps = [line.split() for line in lines if line.lstrip()[:1].isdigit()]
    assert [int(step) for step, *_ in steps] == list(range(1, 9))
    for _, left, right, difference in steps:
        assert float(left) == pytest.approx(float(right), abs=2e-12)
        assert abs(float(difference)) < 1e-12
    assert [line.split()[0] for line in lines if line.startswith("  ")][-4:] == sorted(
        {"C1", "C3", "F5", "F6"}
    )
    last = next(line for line in lines if line.startswith("Largest")).split()
    assert float(last[3].rstrip(",")) < 1e-10
    assert " ".join(last[4:]) == "below 1e-10."


def test_both_layouts_train_alike(runs):
    losses = [
        [float(line.split()[1]) for line in run.out.splitlines() if line.lstrip()[:1].isdigit()]
        for run in runs.values()
    ]
    assert len(losses[0]) == 8
    np.testing.assert_allclose(*losses, rtol=1e-11)


def test_output_is_plain_text(runs):
    for run in runs.values():
        assert "\x1b" not in run.out
        assert all(line == line.rstrip() for line in run.out.splitlines())
        assert max(map(len, run.out.splitlines())) <= 100


@pytest.mark.usefixtures("quick_compile")
def test_main_fails_on_a_wrong_rule(monkeypatch):
    rule = script.up_avg
    monkeypatch.setattr(script, "up_avg", lambda *args: 4 * rule(*args))
    code, out = call("--batch", 5)
    assert code == 1
    assert "3 of 14 are NOT below 1e-12: C1's delta, C1's dW, C1's dB." in out
    assert "Loss" not in out


@pytest.mark.usefixtures("quick_compile")
def test_main_fails_when_the_weights_part(monkeypatch):
    # A slip too small for the table, were its tolerance 1e-6.
    rule = script.up_avg
    monkeypatch.setattr(script, "up_avg", lambda *args: (1 + 1e-8) * rule(*args))
    monkeypatch.setattr(script, "TOLERANCE", 1e-6)
    code, out = call("--batch", 5, "--steps", 4)
    assert code == 1
    assert "All 14 are below 1e-06" in out
    assert "NOT below 1e-10" in out


def test_diverged_weights_are_not_the_same(capsys):
    nan = script.Weights(jnp.asarray([math.nan]), jnp.asarray([1.0]))
    one = script.Weights(jnp.asarray([1.0]), jnp.asarray([1.0]))
    for pair in ((nan, nan), (nan, one), (one, nan)):
        steps = [script.Steps([math.inf], {"C1": one, "F6": weights}) for weights in pair]
        assert not script.print_training(script.Console(width=100), *steps)
        assert "Largest relative difference nan, NOT below" in capsys.readouterr().out
    same = [script.Steps([1.0], {"C1": one, "F6": one})] * 2
    assert script.print_training(script.Console(width=100), *same)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--steps", "0", "at least 1; got 0"),
        ("--batch", "-3", "at least 1; got -3"),
        ("--rate", "0", "positive and finite; got 0"),
        ("--rate", "nan", "positive and finite; got nan"),
        ("--rate", "inf", "positive and finite; got inf"),
        ("--seed", "-1", "not be negative; got -1"),
        ("--steps", "many", "invalid"),
        ("--layout", "NCW", "invalid choice"),
    ],
)
def test_bad_options(option, value, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        script.main([option, value])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert option in error
    assert message in error


def test_as_a_script_with_too_large_a_batch(tmp_path):
    """The exit code reaches the shell; an error is no traceback."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(SCRIPT.parents[1]), *sys.path]))
    command = [sys.executable, str(SCRIPT), "--batch", "1798"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "backprop_by_hand: --batch: there are 1797 digits; got 1798\n"
