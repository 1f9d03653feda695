"""`fn` as a map from one flat float64 vector to another, with names for what stands where.

Everything else in this package sees vectors; here alone are pytrees, dtypes and tracing. No
derivative is compared here.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._check import describe

#: Parts of the messages by which jax says that a mode does not exist for a function. Anything else
#: that a derivative raises is a mistake in a rule of the user's.
NO_SUCH_MODE = (
    "can't apply forward-mode",
    "Reverse-mode differentiation does not work",
    "do not support JVP",
    "Linearization failed",
)


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """float64, whatever the caller's settings; those that make mixed code an error are lifted.

    A function that closes over float32 arrays then works on them in float64, and NaN is reported
    rather than raised.
    """
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.transfer_guard("allow"),
    ):
        yield


class Leaf(NamedTuple):
    """One array of a pytree: its name in messages, its shape, its place in the flat vector."""

    name: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def span(self) -> slice:
        """The leaf's part of the flat vector."""
        return slice(self.start, self.start + self.size)

    def entry(self, index: int) -> tuple[int, ...]:
        """The multi-index of an index into the flat vector."""
        return tuple(int(i) for i in np.unravel_index(index - self.start, self.shape))


def place(names: list[str], shapes: list[tuple[int, ...]]) -> tuple[Leaf, ...]:
    """Leaves one behind the other."""
    leaves, start = [], 0
    for name, shape in zip(names, shapes, strict=True):
        leaves.append(Leaf(name, shape, start, int(np.prod(shape, dtype=int))))
        start += leaves[-1].size
    return tuple(leaves)


def leaf_at(leaves: tuple[Leaf, ...], index: int) -> Leaf:
    """The leaf that an entry of the flat vector belongs to."""
    return next(leaf for leaf in leaves if leaf.start <= index < leaf.start + leaf.size)


@dataclasses.dataclass(frozen=True)
class Function:
    """A differentiable map between flat vectors.

    Attributes:
        point: the arguments, flat, float64.
        arguments: the arguments' leaves.
        argument_of: for each leaf, the position of its argument.
        outputs: the leaves of the output that are floats; others have no derivative.
        flat: the map itself, traceable unless `eager`.
        unflatten: a flat vector as the arguments' pytrees.
        cotangent: a flat cotangent as a pytree like fn's output.
        eager: fn's Python code depends on values, so that it cannot be traced.
    """

    point: np.ndarray
    arguments: tuple[Leaf, ...]
    argument_of: tuple[int, ...]
    outputs: tuple[Leaf, ...]
    flat: Callable[[Any], Any]
    unflatten: Callable[[Any], tuple[Any, ...]]
    cotangent: Callable[[np.ndarray], Any]
    eager: bool

    @property
    def size(self) -> int:
        """Entries of all outputs."""
        return sum(leaf.size for leaf in self.outputs)

    def compiled(self, map: Callable[..., Any]) -> Callable[..., Any]:
        """A function of flat vectors, jitted where fn can be, with NumPy results."""
        jitted = jax.jit(map)

        def eager(*vectors: Any) -> Any:
            return map(*(jnp.asarray(vector) for vector in vectors))

        run = eager if self.eager else jitted
        return lambda *vectors: jax.tree.map(np.asarray, run(*vectors))

    def jvp(self, z: Any, v: Any) -> Any:
        """J v."""
        return jax.jvp(self.flat, (z,), (v,))[1]

    def vjp(self, z: Any, u: Any) -> Any:
        """J' u."""
        return jax.vjp(self.flat, z)[1](u)[0]


def function(fn: Callable[..., Any], args: tuple[Any, ...]) -> Function:
    """`fn` at `args`, called once to see what it returns.

    Raises:
        TypeError: an argument without a derivative, or an output that is not float64.
        ValueError: no output at all that is a float array.
    """
    paths, tree = jax.tree.flatten_with_path(args)
    firsts = argument_names(fn, len(args))
    names = [firsts[path[0].idx] + jax.tree_util.keystr(path[1:]) for path, _ in paths]
    values = [_real(name, value) for name, (_, value) in zip(names, paths, strict=True)]
    leaves = place(names, [value.shape for value in values])
    point = np.concatenate([np.zeros(0), *(value.ravel() for value in values)])

    def unflatten(z: Any) -> tuple[Any, ...]:
        parts = [jnp.reshape(z[leaf.span], leaf.shape) for leaf in leaves]
        return jax.tree.unflatten(tree, parts)

    structured, eager = _output(lambda z: fn(*unflatten(z)), point)
    outputs, flatten, cotangent = _output_space(structured)
    return Function(
        point,
        leaves,
        tuple(path[0].idx for path, _ in paths),
        outputs,
        lambda z: flatten(fn(*unflatten(z))),
        unflatten,
        cotangent,
        eager,
    )


def argument_names(fn: Callable[..., Any], count: int) -> list[str]:
    """The names of fn's parameters, `args[0]` and so on where Python does not know them."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return [f"args[{i}]" for i in range(count)]
    try:
        bound = signature.bind(*range(count)).arguments
    except TypeError as error:
        raise TypeError(
            f"args must be what fn takes, {signature}; got {count} argument(s): {error}"
        ) from None
    names = []
    for name, value in bound.items():
        many = isinstance(value, tuple)
        names += [f"{name}[{i}]" for i in range(len(value))] if many else [name]
    return names


def _real(name: str, value: Any) -> np.ndarray:
    """A leaf of the arguments in float64."""
    hint = "for what has no derivative, close over it: lambda x: fn(x, flag)"
    dtype = getattr(value, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended):
        raise TypeError(f"{name} must be real numbers; got {describe(value)}; {hint}")
    array = np.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(
            f"{name} must be real; got {array.dtype} of shape {array.shape}; check it as a "
            f"function of two arrays: lambda re, im: fn(re + 1j * im)"
        )
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"{name} must be real numbers; got {describe(value)}; {hint}")
    return array.astype(np.float64)


def _output(structured: Callable[[Any], Any], point: np.ndarray) -> tuple[Any, bool]:
    """What fn returns (shapes and dtypes suffice), and whether it has to run eagerly.

    A function that cannot be traced is one that looks at values; it says itself what else is wrong.
    """
    try:
        return jax.eval_shape(structured, jnp.asarray(point)), False
    except Exception:
        return structured(jnp.asarray(point)), True


def _output_space(structured: Any):
    """The float leaves of an output, how to flatten one, and how to build a cotangent."""
    paths, tree = jax.tree.flatten_with_path(structured)
    names = ["output" + jax.tree_util.keystr(path) for path, _ in paths]
    kinds = [(np.shape(value), jnp.result_type(value)) for _, value in paths]
    keep = [jnp.issubdtype(dtype, jnp.inexact) for _, dtype in kinds]
    for name, (shape, dtype) in zip(names, kinds, strict=True):
        if jnp.issubdtype(dtype, jnp.inexact) and dtype != np.float64:
            raise TypeError(
                f"fn must return float64 for float64 arguments; got {dtype} of shape {shape} as "
                f"its {name}; {_advice(dtype)}"
            )
    if not any(keep):
        raise TypeError(f"fn must return at least one array of floats; got {tree}")
    kept = [kind for kind in zip(names, kinds, keep, strict=True) if kind[2]]
    outputs = place([name for name, _, _ in kept], [shape for _, (shape, _), _ in kept])

    def flatten(out: Any) -> Any:
        leaves, found = jax.tree.flatten(out)
        shapes = [np.shape(leaf) for leaf in leaves]
        if found != tree or shapes != [shape for shape, _ in kinds]:
            raise ValueError(
                f"fn must return the same shapes for all values; got {shapes} after "
                f"{[shape for shape, _ in kinds]}"
            )
        return jnp.concatenate([jnp.ravel(x) for x, k in zip(leaves, keep, strict=True) if k])

    def cotangent(u: np.ndarray) -> Any:
        parts = iter(jnp.reshape(jnp.asarray(u[leaf.span]), leaf.shape) for leaf in outputs)
        none = jax.dtypes.float0
        return jax.tree.unflatten(
            tree,
            [
                next(parts) if k else np.zeros(shape, none)
                for (shape, _), k in zip(kinds, keep, strict=True)
            ],
        )

    return outputs, flatten, cotangent


def _advice(dtype: Any) -> str:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "return its real and imaginary parts"
    return "a cast inside of fn drops the digits that the comparison needs"


def missing_mode(error: Exception) -> bool:
    """Whether a derivative failed because fn has none of that kind."""
    unavailable = (NotImplementedError, jax.errors.JAXTypeError, jax.errors.JAXIndexError)
    return isinstance(error, unavailable) or any(part in str(error) for part in NO_SUCH_MODE)
