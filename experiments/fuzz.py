"""Random calls of every public function: each is answered right or refused by name.

    python experiments/fuzz.py [--n 5000] [--seed 0] [--only NAME]
    python experiments/fuzz.py --call "conv(array((3, 7)), array((2, 3, 2)), stride='2')"

About half of the calls are plausible: shapes that nearly fit, any dtype, any layout. In the others
an argument or two is something else: None, nan, a set, a huge int, an array of strings. A call must
end in one of two ways, and which of them says `fuzz_contract`, an oracle that shares no code with
jaxconv:

    a result      of the oracle's values, shape and dtype;
    a refusal     a ValueError or TypeError, raised in jaxconv and nowhere deeper, whose message
                  begins with the name of an argument that is at fault.

Anything else is a failure: a wrong result, a result where a refusal is due, a refusal of what the
contract allows, an error from jax or XLA, a warning, the end of the process, or no end at all. A
part of the calls runs under `jax.jit`, its arrays traced, and a part without double precision.
Results that are larger than this machine's memory are not asked for.

A call is written as an expression, here and in reports; `array` and `positions` make its arrays.
Exit code: 0 if nothing failed, 1 if something did, 2 for bad input.
"""

import argparse
import ast
import contextlib
import functools
import importlib.metadata
import inspect
import math
import multiprocessing
import platform
import random
import re
import signal
import sys
import traceback
import warnings
from array import array as array_of
from collections import Counter, deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_contract
import jax
import jax.numpy as jnp
import numpy as np
from fuzz_contract import FUNCTIONS, UndecidedError, Verdict
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

import jaxconv as jc

try:
    import resource
except ImportError:  # only where there are such limits
    resource = None

PACKAGE = Path(jc.__file__).parent
MEMORY = 12 * 2**30  # bytes of address space that a call may ask for
PATIENCE = 120  # seconds until a call counts as endless

# What calls are written with.

FLOATS = ("float32", "float64", "bfloat16", "float16")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
COMPLEX = ("complex64", "complex128")
ODD = (
    "bool", "int4", "uint4", "int2", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz",
    "float4_e2m1fn", "longdouble", "longlong", "clongdouble", ">f4", "object", "str", "S3",
    "datetime64[s]", "timedelta64[s]", "f4,i4",
)  # fmt: skip

JAX_ODD = ODD[: ODD.index("longdouble")]  # refused by jaxconv, but arrays to jax
OF_JAX = ("jax", "weak", "jaxable", "struct")


class Jaxable:
    """Something that jax takes for an array."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = jnp.asarray(value)

    def __jax_array__(self) -> jax.Array:
        return self.value


class Numpyable:
    """Something that only NumPy takes for an array."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return self.value


class Sized:
    """Something with a length and nothing in it to be had."""

    def __len__(self) -> int:
        return 2


class Two(IntEnum):
    """An int by another name."""

    TWO = 2


TRACED = object()  # stands for an int that is known only when the compiled call runs


def array(
    shape: tuple[int, ...] = (), dtype: str = "float32", seed: int = 0, *, values: str = "small",
    made: str = "numpy",
) -> Any:  # fmt: skip
    """Seeded numbers: integers so small that float32 sums them exactly in any order (but half
    precision does not); `signs`, of 0, 1 and -1; or `special`, with NaN and infinities, or the
    whole range of an integer type. `made` is one of MADE."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(getattr(jnp, dtype, dtype))
    most = 40 if dtype in FLOATS else 1 if dtype.endswith("2") or values == "signs" else 3
    low = 0 if "u" in dtype or dtype == "bool" else -most
    numbers = rng.integers(low, most + 1, shape)
    if values == "special" and kind.kind in "iu":
        info = np.iinfo(kind)
        numbers = rng.integers(info.min, info.max, shape, dtype=kind, endpoint=True)
    held = numbers.astype(kind) if kind.names is None else np.zeros(shape, kind)
    if dtype in COMPLEX:
        held = np.asarray(held + (1j * rng.integers(-3, 4, shape)).astype(kind))
    if values == "special" and dtype in (*FLOATS, *COMPLEX) and held.size:
        held = held.copy()
        held.flat[rng.integers(held.size, size=2)] = [np.nan, rng.choice([np.inf, -np.inf])]
    foreign = dtype in ODD and dtype not in JAX_ODD
    return MADE["numpy" if foreign and made in OF_JAX else made](held)


def positions(
    shape: tuple[int, ...], below: int, dtype: str = "int32", seed: int = 0, made: str = "numpy"
) -> Any:
    """Positions from 0 to `below`, which is not one of them, and -1 for none."""
    numbers = np.random.default_rng(seed).integers(0 if dtype[0] == "u" else -1, below, shape)
    return MADE[made](numbers.astype(dtype))


MADE: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": np.asarray,
    "jax": jnp.asarray,
    "weak": lambda held: jax.lax.broadcast(
        jnp.asarray(2.0 if held.dtype.kind == "f" else 2), held.shape
    ),
    "strided": lambda held: np.repeat(held, 2, axis=-1)[..., ::2] if held.ndim else held,
    "reversed": lambda held: np.flip(held),
    "fortran": np.asfortranarray,
    "matrix": lambda held: np.asmatrix(held) if held.ndim == 2 else held,
    "masked": np.ma.masked_array,
    "jaxable": Jaxable,
    "numpyable": Numpyable,
    "struct": lambda held: jax.ShapeDtypeStruct(held.shape, held.dtype),
    "list": np.ndarray.tolist,
}

NAMES: dict[str, Any] = {
    "array": array, "positions": positions, "TRACED": TRACED, "Sized": Sized, "Two": Two,
    "array_of": array_of, "deque": deque, "Fraction": Fraction, "Decimal": Decimal, "np": np,
    "jnp": jnp, "jax": jax, "math": math,
}  # fmt: skip


class Call(NamedTuple):
    """A call as it is written: expressions, and how it is run."""

    name: str  # behind "jaxconv."
    args: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    jit: bool = False
    x64: bool = True

    def __str__(self) -> str:
        options = (f"{name}={text}" for name, text in self.options)
        return f"{self.name}({', '.join([*self.args, *options])})"

    @property
    def command(self) -> str:
        """What to type to make this call again."""
        flags = " --jit" * self.jit + " --x32" * (not self.x64)
        return f'python experiments/fuzz.py --call "{self}"{flags}'

    def values(self) -> tuple[list[Any], dict[str, Any]]:
        """Made anew each time: an iterator is used up by the first to read it."""
        return [value_of(text) for text in self.args], {
            name: value_of(text) for name, text in self.options
        }


def value_of(text: str) -> Any:
    return eval(text, dict(NAMES))


def parse_call(text: str, jit: bool, x64: bool) -> Call:
    """The call that an expression writes down."""
    node = ast.parse(text.strip(), mode="eval").body
    if not isinstance(node, ast.Call) or any(word.arg is None for word in node.keywords):
        raise ValueError("it is no call of a function")
    name = ast.unparse(node.func).removeprefix("jc.").removeprefix("jaxconv.")
    if name not in FUNCTIONS:
        raise ValueError(f"there is no {name}; there are {', '.join(FUNCTIONS)}")
    options = tuple((str(word.arg), ast.unparse(word.value)) for word in node.keywords)
    return Call(name, tuple(map(ast.unparse, node.args)), options, jit, x64)


# Drawing calls.

#: What may stand where an option, or an array, is due.
ANYTHING = (
    "None", "True", "False", "0", "1", "-1", "3", "2.0", "2.5", "1j", "'same'", "'abc'", "''",
    "b'x'", "[]", "()", "{}", "{1, 2}", "{'a': 1}", "frozenset([1])", "object()", "math.nan",
    "-math.inf", "math.inf", "list", "tuple", "int", "len", "...", "slice(2)", "iter([1, 2])",
    "Sized()", "Two.TWO", "10**400", "10**5000", "-2**31", "2**31", "2**31 - 1", "2**63",
    "np.int64(2)", "np.uint8(1)", "np.float32(2)", "np.float64(math.nan)", "np.True_",
    "np.array(2)", "np.array(True)", "np.array(2.0)", "np.array([2])", "np.array([1, 2])",
    "np.array([1.0, 2.0])", "np.array(['a', 'b'])", "np.array([[1, 0], [0, 1]])",
    "np.zeros((2, 2, 2))", "np.array([])", "jnp.array(2)",
    "jnp.array([1, 2])", "jnp.array(1.5)", "jnp.array(True)", "Fraction(2)", "Decimal(2)",
    "range(1, 3)", "deque([1, 2])", "array_of('i', [2, 1])", "np.str_('same')", "TRACED",
    "(1, TRACED)", "(1,)", "[2]", "(1, 1)", "(2, 1)", "(1, 1, 1)", "(1, 2, 1, 2)", "(0, 1)",
    "(-1, 1)", "(1, None)", "(1, 2.0)", "(True, 1)", "(math.nan, 1)", "(1, '1')", "(2**31, 1)",
    "(10**5000, 1)", "[[1, 1], [0, 1]]", "((1, 0),)", "((0, 1), (1,))", "((1, 1), 1)",
    "((1, 2, 3), (1, 2, 3))", "((1, 0), (0, None))", "('same', 'valid')", "jax.numpy",
)  # fmt: skip
DTYPES = tuple(repr(name) for name in (*FLOATS, *INTEGERS, *COMPLEX))
PADDINGS = (
    "'valid'", "'same'", "'same_lower'", "'full'", "'causal'", "'SAME'", "'Valid'", "'same '",
    "'zeros'", "-2", "((1, -1), (0, 2))", "((2, 0),)", "((1, 0), (0, 1), (1, 1))", "[1, 2]",
    "((2**31 - 1, 0), (0, 0))", "((2**31 - 1, 1 - 2**31),)", "((-2**31 + 1, 2**31 - 1),)",
    "2**31 - 1", "1 - 2**31", "((2**31 - 1, 1 - 2**31), (0, 0))", "(2**31 - 1,) * 3",
)  # fmt: skip
SHAPES = (
    "(2,)", "(2, 2)", "(2, 2, 1)", "(3, 1)", "(0,)", "(2, 0)", "(2**31 - 1,)", "(2**31 - 1,) * 3",
    "(2**31 - 1, 1)", "[1]", "2", "(None,)", "(None, 2)", "(2, None, 1)", "(1, 1, 1, 1)",
)  # fmt: skip
#: What may stand where this very option is due.
LIKELY: dict[str, tuple[str, ...]] = {
    "padding": PADDINGS,
    "layout": (
        "None", "'NCW'", "'NWC'", "'NCHW'", "'NHWC'", "'NCDHW'", "'NDHWC'", "'nchw'", "'NHCW'",
        "'CHW'", "np.str_('NHWC')",
    ),
    "padding_mode": (
        "'zeros'", "'reflect'", "'replicate'", "'circular'", "'Zeros'", "'edge'", "'symmetric'",
    ),
    "precision": (
        "None", "'default'", "'high'", "'highest'", "'float32'", "'best'", "'HIGHEST'",
        "jax.lax.Precision.HIGH", "('high', 'default')", "[None, 'highest']", "('high',)",
        "(None, 3)", "('high', 'best')", "()", "jax.lax.DotAlgorithmPreset.DEFAULT",
    ),
    "preferred_element_type": (
        *DTYPES, "jnp.bfloat16", "jnp.float32", "np.dtype('float64')", "float", "int", "bool",
        "complex", "'wide'", "'f4,('", "'f4,i4'", "'>f4'", "'object'", "object", "jnp.int4",
        "jnp.float8_e5m2", "'datetime64[s]'", "np.longdouble", "np.longlong",
    ),
    "algorithm": (
        "'auto'", "'direct'", "'DIRECT'", "'fast'", "'reduce_window'", "'columns'", "'fft'",
    ),
    "mode": ("'full'", "'same'", "'valid'", "'max'", "'avg'", "'Full'", "'mean'"),
    "p": (
        "1", "1.5", "0.5", "3", "4.0", "math.inf", "1e+30", "1e+300", "2**70", "0", "-1",
        "-math.inf", "np.float32(2.5)", "jnp.array(2.0)", "np.array(3)", "Fraction(3, 2)",
        "Decimal('1.5')", "5e-324",
    ),
    "sigma": (
        "1", "0.5", "(1.0, 2.0)", "[0.7]", "np.array([1.0, 2.0])", "np.float32(1.5)", "1e-200",
        "1e+200", "0", "-1.0", "(1.0, 0.0)", "(1, math.inf)", "Fraction(3, 2)", "jnp.array(0.8)",
        "(1.0, '2')", "(1.0, True)", "(1.0, 1j)", "(1.0, 10**400)", "{1.0, 2.0}", "5e-324",
    ),
    "axis": ("0", "1", "-1", "-2", "2", "-3", "np.int8(1)", "2**31", "1.0"),
    "divisor_override": ("3", "-2", "0", "np.int8(5)", "2**31 - 1", "2**31", "2.0", "True"),
    "layers": (
        "[]", "[()]", "[((2,),)]", "[((2,), 1, 0, 1, 1)]", "[((2,), 2), ((2, 2), 1)]", "[2]",
        "[((3,), 2, 'same')]", "[((3,), 1, 'same')]", "{(2,): 1}", "(((2, 2), 2) for _ in 'ab')",
        "[((3, 3), (2, 1), ((1, 0), (0, 1)), 2)] * 2", "[((0,), 1)]", "[((2,), 0)]",
        "[[[3], 2, 'Causal']]", "np.array([[[3]]])", "np.array(3)", "[((2**31 - 1,), 1, 0, 1)]",
        "deque([((2,),)])", "[((2,), 1, 0, None)]", "{'a', 'b'}", "[((10**5000,),)]",
    ),
    "size": ("3", "4", "(2, 3)", "[5]", "(2, 1, 3)", "(0, 2)", "2**31 - 1", "(2**31 - 1,) * 2"),
    "itemsize": ("1", "2", "8", "np.int32(4)", "0", "-1"),
    **dict.fromkeys(("window", "output_shape", "pool_size"), SHAPES),
    **dict.fromkeys(("x_shape", "kernel_shape", "spatial"), (
        *SHAPES, "(2, 3, 8)", "(2, 3, 6, 7)", "(4, 3, 2)", "(4, 3, 2, 2)", "(0, 3, 5)",
        "(2**31 - 1,) * 4", "(1, 1, 2**31 - 1)",
    )),
}  # fmt: skip
ARRAYS = {"x", "y", "dy", "kernel", "bias", "image", "columns", "indices", "X", "K", "k"}
#: What may stand where an array is due.
UNLIKELY_ARRAYS = (
    "[1.0, 2.0]", "[[1.0, 2.0], [3.0, 4.0]]", "2.0", "np.float32(2)", "np.int32(2)", "'x'",
    "array()", "array((0,))", "array((3,))", "array((2, 3))", "array((1, 2, 3, 4, 5, 6))",
    "array((2, 0, 4))", "jax.random.key(0)", "jax.random.split(jax.random.key(0), (2, 3, 4))",
    "np.zeros((2, 3, 4), jax.dtypes.float0)", "jax.Array", "np.ndarray",
    "np.ones((0, 2), int)",
)  # fmt: skip


class Draw(random.Random):
    """Random choices of texts and shapes."""

    def one(self, *options: Any) -> Any:
        """One of these."""
        return self.choice(options)

    def often(self, probability: float) -> bool:
        """True with this probability."""
        return self.random() < probability

    def dtypes(self, count: int, families: Any = None) -> list[str]:
        """As many dtypes, mostly the same."""
        families = families or (FLOATS, FLOATS, INTEGERS, COMPLEX)
        first = self.choice(self.choice(families))
        if self.often(0.7):
            return [first] * count
        return [first, *(self.choice(self.choice(families)) for _ in range(count - 1))]

    def array(self, shape: tuple[int, ...], dtype: str, special: bool = False) -> str:
        """An array of this shape, or nearly."""
        if self.often(0.06):
            shape = self._shaken(shape)
        parts = [str(shape), repr(dtype), str(self.randrange(50))]
        if special:
            parts.append("values='special'")
        if self.often(0.3):
            parts.append(f"made={self.one('jax', 'jax', 'jax', *MADE)!r}")
        return f"array({', '.join(parts)})"

    def _shaken(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        changed = list(shape)
        at = self.randrange(len(shape) + 1)
        if at == len(shape) or self.often(0.2):
            return self.one((2, *shape), shape[1:], (*shape, 1), shape[:-1])
        changed[at] = self.one(changed[at] + 1, max(changed[at] - 1, 0), 0, 1)
        return tuple(changed)

    def per_axis(self, rank: int, low: int, high: int) -> str:
        """Ints for each axis, in one of the forms that are taken."""
        values = [self.randint(low, high) for _ in range(rank)]
        if self.often(0.03):
            values[0] = 2**31 - 1
        alike = f"{values[0]}", f"np.int32({values[0]})", f"np.array({values[0]})"
        each = f"{tuple(values)}", f"{values}", f"np.array({values})", f"jnp.array({values})"
        return self.one(alike[0], alike[0], each[0], each[0], *alike[1:], *each[1:])

    def sizes(self, values: Any) -> str:
        """A sequence of these ints, in one of the forms that are taken."""
        values = [int(value) for value in values]
        return self.one(*[str(tuple(values))] * 4, str(values), f"np.array({values})")

    def padding(self, rank: int, high: int) -> str:
        """Padding, in one of the forms that are taken."""
        each = [self.randint(0, high) for _ in range(rank)]
        pairs = tuple((self.randint(-1, high), self.randint(-1, high)) for _ in range(rank))
        forms = [str(each[0]), str(tuple(each)), str(pairs), str(list(map(list, pairs)))]
        if self.often(0.04):
            forms = [str(((2**31 - 1, 1 - 2**31), *pairs[1:]))]
        return self.one(*forms, str(pairs), self.one(*PADDINGS[:5]))

    def layout(self, rank: int) -> tuple[str | None, bool]:
        """Channels first or last: an option to give, and which of the two it is."""
        last = self.often(0.3)
        names = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}[rank]
        return (repr(names[last]) if last or self.often(0.2) else None), last

    def batch(self) -> tuple[int, ...]:
        """Batch axes."""
        return self.one((2,), (2,), (1,), (), (2, 1), (0,))

    def spatial(self, rank: int) -> tuple[int, ...]:
        """Spatial sizes, of few kinds: each is compiled for."""
        if self.often(0.04):
            return (0,) * rank
        return self.one(*{1: ((7,), (8,)), 2: ((5, 6), (4, 4)), 3: ((3, 4, 3), (2, 3, 4))}[rank])

    def window(self, rank: int) -> tuple[int, ...]:
        """Sizes of a window."""
        return tuple(self.one(1, 2, 2, 3) for _ in range(rank))


def image_of(batch: Any, channels: int, spatial: Any, last: bool) -> tuple[int, ...]:
    return (*batch, *spatial, channels) if last else (*batch, channels, *spatial)


def kernel_of(c_o: int, c_i: int, window: Any, last: bool) -> tuple[int, ...]:
    return (*window, c_i, c_o) if last else (c_o, c_i, *window)


Drawn = tuple[list[str], dict[str, str | None]]


class Convolution(NamedTuple):
    """The shapes of a plausible convolution, and its options."""

    rank: int
    last: bool
    batch: tuple[int, ...]
    c_i: int
    c_o: int
    groups: int
    spatial: tuple[int, ...]
    window: tuple[int, ...]
    options: dict[str, str | None]

    @property
    def x(self) -> tuple[int, ...]:
        """The shape of the images."""
        return image_of(self.batch, self.c_i, self.spatial, self.last)

    @property
    def kernel(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        return kernel_of(self.c_o, self.c_i // self.groups, self.window, self.last)

    def y(self, sizes: Any) -> tuple[int, ...]:
        """The shape of an output of these sizes."""
        return image_of(self.batch, self.c_o, sizes, self.last)


def convolution(d: Draw) -> Convolution:
    rank = d.one(1, 2, 2, 3)
    groups = d.one(1, 1, 1, 2, 3)
    c_i, c_o = groups * d.one(1, 1, 2), groups * d.one(1, 2)
    if groups == 1 and d.often(0.05):
        c_i = 0
    layout, last = d.layout(rank)
    options = {
        "stride": d.per_axis(rank, 1, 3) if d.often(0.5) else None,
        "padding": d.padding(rank, 2) if d.often(0.5) else None,
        "dilation": d.per_axis(rank, 1, 2) if d.often(0.3) else None,
        "groups": str(groups) if groups > 1 or d.often(0.1) else None,
        "layout": layout,
        "precision": d.one(*LIKELY["precision"][:4]) if d.often(0.1) else None,
        "preferred_element_type": d.one(*DTYPES) if d.often(0.08) else None,
        "algorithm": d.one("'auto'", "'direct'") if d.often(0.1) else None,
    }
    options.update(huge(d))
    batch, spatial, window = d.batch(), d.spatial(rank), d.window(rank)
    return Convolution(rank, last, batch, c_i, c_o, groups, spatial, window, options)


def huge(d: Draw) -> dict[str, str]:
    """Once in a while, steps and paddings that together leave small results."""
    if d.often(0.97):
        return {}
    size = d.one("2**31 - 1", "2**30", "2**27 + 3")
    padding = d.one(size, f"-({size})", "'full'", "'causal'", "1")
    return {"stride": size, "dilation": d.one(size, size, "1"), "padding": padding}


def special(d: Draw, dtypes: list[str], options: dict[str, Any]) -> bool:
    """Whole ranges of integers are for those whose sums wrap; of floats, only the images'."""
    wraps = len(set(dtypes)) == 1 and options.get("preferred_element_type") is None
    return d.often(0.2) and (dtypes[0] not in INTEGERS or wraps)


def draw_conv(d: Draw) -> Drawn:
    call = convolution(d)
    modes = d.one(*LIKELY["padding_mode"][:4]) if d.often(0.25) else None
    options = {**call.options, "padding_mode": modes}
    dtypes = d.dtypes(3)
    args = [
        d.array(call.x, dtypes[0], special(d, dtypes, options)),
        d.array(call.kernel, dtypes[1]),
    ]
    if d.often(0.3):
        pairs = (call.c_o, call.c_i // call.groups)
        args.append(d.array(d.one(pairs[:1], pairs), dtypes[2]))
    return args, options


def draw_conv_transpose(d: Draw) -> Drawn:
    call = convolution(d)
    extra = d.per_axis(call.rank, 0, 1) if d.often(0.3) else None
    options = {**call.options, "output_padding": extra}
    dtypes = d.dtypes(3)
    sizes = tuple(d.randint(1, 4) for _ in range(call.rank))
    args = [
        d.array(call.y(sizes), dtypes[0], special(d, dtypes, options)),
        d.array(call.kernel, dtypes[1]),
    ]
    if d.often(0.3):
        args.append(d.array((call.c_i,), dtypes[2]))
    return args, options


def outputs_of(call: Convolution) -> tuple[int, ...]:
    """The sizes of the convolution's output, as far as there is one."""
    r = fuzz_contract.Reading(traced=False)

    def given(name: str, default: str) -> Any:
        return value_of(call.options[name] or default)

    stride, dilation = (r.per_axis("", given(n, "1"), call.rank) for n in ("stride", "dilation"))
    padding = r.padding(given("padding", "0"), call.rank)
    pairs = fuzz_contract.sides(padding, call.spatial, call.window, stride, dilation)
    axes = zip(call.spatial, call.window, stride, dilation, pairs, strict=True)
    sizes = [fuzz_contract.output_size(n, k, s, d, *pair) for n, k, s, d, pair in axes]
    return tuple(min(max(size, 1), 20) for size in sizes)


def draw_conv_gradient(d: Draw, of_kernel: bool) -> Drawn:
    call = convolution(d)
    modes = d.one(*LIKELY["padding_mode"][:4]) if d.often(0.3) else None
    options = {**call.options, "padding_mode": modes}
    dtypes = d.dtypes(2)
    first = call.x if of_kernel else call.y(outputs_of(call))
    second = call.y(outputs_of(call)) if of_kernel else call.kernel
    third = call.kernel if of_kernel else call.x
    return [
        d.array(first, dtypes[0], special(d, dtypes, options)),
        d.array(second, dtypes[1]),
        d.sizes(third),
    ], options


def draw_conv_bias_grad(d: Draw) -> Drawn:
    call = convolution(d)
    shape = call.y(call.spatial)
    layout = call.options["layout"] or "None"
    dtypes = d.dtypes(1)
    return [d.array(shape, dtypes[0], special(d, dtypes, {}))], {"layout": layout}


def pool_options(d: Draw, rank: int, window: tuple[int, ...]) -> dict[str, str | None]:
    high = max(min(window) - 1, 0) if d.often(0.85) else 2
    return {
        "stride": d.per_axis(rank, 1, 3) if d.often(0.5) else None,
        "padding": d.padding(rank, high) if d.often(0.5) else None,
        "dilation": d.per_axis(rank, 1, 2) if d.often(0.3) else None,
        "ceil_mode": "True" if d.often(0.3) else None,
        **huge(d),
    }


def draw_pool(d: Draw, **more: Callable[[Draw], str]) -> Drawn:
    rank = d.one(1, 2, 2, 3)
    layout, last = d.layout(rank)
    window = d.window(rank)
    shape = image_of(d.batch(), d.one(1, 2, 3, 0), d.spatial(rank), last)
    dtypes = d.dtypes(1, (FLOATS, FLOATS, INTEGERS) if d.often(0.95) else (COMPLEX,))
    args = [d.array(shape, dtypes[0], d.often(0.3)), d.sizes(window)]
    options: dict[str, str | None] = {**pool_options(d, rank, window), "layout": layout}
    for name, text in more.items():
        options[name] = text(d) if d.often(0.4) else None
    return args, options


def draw_lp_pool(d: Draw) -> Drawn:
    args, options = draw_pool(d)
    if d.often(0.7):
        args.append(d.one(*LIKELY["p"][:9]))
        if args[2] in ("1e+30", "1e+300", "2**70"):  # of which only signs have powers
            args[0] = args[0].replace(", values='special'", "")[:-1] + ", values='signs')"
    return args, options


def draw_pool_gradient(d: Draw, of_max: bool) -> Drawn:
    rank = d.one(1, 2, 2)
    layout, last = d.layout(rank)
    window, spatial, batch, c = d.window(rank), d.spatial(rank), d.batch(), d.one(1, 2)
    options: dict[str, str | None] = {**pool_options(d, rank, window), "layout": layout}
    r = fuzz_contract.Reading(traced=False)
    stride = value_of(options["stride"] or str(window))
    stride, dilation, padding = (
        r.per_axis("", stride, rank),
        r.per_axis("", value_of(options["dilation"] or "1"), rank),
        r.padding(value_of(options["padding"] or "0"), rank),
    )
    pairs = fuzz_contract.sides(padding, spatial, window, stride, dilation)
    ceil = options["ceil_mode"] == "True"
    axes = zip(spatial, window, stride, dilation, pairs, strict=True)
    sizes = [fuzz_contract.output_size(n, k, s, d, *pair, ceil) for n, k, s, d, pair in axes]
    sizes = [min(max(size, 1), 20) for size in sizes]
    shape = image_of(batch, c, spatial, last)
    dtypes = d.dtypes(2, (FLOATS, FLOATS, INTEGERS))
    dy = d.array(image_of(batch, c, sizes, last), dtypes[1], d.often(0.15) and not of_max)
    if of_max:
        return [d.array(shape, dtypes[0], d.often(0.2)), dy, d.sizes(window)], options
    options["count_include_pad"] = "False" if d.often(0.3) else None
    options["divisor_override"] = d.one("3", "-2") if d.often(0.2) else None
    return [dy, d.sizes(shape), d.sizes(window)], options


def draw_adaptive(d: Draw, of_max: bool) -> Drawn:
    rank = d.one(1, 2, 2, 3)
    layout, last = d.layout(rank)
    shape = image_of(d.batch(), d.one(1, 2), d.spatial(rank), last)
    sizes = tuple(d.one(1, 2, 3, 5, 9, 0, None) for _ in range(rank))
    dtypes = d.dtypes(1, (FLOATS, FLOATS, INTEGERS) if of_max else None)
    args = [d.array(shape, dtypes[0], d.often(0.2)), d.one(str(sizes), str(list(sizes)))]
    options = {"layout": layout}
    if of_max and d.often(0.5):
        options["return_indices"] = "True"
    return args, options


def draw_max_unpool(d: Draw) -> Drawn:
    rank = d.one(1, 2, 2, 3)
    layout, last = d.layout(rank)
    sizes = tuple(d.randint(1, 5) for _ in range(rank))
    shape = image_of(d.batch(), d.one(1, 2), [d.randint(1, 3) for _ in range(rank)], last)
    below = math.prod(sizes) + d.one(0, 0, 0, 1)
    made = ", made='jax'" if d.often(0.4) else ""
    dtype = d.one("int32", "int32", "int64", "uint8", "int8", "uint64")
    indices = f"positions({shape}, {below}, {dtype!r}, {d.randrange(50)}{made})"
    return [d.array(shape, d.dtypes(1)[0], d.often(0.2)), indices, d.sizes(sizes)], {
        "layout": layout
    }


def draw_unfold(d: Draw) -> Drawn:
    call = convolution(d)
    options = {name: call.options[name] for name in ("stride", "padding", "dilation", "layout")}
    shape = image_of(call.batch, call.c_i, call.spatial, call.last)
    return [d.array(shape, d.dtypes(1)[0], d.often(0.2)), d.sizes(call.window)], options


def draw_fold(d: Draw) -> Drawn:
    call = convolution(d)
    options = {name: call.options[name] for name in ("stride", "padding", "dilation", "layout")}
    places, depth = math.prod(outputs_of(call)), call.c_i * math.prod(call.window)
    shape = (*call.batch, places, depth) if call.last else (*call.batch, depth, places)
    dtype = d.dtypes(1)[0]
    return [
        d.array(shape, dtype, d.often(0.2)),
        d.sizes(call.spatial),
        d.sizes(call.window),
    ], options


def draw_signal(d: Draw) -> Drawn:
    rank = d.one(1, 1, 2, 3)
    shapes = [tuple(d.randint(1, 5 if rank < 3 else 3) for _ in range(rank)) for _ in "xk"]
    if d.often(0.5):
        shapes = [tuple(sorted(pair)[at] for pair in zip(*shapes, strict=True)) for at in (1, 0)]
    if d.often(0.3):
        shapes.reverse()
    dtypes = d.dtypes(2)
    args = [d.array(shapes[0], dtypes[0], special(d, dtypes, {})), d.array(shapes[1], dtypes[1])]
    if d.often(0.7):
        args.append(d.one("'full'", "'same'", "'valid'"))
    return args, {}


def draw_notes(d: Draw, form: str) -> Drawn:
    c_i, c_o, (h, w), window = d.one(1, 2, 3), d.one(1, 2), d.spatial(2), d.window(2)
    X, K = {
        "corr2d": ((h, w), window),
        "in": ((c_i, h, w), (c_i, *window)),
        "out": ((c_i, h, w), (c_o, c_i, *window)),
        "1x1": ((c_i, h, w), d.one((c_o, c_i), (c_o, c_i, 1, 1))),
    }[form]
    dtypes = d.dtypes(2)
    return [d.array(X, dtypes[0], special(d, dtypes, {})), d.array(K, dtypes[1])], {}


def draw_pool2d(d: Draw) -> Drawn:
    args = [d.array(d.spatial(2), d.dtypes(1)[0], d.often(0.2)), d.sizes(d.window(2))]
    return [*args, *([d.one("'max'", "'avg'")] if d.often(0.6) else [])], {}


def draw_apply(d: Draw) -> Drawn:
    rank = d.one(1, 2, 2, 3)
    layout, last = d.layout(rank)
    spatial = d.spatial(rank)
    shape = spatial if d.often(0.3) else image_of(d.batch(), d.one(1, 2), spatial, last)
    dtypes = d.dtypes(2)
    kernel = tuple(d.randint(1, 4) for _ in range(rank))
    modes = d.one(*LIKELY["padding_mode"][:4]) if d.often(0.6) else None
    args = [d.array(shape, dtypes[0], special(d, dtypes, {})), d.array(kernel, dtypes[1])]
    return args, {"padding_mode": modes, "layout": layout}


def draw_geometry(d: Draw, more: str = "") -> Drawn:
    rank = d.one(1, 2, 3)
    high = d.one(6, 6, 6, 2**31 - 1)
    window = [d.randint(1, min(high, 10**6)) for _ in range(rank)]
    least = 1 if more == "output_padding" else 0
    spatial = [d.randint(least, 3 * high if high == 6 else high) for _ in range(rank)]
    options: dict[str, str | None] = {
        "stride": d.per_axis(rank, 1, min(high, 1000)) if d.often(0.6) else None,
        "padding": d.padding(rank, min(window) if more == "ceil_mode" else 4),
        "dilation": d.per_axis(rank, 1, 3) if d.often(0.4) else None,
    }
    if more and d.often(0.6):
        options[more] = "True" if more == "ceil_mode" else d.per_axis(rank, 0, 1)
    return [d.sizes(spatial), d.sizes(window)], options


def draw_layers(d: Draw) -> Drawn:
    if d.often(0.4):
        return [d.one(*LIKELY["layers"])], {}
    rank, layers = d.one(1, 2), []
    for _ in range(d.randint(1, 4)):
        fields = (
            d.sizes(d.window(rank)),
            d.per_axis(rank, 1, 3),
            d.padding(rank, 2),
            d.per_axis(rank, 1, 2),
        )
        layers.append(f"({', '.join(fields[: d.randint(1, 4)])},)")
    return [f"[{', '.join(layers)}]"], {}


def draw_conv_cost(d: Draw) -> Drawn:
    call = convolution(d)
    names = ("stride", "padding", "dilation", "groups", "layout")
    options = {name: call.options[name] for name in names}
    options["itemsize"] = d.one(*LIKELY["itemsize"]) if d.often(0.4) else None
    return [d.sizes(call.x), d.sizes(call.kernel)], options


def draw_from(*names: str) -> Callable[[Draw], Drawn]:
    return lambda d: ([d.one(*LIKELY[name]) for name in names], {})


def flag(d: Draw) -> str:
    return d.one("True", "False")


#: How each function's calls are drawn, and how often.
DRAWN: dict[str, tuple[int, Callable[[Draw], Drawn]]] = {
    "conv": (10, draw_conv),
    "conv_transpose": (8, draw_conv_transpose),
    "max_pool": (6, lambda d: draw_pool(d, return_indices=flag)),
    "min_pool": (3, draw_pool),
    "avg_pool": (6, lambda d: draw_pool(
        d, count_include_pad=flag, divisor_override=lambda d: d.one("3", "-2", "np.int8(5)")
    )),
    "lp_pool": (4, draw_lp_pool),
    "adaptive_avg_pool": (4, functools.partial(draw_adaptive, of_max=False)),
    "adaptive_max_pool": (4, functools.partial(draw_adaptive, of_max=True)),
    "max_unpool": (4, draw_max_unpool),
    "unfold": (4, draw_unfold),
    "fold": (4, draw_fold),
    "correlate": (4, draw_signal),
    "convolve": (4, draw_signal),
    "corr2d": (2, functools.partial(draw_notes, form="corr2d")),
    "corr2d_multi_in": (2, functools.partial(draw_notes, form="in")),
    "corr2d_multi_in_out": (2, functools.partial(draw_notes, form="out")),
    "corr2d_multi_in_out_1x1": (2, functools.partial(draw_notes, form="1x1")),
    "pool2d": (3, draw_pool2d),
    "filters.mean": (2, draw_from("size")),
    "filters.gaussian": (3, draw_from("size", "sigma")),
    "filters.sobel": (2, draw_from("axis")),
    "filters.laplacian": (1, draw_from()),
    "filters.first_derivative": (1, draw_from()),
    "filters.second_derivative": (1, draw_from()),
    "filters.edge": (1, draw_from()),
    "filters.apply": (4, draw_apply),
    "geometry.conv_output_shape": (3, draw_geometry),
    "geometry.conv_transpose_output_shape": (
        3, functools.partial(draw_geometry, more="output_padding")
    ),
    "geometry.pool_output_shape": (3, functools.partial(draw_geometry, more="ceil_mode")),
    "geometry.receptive_field": (3, draw_layers),
    "geometry.conv_cost": (3, draw_conv_cost),
    "gradients.conv_kernel_grad": (5, functools.partial(draw_conv_gradient, of_kernel=True)),
    "gradients.conv_input_grad": (5, functools.partial(draw_conv_gradient, of_kernel=False)),
    "gradients.conv_bias_grad": (2, draw_conv_bias_grad),
    "gradients.max_pool_grad": (4, functools.partial(draw_pool_gradient, of_max=True)),
    "gradients.avg_pool_grad": (4, functools.partial(draw_pool_gradient, of_max=False)),
}  # fmt: skip


def spoil(d: Draw, name: str, args: list[str], options: dict[str, str | None]) -> None:
    """Put something else where one argument is."""
    parameters = list(inspect.signature(FUNCTIONS[name]).parameters)[1:]
    if not parameters:
        return
    at = d.randrange(len(parameters))
    parameter = parameters[at]
    if parameter in ARRAYS:
        shape = d.one((2, 3), (2, 2, 7), (2, 2, 5, 6), ())
        text = d.one(*(text for text in ANYTHING if text != "TRACED"), *UNLIKELY_ARRAYS)
        if at < len(args) and args[at].startswith("array(("):
            shape = value_of(args[at][len("array(") :].partition(")")[0] + ")")  # the shape it has
        if d.often(0.5):
            made = d.one("numpy", "numpy", *MADE)
            text = f"array({shape}, {d.one(*ODD, *FLOATS)!r}, made={made!r})"
    else:
        likely = LIKELY.get(parameter, ("0", "1", "2"))
        text = d.one(*(likely if d.often(0.4) else ANYTHING))
    if at < len(args):
        args[at] = text
    elif at == len(args) and parameter in ("bias", "p", "mode", "sigma", "axis"):
        args.append(text)
    else:
        options[parameter] = text


def draw_call(seed: int, number: int, attempt: int, only: str | None = None) -> Call:
    """The call of this number, deterministic in all that is given."""
    d = Draw(f"{seed}/{number}/{attempt}")
    weights = [weight for weight, _ in DRAWN.values()]
    name = only or d.choices(list(DRAWN), weights)[0]
    args, options = DRAWN[name][1](d)
    for _ in range(d.one(0, 0, 0, 0, 1, 1, 1, 2)):
        spoil(d, name, args, options)
    given = tuple((option, text) for option, text in options.items() if text is not None)
    texts = " ".join([*args, *(text for _, text in given)])
    arrays = not name.startswith("geometry") and "array" in texts
    jit = "TRACED" in texts or (arrays and d.often(0.25))
    return Call(name, tuple(args), given, jit, d.often(0.85))


def drawn(seed: int, number: int, only: str | None = None) -> Call:
    """The first attempt at this call that something can be said about."""
    for attempt in range(1000):
        call = draw_call(seed, number, attempt, only)
        with settings(call), contextlib.suppress(UndecidedError):
            verdict_on(call)
            return call
    raise RuntimeError(f"call {number} is always too large")


# Judging them.


class Outcome(NamedTuple):
    """What came of a call: "equal", "ValueError" or "TypeError" as it must, or "failure"."""

    kind: str
    what: str = ""  # of failures


@contextlib.contextmanager
def settings(call: Call) -> Iterator[None]:
    """Precision as the call wants it, promotion as jax has it by default, tracebacks whole."""
    filtering = jax.config.jax_traceback_filtering  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_traceback_filtering", "off")
    try:
        with jax.enable_x64(call.x64), jax.numpy_dtype_promotion("standard"):
            yield
    finally:
        jax.config.update("jax_traceback_filtering", filtering)


def verdict_on(call: Call) -> Verdict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args, options = call.values()
        return fuzz_contract.contract(call.name, args, options, call.jit)


def check(call: Call) -> Outcome:
    """Make the call and hold what comes of it against the contract."""
    with settings(call):
        verdict = verdict_on(call)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args, options = call.values()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                got = jax.block_until_ready(execute(call, args, options))
        except Exception as error:
            return judge_error(call, error, verdict)
        if verdict.faults:
            return Outcome("failure", f"taken, where a refusal is due: {written(verdict.faults)}")
        due = verdict.answer
        if call.name in SPREADING and "direct" not in str(call):
            due = spread(got, due, np.ndim(args[1]) - 1)
        different = difference(got, due, ROUNDING.get(call.name, 0))
        return Outcome("failure", different) if different else Outcome("equal")


def public(name: str) -> Callable[..., Any]:
    """jaxconv's function of this name, looked up anew for each call."""
    return functools.reduce(getattr, name.split("."), jc)  # pyright: ignore[reportReturnType]


def execute(call: Call, args: list[Any], options: dict[str, Any]) -> Any:
    function = public(call.name)
    if not call.jit:
        return function(*args, **options)
    names = list(inspect.signature(FUNCTIONS[call.name]).parameters)[1:]
    given = {**dict(zip(names, args, strict=False)), **options}
    traced = {n: value for n, value in given.items() if n in ARRAYS and is_traceable(value)}

    def inner(traced: dict[str, Any], number: Any) -> Any:
        filled = {n: traced.get(n, replaced(value, number)) for n, value in given.items()}
        return function(*[filled.pop(n) for n in names[: len(args)]], **filled)

    return jax.jit(inner)(traced, np.int32(2))


def is_traceable(value: Any) -> bool:
    """Whether jax takes this for an array that can be traced."""
    if not (type(value) is np.ndarray or isinstance(value, jax.Array)):
        return False
    if not isinstance(value.dtype, np.dtype):
        return True
    known = {*FLOATS, *INTEGERS, *COMPLEX, *JAX_ODD}
    return value.dtype.name in known and value.dtype.isnative


def replaced(value: Any, number: Any) -> Any:
    if value is TRACED:
        return number
    if isinstance(value, tuple):
        return tuple(replaced(item, number) for item in value)
    return value


def written(faults: Any) -> str:
    texts = {f"{fault.error.__name__} about {' or '.join(fault.names)}" for fault in faults}
    return "; ".join(sorted(texts))


def judge_error(call: Call, error: Exception, verdict: Verdict) -> Outcome:
    """Whether this is one of the refusals that are due."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    lines = str(error).splitlines()
    shown = f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
    if type(error) not in (ValueError, TypeError):
        return Outcome("failure", f"neither ValueError nor TypeError: {shown}")
    if PACKAGE not in Path(frame.filename).parents:
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        return Outcome("failure", f"raised outside of jaxconv, in {place}: {shown}")
    names = inspect.signature(public(call.name)).parameters
    named = re.match(rf"({'|'.join(names)})(?!\w)", str(error)) if names else None
    if named is None:
        return Outcome("failure", f"the message names no argument: {shown}")
    for fault in (*verdict.faults, *verdict.allowed):
        if type(error) is fault.error and named[1] in fault.names:
            return Outcome(type(error).__name__)
    if not verdict.faults:
        return Outcome("failure", f"refused, though the contract allows it: {shown}")
    return Outcome("failure", f"due is {written(verdict.faults)}; got {shown}")


#: Largest error: of half precision, rounded once, over the entry itself; of others over the
#: largest, as roundings of large terms may be left over in small sums.
TOLERANCE = {
    "float64": 1e-12, "complex128": 1e-12, "float32": 2e-6, "complex64": 2e-6,
    "bfloat16": 2**-8 + 1e-5, "float16": 2**-11 + 1e-5,
}  # fmt: skip
#: What rounds in float32 before it sums: over the largest entry for half precision too, and how
#: many times as much.
ROUNDING = {
    "avg_pool": 1, "adaptive_avg_pool": 1, "pool2d": 1, "lp_pool": 16, "gradients.avg_pool_grad": 1,
}  # fmt: skip


#: What algorithms but "direct" compute with zeros between elements, or rearranged: there what is
#: not finite may spread, though never beyond its image.
SPREADING = ("conv_transpose", "gradients.conv_input_grad")


def spread(got: Any, want: Any, image: int) -> Any:
    """`want` with what is not finite in `got` where something in its image, the last axes, is not
    finite in `want` either."""
    if not isinstance(want, np.ndarray) or want.shape != np.shape(got) or want.dtype.kind in "iu":
        return want
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    found, due = np.asarray(got).astype(wide), want.astype(wide)
    axes = tuple(range(want.ndim - image, want.ndim))
    broken = ~np.isfinite(due).all(axis=axes, keepdims=True)
    return np.where(broken & ~np.isfinite(found), np.asarray(got).astype(want.dtype), want)


def difference(got: Any, want: Any, rounding: int = 0) -> str | None:
    """What is wrong with a result, or None; `rounding` as in ROUNDING."""
    if isinstance(want, tuple) and any(isinstance(part, np.ndarray) for part in want):
        if not isinstance(got, tuple) or len(got) != len(want):
            return f"wrong type: due are {len(want)} arrays, got {type(got).__name__}"
        parts = (difference(*pair, rounding) for pair in zip(got, want, strict=True))
        return next(filter(None, parts), None)
    if not isinstance(want, np.ndarray):
        same = got == want and all_ints(got)
        return None if same else f"wrong value: due is {want}, got {got!r}"
    if not isinstance(got, jax.Array):
        return f"wrong type: due is an array, got {type(got).__name__}"
    if got.dtype != want.dtype:
        return f"wrong dtype: due is {want.dtype}, got {got.dtype}"
    if got.shape != want.shape:
        return f"wrong shape: due is {want.shape}, got {got.shape}"
    tolerance = TOLERANCE.get(want.dtype.name)
    if tolerance is None:
        wrong = np.asarray(got) != want
    else:
        single = want.dtype.name in ("bfloat16", "float16") and not rounding
        wrong = unlike(np.asarray(got), want, tolerance * max(rounding, 1), single)
    if not wrong.any():
        return None
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    entry = f"at {at} due is {want[at]}, got {np.asarray(got)[at]}"
    return f"wrong value: {int(wrong.sum())} of {want.size} entries, {entry}"


def unlike(got: np.ndarray, want: np.ndarray, tolerance: float, single: bool) -> np.ndarray:
    """Entries that differ by more than the tolerance, over the largest or each `single` one. What
    is not finite must be the same; of complex numbers, not finite."""
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    got, want = got.astype(wide), want.astype(wide)
    finite = np.isfinite(want)
    with np.errstate(all="ignore"):
        scale = np.abs(want) if single else np.abs(want[finite]).max(initial=0)
        close = np.abs(got - want) <= tolerance * scale
    if wide is np.complex128:
        return np.where(finite, ~close, np.isfinite(got))
    return np.where(finite, ~close, ~((got == want) | (np.isnan(got) & np.isnan(want))))


def all_ints(value: Any) -> bool:
    """Python ints in tuples, and nothing else."""
    return all(map(all_ints, value)) if isinstance(value, tuple) else type(value) is int


def shortened(call: Call, outcome: Outcome) -> tuple[Call, Outcome]:
    """The same failure from a call with as few options as will do."""
    simpler = [call._replace(jit=False), call._replace(x64=True)]
    if "TRACED" in str(call):
        simpler = simpler[1:]
    for at in range(len(call.options)):
        simpler.append(call._replace(options=call.options[:at] + call.options[at + 1 :]))
    if call.args and call.name in ("conv", "conv_transpose"):
        simpler.append(call._replace(args=call.args[:2]))
    for other in simpler:
        if other == call:
            continue
        with contextlib.suppress(UndecidedError, TypeError):
            found = check(other)
            if found.kind == "failure" and found.what.split(":")[0] == outcome.what.split(":")[0]:
                return shortened(other, found)
    return call, outcome


# Running many.


def work(connection: Any, seed: int, numbers: range, only: str | None) -> None:
    """In a process of its own: judge these calls one after the other, until one ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    prepare()
    with limited_memory(), contextlib.suppress(BrokenPipeError):  # the parent has ended
        for number in numbers:
            call = drawn(seed, number, only)
            outcome = check(call)
            if outcome.kind == "failure":
                call, outcome = shortened(call, outcome)
            connection.send((call, outcome))


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """What asks for more than MEMORY is told so, before the machine has none left."""
    if resource is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = MEMORY if before[1] == resource.RLIM_INFINITY else min(MEMORY, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def prepare() -> None:
    """What is timed here is compiling: do without XLA's costly passes."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")


def judged(
    seed: int, n: int, only: str | None = None, run: Callable[..., None] = work
) -> Iterator[tuple[Call, Outcome]]:
    """Calls and outcomes, from processes that a call may end: the next one then goes on."""
    context, number = multiprocessing.get_context("spawn"), 0
    while number < n:
        ours, theirs = context.Pipe()
        process = context.Process(target=run, args=(theirs, seed, range(number, n), only))
        process.daemon = True
        process.start()
        theirs.close()
        what = f"no end after {PATIENCE} seconds"
        try:
            while number < n and ours.poll(PATIENCE):
                yield ours.recv()
                number += 1
        except EOFError:
            process.join()
            what = f"the process ended, exit code {process.exitcode}"
        finally:
            process.kill()
            process.join()
        if number < n:
            yield drawn(seed, number, only), Outcome("failure", what)
            number += 1


# The command.


def table(counts: dict[str, Counter[str]], console: Console) -> None:
    """One row for each function, and the total."""
    kinds = ("equal", "ValueError", "TypeError", "failure")
    plain = not console.is_terminal
    grid = Table(box=None if plain else Table().box, pad_edge=False, show_footer=True)
    total = sum(counts.values(), Counter())
    grid.add_column("function", "total", no_wrap=True)
    grid.add_column("calls", f"{total.total()}", justify="right")
    titles = ("computed, equal", "ValueError", "TypeError", "failures")
    for title, kind in zip(titles, kinds, strict=True):
        grid.add_column(title, f"{total[kind]}", justify="right", no_wrap=True)
    for name in (name for name in DRAWN if name in counts):
        found = counts[name]
        grid.add_row(name, f"{found.total()}", *(f"{found[kind]}" for kind in kinds))
    console.print(grid)


def versions() -> str:
    names = ("jax", "jaxlib", "numpy")
    found = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return ", ".join([*found, f"Python {platform.python_version()}", "CPU"])


def main(argv: list[str] | None = None) -> int:
    """Run the fuzz, or one call; returns the exit code."""
    args = _parser().parse_args(argv)
    if args.call is not None:
        return run_one(args.call, args.jit, not args.x32)
    if args.only is not None and args.only not in DRAWN:
        print(f"fuzz: --only: there is no {args.only}; {', '.join(DRAWN)}", file=sys.stderr)
        return 2
    console = Console() if sys.stdout.isatty() else Console(width=100)
    only = f" --only {args.only}" if args.only else ""
    print(f"python experiments/fuzz.py --n {args.n} --seed {args.seed}{only}\n{versions()}\n")
    counts: dict[str, Counter[str]] = {}
    how: Counter[str] = Counter()
    failures = []
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not (sys.stdout.isatty() and sys.stderr.isatty())
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as progress:
        bar = progress.add_task("calls", total=args.n)
        for call, outcome in judged(args.seed, args.n, args.only):
            counts.setdefault(call.name, Counter())[outcome.kind] += 1
            how += Counter(jit=call.jit, x32=not call.x64)
            if outcome.kind == "failure":
                failures.append((call, outcome))
            progress.advance(bar)
    table(counts, console)
    print(f"\n{how['jit']} of them under jit, {how['x32']} without double precision")
    for call, outcome in failures:
        print(f"\n{outcome.what}\n    {call.command}")
    return 1 if failures else 0


def run_one(text: str, jit: bool, x64: bool) -> int:
    """One call: what is due and what comes."""
    prepare()
    try:
        call = parse_call(text, jit or "TRACED" in text, x64)
    except (ValueError, SyntaxError) as error:
        print(f"fuzz: --call: {error}", file=sys.stderr)
        return 2
    with settings(call):
        try:
            verdict = verdict_on(call)
        except UndecidedError:
            print("not judged: the oracle has nothing to say of it")
            return 2
    print(f"due: {written(verdict.faults) or verdict.answer}")
    outcome = check(call)
    print(f"{outcome.kind}: {outcome.what}" if outcome.what else f"came: {outcome.kind}")
    return 1 if outcome.kind == "failure" else 0


def _parser() -> argparse.ArgumentParser:
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="fuzz", description=summary)
    parser.add_argument("--n", type=_positive, default=5000, help="calls (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the calls (%(default)s)")
    parser.add_argument(
        "--only", metavar="NAME", help="calls of this function, as geometry.conv_cost"
    )
    parser.add_argument("--call", metavar="TEXT", help="judge this one call and nothing else")
    parser.add_argument("--jit", action="store_true", help="with --call: under jax.jit")
    parser.add_argument("--x32", action="store_true", help="with --call: without double precision")
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
