"""How much faster are whole models? Networks in plain Flax, Equinox and Haiku, accelerated.

    python experiments/models.py [--only ResNet] [--no-torch] [--seconds 2] [--json F] [--chart F]

Each network is compiled as it is and once more under `jaxconv.accelerate()`, nothing of it changed:
the forward pass, and a training step (loss, gradients, Optax's AdamW). First the gradients of the
two are compared, then all are timed, taking turns in one process, the best of several runs on
random data; beside them the same network in torch, contiguous and channels-last, the better one.

"apart" is how far the two gradients are apart in float64, over their size; "error" how far each
is, in float32, from the plain one in float64. Networks of batch normalisation and ReLU are
discontinuous and ill-conditioned: in float32 two orders of adding up may differ by a percent there.

Exit code: 0; 1 where gradients are 1e-4 apart, or accelerated ones have an error above 1e-4 and
above four times the plain ones' (jaxconv's bound for all it computes); 2 for bad input.
"""

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox
import haiku
import jax
import jax.numpy as jnp
import models_jax as nets
import numpy as np
import optax
from flax import nnx
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from speed import geometric_mean, interleave, machine
from speed_calls import torch

import jaxconv

#: Largest difference between gradients, in the Euclidean norm, over their size.
TOLERANCE = 1e-4
OPTIMIZER = optax.adamw(1e-3)


class Model(NamedTuple):
    """A network to be timed.

    Attributes:
        name: what it is called in the table.
        shape: of its input, channels last.
        make: gives its parameters and a function `(params, x) -> outputs`.
        torch: the same network, of the module `models_torch`; None where it is not written.
    """

    name: str
    shape: tuple[int, ...]
    make: Callable[[tuple[int, ...]], tuple[Any, Callable[..., Any]]]
    torch: Callable[[Any], Any] | None = None


def in_nnx(network: Callable[..., nnx.Module]) -> Callable[..., Any]:
    def make(shape: tuple[int, ...]) -> Any:
        graph, params, rest = nnx.split(network(rngs=nnx.Rngs(0)), nnx.Param, ...)

        def apply(params: Any, x: Any) -> Any:
            return nnx.merge(graph, params, rest, copy=True)(x)

        return nnx.to_pure_dict(params), lambda pure, x: apply(_state(params, pure), x)

    return make


def _state(state: Any, pure: Any) -> Any:
    leaves, structure = jax.tree.flatten(state)
    del leaves
    return jax.tree.unflatten(structure, jax.tree.leaves(pure))


def in_equinox(shape: tuple[int, ...]) -> Any:
    params, static = equinox.partition(nets.SeparableNet(jax.random.key(0)), equinox.is_array)

    def apply(params: Any, x: Any) -> Any:
        return jax.vmap(equinox.combine(params, static))(jnp.moveaxis(x, -1, 1))

    return params, apply


def in_haiku(shape: tuple[int, ...]) -> Any:
    network = haiku.without_apply_rng(haiku.transform_with_state(nets.mobilenet_v1))
    params, state = network.init(jax.random.PRNGKey(0), jnp.zeros(shape))
    return params, lambda params, x: network.apply(params, state, x)[0]


MODELS = (
    Model("ResNet-18 (nnx)", (8, 64, 64, 3), in_nnx(nets.ResNet18), lambda t: t.resnet18()),
    Model(
        "MobileNetV2 (nnx)", (8, 64, 64, 3), in_nnx(nets.MobileNetV2),
        lambda t: t.mobilenet_v2(nets.MOBILE_STAGES),
    ),
    Model("ConvNeXt-T (nnx)", (4, 64, 64, 3), in_nnx(nets.ConvNeXtT), lambda t: t.convnext_t()),
    Model("U-Net (nnx)", (4, 64, 64, 3), in_nnx(nets.UNet), lambda t: t.UNet()),
    Model("WaveNet (nnx)", (4, 2048, 1), in_nnx(nets.WaveNet), lambda t: t.WaveNet()),
    Model("Mamba-style (nnx)", (4, 512, 16), in_nnx(nets.Mamba), lambda t: t.mamba()),
    Model("separable (Equinox)", (8, 64, 64, 3), in_equinox),
    Model("MobileNetV1 (Haiku)", (8, 64, 64, 3), in_haiku),
)  # fmt: skip


def programs(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """The compiled programs, plain and accelerated, with the seconds taken; and their operands."""
    params, apply = model.make(model.shape)
    x = jnp.asarray(np.random.default_rng(0).normal(size=model.shape), jnp.float32)

    def loss(params: Any, x: Any) -> Any:
        return (apply(params, x) ** 2).mean()

    def step(params: Any, state: Any, x: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(params, x)
        updates, state = OPTIMIZER.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    operands = {
        "forward": (params, x),
        "training step": (params, OPTIMIZER.init(params), x),
    }
    functions = {"forward": apply, "training step": step}
    compiled: dict[str, Any] = {}
    for kind, on in (("plain", False), ("accelerated", True)):
        with jaxconv.accelerate(on):
            for name, function in functions.items():
                start = time.perf_counter()
                compiled[f"{kind} {name}"] = jax.jit(function).lower(*operands[name]).compile()
                compiled[f"{kind} {name} seconds"] = time.perf_counter() - start
    return compiled, operands


def torch_calls(model: Model) -> dict[str, Callable[[], None]]:
    """The same in torch, in both memory formats."""
    if torch is None or model.torch is None:
        return {}
    import models_torch

    values = np.random.default_rng(0).normal(size=model.shape).astype(np.float32)
    sequence = model.name.startswith("Mamba")
    calls: dict[str, Callable[[], None]] = {}
    for last in (False, True) if values.ndim == 4 else (False,):
        x = torch.from_numpy(values if sequence else np.moveaxis(values, -1, 1).copy())
        network = model.torch(models_torch)
        if last:
            network = network.to(memory_format=torch.channels_last)
            x = x.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-4)

        def forward(network: Any = network, x: Any = x) -> None:
            with torch.no_grad():
                network(x)

        def step(network: Any = network, x: Any = x, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            (network(x) ** 2).mean().backward()
            optimizer.step()

        form = "torch last" if last else "torch"
        calls |= {f"{form} forward": forward, f"{form} training step": step}
    return calls


def difference(got: Any, wanted: Any) -> float:
    """Euclidean distance over size, of all gradients together."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    parts = [(np.asarray(g, np.float64), np.asarray(w, np.float64)) for g, w in pairs]
    apart = sum(float(((g - w) ** 2).sum()) for g, w in parts)
    return math.sqrt(apart / sum(float((w**2).sum()) for _, w in parts))


def compare(model: Model) -> dict[str, float]:
    """How far gradients are apart, and each one's error."""
    params, apply = model.make(model.shape)
    x = np.random.default_rng(0).normal(size=model.shape).astype(np.float32)
    found: dict[str, Any] = {}
    with jax.enable_x64(True):
        for dtype in ("float32", "float64"):
            at, images = jax.tree.map(lambda leaf, to=dtype: leaf.astype(to), (params, x))
            for kind, on in zip(KINDS, (False, True), strict=True):
                with jaxconv.accelerate(on):
                    gradient = jax.jit(jax.grad(lambda p, x: (apply(p, x) ** 2).mean()))
                    found[f"{kind} {dtype}"] = jax.device_get(gradient(at, images))
    exact = found["plain float64"]
    errors = {f"{kind} error": difference(found[f"{kind} float32"], exact) for kind in KINDS}
    return errors | {"apart": difference(found["accelerated float64"], exact)}


def agree(row: dict[str, Any]) -> bool:
    """Whether gradients are the same, as far as the network lets them."""
    most = max(TOLERANCE, 4 * row["plain error"])
    return row["apart"] <= TOLERANCE and row["accelerated error"] <= most


def measure(model: Model, seconds: float, with_torch: bool) -> list[dict[str, Any]]:
    """A row for the forward pass and one for the training step."""
    errors = compare(model)
    jax.clear_caches()
    compiled, operands = programs(model)

    def call(kind: str, name: str) -> Callable[[], None]:
        program, arguments = compiled[f"{kind} {name}"], operands[name]

        def run() -> None:
            jax.block_until_ready(program(*arguments))

        return run

    calls = {f"{kind} {name}": call(kind, name) for kind in KINDS for name in PASSES}
    best = interleave(calls | (torch_calls(model) if with_torch else {}), seconds)
    rows = []
    for name in PASSES:
        row: dict[str, Any] = {"model": model.name, "pass": name, **errors}
        row |= {kind: best[f"{kind} {name}"] for kind in KINDS}
        row |= {f"{kind} compile": compiled[f"{kind} {name} seconds"] for kind in KINDS}
        row["ratio plain"] = row["plain"] / row["accelerated"]
        torchs = [best[f"{form} {name}"] for form in FORMS if f"{form} {name}" in best]
        if torchs:
            row["torch"] = min(torchs)
            row["ratio torch"] = min(torchs) / row["accelerated"]
        rows.append(row)
    return rows


KINDS, PASSES, FORMS = (
    ("plain", "accelerated"),
    ("forward", "training step"),
    ("torch", "torch last"),
)


def table(rows: list[dict[str, Any]]) -> Table:
    """Milliseconds, ratios, seconds to compile."""
    found = Table(title="Whole models, float32: milliseconds and ratios", box=box.SIMPLE)
    found.add_column("model")
    found.add_column("pass")
    columns = ("plain", "accelerated", "torch", "x plain", "x torch", "compile plain")
    for name in (*columns, "compile acc.", "apart", "plain error", "acc. error"):
        found.add_column(name, justify="right")
    for row in rows:
        times = [
            f"{1e3 * row[k]:.3g}" if k in row else "" for k in ("plain", "accelerated", "torch")
        ]
        ratios = [f"{row[k]:.2f}" if k in row else "" for k in ("ratio plain", "ratio torch")]
        compiles = [f"{row[f'{kind} compile']:.1f} s" for kind in KINDS]
        errors = [f"{row[key]:.0e}" for key in ("apart", "plain error", "accelerated error")]
        found.add_row(row["model"], row["pass"], *times, *ratios, *compiles, *errors)
    return found


def chart(rows: list[dict[str, Any]], path: str) -> None:
    """Bars: times as fast as plain, and as torch."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 0.42 * len(rows) + 1.6))
    place = np.arange(len(rows))
    for at, (peer, colour) in enumerate((("plain", "#0072B2"), ("torch", "#E69F00"))):
        values = np.array([row.get(f"ratio {peer}", math.nan) for row in rows])
        bars = axis.barh(place + (at - 0.5) * 0.4, values - 1, 0.4, 1, label=peer, color=colour)
        axis.bar_label(bars, [f"{v:.1f}" if v == v else "" for v in values], fontsize=7)
    axis.set_xscale("log")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(place, [f"{row['model']}, {row['pass']}" for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("accelerated: times as fast (log scale; right of 1 is faster)")
    axis.set_title("jaxconv.accelerate() on whole models,\nagainst the same model plain, and torch")
    axis.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--no-torch", action="store_true", help="leave torch out")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each program")
    parser.add_argument("--json", default="", help="where the numbers are written")
    parser.add_argument("--chart", default="", help="where the bar chart is written (PNG)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure all that was asked for; returns the exit code."""
    args = parse(argv)
    work = [model for model in MODELS if args.only in model.name]
    if not work:
        print(f"models: no model has {args.only!r} in its name", file=sys.stderr)
        return 2
    if torch is None:
        print("models: torch is not installed; plain and accelerated alone", file=sys.stderr)
    warnings.filterwarnings("ignore", message="scatter inputs")  # batch statistics, in float64
    console, rows = Console(width=None if sys.stdout.isatty() else 165), []
    progress = Console(stderr=True)
    for model in track(work, "models", console=progress, disable=not console.is_terminal):
        rows += measure(model, args.seconds, not args.no_torch)
        jax.clear_caches()
    console.print(table(rows))
    console.print(", ".join(f"{key} {value}" for key, value in machine().items()))
    for peer in ("plain", "torch"):
        for name in PASSES:
            ratios = [
                r[f"ratio {peer}"] for r in rows if r["pass"] == name and f"ratio {peer}" in r
            ]
            if ratios:
                mean, least = geometric_mean(ratios), min(ratios)
                print(f"{peer}, {name}: geometric mean {mean:.2f}, least {least:.2f}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"machine": machine(), "argv": sys.argv[1:], "rows": rows}, file, indent=1)
    if args.chart:
        chart(rows, args.chart)
    wrong = sorted({row["model"] for row in rows if not agree(row)})
    for name in wrong:
        print(f"models: {name}: gradients differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
