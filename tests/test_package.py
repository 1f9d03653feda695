"""The package as a whole: what it imports, what it promises, how it is built.

Signatures are the contract's; sources are read as syntax trees, so that nothing here depends on
what is imported already.
"""

import ast
import functools
import graphlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import jaxconv as jc
from jaxconv import filters, geometry, gradients, reference, verify

ROOT = Path(jc.__file__).parent

# Importing.


@functools.cache
def imported_by(statement: str) -> frozenset[str]:
    """Top-level modules that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(json.loads(done.stdout))


@pytest.mark.parametrize("name", ["flax", "optax", "torch", "scipy", "matplotlib"])
def test_import_is_light(name: str):
    loaded = imported_by("import jaxconv")
    assert "jaxconv.filters" in loaded
    assert name not in loaded


def test_importing_uses_no_device():
    """Nothing is computed and no backend started before the first call."""
    check = "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    assert "jaxconv" in imported_by(f"import jaxconv\n{check}")


def test_typing_marker_is_there():
    assert (ROOT / "py.typed").is_file()


@pytest.mark.parametrize("name", ["filters", "geometry", "gradients", "reference", "verify"])
def test_modules_come_with_the_package(name: str):
    assert isinstance(getattr(jc, name), ModuleType)


# Public functions: documented, annotated, options by keyword.


def public(module: ModuleType) -> dict[str, Any]:
    """Functions and classes that callers find in a module: its own, and what jaxconv re-exports."""
    found = {}
    for name, value in vars(module).items():
        home = getattr(value, "__module__", None) or ""
        own = home.startswith("jaxconv") if module in (jc, geometry) else home == module.__name__
        if own and not name.startswith("_") and callable(value):
            found[f"{module.__name__}.{name}"] = value
    return found


MODULES = (jc, filters, geometry, gradients, verify)
PUBLIC = {name: value for module in MODULES for name, value in public(module).items()}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
TAKING = {name: value for name, value in FUNCTIONS.items() if inspect.signature(value).parameters}


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def sections(function: Callable[..., Any]) -> dict[str, str]:
    """A docstring's parts: "" for what comes first, then "Args" and so on."""
    parts, current = {"": ""}, ""
    for line in (inspect.getdoc(function) or "").splitlines():
        if line in ("Args:", "Returns:", "Raises:", "Attributes:"):
            current = line[:-1]
            parts[current] = ""
        elif line and not line.startswith(" ") and current:
            current = ""  # "Source: ..." and examples belong to no section
        else:
            parts[current] += line + "\n"
    return parts


def test_something_is_public():
    names = {"conv", "max_pool", "correlate", "corr2d", "filters.apply", "geometry.conv_cost"}
    assert {f"jaxconv.{name}" for name in names} <= set(FUNCTIONS)
    results = {"ConvCost", "ReceptiveField", "Summary", "Row"}
    layers = {"Conv", "ConvTranspose", "MaxPool", "AvgPool", "AdaptiveAvgPool", "Dense", "Residual"}
    assert {f"jaxconv.geometry.{name}" for name in results | layers} <= set(CLASSES)


@every_function
def test_docstring_begins_with_a_summary(function):
    lines = (function.__doc__ or "").splitlines()
    assert lines, "no docstring"
    assert lines[0].strip(), "the summary belongs in the first line"
    summary = inspect.cleandoc(function.__doc__).split("\n\n")[0]
    assert summary.endswith((".", ":")), summary
    assert summary.count("\n") < 2, summary


@pytest.mark.parametrize("function", TAKING.values(), ids=TAKING)
def test_docstring_says_args_returns_raises(function):
    """A function that takes nothing can refuse nothing; all others check what they take."""
    parts = sections(function)
    assert {"Args", "Returns", "Raises"} <= set(parts)
    assert [name for name in ("Args", "Returns", "Raises") if not parts[name].strip()] == []
    assert "Error" in parts["Raises"]


@every_function
def test_docstring_explains_every_argument(function):
    entries = [
        line.strip().split(":")[0]
        for line in sections(function).get("Args", "").splitlines()
        if line.startswith("    ") and not line.startswith("     ") and ":" in line
    ]
    explained = [name.strip(" *") for entry in entries for name in entry.split(",")]
    assert sorted(explained) == sorted(p.name for p in parameters(function))


@every_function
def test_every_parameter_is_annotated(function):
    missing = [p.name for p in parameters(function) if p.annotation is inspect.Parameter.empty]
    assert missing == []
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_results_explain_their_fields(kind):
    attributes = sections(kind).get("Attributes", "")
    assert [field for field in kind._fields if f"    {field}: " not in attributes] == []


#: The options, in the order in which every function has them.
OPTIONS = (
    "stride", "padding", "output_padding", "dilation", "groups", "ceil_mode", "return_indices",
    "count_include_pad", "divisor_override", "padding_mode", "layout", "precision",
    "preferred_element_type", "algorithm",
)  # fmt: skip


@every_function
def test_options_are_keyword_only_and_in_one_order(function):
    options = [p for p in parameters(function) if p.name in OPTIONS]
    assert [p.name for p in options if p.kind is not inspect.Parameter.KEYWORD_ONLY] == []
    assert [p.name for p in options] == sorted((p.name for p in options), key=OPTIONS.index)


SIGNATURES = {
    "jaxconv.accelerate": "(enable=True)",
    "jaxconv.algorithms": "()",
    "jaxconv.conv": (
        "(x, kernel, bias=None, *, stride=1, padding=0, dilation=1, groups=1,"
        " padding_mode='zeros', layout=None, precision=None, preferred_element_type=None,"
        " algorithm='auto')"
    ),
    "jaxconv.conv_transpose": (
        "(y, kernel, bias=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1,"
        " layout=None, precision=None, preferred_element_type=None, algorithm='auto')"
    ),
    "jaxconv.max_pool": (
        "(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False,"
        " return_indices=False, layout=None)"
    ),
    "jaxconv.min_pool": (
        "(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, layout=None)"
    ),
    "jaxconv.avg_pool": (
        "(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False,"
        " count_include_pad=True, divisor_override=None, layout=None)"
    ),
    "jaxconv.lp_pool": (
        "(x, window, p=2.0, *, stride=None, padding=0, dilation=1, ceil_mode=False, layout=None)"
    ),
    "jaxconv.adaptive_avg_pool": "(x, output_shape, *, layout=None)",
    "jaxconv.adaptive_max_pool": "(x, output_shape, *, return_indices=False, layout=None)",
    "jaxconv.max_unpool": "(y, indices, output_shape, *, layout=None)",
    "jaxconv.unfold": "(x, window, *, stride=1, padding=0, dilation=1, layout=None)",
    "jaxconv.fold": (
        "(columns, output_shape, window, *, stride=1, padding=0, dilation=1, layout=None)"
    ),
    "jaxconv.correlate": "(x, k, mode='valid')",
    "jaxconv.convolve": "(x, k, mode='full')",
    "jaxconv.corr2d": "(X, K)",
    "jaxconv.corr2d_multi_in": "(X, K)",
    "jaxconv.corr2d_multi_in_out": "(X, K)",
    "jaxconv.corr2d_multi_in_out_1x1": "(X, K)",
    "jaxconv.pool2d": "(X, pool_size, mode='max')",
    "jaxconv.gradients.conv_kernel_grad": (
        "(x, dy, kernel_shape, *, stride=1, padding=0, dilation=1, groups=1,"
        " padding_mode='zeros', layout=None, precision=None, preferred_element_type=None,"
        " algorithm='auto')"
    ),
    "jaxconv.gradients.conv_input_grad": (
        "(dy, kernel, x_shape, *, stride=1, padding=0, dilation=1, groups=1,"
        " padding_mode='zeros', layout=None, precision=None, preferred_element_type=None,"
        " algorithm='auto')"
    ),
    "jaxconv.gradients.conv_bias_grad": "(dy, *, layout)",
    "jaxconv.gradients.max_pool_grad": (
        "(x, dy, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, layout=None)"
    ),
    "jaxconv.gradients.avg_pool_grad": (
        "(dy, x_shape, window, *, stride=None, padding=0, dilation=1, ceil_mode=False,"
        " count_include_pad=True, divisor_override=None, layout=None)"
    ),
    "jaxconv.verify.check_gradients": (
        "(fn, args, *, closed_form=None, order=2, seed=0, rtol=None, atol=None)"
    ),
    "jaxconv.verify.assert_gradients": (
        "(fn, args, *, closed_form=None, order=2, seed=0, rtol=None, atol=None)"
    ),
    "jaxconv.filters.mean": "(size)",
    "jaxconv.filters.gaussian": "(size, sigma)",
    "jaxconv.filters.sobel": "(axis=-1)",
    "jaxconv.filters.laplacian": "()",
    "jaxconv.filters.first_derivative": "()",
    "jaxconv.filters.second_derivative": "()",
    "jaxconv.filters.edge": "()",
    "jaxconv.filters.apply": "(image, kernel, *, padding_mode='reflect', layout=None)",
    "jaxconv.geometry.conv_output_shape": ("(spatial, window, *, stride=1, padding=0, dilation=1)"),
    "jaxconv.geometry.conv_transpose_output_shape": (
        "(spatial, window, *, stride=1, padding=0, output_padding=0, dilation=1)"
    ),
    "jaxconv.geometry.pool_output_shape": (
        "(spatial, window, *, stride=None, padding=0, dilation=1, ceil_mode=False)"
    ),
    "jaxconv.geometry.receptive_field": "(layers)",
    "jaxconv.geometry.conv_cost": (
        "(x_shape, kernel_shape, *, stride=1, padding=0, dilation=1, groups=1, layout=None,"
        " itemsize=4)"
    ),
    "jaxconv.geometry.summary": (
        "(layers, input_shape, *, layout=None, dtype='float32', platform=None)"
    ),
}


def bare(function: Callable[..., Any]) -> str:
    """A signature without its annotations."""
    stripped = [p.replace(annotation=inspect.Parameter.empty) for p in parameters(function)]
    return str(inspect.Signature(stripped))


@pytest.mark.parametrize(("name", "signature"), SIGNATURES.items(), ids=SIGNATURES)
def test_signature_is_the_contracts(name: str, signature: str):
    assert bare(FUNCTIONS[name]) == signature


def test_results_of_geometry_have_the_contracts_fields():
    assert geometry.ReceptiveField._fields == ("size", "jump", "start")
    assert geometry.ConvCost._fields == ("parameters", "multiply_adds", "bytes")
    assert geometry.Summary._fields == (
        "rows", "parameters", "multiply_adds", "receptive_field",
    )  # fmt: skip
    assert geometry.Row._fields == (
        "name", "output_shape", "parameters", "multiply_adds", "receptive_field", "algorithms",
    )  # fmt: skip


LAYERS = {
    "Conv": "(features, window, stride=1, padding=0, dilation=1, groups=1, bias=True)",
    "ConvTranspose": (
        "(features, window, stride=1, padding=0, output_padding=0, dilation=1, groups=1, bias=True)"
    ),
    "MaxPool": "(window, stride=None, padding=0, dilation=1, ceil_mode=False)",
    "AvgPool": "(window, stride=None, padding=0, dilation=1, ceil_mode=False)",
    "AdaptiveAvgPool": "(output_shape)",
    "BatchNorm": "()",
    "Flatten": "()",
    "Dense": "(features, bias=True)",
    "Residual": "(body, shortcut=())",
}


@pytest.mark.parametrize(("name", "signature"), LAYERS.items(), ids=LAYERS)
def test_layers_have_the_contracts_fields(name: str, signature: str):
    """Each option is called what it is called in the function that the layer stands for."""
    kind = getattr(geometry, name)
    words = [
        f"{f}={kind._field_defaults[f]!r}" if f in kind._field_defaults else f for f in kind._fields
    ]
    assert f"({', '.join(words)})" == signature


NOTES = ("corr2d", "corr2d_multi_in", "corr2d_multi_in_out", "corr2d_multi_in_out_1x1", "pool2d")
#: Options without a meaning for a definition in plain operations.
NOT_IN_REFERENCE = {"precision", "preferred_element_type", "algorithm", "return_indices"}


@pytest.mark.parametrize("name", [*NOTES, "conv", "max_pool", "avg_pool"])
def test_reference_takes_the_same_arguments(name: str):
    def described(module: ModuleType) -> list[tuple[Any, ...]]:
        return [(p.name, p.kind, p.default) for p in parameters(getattr(module, name))]

    expected = [entry for entry in described(jc) if entry[0] not in NOT_IN_REFERENCE]
    assert described(reference) == expected
    assert getattr(reference, name).__doc__


def test_algorithms_are_names_and_direct_is_one():
    assert isinstance(jc.algorithms(), tuple)
    assert "direct" in jc.algorithms()
    assert "auto" not in jc.algorithms()


# Architecture: the sources as syntax trees.


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}
every_module = pytest.mark.parametrize("name", TREES)


def imports(name: str) -> set[str]:
    """Every module that a module imports anywhere, in full; of our own packages, which part."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if PATHS[name].stem == "__init__" else name.split(".")[:-1]
            parents = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for part in (f"{base}.{alias.name}" for alias in node.names):
                ours = part if part in TREES else base
                found |= {ours} if base.split(".")[0] == "jaxconv" else {base, part}
    return found


def internal(name: str) -> set[str]:
    return {other for other in imports(name) if other.split(".")[0] == "jaxconv"}


def external(name: str) -> set[str]:
    return {other.split(".")[0] for other in imports(name)} - {"jaxconv"}


def reach(name: str) -> set[str]:
    """A module and all of ours that it imports, directly or not."""
    found, todo = set(), {name}
    while todo:
        found |= todo
        todo = {other for one in todo for other in internal(one)} - found
    return found


def test_imports_are_read_right():
    """The reader itself: a name of a package is the package, a module of it is that module."""
    assert {"jaxconv._check", "jaxconv._pad"} <= internal("jaxconv.filters")
    assert "jaxconv._form" in internal("jaxconv._algorithms.direct")
    assert "jaxconv._algorithms.direct" in internal("jaxconv._algorithms")
    assert "jaxconv._algorithms" in internal("jaxconv")
    assert "jaxconv" not in internal("jaxconv.filters")
    assert {"jax", "numpy"} <= external("jaxconv.filters")
    assert {"jax", "jax.lax"} <= imports("jaxconv._pad")


def test_imports_point_one_way_only():
    order = graphlib.TopologicalSorter({name: internal(name) for name in TREES})
    assert len(list(order.static_order())) == len(TREES)  # a cycle is a CycleError


@every_module
def test_only_existing_modules_are_imported(name: str):
    assert internal(name) <= set(TREES)


@pytest.mark.parametrize(
    "name",
    [name for name in ("_check", "_layout", "_geometry", "_sizes") if f"jaxconv.{name}" in TREES],
)
def test_integers_need_no_arrays(name: str):
    """Neither here nor in what is imported from here is there jax or NumPy."""
    for module in reach(f"jaxconv.{name}"):
        assert external(module) <= set(sys.stdlib_module_names), module


def test_reference_shares_nothing():
    assert internal("jaxconv.reference") <= {"jaxconv._types"}
    assert internal("jaxconv._types") == set()


#: The one file that reads a table inside jax, and that table's module.
INSIDE = {"jaxconv._lax": {"jax._src.interpreters", "jax._src.interpreters.mlir"}}


@every_module
def test_nothing_from_inside_jax(name: str):
    private = {other for other in imports(name) if other.startswith(("jax._", "jaxlib"))}
    assert private == INSIDE.get(name, set())
    attributes = [
        node.attr
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id == "jax" and node.attr.startswith("_")
    ]
    assert attributes == []


@every_module
def test_derivatives_are_nowhere_overruled(name: str):
    """Derivatives of every order, both ways, rule out custom_vjp."""
    words = {node.id for node in ast.walk(TREES[name]) if isinstance(node, ast.Name)}
    words |= {node.attr for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute)}
    words |= {node.name for node in ast.walk(TREES[name]) if isinstance(node, ast.alias)}
    assert {word for word in words if "custom_vjp" in word} == set()


@every_module
def test_nothing_is_asserted(name: str):
    """Errors are ValueError and TypeError, never `assert`."""
    asserts = [node.lineno for node in ast.walk(TREES[name]) if isinstance(node, ast.Assert)]
    assert asserts == []


@every_module
def test_modules_say_what_belongs_in_them(name: str):
    assert (ast.get_docstring(TREES[name]) or "").strip()


LONGEST = 40


def definitions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, source: list[str]) -> int:
    """Lines from `def` to the end without docstrings, blank lines and comments."""
    silent: set[int] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = range(function.lineno, (function.end_lineno or function.lineno) + 1)
    texts = (source[line - 1].strip() for line in lines if line not in silent)
    return sum(1 for text in texts if text and not text.startswith("#"))


def test_code_lines_are_counted_right():
    source = ["def f(", "    x):", '    """Doc', '    string."""', "", "    # why", "    return x"]
    (function,) = definitions(ast.parse("\n".join(source)))
    assert code_lines(function, source) == 3


@every_module
def test_functions_fit_a_screen(name: str):
    source = PATHS[name].read_text().splitlines()
    lengths = {(f.lineno, f.name): code_lines(f, source) for f in definitions(TREES[name])}
    assert {key: length for key, length in lengths.items() if length > LONGEST} == {}


def test_ci_runs_exactly_the_readmes_two_commands():
    readme = (ROOT.parent / "README.md").read_text()
    section = readme.partition("## Two commands")[2].partition("## ")[0]
    commands = [line for line in section.splitlines() if line.startswith("pip install")]
    ci = (ROOT.parent / ".ci" / "run").read_text().splitlines()
    assert len(commands) == 2
    assert [line for line in ci if line.startswith("pip install")] == commands
    assert ci[-3:] == ["ruff check .", "ruff format --check .", "pyright"]
