"""Training as a function of its settings: the objective, one step, one epoch, the test.

Nothing here keeps a state of its own. The weights at the start, the order of the images and their
shifts follow from the seed and the number of the epoch alone, so that a run taken up again in the
middle goes on exactly as it would have.

    objective = mean_n -log softmax(logits[n])[label n] + decay * sum |W|_F^2

(notes, section 7) is what plain gradient steps descend; AdamW takes the decay off the weights
itself (Loshchilov and Hutter 2019). Biases do not decay. The rate falls to zero along half a
cosine.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from lenet_data import Data, Images
from lenet_networks import NETWORKS

RATES = {"sgd": 0.1, "adamw": 2e-3}  # where none is given
DECAYS = {"sgd": 1e-5, "adamw": 1e-2}
TESTED_AT_ONCE = 1000  # images


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that a run depends on but the data.

    Attributes:
        network: a name in `lenet_networks.NETWORKS`.
        optimiser: "sgd" or "adamw".
        rate: of the first step.
        decay: the notes' lambda for "sgd"; AdamW's own for "adamw".
        epochs: times that each image is seen.
        batch: images to a step; what is left over at the end of an epoch is not seen in it.
        shift: pixels by which an image is moved at most, up or down and left or right.
        seed: of the weights, the order, the shifts.
    """

    network: str = "lenet"
    optimiser: str = "adamw"
    rate: float = RATES["adamw"]
    decay: float = DECAYS["adamw"]
    epochs: int = 60
    batch: int = 32
    shift: int = 4
    seed: int = 0


class State(NamedTuple):
    """What a step changes; all of it goes into a checkpoint."""

    weights: Any
    memory: Any  # the optimiser's
    step: Array


class Batch(NamedTuple):
    """A step's images by their numbers, `(batch,)`, and how far each is moved, `(batch, 2)`."""

    chosen: np.ndarray
    shifts: np.ndarray


class Figures(NamedTuple):
    """Of a step or a test: mean cross-entropy (with the decay, in training), and accuracy."""

    loss: Any
    accuracy: Any


def steps_of(settings: Settings, count: int) -> int:
    """Steps to an epoch of `count` images."""
    return count // settings.batch


def batches(settings: Settings, count: int, epoch: int) -> Iterator[Batch]:
    """An epoch's batches: every image once, in an order that seed and epoch decide."""
    draw = np.random.default_rng([settings.seed, epoch])
    shape = (steps_of(settings, count), settings.batch)
    order = draw.permutation(count).astype(np.int32)[: shape[0] * shape[1]]
    shifts = draw.integers(-settings.shift, settings.shift + 1, (*shape, 2), np.int32)
    return map(Batch, order.reshape(shape), shifts)


def schedule(settings: Settings, count: int) -> optax.Schedule:
    """The rate of each step."""
    return optax.cosine_decay_schedule(settings.rate, settings.epochs * steps_of(settings, count))


def decays(leaf: Any) -> bool:
    """Whether a weight does: kernels do, that is, those of more than one axis."""
    return leaf.ndim > 1


def optimiser(settings: Settings, count: int) -> optax.GradientTransformation:
    """Plain gradient steps, or AdamW."""
    rate = schedule(settings, count)
    if settings.optimiser == "sgd":
        return optax.sgd(rate)
    return optax.adamw(rate, weight_decay=settings.decay, mask=partial(jax.tree.map, decays))


class Trainer:
    """The compiled functions of a run.

    Args:
        settings: the run's.
        data: what is learned and what is held out.
        devices: over which a batch is split; None computes where JAX computes by default.

    Attributes:
        start: the state before the first step.
    """

    def __init__(self, settings: Settings, data: Data, devices: list[Any] | None = None):
        self.settings, self.count = settings, len(data.train.images)
        size = data.train.images.shape[1:]
        network = NETWORKS[settings.network](size, rngs=nnx.Rngs(settings.seed))
        self.graph, weights = nnx.split(network)
        self.optimiser = optimiser(settings, self.count)
        mesh = Mesh(np.array(devices or jax.devices()[:1]), "data")
        self.everywhere = NamedSharding(mesh, PartitionSpec())
        self.split = NamedSharding(mesh, PartitionSpec("data"))
        state = State(weights, self.optimiser.init(weights), jnp.zeros((), jnp.int32))
        self.start = jax.device_put(state, self.everywhere)
        room = [(0, 0), (settings.shift,) * 2, (settings.shift,) * 2, (0, 0)]
        framed = np.pad(data.train.images[..., None], room)
        self.train = jax.device_put(Images(framed, data.train.labels), self.everywhere)
        self.size = size
        self.held_out = data.held_out
        self._step = jax.jit(self._one_step, donate_argnums=0)
        self._test = jax.jit(self._one_test)

    def network(self, state: State) -> Any:
        """The network with a state's weights."""
        return nnx.merge(self.graph, state.weights)

    def step(self, state: State, batch: Batch) -> tuple[State, Figures]:
        """The state after one step, and what the step started from. The old state is used up."""
        return self._step(state, self.train, jax.device_put(batch, self.split))

    def _one_step(self, state: State, train: Images, batch: Batch) -> tuple[State, Figures]:
        images = jax.vmap(partial(_moved, size=self.size, by=self.settings.shift))(
            jnp.asarray(train.images)[batch.chosen], jnp.asarray(batch.shifts)
        )
        images = jax.lax.with_sharding_constraint(images, self.split)
        labels = jnp.asarray(train.labels)[batch.chosen]
        slope = jax.grad(self._objective, has_aux=True)
        gradients, figures = slope(state.weights, images, labels)
        updates, memory = self.optimiser.update(gradients, state.memory, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        return State(weights, memory, state.step + 1), figures

    def _objective(self, weights: Any, images: Array, labels: Array) -> tuple[Array, Figures]:
        figures = _figures(nnx.merge(self.graph, weights)(images), labels)
        loss = figures.loss
        if self.settings.optimiser == "sgd":
            kernels = filter(decays, jax.tree.leaves(weights))
            loss = loss + self.settings.decay * sum(jnp.sum(kernel**2) for kernel in kernels)
        return loss, Figures(loss, figures.accuracy)

    def test(self, state: State) -> Figures:
        """Mean cross-entropy and accuracy on the images held out."""
        images, labels = self.held_out.images[..., None], self.held_out.labels
        parts = range(0, len(images), TESTED_AT_ONCE)
        sums = np.zeros(2)
        for place in parts:
            part = slice(place, place + TESTED_AT_ONCE)
            figures = self._test(state.weights, images[part], labels[part])
            sums += len(labels[part]) * np.array([*map(float, figures)])
        return Figures(*(sums / len(labels)).tolist())

    def _one_test(self, weights: Any, images: Array, labels: Array) -> Figures:
        return _figures(nnx.merge(self.graph, weights)(images), labels)


def _moved(framed: ArrayLike, shift: Any, *, size: tuple[int, int], by: int) -> Array:
    """An image out of its frame of zeros, `by` wide, moved by `shift`."""
    start = (by + shift[0], by + shift[1], 0)
    return jax.lax.dynamic_slice(jnp.asarray(framed), start, (*size, 1))


def _figures(logits: Array, labels: Array) -> Figures:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return Figures(jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=-1) == labels))


def is_finite(state: State) -> bool:
    """Whether every number of a state is."""
    leaves = jax.tree.leaves(state)
    return bool(np.all([np.isfinite(np.asarray(leaf)).all() for leaf in leaves]))


def digest(state: Any) -> str:
    """A state's SHA-256: equal if and only if every bit is."""
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(state):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        found.update(array.tobytes())
    return found.hexdigest()
