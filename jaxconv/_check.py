"""Checks of single arguments: each names the argument, what came and what is needed.

Nothing here knows about convolution: shapes are compared in `geometry` and at the doors
(`_conv`, `_pool`, `_signal`). Nothing here touches jax, so that `geometry` can use it.
"""

import numbers
import operator
from collections.abc import Sequence
from typing import Any

Pairs = tuple[tuple[int, int], ...]

#: Sizes, steps and paddings beyond this are mistakes, which XLA answers by ending the process.
LARGEST = 2**31 - 1
PADDING_NAMES = ("valid", "same", "same_lower", "full", "causal")


def integer(
    name: str,
    value: Any,
    least: int | None = None,
    needed: str = "a Python int known before tracing",
) -> int:
    """`value` as a Python int, at least `least`; a bool, a float or a tracer is a TypeError."""
    if type(value) is not int:
        try:
            if isinstance(value, bool):
                raise TypeError
            value = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} must be {needed}; got {describe(value)}") from None
    if abs(value) > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST} in size; got {describe(value)}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")
    return value


def positive(name: str, value: Any) -> float:
    """`value` as a Python float above 0, infinity included."""
    if getattr(value, "ndim", None) == 0:
        value = _item(value)
    try:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        number = float(value)
    except TypeError:
        raise TypeError(
            f"{name} must be a number known before tracing; got {describe(value)}"
        ) from None
    except OverflowError:
        raise ValueError(f"{name} must fit into a float; got {show(value)}") from None
    if not number > 0:
        raise ValueError(f"{name} must be greater than 0; got {show(value)}")
    return number


def _item(array: Any) -> Any:
    """The number in an array without axes; a tracer stays one."""
    try:
        return array.item()
    except TypeError:
        return array


def is_many(value: Any) -> bool:
    """Whether `value` has a length: an array without axes has none, though it has `__len__`."""
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


def sequence(name: str, value: Any, needed: str) -> tuple[Any, ...]:
    """`value` as a tuple; anything that is no finite sequence is a TypeError.

    An array becomes the numbers in it, which for one of jax's must be known.
    """
    if not isinstance(value, (str, bytes, dict, set, frozenset, type)) and is_many(value):
        try:
            return tuple(value.tolist() if hasattr(value, "tolist") else value)
        except TypeError:  # a length but no items, or a tracer
            needed += ", known before tracing"
    raise TypeError(f"{name} must be {needed}; got {describe(value)}")


def per_axis(name: str, value: Any, rank: int, least: int | None = None) -> tuple[int, ...]:
    """An int for every spatial axis, or one int per axis, as a tuple of `rank` ints."""
    if isinstance(value, int) or not is_many(value):
        return (integer(name, value, least),) * rank
    needed = f"an int or a sequence of {rank} int(s), one per spatial axis"
    items = sequence(name, value, needed)
    if len(items) != rank:
        raise ValueError(f"{name} must be {needed}; got {show(value)} of length {len(items)}")
    return tuple(integer(f"{name}[{axis}]", item, least) for axis, item in enumerate(items))


def sizes(name: str, value: Any, least: int = 0) -> tuple[int, ...]:
    """A sequence of one to three ints, whose length is the spatial rank."""
    needed = "a sequence of 1 to 3 ints, one per spatial axis"
    items = sequence(name, value, needed)
    if not 1 <= len(items) <= 3:
        raise ValueError(f"{name} must be {needed}; got {show(value)} of length {len(items)}")
    return tuple(integer(f"{name}[{axis}]", item, least) for axis, item in enumerate(items))


def padding(name: str, value: Any, rank: int) -> str | Pairs:
    """A padding in its normal form: a lower-case name, or one (low, high) pair per axis."""
    if isinstance(value, str):
        return choice(name, value.lower(), PADDING_NAMES)
    needed = (
        f"an int, {rank} int(s), {rank} (low, high) pair(s), or one of {', '.join(PADDING_NAMES)}"
    )
    if not is_many(value):
        both = integer(name, value, needed=f"{needed}, known before tracing")
        return ((both, both),) * rank
    items = sequence(name, value, needed)
    if len(items) != rank:
        hint = ""
        if rank == 1 and len(items) == 2:
            hint = "; for one axis a (low, high) pair is written ((low, high),)"
        raise ValueError(
            f"{name} must be {needed}; got {show(value)} of length {len(items)} "
            f"for {rank} spatial axes{hint}"
        )
    if not any(is_many(item) for item in items):
        return tuple((both, both) for both in per_axis(name, items, rank))
    return tuple(pair(f"{name}[{axis}]", item) for axis, item in enumerate(items))


def pair(name: str, value: Any) -> tuple[int, int]:
    """The padding of one axis: a (low, high) pair of ints."""
    items = sequence(name, value, "a (low, high) pair like the other axes")
    if len(items) != 2:
        raise ValueError(f"{name} must be a (low, high) pair; got {show(value)}")
    return integer(f"{name}[0]", items[0]), integer(f"{name}[1]", items[1])


def choice(name: str, value: Any, options: Sequence[str]) -> str:
    """`value` if it is one of `options`."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(options)}; got {describe(value)}")
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}; got {show(value)}")
    return value


def flag(name: str, value: Any) -> bool:
    """`value` if it is a bool; 0, 1 and strings are not."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {describe(value)}")
    return value


def describe(value: Any) -> str:
    """What came, short: type, and shape for arrays, else the value itself."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{type(value).__name__} of shape {shape}"
    return f"{show(value)} ({type(value).__name__})"


def show(value: Any) -> str:
    """`repr(value)`, short, and for values without one (ints of thousands of digits) the type."""
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."
