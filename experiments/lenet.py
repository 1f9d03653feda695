"""A network trained for real: LeNet-5, or one of nothing but convolutions, on handwritten digits.

    python experiments/lenet.py [--network all-conv] [--optimiser sgd] [--compare-torch]

The default data are scikit-learn's 1,797 digits, of which 360 are held out; `--data DIR` reads
MNIST's or Fashion-MNIST's four files. `--out DIR` gets `metrics.csv`, a line to an epoch, and
`checkpoints/`. A run that was killed goes on with `--resume` and ends with the same weights, bit
for bit, as one that was not; the SHA-256 printed at the end tells. `--data-parallel N` splits each
batch over N devices.

Exit code: 0 if trained to the end, 1 if the loss or a weight was not finite, 2 for bad input, 130
if interrupted.
"""

import argparse
import contextlib
import csv
import dataclasses
import importlib.util
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from lenet_checkpoints import CheckpointError, Checkpoints
from lenet_data import Data, DataError, digits, read_directory
from lenet_networks import NETWORKS, SMALLEST
from lenet_training import (
    DECAYS,
    RATES,
    Figures,
    Settings,
    State,
    Trainer,
    batches,
    digest,
    is_finite,
    schedule,
    steps_of,
)
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

INTERRUPTED = 130  # as shells have it
COLUMNS = (
    "epoch", "step", "rate", "loss", "accuracy", "held_out_loss", "held_out_accuracy",
    "images_per_second", "seconds",
)  # fmt: skip


class InputError(Exception):
    """Something the user gave that cannot be used; the message is one line."""


class NotFiniteError(Exception):
    """Training that left the finite numbers; the message says where."""


class Trained(NamedTuple):
    """A finished run.

    Attributes:
        trainer: its functions.
        state: at the end.
        history: a row to an epoch, as in `metrics.csv`.
    """

    trainer: Trainer
    state: State
    history: list[dict[str, Any]]


class Bar:
    """How far a run is: a bar on a terminal, elsewhere a line to an epoch.

    Args:
        console: where to.
        total: steps of the whole run.
    """

    EVERY = 0.1  # seconds between two looks at a loss, for which the device is waited for

    def __init__(self, console: Console, total: int):
        self.console = console
        words = TextColumn("{task.fields[words]}")
        columns = (BarColumn(), words, TimeRemainingColumn(), TextColumn("left"))
        self.progress = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self.task = self.progress.add_task("", total=total, words="compiling")
        self._looked = time.perf_counter()

    def due(self) -> bool:
        """Whether it is time to look again."""
        return time.perf_counter() - self._looked > self.EVERY

    def show(self, step: int, epoch: int, figures: Figures, speed: float) -> None:
        """Set the bar to a step, with its figures and the images per second."""
        self._looked = time.perf_counter()
        words = f"epoch {epoch}  loss {figures.loss:.4f}  accuracy {figures.accuracy:.3f}"
        words += f"  {speed:,.0f} images/s"
        self.progress.update(self.task, completed=step, words=words)

    def epoch(self, row: dict[str, Any], epochs: int, images: int, best: bool) -> None:
        """The line of an epoch; on a terminal only of the best so far and the last one."""
        if self.console.is_terminal and not best and row["epoch"] < epochs:
            return
        left = (epochs - row["epoch"]) * images / row["images_per_second"]
        self.console.print(
            f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}  loss {row['loss']:.4f}  "
            f"accuracy {row['accuracy']:.4f}  held out {row['held_out_accuracy']:.4f}  "
            f"{row['images_per_second']:,.0f} images/s  {left:.0f} s left",
            highlight=False,
        )


def train(
    settings: Settings,
    data: Data,
    *,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    devices: list[Any] | None = None,
    table: Path | None = None,
    console: Console | None = None,
) -> Trained:
    """Train a network from its settings.

    Args:
        settings: what the run depends on.
        data: what it learns and what is held out.
        checkpoints: written before the first epoch and after each; None for none.
        resume: go on from the last whole checkpoint, if there is one.
        devices: over which each batch is split; None computes where JAX does by default.
        table: the CSV file of the metrics; None for none.
        console: for the progress; None is silent.

    Raises:
        NotFiniteError: for a loss or a weight that is no number, with the step it happened at.
        CheckpointError: for a checkpoint of other settings.
    """
    console = console or Console(quiet=True)
    trainer = Trainer(settings, data, devices)
    state, history = trainer.start, []
    record = {"about": about(settings, data, len(devices or [0]))}
    if checkpoints and resume:
        saved = checkpoints.newest(state, record["about"], console.print)
        if saved:
            state, history = saved.state, saved.record["history"]
        console.print(f"going on after step {state.step}" if saved else "starting at step 0")
    if checkpoints and not history:
        checkpoints.save(state, {**record, "history": history})
    if table and history:  # it may have been killed before the last line was written
        write_table(table, history)
    bar = Bar(console, settings.epochs * steps_of(settings, trainer.count))
    with bar.progress:
        for epoch in range(len(history), settings.epochs):
            state, row = _epoch(trainer, state, epoch, history, bar)
            history = [*history, row]
            best = all(row["held_out_accuracy"] > old["held_out_accuracy"] for old in history[:-1])
            bar.epoch(row, settings.epochs, trainer.count, best)
            if checkpoints:
                checkpoints.save(state, {**record, "history": history})
            if table:
                write_table(table, history)
    return Trained(trainer, state, history)


def _epoch(
    trainer: Trainer, state: State, epoch: int, history: list[dict[str, Any]], bar: Bar
) -> tuple[State, dict[str, Any]]:
    """One epoch's steps and its test."""
    settings, began = trainer.settings, time.perf_counter()
    seen: list[Figures] = []
    first = int(state.step)
    for batch in batches(settings, trainer.count, epoch):
        state, figures = trainer.step(state, batch)
        seen.append(figures)
        if bar.due():
            now = Figures(*map(float, figures))
            speed = len(seen) * settings.batch / (time.perf_counter() - began)
            bar.show(first + len(seen), epoch + 1, now, speed)
            if not math.isfinite(now.loss):
                break
    losses, accuracies = np.array(jax.device_get(seen), np.float64).T
    _refuse_what_is_not_finite(losses, state, first)
    took = time.perf_counter() - began
    test = trainer.test(state)
    if not math.isfinite(test.loss):
        raise NotFiniteError(f"the held-out loss is {test.loss} after step {int(state.step)}")
    before = history[-1]["seconds"] if history else 0.0
    row = {
        "epoch": epoch + 1,
        "step": int(state.step),
        "rate": float(jnp.asarray(schedule(settings, trainer.count)(first))),
        "loss": float(losses.mean()),
        "accuracy": float(accuracies.mean()),
        "held_out_loss": test.loss,
        "held_out_accuracy": test.accuracy,
        "images_per_second": round(len(seen) * settings.batch / took, 1),
        "seconds": round(before + time.perf_counter() - began, 3),
    }
    return state, row


def _refuse_what_is_not_finite(losses: np.ndarray, state: State, first: int) -> None:
    bad = ~np.isfinite(losses)
    if bad.any():
        place = int(bad.argmax())
        raise NotFiniteError(f"the loss is {losses[place]} at step {first + place + 1}")
    if not is_finite(state):
        raise NotFiniteError(f"a weight is not finite after step {first + len(losses)}")


def about(settings: Settings, data: Data, devices: int) -> dict[str, Any]:
    """What a run's result depends on to the last bit, on one machine."""
    return {**dataclasses.asdict(settings), "data": digest(data[1:])[:16], "devices": devices}


def write_table(path: Path, history: list[dict[str, Any]]) -> None:
    """The metrics as CSV, replaced as a whole, so that no line is ever half written."""
    half = path.with_suffix(".part")
    with half.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([row[column] for column in COLUMNS] for row in history)
    os.replace(half, path)


def devices_for(number: int) -> list[Any]:
    """That many devices; on a machine with none but its CPU, that many parts of it."""
    if number > 1:
        with contextlib.suppress(RuntimeError):  # JAX has begun: what there is, there is
            jax.config.update("jax_num_cpu_devices", number)  # no effect on other platforms
    found = jax.devices()
    if len(found) < number:
        raise InputError(f"--data-parallel {number}: this machine has {len(found)} devices")
    return found[:number]


def positive(text: str) -> int:
    """An option that is a count of 1 or more."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def natural(text: str) -> int:
    """An option that is a count, or a seed."""
    if not 0 <= (number := int(text)) < 2**32:  # what seeds may be
        raise ValueError
    return number


def _rate(text: str) -> float:
    if not math.isfinite(number := float(text)) or number < 0:
        raise ValueError
    return number


# What argparse calls them where it refuses a value.
positive.__name__, natural.__name__ = "count of 1 or more", "count of 0 or more"
_rate.__name__ = "finite number of 0 or more"


def _parser() -> argparse.ArgumentParser:
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="lenet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, usual = parser.add_argument, "%(default)s by default"
    add("--network", choices=NETWORKS, default=defaults.network, help=usual)
    add("--optimiser", choices=RATES, default=defaults.optimiser, help=usual)
    add("--rate", type=_rate, help="of the first step (sgd: 0.1, adamw: 0.002)")
    add("--decay", type=_rate, help="weight decay (sgd: the notes' lambda, 1e-5; adamw: 0.01)")
    add("--epochs", type=positive, default=defaults.epochs, help=usual)
    add("--batch", type=positive, default=defaults.batch, help="images to a step (%(default)s)")
    add(
        "--shift",
        type=natural,
        default=defaults.shift,
        help="pixels an image moves at most (%(default)s)",
    )
    add(
        "--seed",
        type=natural,
        default=defaults.seed,
        help="of weights, order, split (%(default)s)",
    )
    add("--data", type=Path, metavar="DIR", help="four IDX files in place of the digits")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("lenet_run"),
        help="for metrics and checkpoints (%(default)s)",
    )
    add("--resume", action="store_true", help="go on with the run in --out")
    add("--fresh", action="store_true", help="forget the run in --out, finished or not")
    add("--data-parallel", type=positive, default=1, metavar="N", help="devices for a batch")
    add("--compare-torch", action="store_true", help="the same run in torch beside it")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    rate = RATES[options.optimiser] if options.rate is None else options.rate
    decay = DECAYS[options.optimiser] if options.decay is None else options.decay
    names = {field.name for field in dataclasses.fields(Settings)}
    given = {name: value for name, value in vars(options).items() if name in names}
    return Settings(**{**given, "rate": rate, "decay": decay})


def _load(options: argparse.Namespace) -> Data:
    data = read_directory(options.data) if options.data else digits(options.seed)
    count, (height, width) = len(data.train.images), data.train.images.shape[1:]
    if min(height, width) < SMALLEST:
        raise InputError(
            f"images must be {SMALLEST} pixels or more to a side; got {height}x{width}"
        )
    if options.shift >= min(height, width):
        raise InputError(f"--shift {options.shift} moves images of {height}x{width} out of sight")
    if options.batch > count:
        raise InputError(f"--batch {options.batch} is more than the {count} images to train on")
    if options.batch % options.data_parallel:
        raise InputError(
            f"--batch {options.batch} cannot be split over --data-parallel {options.data_parallel}"
        )
    return data


def _open(options: argparse.Namespace, console: Console) -> Checkpoints:
    """The checkpoints of `--out`; a run that is not at its end is not thrown away unasked."""
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, kind in (("checkpoints", Path.is_dir), ("metrics.csv", Path.is_file)):
            if (options.out / name).exists() and not kind(options.out / name):
                raise InputError(f"{options.out / name} is in the way: it is none of ours")
        checkpoints = Checkpoints(options.out / "checkpoints")
    except OSError as error:
        raise InputError(f"cannot write to {options.out}: {error.strerror or error}") from None
    if options.resume and options.fresh:
        raise InputError("--resume and --fresh exclude each other")
    if options.resume:
        return checkpoints
    if checkpoints.unfinished and not options.fresh:
        raise InputError(
            f"{options.out} holds a run not at its end: --resume goes on, --fresh forgets it"
        )
    if checkpoints.steps:
        console.print(f"forgetting the run in {options.out}", highlight=False)
    checkpoints.clear()
    (options.out / "metrics.csv").unlink(missing_ok=True)
    return checkpoints


def _run(options: argparse.Namespace, console: Console) -> int:
    began = time.perf_counter()
    if options.compare_torch and importlib.util.find_spec("torch") is None:
        raise InputError(
            "--compare-torch: torch is not installed (pip install torch==2.13.0 --index-url "
            "https://download.pytorch.org/whl/cpu)"
        )
    data, settings = _load(options), _settings(options)
    devices = devices_for(options.data_parallel)
    console.print(
        f"{data.name}: {len(data.train.images)} images to learn, {len(data.held_out.images)} "
        f"held out; {settings.network}, {settings.optimiser}, {describe(devices)}",
        highlight=False,
    )
    table = options.out / "metrics.csv"
    with _open(options, console) as checkpoints:
        try:
            trained = train(
                settings, data, checkpoints=checkpoints, resume=options.resume,
                devices=devices, table=table, console=console,
            )  # fmt: skip
        except NotFiniteError as error:
            last = (
                f"the last good checkpoint is {checkpoints.directory / str(checkpoints.steps[0])}"
            )
            print(f"lenet: {error}; {last}; a smaller --rate may help", file=sys.stderr)
            return 1
    took = time.perf_counter() - began
    accuracy = trained.history[-1]["held_out_accuracy"]
    wrong = round((1 - accuracy) * len(data.held_out.images))
    print(
        f"held-out accuracy {accuracy:.4f} ({wrong} wrong), {took:.1f} s with loading and compiling"
    )
    print(f"weights {digest(trained.state.weights)}")
    print(f"metrics {table}, checkpoints {checkpoints.directory}")
    if options.compare_torch:
        _compare_torch(trained, data, took)
    return 0


def describe(devices: list[Any]) -> str:
    """A number of devices in words."""
    kind = devices[0].platform
    return f"{len(devices)} {kind} devices" if len(devices) > 1 else f"one {kind} device"


def _compare_torch(trained: Trained, data: Data, took: float) -> None:
    """The same run in torch: the same first weights, batches, shifts, rates."""
    import lenet_torch

    trainer = Trainer(trained.trainer.settings, data)  # the first weights once more
    theirs = lenet_torch.train(trainer, data)
    ours = [row["seconds"] for row in trained.history]
    each = [np.median(np.diff([0.0, *seconds])) for seconds in (ours, theirs.seconds)]
    print(
        f"torch: loss {theirs.losses[0]:.4f} in the first epoch (jaxconv "
        f"{trained.history[0]['loss']:.4f}), held-out accuracy {theirs.accuracy:.4f} at the end"
    )
    print(
        f"an epoch, median: jaxconv {each[0]:.3f} s, torch {each[1]:.3f} s: "
        f"{each[1] / each[0]:.2f} times as fast"
    )
    print(
        f"all epochs, compiling included: jaxconv {ours[-1]:.1f} s, torch {theirs.seconds[-1]:.1f} "
        f"s: {theirs.seconds[-1] / ours[-1]:.2f} times as fast"
    )


def main(arguments: list[str] | None = None) -> int:
    """Train, print what came of it, and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options, Console(soft_wrap=True))
    except (InputError, DataError, CheckpointError) as error:
        print(f"lenet: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # no room, or no right to write
        print(f"lenet: {error}; --resume goes on", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lenet: interrupted; --resume goes on", file=sys.stderr, flush=True)
        return INTERRUPTED


if __name__ == "__main__":
    code = main()
    if code == INTERRUPTED:  # without waiting for what still computes and writes
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
