"""Pictures of what the notes describe, from a trained LeNet-5 and a photograph.

    python experiments/gallery.py [--only path pooling] [--run lenet_run]

Seven figures, each a PNG of its name in `experiments/figures/`. The network is trained here, as
`lenet.py` does it (about ten seconds), when a figure needs one; `--run DIR` takes the last
checkpoint of a run of `lenet.py` in its place. The same seed gives the same pixels.

Exit code: 0 if all are drawn, 1 if numbers that must agree do not, 2 for bad input.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import gallery_images
import gallery_network
import lenet
import numpy as np
from edge_kernel import load_grey
from flax import nnx
from gallery_network import SIDE, DisagreementError
from gallery_style import encode, style
from lenet_checkpoints import CheckpointError, Checkpoints
from lenet_data import Data, Images, digits
from lenet_networks import LeNet
from lenet_training import Settings, Trainer
from matplotlib.figure import Figure
from rich.console import Console

DIGIT = 3  # whose way through the network is drawn
DERIVED = 32  # images whose derivatives are averaged


class InputError(Exception):
    """Something the user gave that cannot be used; the message is one line."""


class Material:
    """What the figures are drawn from, each made when it is first asked for.

    Args:
        settings: of the network's training.
        run: a directory of `lenet.py`, to read the network from; None trains it.
        console: for the progress.
    """

    def __init__(self, settings: Settings, run: Path | None, console: Console):
        self.settings, self.run, self.console = settings, run, console

    @cached_property
    def photo(self) -> np.ndarray:
        """scikit-learn's photograph of a pagoda, grey, `(427, 640)`."""
        return load_grey(None)[1]

    @cached_property
    def data(self) -> Data:
        """The digits."""
        return digits(self.settings.seed)

    @property
    def held_out(self) -> Images:
        """Those that the network did not learn from."""
        return self.data.held_out

    @property
    def untrained(self) -> LeNet:
        """The network as it is before the first step."""
        return LeNet((SIDE, SIDE), rngs=nnx.Rngs(self.settings.seed))

    @cached_property
    def network(self) -> LeNet:
        """The trained network."""
        if self.run:
            return self._read(self.run)
        bar = self.console if self.console.is_terminal else None
        self.console.print(f"training LeNet-5, {self.settings.epochs} epochs", highlight=False)
        trained = lenet.train(self.settings, self.data, console=bar)
        accuracy = trained.history[-1]["held_out_accuracy"]
        self.console.print(f"held-out accuracy {accuracy:.4f}", highlight=False)
        return trained.trainer.network(trained.state)

    def _read(self, run: Path) -> LeNet:
        """The network of a run's last checkpoint; one of another seed would know what is held out.

        Only what decides the shapes and the images is compared: the rest is the run's own affair.
        """
        directory = run / "checkpoints"
        if not directory.is_dir():
            raise InputError(f"--run: {str(run)!r} is no directory of lenet.py, with checkpoints")
        trainer = Trainer(self.settings, self.data)
        known = lenet.about(self.settings, self.data, 1)
        names = ("network", "optimiser", "seed", "data")
        with Checkpoints(directory) as checkpoints:
            about = {name: known[name] for name in names}
            saved = checkpoints.newest(trainer.start, about, self.console.print)
        if saved is None:
            raise InputError(f"--run: {str(directory)!r} holds no whole checkpoint")
        return trainer.network(saved.state)

    def digit(self) -> tuple[np.ndarray, int]:
        """The first image held out of `DIGIT`, and its label."""
        images, labels = self.held_out
        return images[int((labels == DIGIT).argmax())], DIGIT

    def hardest(self) -> tuple[np.ndarray, int]:
        """The image held out that the network does worst on, and its label."""
        images, labels = self.held_out
        number = gallery_network.hardest(self.network, images, labels)
        return images[number], int(labels[number])

    def several(self) -> np.ndarray:
        """The digit, and more images after it."""
        others = self.held_out.images[: DERIVED - 1]
        return np.concatenate([self.digit()[0][None], others])


FIGURES: dict[str, Callable[[Material], Figure]] = {
    "kernels": lambda m: gallery_network.kernels(m.untrained, m.network),
    "feature_maps": lambda m: gallery_network.feature_maps(m.network, *m.digit()),
    "pooling": lambda m: gallery_images.pooling(m.photo),
    "receptive_field": lambda m: gallery_network.receptive_field(m.network, m.several()),
    "path": lambda m: gallery_images.path(),
    "padding_modes": lambda m: gallery_images.padding_modes(m.photo),
    "gradients": lambda m: gallery_network.gradients_of_c1(m.network, *m.hardest()),
}


def main(arguments: list[str] | None = None) -> int:
    """Draw the figures asked for, and return the exit code."""
    options = _parser().parse_args(arguments)
    settings = Settings(seed=options.seed, epochs=options.epochs)
    material = Material(settings, options.run, Console(soft_wrap=True))
    try:
        names = _names(options.only)
        _prepare(options.out)
        for name in names:
            _draw(name, material, options.out)
    except (InputError, CheckpointError) as error:
        print(f"gallery: {error}", file=sys.stderr)
        return 2
    except DisagreementError as error:
        print(f"gallery: {error}", file=sys.stderr)
        return 1
    return 0


def _names(only: list[str] | None) -> list[str]:
    """The figures asked for, in their own order."""
    for name in only or ():
        if name not in FIGURES:
            raise InputError(
                f"--only: no figure is called {name!r}; there are {', '.join(FIGURES)}"
            )
    return [name for name in FIGURES if only is None or name in only]


def _prepare(out: Path) -> None:
    """Make the directory, and find out before any work whether it can be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: cannot make {str(out)!r}: {error.strerror}") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise InputError(f"--out: {str(out)!r} cannot be written to")


def _draw(name: str, material: Material, out: Path) -> None:
    with style():
        content = encode(FIGURES[name](material))
    path = out / f"{name}.png"
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"--out: cannot write {str(path)!r}: {error.strerror}") from None
    print(f"{path}  {len(content) / 1000:.0f} kB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gallery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", default=Path(__file__).parent / "figures")
    add("--only", nargs="+", metavar="NAME", help=f"of {', '.join(FIGURES)}")
    add("--run", type=Path, metavar="DIR", help="of lenet.py, whose network is drawn")
    add("--seed", type=lenet.natural, default=0, help="of the network and of what is held out")
    add(
        "--epochs", type=lenet.positive, default=Settings().epochs, help="of the network's training"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
