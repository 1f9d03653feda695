"""A whole network back-propagated by hand: the notes' rules on a LeNet, beside `jax.grad`.

    python experiments/backprop_by_hand.py [--layout NHWC] [--steps 20]

Layer l reads X_l and gives H_l; what the next layer reads is f(H_l), or H_l itself after a pooling
layer. With delta_l = dl/dH_l, the error of layer l, the notes (section 7) go from the loss back to
the image by three rules,

    through a convolution   delta_l = f'(H_l) * full(rot180 W, delta_{l+1}),
    through pooling         delta_l = f'(H_l) * up(delta_{l+1}),
    to the weights          dW = corr(X, delta),   dB = sum delta,

and a dense layer has the same rules with products of matrices in place of correlations. The layers
are LeNet-5's, made small for digits of 8 by 8 pixels, with names like its own:

    C1 convolution, S2 average-pooling, C3 convolution, S4 max-pooling, F5 dense, F6 dense.

The first part of this file is the rules, a function each, and `by_hand`, which applies them layer
after layer and differentiates nothing. The rest compares: every delta and every gradient with
`jax.grad` at the first weights, then the weights that both arrive at by plain gradient steps.

Exit code: 0 if everything agrees, 1 if not, 2 for bad input.
"""

import argparse
import math
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import logsumexp
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import jaxconv as jc
from jaxconv import gradients

TOLERANCE = 1e-12  # of an error or gradient: max |by hand - jax.grad| / max |jax.grad|

# Of the weights after training, measured alike. Both trainings compute the same numbers but for
# rounding, 1e-16 to 1e-15 in a gradient, so each step adds about that times the rate; and it
# multiplies the difference it found by |1 - rate * curvature|, mode by mode. Up to a rate of
# 2 / (largest curvature), here 0.7 to 1.2 over the first 20 steps, that is hardly more than 1, and
# the weights end near 1e-15 apart: five digits to spare. Above it training is unstable, the factor
# stays over 1, and rounding alone passes any bound in the end. On the other side, a delta that is
# wrong by 1e-9 of itself leaves the weights more than 1e-9 apart.
DRIFT = 1e-10

DECAY = 1e-3  # the notes' lambda
WINDOW = (2, 2)  # of both pooling layers, which step by their window
FRAME = 4  # pixels of zeros around a digit, as in LeNet-5: the first convolution is a wide one
LAYOUTS = ("NCHW", "NHWC")


class InputError(Exception):
    """Something the user gave that cannot be used; the message is one line."""


class Weights(NamedTuple):
    """The parameters of a layer, or the loss's derivatives in them."""

    W: Array  # a convolution's kernel, or a dense layer's (inputs, outputs)
    B: Array  # (outputs,)


class Trace(NamedTuple):
    """What each layer read, and what it gave before the nonlinearity."""

    X: dict[str, Array]
    H: dict[str, Array]


class Derivatives(NamedTuple):
    """The loss, its derivative in every H_l, and its derivatives in the weights."""

    loss: Array
    delta: dict[str, Array]
    weights: dict[str, Weights]


# The network and its loss.


def forward(
    weights: Mapping[str, Weights], images: Array, layout: str, nudge: Mapping[str, Array] | None
) -> Trace:
    """All layers in turn. `nudge`, if there is one, is added to H: its derivative is delta."""
    X, H = {}, {}

    def give(layer: str, value: Array) -> Array:
        H[layer] = value if nudge is None else value + nudge[layer]
        return H[layer]

    C1, C3, F5, F6 = (weights[layer] for layer in ("C1", "C3", "F5", "F6"))
    X["C1"] = images
    X["S2"] = f(give("C1", jc.conv(X["C1"], C1.W, C1.B, padding=FRAME, layout=layout)))
    X["C3"] = give("S2", jc.avg_pool(X["S2"], WINDOW, layout=layout))
    X["S4"] = f(give("C3", jc.conv(X["C3"], C3.W, C3.B, layout=layout)))
    X["F5"] = give("S4", jc.max_pool(X["S4"], WINDOW, layout=layout)).reshape(len(images), -1)
    X["F6"] = f(give("F5", X["F5"] @ F5.W + F5.B[None]))
    give("F6", X["F6"] @ F6.W + F6.B[None])
    return Trace(X, H)


def f(H: Array) -> Array:
    """The nonlinearity: tanh."""
    return jnp.tanh(H)


def objective(weights: Mapping[str, Weights], H: Array, labels: Array) -> Array:
    """`mean_n -log softmax(H[n])[label n] + lambda sum |W|_F^2`; biases do not decay."""
    log_softmax = H - logsumexp(H, axis=1, keepdims=True)
    entropy = -jnp.take_along_axis(log_softmax, labels[:, None], axis=1).mean()
    return entropy + DECAY * sum(jnp.sum(layer.W**2) for layer in weights.values())


# The rules by hand.


def f_prime(H: Array) -> Array:
    """`tanh'(h) = 1 - tanh(h)^2`."""
    return 1 - jnp.tanh(H) ** 2


def loss_back(H: Array, labels: Array) -> Array:
    """Through mean cross-entropy after softmax: `delta[n, k] = (p[n, k] - [k = label n]) / N`.

    `-log p[t] = log sum_k exp(h[k]) - h[t]`, whose derivatives are p[k] and, at t, -1.
    """
    p = jnp.exp(H - logsumexp(H, axis=1, keepdims=True))
    return (p - jax.nn.one_hot(labels, H.shape[1], dtype=H.dtype)) / len(H)


def dense_back(delta: Array, W: Array) -> Array:
    """Through a dense layer: `dl/dx[n, i] = sum_j delta[n, j] W[i, j]`."""
    return delta @ W.T


def dense_weights(X: Array, delta: Array) -> Weights:
    """`dW[i, j] = sum_n X[n, i] delta[n, j]`, `dB[j] = sum_n delta[n, j]`."""
    return Weights(X.T @ delta, delta.sum(axis=0))


def conv_back(delta: Array, W: Array, x_shape: tuple[int, ...], layout: str) -> Array:
    """Through a convolution: `dl/dX[p] = sum_q full(rot180 W[q, p], delta[q])`."""
    return gradients.conv_input_grad(delta, W, x_shape, layout=layout)


def conv_weights(
    X: Array, delta: Array, w_shape: tuple[int, ...], padding: int, layout: str
) -> Weights:
    """`dW[q, p] = corr(X[p], delta[q])`, `dB[q] = sum_ij delta[q, i, j]`, summed over images."""
    dW = gradients.conv_kernel_grad(X, delta, w_shape, padding=padding, layout=layout)
    return Weights(dW, gradients.conv_bias_grad(delta, layout=layout))


def up_max(X: Array, delta: Array, layout: str) -> Array:
    """Through max-pooling: the error of a window goes to the element that won."""
    return gradients.max_pool_grad(X, delta, WINDOW, layout=layout)


def up_avg(delta: Array, x_shape: tuple[int, ...], layout: str) -> Array:
    """Through average-pooling: the error of a window is spread evenly over it."""
    return gradients.avg_pool_grad(delta, x_shape, WINDOW, layout=layout)


def decay(W: Array) -> Array:
    """`lambda |W|_F^2` adds `2 lambda W` to dW. (The notes print `lambda |W|`, a slip.)"""
    return 2 * DECAY * W


# The formula of each layer's delta, in the order of the backward pass: the table's rows.
RULES = {
    "F6": "(softmax(H) - onehot) / N",
    "F5": "f'(H) * (delta_F6 W_F6^T)",
    "S4": "delta_F5 W_F5^T",
    "C3": "f'(H) * up_max(delta_S4)",
    "S2": "full(rot180 W_C3, delta_C3)",
    "C1": "f'(H) * up_avg(delta_S2)",
}


def by_hand(
    weights: Mapping[str, Weights], images: Array, labels: Array, layout: str
) -> Derivatives:
    """The closed forms alone, layer after layer."""
    X, H = forward(weights, images, layout, None)
    C3, F5, F6 = weights["C3"], weights["F5"], weights["F6"]
    delta = {}
    delta["F6"] = loss_back(H["F6"], labels)
    delta["F5"] = f_prime(H["F5"]) * dense_back(delta["F6"], F6.W)
    delta["S4"] = dense_back(delta["F5"], F5.W).reshape(H["S4"].shape)
    delta["C3"] = f_prime(H["C3"]) * up_max(X["S4"], delta["S4"], layout)
    delta["S2"] = conv_back(delta["C3"], C3.W, X["C3"].shape, layout)
    delta["C1"] = f_prime(H["C1"]) * up_avg(delta["S2"], X["S2"].shape, layout)
    data = {
        "F6": dense_weights(X["F6"], delta["F6"]),
        "F5": dense_weights(X["F5"], delta["F5"]),
        "C3": conv_weights(X["C3"], delta["C3"], C3.W.shape, 0, layout),
        "C1": conv_weights(X["C1"], delta["C1"], weights["C1"].W.shape, FRAME, layout),
    }
    total = {name: Weights(d.W + decay(weights[name].W), d.B) for name, d in data.items()}
    return Derivatives(objective(weights, H["F6"], labels), delta, total)


# The same by jax.grad.


def by_jax(
    weights: Mapping[str, Weights], images: Array, labels: Array, layout: str
) -> Derivatives:
    """`jax.grad`. H + nudge has the derivative 1 in the nudge, whose gradient at 0 is delta."""

    def loss(weights: Mapping[str, Weights], nudge: Mapping[str, Array]) -> Array:
        return objective(weights, forward(weights, images, layout, nudge).H["F6"], labels)

    zero = jax.tree.map(jnp.zeros_like, forward(weights, images, layout, None).H)
    value, (d_weights, delta) = jax.value_and_grad(loss, argnums=(0, 1))(weights, zero)
    return Derivatives(value, delta, d_weights)


# Digits and first weights.


class Digits(NamedTuple):
    """scikit-learn's digits, grey levels from 0 to 1, in a seeded order."""

    images: Array  # (1797, 1, 8, 8), or the channel last
    labels: Array  # (1797,)

    def batches(self, steps: int, size: int) -> Iterator[tuple[Array, Array]]:
        """The digits of every step: those after the last step's, beginning anew at the end."""
        for step in range(steps):
            rows = np.arange(step * size, (step + 1) * size) % len(self.labels)
            yield self.images[rows], self.labels[rows]


def read_digits(seed: int, layout: str) -> Digits:
    """All digits, shuffled."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    images = np.expand_dims(digits.images[order] / 16, 1 if layout == "NCHW" else 3)
    return Digits(jnp.asarray(images), jnp.asarray(digits.target[order]))


def first_weights(seed: int, layout: str) -> dict[str, Weights]:
    """Uniform in `+-sqrt(6 / (fan in + fan out))` (Glorot), biases too: a zero could hide a slip.

    Both layouts get the same network: numbers are drawn channels first and moved. F5 reads S4's
    maps, 8 channels of 2 by 2, in the layout's order, and its rows are moved as well.
    """
    random = np.random.default_rng(seed)
    weights = {}
    for layer, shape in (("C1", (4, 1, 5, 5)), ("C3", (8, 4, 3, 3))):
        bound = math.sqrt(6 / (math.prod(shape[2:]) * (shape[0] + shape[1])))
        W, B = random.uniform(-bound, bound, shape), random.uniform(-bound, bound, shape[0])
        W = W if layout == "NCHW" else W.transpose(2, 3, 1, 0)
        weights[layer] = Weights(jnp.asarray(W), jnp.asarray(B))
    for layer, shape in (("F5", (32, 16)), ("F6", (16, 10))):
        bound = math.sqrt(6 / sum(shape))
        W, B = random.uniform(-bound, bound, shape), random.uniform(-bound, bound, shape[1])
        if layer == "F5" and layout == "NHWC":
            W = W.reshape(8, 2, 2, 16).transpose(1, 2, 0, 3).reshape(shape)
        weights[layer] = Weights(jnp.asarray(W), jnp.asarray(B))
    return weights


# The comparison.

Derive = Callable[[Mapping[str, Weights], Array, Array], Derivatives]


def relative(got: Array, expected: Array) -> float:
    """`max |got - expected| / max |expected|`; infinite if shapes differ, NaN if there is a NaN."""
    if got.shape != expected.shape:
        return math.inf
    apart, size = (float(jnp.max(jnp.abs(x))) for x in (got - expected, expected))
    if size == 0:
        return 0.0 if apart == 0 else math.inf
    return apart / size


class Row(NamedTuple):
    """A layer's errors relative to `jax.grad`; a pooling layer has no weights."""

    layer: str
    shape: tuple[int, ...]
    errors: dict[str, float]  # of "delta", "dW" and "dB"

    @property
    def wrong(self) -> list[str]:
        """The quantities that are not below the tolerance. (A NaN is not.)"""
        return [name for name, error in self.errors.items() if not error < TOLERANCE]


def compare(hand: Derivatives, auto: Derivatives) -> list[Row]:
    """One row for each layer, in the order of the backward pass."""
    rows = []
    for layer in RULES:
        errors = {"delta": relative(hand.delta[layer], auto.delta[layer])}
        if layer in auto.weights:
            got, expected = hand.weights[layer], auto.weights[layer]
            errors |= {"dW": relative(got.W, expected.W), "dB": relative(got.B, expected.B)}
        rows.append(Row(layer, auto.delta[layer].shape, errors))
    return rows


class Steps(NamedTuple):
    """A training: the loss that every step started from, and the weights at the end."""

    losses: list[float]
    weights: dict[str, Weights]


def train(
    derive: Derive, weights: dict[str, Weights], batches: Iterable[tuple[Array, Array]], rate: float
) -> Steps:
    """Plain gradient steps, `W <- W - rate dW`, each on the next batch."""
    losses = []
    for images, labels in batches:
        found = derive(weights, images, labels)
        weights = jax.tree.map(lambda w, d: w - rate * d, weights, found.weights)
        losses.append(float(found.loss))
    return Steps(losses, weights)


# What is printed.


def print_rows(console: Console, rows: list[Row]) -> bool:
    """The table, and in words which rule is wrong if one is; true if none is."""
    table = _table("layer", "delta = dl/dH, by hand", "its shape", right=("delta", "dW", "dB"))
    for row in rows:
        cells = (_cell(row, name) for name in ("delta", "dW", "dB"))
        table.add_row(row.layer, RULES[row.layer], str(row.shape), *cells)
    print("Errors relative to jax.grad's:\n")
    console.print(table)
    count = sum(len(row.errors) for row in rows)
    wrong = [f"{row.layer}'s {name}" for row in rows for name in row.wrong]
    if not wrong:
        print(f"\nAll {count} are below {TOLERANCE:g}.\n")
        return True
    print(f"\n{len(wrong)} of {count} are NOT below {TOLERANCE:g}: {', '.join(wrong)}.")
    print(f"Backwards from the loss, the first is {wrong[0]}. No training on wrong gradients.")
    return False


def _table(*left: str, right: tuple[str, ...]) -> Table:
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def _cell(row: Row, name: str) -> str:
    if name not in row.errors:
        return "-"
    colour = "red" if name in row.wrong else "green"
    return f"[{colour}]{row.errors[name]:.1e}[/{colour}]"


def print_training(console: Console, hand: Steps, auto: Steps) -> bool:
    """The losses side by side, and how far apart the last weights are; true if they agree."""
    table = _table(right=("step", "by hand", "jax.grad", "difference"))
    for number, (left, right) in enumerate(zip(hand.losses, auto.losses, strict=True), start=1):
        table.add_row(str(number), f"{left:#.13g}", f"{right:#.13g}", f"{left - right:.1e}")
    print("Loss before each step:\n")
    console.print(table)
    apart = jax.tree.map(relative, hand.weights, auto.weights)
    print(f"\nRelative difference of the weights after step {len(hand.losses)}:\n")
    for layer, error in sorted(apart.items()):
        print(f"  {layer}   W {error.W:.1e}   B {error.B:.1e}")
    largest = max(jax.tree.leaves(apart), key=lambda error: math.inf if error != error else error)
    same = largest < DRIFT
    verdict = "below" if same else "NOT below"
    print(f"\nLargest relative difference {largest:.1e}, {verdict} {DRIFT:g}.")
    if not same:
        print("Either a rule is wrong off the first batch, or the rate is too high: where training")
        print("is unstable every step enlarges the difference of rounding. Try a lower --rate.")
    return same


# The command.


def main(argv: list[str] | None = None) -> int:
    """Compare, then train with both; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        # Whatever the process's default, and on accelerators no product of fewer bits.
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            return _run(args)
    except InputError as error:
        print(f"backprop_by_hand: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    digits = read_digits(args.seed, args.layout)
    if args.batch > (count := len(digits.labels)):
        raise InputError(f"--batch: there are {count} digits; got {args.batch}")
    weights = first_weights(args.seed, args.layout)
    # In a file, the same lines whatever the size of the terminal that wrote it.
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    print(f"Python {platform.python_version()}, jax {jax.__version__}, {jax.default_backend()}")
    print(f"LeNet on scikit-learn's digits, {args.batch} to a batch, {args.layout}, float64")
    print(f"loss: mean cross-entropy after softmax + {DECAY:g} |W|^2\n")
    ways = [jax.jit(partial(way, layout=args.layout)) for way in (by_hand, by_jax)]
    batches = partial(digits.batches, args.steps, args.batch)
    if not print_rows(console, compare(*(way(weights, *next(batches())) for way in ways))):
        return 1
    trained = (train(way, weights, batches(), args.rate) for way in ways)
    return 0 if print_training(console, *trained) else 1


def _parser() -> argparse.ArgumentParser:
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="backprop_by_hand", description=summary)
    parser.add_argument("--steps", type=_positive, default=20, help="of each training (20)")
    parser.add_argument("--rate", type=_rate, default=0.5, help="of a gradient step (0.5)")
    parser.add_argument("--batch", type=_positive, default=64, help="digits to a step (64)")
    parser.add_argument("--seed", type=_seed, default=0, help="of the weights and the order (0)")
    parser.add_argument("--layout", choices=LAYOUTS, default="NCHW", help="of images (NCHW)")
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {text}")
    return value


def _rate(text: str) -> float:
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive and finite; got {text}")
    return value


def _seed(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"must not be negative; got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
