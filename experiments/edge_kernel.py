"""Learning an edge detector's kernel: the notes' five logs digit by digit, then a photograph.

    python experiments/edge_kernel.py [--image photo.jpg] [--out edge_kernel.png]

The image X and its edges Y = corr(X, K*) are given, and gradient descent on the squared error
looks for the kernel K (notes, section 2). With e = K - K* and G the windows' Gram matrix (the sum
of w w' over every window w of X), everything about it is known beforehand:

    loss(K) = |corr(X, K) - Y|^2 = e'Ge,   one step: e <- (I - 2 rate G) e,

so that each eigenvector of G is a mode which shrinks by 1 - 2 rate eigenvalue per step. The logs
take the notes' plain steps; every digit that the notes print is compared. The photograph's windows
are nearly constant, which spreads G's eigenvalues over three orders of magnitude; there the steps
carry momentum, and G's largest and smallest eigenvalue choose rate and momentum.

Exit code: 0 if all digits agree and the photograph's kernel is found, 1 if not, 2 for bad input.
"""

import argparse
import functools
import math
import os
import struct
import sys
import warnings
import zlib
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

import jaxconv as jc

TOLERANCE = 1e-3  # |learned - true| / |true| that the photograph's kernel has to reach
LONGEST_SIDE = 640  # pixels; a larger image is reduced, so that a step costs milliseconds
MOST_STEPS = 4000  # of the photograph's training, unless --steps asks for more
CHUNK = 50  # steps of it between two updates of the progress bar
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")  # Okabe and Ito's
MARKERS = ("o", "s", "^", "D", "v")


class InputError(Exception):
    """Something the user gave that cannot be used; the message is one line."""


# Part one: the notes' logs.


class Log(NamedTuple):
    """One training run of the notes: how it starts, and the numbers printed, as printed."""

    name: str
    bright_bar: bool  # zeros with columns 2..5 one; else ones with columns 2..5 zero
    rate: float
    steps: int
    kernel: tuple[float, float]
    bias: float | None
    printed_losses: dict[int, str]  # by step, the first step being 1
    printed_kernel: tuple[str, str]
    printed_bias: str | None = None


def _every(losses: str) -> dict[int, str]:
    return dict(enumerate(losses.split(), start=1))


LOGS = (
    Log(
        "A", False, 3e-2, 10, (-0.60156843, -0.53401201), None,
        {2: "17.632", 4: "5.952", 6: "2.225", 8: "0.876", 10: "0.353"},
        ("0.9271", "-1.0490"),
    ),
    Log(
        "B", True, 1e-2, 10, (0.05452535, -0.09720761), None,
        _every(
            "10.286530 7.937241 6.145866 4.759340 3.685633 "
            "2.854154 2.210257 1.711623 1.325481 1.026453"
        ),
        ("0.7426", "-0.7426"),
    ),
    Log(
        "C", False, 1e-2, 20, (0.9208931, -0.89201017), -0.01816965,
        _every(
            "0.1125 0.0861 0.0660 0.0507 0.0390 0.0301 0.0232 0.0179 0.0138 0.0107 "
            "0.0082 0.0064 0.0049 0.0038 0.0029 0.0023 0.0018 0.0014 0.0011 0.0008"
        ),
        ("0.9929", "-0.9926"), "-0.0002",
    ),
    Log("D", False, 3e-2, 10, (0.23143626, -0.53691007), None, {}, ("0.9765", "-1.0093")),
    Log("E", False, 3e-2, 10, (0.03765523, 0.21473319), None, {}, ("1.0010", "-0.9739")),
)  # fmt: skip


class Run(NamedTuple):
    """A log's training: `errors[t]` is what step t + 1 starts from, `params[t]` likewise."""

    errors: np.ndarray  # (steps, 42)
    params: dict[str, np.ndarray]  # "kernel" (steps + 1, 1, 2), "bias" (steps + 1,) if there is one

    @property
    def losses(self) -> np.ndarray:
        """The sum of squared errors before each step, `(steps,)`, rounded as the notes rounded it.

        The sum of 42 float32 numbers depends, in log B's sixth decimal, on the order of the
        additions. Of the orders tried this one gives every printed digit: eight running sums, as
        a vector unit keeps them, added up and divided by 42 for the mean; the mean times 42. NumPy
        adds here because XLA may fuse a square with the sum, one rounding in place of two.
        """
        count = self.errors.shape[1]
        squares = np.pad(np.square(self.errors), ((0, 0), (0, -count % 8)))
        running = functools.reduce(np.add, np.split(squares, squares.shape[1] // 8, axis=1))
        mean = functools.reduce(np.add, running.T) / np.float32(count)
        return mean * np.float32(count)


def toy_image(bright_bar: bool = False) -> Array:
    """The notes' 6x8 image: ones with columns 2..5 zero, or with `bright_bar` the other way."""
    return jnp.full((6, 8), 1 - bright_bar, jnp.float32).at[:, 2:6].set(float(bright_bar))


def train(log: Log) -> Run:
    """Train as the log did, in float32; the loss of a step is the one its gradient is taken of."""
    params = {"kernel": jnp.asarray([log.kernel], jnp.float32)}
    if log.bias is not None:
        params["bias"] = jnp.asarray(log.bias, jnp.float32)
    errors, before, last = _train(toy_image(log.bright_bar), params, log.rate, log.steps)
    path = {name: np.append(before[name], [last[name]], axis=0) for name in params}
    return Run(np.asarray(errors), path)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _train(image: Array, params: dict[str, Array], rate: float, steps: int) -> tuple[Any, Any, Any]:
    """All steps as one scan: the errors and parameters before each, the parameters at the end.

    Each window gives its own gradient, which is exact in float32 (the image is of zeros and ones),
    and they are added up in a stated order: a gradient summed inside of one whole convolution has
    the algorithm's order, and log B's last digits with it.
    """
    edges = jc.corr2d(image, jc.filters.edge().astype(image.dtype)).ravel()
    windows = jnp.stack([image[:, :-1].ravel(), image[:, 1:].ravel()], axis=-1)[:, None, :]
    gradients = jax.vmap(jax.grad(_squared_error, has_aux=True), in_axes=(None, 0, 0))
    optimiser = optax.sgd(rate)

    def step(state: Any, _: None) -> tuple[Any, Any]:
        params, memory = state
        each, errors = gradients(params, windows, edges)
        updates, memory = optimiser.update(jax.tree.map(_added_in_turn, each), memory)
        return (optax.apply_updates(params, updates), memory), (errors, params)

    start = (params, optimiser.init(params))
    (params, _), (errors, before) = jax.lax.scan(step, start, None, length=steps)
    return errors, before, params


def _squared_error(params: dict[str, Array], window: Array, edge: Array) -> tuple[Array, Array]:
    """The layer's squared error at one output, and its error."""
    bias = params["bias"][None] if "bias" in params else None
    error = jc.conv(window[None], params["kernel"][None, None], bias)[0, 0, 0] - edge
    return error**2, error


def _added_in_turn(terms: Array) -> Array:
    """The sum over axis 0, one addition after the other, the last window first."""
    zero = jnp.zeros_like(terms[0])
    return jax.lax.scan(lambda total, term: (total + term, None), zero, terms, reverse=True)[0]


def exact(log: Log) -> tuple[list[float], list[float]]:
    """The log's losses and its last parameters from the closed form, in float64 and without JAX."""
    row = np.array([0, 0, 1, 1, 1, 1, 0, 0] if log.bright_bar else [1, 1, 0, 0, 0, 0, 1, 1], float)
    windows = np.stack([row[:-1], row[1:], np.ones(7)], axis=1)
    true = np.array([1.0, -1.0, 0.0])
    e = np.array([*log.kernel, log.bias or 0.0]) - true
    if log.bias is None:
        windows, true, e = windows[:, :2], true[:2], e[:2]
    gram = 6 * windows.T @ windows  # six equal rows
    losses = []
    for _ in range(log.steps):
        losses.append(float(e @ gram @ e))
        e = e - 2 * log.rate * gram @ e
    return losses, (e + true).tolist()


class Row(NamedTuple):
    """One printed number of the notes and ours, to as many decimals."""

    log: str
    quantity: str
    printed: str
    value: float
    exact: float

    @property
    def difference(self) -> Decimal:
        """Ours less the printed number, in decimal: 0 if and only if every digit agrees."""
        return Decimal(self.rounded(self.value)) - Decimal(self.printed)

    def rounded(self, value: float) -> str:
        """A value to the printed number of decimals."""
        return f"{value:.{len(self.printed.partition('.')[2])}f}"


def compare(log: Log, run: Run) -> list[Row]:
    """A row for every number that the notes print of this log."""
    losses, params = exact(log)
    rows = [
        Row(log.name, f"loss, step {step}", printed, run.losses[step - 1], losses[step - 1])
        for step, printed in log.printed_losses.items()
    ]
    last = [*run.params["kernel"][-1, 0]]
    names, printed = ["kernel, left", "kernel, right"], [*log.printed_kernel]
    if log.printed_bias is not None:
        last.append(run.params["bias"][-1])
        names.append("bias")
        printed.append(log.printed_bias)
    entries = zip(names, printed, last, params, strict=True)
    return rows + [Row(log.name, *entry) for entry in entries]


def print_table(rows: list[Row]) -> bool:
    """Print ours beside the notes' numbers; true if not one digit differs."""
    print(f"{'log':4}{'quantity':16}{'notes':>11}{'ours':>11}{'difference':>12}{'exact':>11}")
    for row in rows:
        print(
            f"{row.log:4}{row.quantity:16}{row.printed:>11}{row.rounded(row.value):>11}"
            f"{row.difference if row.difference else 0:>12}{row.rounded(row.exact):>11}"
        )
    wrong = sum(row.difference != 0 for row in rows)
    rounding = sum(row.rounded(row.exact) != row.printed for row in rows)
    print(f"\n{len(rows) - wrong} of the notes' {len(rows)} numbers agree in every digit.")
    print(f"(exact: the closed form in float64. {rounding} numbers are float32 rounding there.)\n")
    return not wrong


# Part two: the photograph.


class Photo(NamedTuple):
    """A grey image, its edges, and how fast descent on their squared error can be."""

    name: str
    grey: Array  # (h, w), in [0, 1]
    pixels: Array  # the same with mean 0 and standard deviation 1: what is trained on
    edges: Array  # of `pixels`, (h, w)
    true: Array  # the kernel that made them
    slowest: float  # smallest eigenvalue of the loss's second derivative
    fastest: float  # and largest

    @property
    def condition(self) -> float:
        """The condition number, `fastest / slowest`."""
        return self.fastest / self.slowest


def load_grey(path: Path | None) -> tuple[str, np.ndarray]:
    """Name and grey levels in [0, 1] of a PNG or JPEG file, or of scikit-learn's photograph.

    Transparent parts are laid on white; more than `LONGEST_SIDE` pixels to a side are reduced.
    """
    if path is None:
        from sklearn.datasets import load_sample_image

        return "china.jpg (scikit-learn)", _grey(Image.fromarray(load_sample_image("china.jpg")))
    broken = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on big images and on small faults
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                return repr(path.name), _grey(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise InputError(f"{str(path)!r} is not a PNG or JPEG image") from None
    except (*broken, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"cannot read {str(path)!r}: {reason}") from None


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # a 16-bit PNG, which Pillow would clip on the way to "L"
        levels = np.asarray(image, np.float32) / np.float32(65535)
    else:
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        levels = np.asarray(image.convert("L")) / np.float32(255)
    picture = Image.fromarray(levels)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.clip(np.asarray(picture), 0, 1)  # the reduction may overshoot


def pose(name: str, grey: np.ndarray, axis: int) -> Photo:
    """The image, its Sobel edges along `axis`, and the curvature of the loss between them."""
    if min(grey.shape) < 3:
        height, width = grey.shape
        raise InputError(f"{name}: {width}x{height} pixels are too few for a 3x3 kernel")
    spread = grey.std()
    if not spread > 1e-6:
        raise InputError(f"{name}: an image of one colour has no edges to learn from")
    pixels = jnp.asarray((grey - grey.mean()) / spread, jnp.float32)
    true = jc.filters.sobel(axis).astype(jnp.float32)
    edges = jc.filters.apply(pixels, true)
    # The loss is quadratic: its second derivative is the same at every kernel.
    curvature = jax.jit(jax.hessian(loss))(jnp.zeros_like(true), pixels, edges)
    slowest, *_, fastest = np.linalg.eigvalsh(np.asarray(curvature, float).reshape(9, 9))
    if slowest < 1e-6 * fastest:  # float32 resolves no more
        raise InputError(f"{name}: too uniform, many kernels give the same edges")
    return Photo(name, jnp.asarray(grey), pixels, edges, true, float(slowest), float(fastest))


def loss(kernel: Array, pixels: Array, edges: Array) -> Array:
    """The mean squared error of the edges that a kernel finds."""
    return jnp.mean((jc.filters.apply(pixels, kernel) - edges) ** 2)


class Fit(NamedTuple):
    """The photograph's training, `kernels[t]` and `losses[t]` being those that step t + 1 met."""

    kernels: np.ndarray  # (steps + 1, 3, 3)
    losses: np.ndarray  # (steps,)
    errors: np.ndarray  # |kernel - true| / |true|, (steps + 1,)


def tune(photo: Photo) -> tuple[float, float, int]:
    """Rate and momentum under which all modes shrink alike, and the steps this takes.

    For curvatures from m to M gradient descent with momentum ("heavy ball") does best with
    rate `4 / (sqrt M + sqrt m)^2` and momentum `q^2`, `q = (sqrt M - sqrt m) / (sqrt M + sqrt m)`:
    every mode then shrinks by q per step, up to a factor that grows linearly (Polyak 1964). With
    `1 / -log q < sqrt(M / m) / 2` the steps returned shrink them by 1e7.
    """
    small, large = math.sqrt(photo.slowest), math.sqrt(photo.fastest)
    steps = math.ceil(math.log(1e7) * large / small / 2)
    momentum = ((large - small) / (large + small)) ** 2
    return 4 / (large + small) ** 2, momentum, min(steps, MOST_STEPS)


def fit(photo: Photo, seed: int, steps: int, optimiser: optax.GradientTransformation) -> Fit:
    """Learn the kernel from a random one, with a progress bar where there is a terminal."""

    @functools.partial(jax.jit, static_argnums=3)
    def run(state: Any, pixels: Array, edges: Array, length: int) -> tuple[Any, Any]:
        def step(state: Any, _: None) -> tuple[Any, Any]:
            kernel, memory = state
            value, gradient = jax.value_and_grad(loss)(kernel, pixels, edges)
            updates, memory = optimiser.update(gradient, memory)
            return (optax.apply_updates(kernel, updates), memory), (value, kernel)

        return jax.lax.scan(step, state, None, length=length)

    start = jax.random.normal(jax.random.key(seed), photo.true.shape, jnp.float32)
    state = (start, optimiser.init(start))
    losses, kernels = [], []
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not (sys.stdout.isatty() and sys.stderr.isatty())
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as progress:
        bar = progress.add_task("learning", total=steps)
        for done in range(0, steps, CHUNK):
            length = min(CHUNK, steps - done)
            state, (values, met) = run(state, photo.pixels, photo.edges, length)
            losses.append(np.asarray(values))
            kernels.append(np.asarray(met))
            progress.advance(bar, length)
    path, true = np.concatenate([*kernels, state[0][None]]), np.asarray(photo.true)
    distance = np.linalg.norm(path - true, axis=(1, 2)) / np.linalg.norm(true)
    return Fit(path, np.concatenate(losses), distance)


def print_fit(photo: Photo, result: Fit) -> bool:
    """Print the learned kernel beside the true one; true if it is found."""
    print(f"{'learned':^33}{'true':^21}")
    for learned, true in zip(result.kernels[-1], np.asarray(photo.true), strict=True):
        print("".join(f"{x:11.6f}" for x in learned) + "".join(f"{x:7.0f}" for x in true))
    error, steps = result.errors[-1], len(result.losses)
    found = bool(error < TOLERANCE)
    verdict = "below" if found else "NOT below"
    print(f"relative error {error:.2g} after {steps} steps, {verdict} {TOLERANCE:g}")
    return found


# The figure.


def draw(photo: Photo, result: Fit, runs: dict[str, Run]) -> Figure:
    """Image and edges, the kernels before, after and true, and every loss curve."""
    figure = Figure(figsize=(11, 13), layout="constrained")
    figure.suptitle("An edge detector's kernel, learned from an image and its edges", fontsize=15)
    grid = figure.add_gridspec(3, 6, height_ratios=(4, 3, 4))
    top = [figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])]
    top[0].imshow(photo.grey, cmap="gray", vmin=0, vmax=1)
    top[0].set(title="The image, in grey", xlabel="x (pixels)", ylabel="y (pixels)")
    # A few edges are far stronger than the rest, which would come out in one grey.
    bound = float(np.percentile(np.abs(photo.edges), 99))
    shown = top[1].imshow(photo.edges, cmap="gray", vmin=-bound, vmax=bound)
    top[1].set(title="Its edges, the target", xlabel="x (pixels)", ylabel="y (pixels)")
    figure.colorbar(shown, ax=top[1], shrink=0.7, extend="both", label="Sobel's answer")
    kernels = (result.kernels[0], result.kernels[-1], np.asarray(photo.true))
    titles = ("Kernel before", f"Kernel after {len(result.losses)} steps", "True kernel")
    middle = [figure.add_subplot(grid[1, 2 * i : 2 * i + 2]) for i in range(3)]
    for axes, kernel, title in zip(middle, kernels, titles, strict=True):
        _draw_kernel(axes, kernel, title)
    _draw_fit(figure.add_subplot(grid[2, :3]), result)
    _draw_logs(figure.add_subplot(grid[2, 3:]), runs)
    return figure


def _draw_kernel(axes: Axes, kernel: np.ndarray, title: str) -> None:
    axes.imshow(kernel, cmap="PuOr", vmin=-3, vmax=3)
    axes.set(title=title, xlabel="column", ylabel="row", xticks=range(3), yticks=range(3))
    for (row, column), value in np.ndenumerate(kernel):
        colour = "white" if abs(value) > 1.5 else "black"
        text = f"{value:.3f}".replace("-0.000", "0.000")
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=12)


def _draw_fit(axes: Axes, result: Fit) -> None:
    axes.semilogy(np.arange(1, len(result.losses) + 1), result.losses, color=COLOURS[0])
    axes.semilogy(np.arange(len(result.errors)), result.errors, color=COLOURS[1], ls="--")
    axes.axhline(TOLERANCE, color="0.4", ls=":")
    axes.legend(["loss (mean squared error)", "relative error of the kernel", "to be reached"])
    axes.set(title="The photograph's training", xlabel="step", ylabel="loss, relative error")
    axes.grid(alpha=0.3)


def _draw_logs(axes: Axes, runs: dict[str, Run]) -> None:
    for (name, run), colour, marker in zip(runs.items(), COLOURS, MARKERS, strict=True):
        steps = np.arange(1, len(run.losses) + 1)
        axes.semilogy(steps, run.losses, color=colour, marker=marker, ms=5, label=f"log {name}")
    axes.legend(ncols=2)
    axes.set(title="The notes' logs A to E", xlabel="step", ylabel="loss (sum of squared errors)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


# The command.


def main(argv: list[str] | None = None) -> int:
    """Run the logs and the photograph; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        _check_out(args.out, args.image)
        # Accelerators may multiply with fewer bits than float32 has, which shows in the digits.
        with jax.default_matmul_precision("highest"):
            return _run(args)
    except InputError as error:
        print(f"edge_kernel: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    photo = pose(*load_grey(args.image), args.axis)
    runs = {log.name: train(log) for log in LOGS}
    reproduced = print_table([row for log in LOGS for row in compare(log, runs[log.name])])
    rate, momentum, steps = tune(photo)
    print(f"{photo.name}: condition number {photo.condition:.0f}, hence rate {rate:.3g},", end=" ")
    print(f"momentum {momentum:.3g}")
    result = fit(photo, args.seed, args.steps or steps, optax.sgd(rate, momentum))
    found = print_fit(photo, result)
    try:
        draw(photo, result, runs).savefig(args.out, format="png", dpi=110)
    except OSError as error:
        raise InputError(f"cannot write {str(args.out)!r}: {error.strerror}") from None
    print(f"figure: {args.out}")
    return 0 if reproduced and found else 1


def _check_out(out: Path, image: Path | None) -> None:
    """Refuse, before any work, a path that the figure could not or should not be written to."""
    if out.suffix.lower() != ".png":
        raise InputError(f"--out: {str(out)!r} must end in .png")
    if not os.path.isdir(out.parent):
        raise InputError(f"--out: there is no directory {str(out.parent)!r}")
    if os.path.isdir(out) or not os.access(out if os.path.exists(out) else out.parent, os.W_OK):
        raise InputError(f"--out: {str(out)!r} cannot be written")
    if image and os.path.exists(out) and os.path.exists(image) and out.samefile(image):
        raise InputError(f"--out: {str(out)!r} would overwrite the image")


def _parser() -> argparse.ArgumentParser:
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="edge_kernel", description=summary)
    parser.add_argument("--image", type=Path, help="PNG or JPEG; default: scikit-learn's china.jpg")
    parser.add_argument("--out", type=Path, default=Path("edge_kernel.png"), help="the figure, PNG")
    parser.add_argument(
        "--axis", type=int, choices=(0, 1), default=1, help="axis that is differentiated"
    )
    parser.add_argument("--steps", type=_positive, help="default: what the eigenvalues ask for")
    parser.add_argument("--seed", type=int, default=0, help="of the kernel before training")
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())
