"""How fast is jaxconv? Real networks' layers, forward and backward, beside lax and torch.

    python experiments/speed.py [--device cpu] [--only depthwise] [--dtype float32]
                                [--random 50] [--in-scan] [--memory] [--compile]
                                [--repeat 2] [--json F] [--chart F]

Every cell of `speed_cells.py` is computed by jaxconv and by `lax`, each in both layouts, and by
torch, contiguous and channels-last, on the same random numbers: first the results are compared,
then all are timed, taking turns in one process, the best of several runs. Ratios are the best of a
peer over the best of jaxconv, so above 1 jaxconv is faster; "layout" is the worse of the two ratios
to lax in the same layout. A pool's input gradient is what is left to be done after the forward
pass, from what that has kept (the winners; lax keeps the image); "both" is the two passes in one.

--in-scan     each pass also inside a `lax.scan` of jaxconv's, against itself outside
--memory      temporary bytes, over those of operands and result; and lax's
--compile     seconds to compile, and lax's
--random N    not the table but N layers drawn by lot, which nobody tuned on (--seed S: others)
--repeat N    the whole table N times, for machines that have slow minutes: the best of each time

Exit code: 0, 1 where results differ, 2 for bad input. Without torch, lax alone.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from speed_calls import Pass, jax_call, laxs, ours, torch, torch_call
from speed_cells import CELLS, Cell, drawn

#: Largest difference between jaxconv and lax, over the largest entry.
TOLERANCE = {"float32": 1e-4, "float64": 1e-10, "bfloat16": 2e-2, "float16": 5e-3}
LOOPS = 4
CONTENDERS = ("jaxconv first", "jaxconv last", "lax first", "lax last", "torch", "torch last")


def interleave(calls: dict[str, Callable[[], None]], seconds: float) -> dict[str, float]:
    """The best time of each call, in seconds, all of them taking turns.

    Each turn is a few runs of one call, the first of them not counted: what ran before has left its
    threads awake and the caches full.
    """
    best: dict[str, float] = {}
    for name, call in calls.items():
        call()
        best[name] = _timed(call)
    rounds = 5
    for _ in range(rounds):
        for name, call in calls.items():
            if best[name] > seconds / 2:
                continue
            runs = max(1, min(20, int(seconds / rounds / best[name])))
            if best[name] < seconds / 20:
                call()
            best[name] = min(best[name], *(_timed(call) for _ in range(runs)))
    return best


def _timed(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(cell: Cell, which: str, args: argparse.Namespace) -> dict[str, Any]:
    """All that is measured of one pass of one cell."""
    row: dict[str, Any] = {"cell": cell.name, "pass": which, "dtype": args.dtype}
    jaxs: dict[str, Pass] = {}
    for name, make in (("jaxconv", ours), ("lax", laxs)):
        for last in (False, True):
            key = f"{name} {'last' if last else 'first'}"
            jaxs[key] = jax_call(make, cell, which, last, args.dtype)
            if args.compile:
                row[f"compile {key}"] = compile_seconds(jaxs[key])
            if args.memory:
                row[f"memory {key}"] = temporary(jaxs[key])
    row["error"] = error(jaxs)
    calls: dict[str, Callable[[], None]] = dict(jaxs)
    if torch is not None and not args.no_torch:
        calls["torch"] = torch_call(cell, which, False, args.dtype)
        if cell.rank > 1:
            calls["torch last"] = torch_call(cell, which, True, args.dtype)
    if args.in_scan:
        for last in (False, True):
            key = f"jaxconv {'last' if last else 'first'}"
            calls[f"scan {key}"] = jax_call(ours, cell, which, last, args.dtype, LOOPS)
            calls[f"outside {key}"] = jax_call(ours, cell, which, last, args.dtype, 1)
    best = interleave(calls, args.seconds)
    row |= {key: best[key] / (LOOPS if key.startswith("scan") else 1) for key in best}
    return row | ratios(row)


def compile_seconds(call: Pass) -> float:
    """Tracing, lowering and compiling, with nothing cached."""
    jax.clear_caches()
    start = time.perf_counter()
    call.function.lower(*call.operands).compile()
    return time.perf_counter() - start


def temporary(call: Pass) -> float:
    """Temporary bytes over the bytes of operands and result."""
    found = call.function.lower(*call.operands).compile().memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes
    return found.temp_size_in_bytes / held


def error(calls: dict[str, Pass]) -> float:
    """Largest difference of jaxconv's results from lax's, over the largest entry."""
    want = calls["lax last"].value()
    scale = np.abs(want).max()
    return max(
        float(np.abs(calls[f"jaxconv {layout}"].value() - want).max() / scale)
        for layout in ("first", "last")
    )


def ratios(row: dict[str, Any]) -> dict[str, float]:
    """The columns of the table: above 1, jaxconv is faster."""
    best = min(row["jaxconv first"], row["jaxconv last"])
    found = {
        "lax": min(row["lax first"], row["lax last"]) / best,
        "layout": min(row[f"lax {end}"] / row[f"jaxconv {end}"] for end in ("first", "last")),
    }
    if "torch" in row:
        found["torch"] = min(row["torch"], row.get("torch last", math.inf)) / best
    if "scan jaxconv first" in row:
        found["scan"] = max(
            row[f"scan jaxconv {end}"] / row[f"outside jaxconv {end}"] for end in ("first", "last")
        )
    return {f"ratio {key}": value for key, value in found.items()}


def better(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two measurements as one: the lesser of each time, the larger of the differences."""
    times = {key: min(value, other[key]) for key, value in row.items() if type(value) is float}
    merged = row | times | {"error": float(np.maximum(row["error"], other["error"]))}
    return merged | ratios(merged)


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


RATIOS = ("lax", "torch", "layout", "scan")


def table(rows: list[dict[str, Any]]) -> Table:
    """Times in milliseconds, and ratios."""
    found = Table(title=f"Speed, {rows[0]['dtype']}: milliseconds and ratios", box=box.SIMPLE)
    found.add_column("cell", overflow="fold")
    found.add_column("pass")
    times = [name for name in CONTENDERS if any(name in row for row in rows)]
    shown = [name for name in RATIOS if any(f"ratio {name}" in row for row in rows)]
    extra = [key for key in rows[0] if key.startswith(("memory", "compile"))]
    for name in (*times, *("x " + name for name in shown), *extra):
        found.add_column(name, justify="right")
    for row in rows:
        found.add_row(
            row["cell"],
            row["pass"],
            *(f"{1e3 * row[name]:.3g}" if name in row else "" for name in times),
            *(f"{row[f'ratio {name}']:.2f}" if f"ratio {name}" in row else "" for name in shown),
            *(f"{row[name]:.2f}" for name in extra),
        )
    return found


def summary(rows: list[dict[str, Any]], console: Console) -> None:
    """Geometric means, and the cells where jaxconv gains most and least."""
    for peer in RATIOS:
        key = f"ratio {peer}"
        with_peer = [row for row in rows if key in row]
        if not with_peer:
            continue
        ordered = sorted(with_peer, key=lambda row: row[key])
        name = {"layout": "lax, same layout", "scan": "outside, inside over"}.get(peer, peer)
        mean = geometric_mean(row[key] for row in with_peer)
        console.print(f"{name}: geometric mean {mean:.2f} over {len(with_peer)} cell-passes")
        for title, part in (("least", ordered[:8]), ("most", ordered[:-9:-1])):
            listed = "; ".join(f"{row['cell']}, {row['pass']} {row[key]:.2f}" for row in part)
            console.print(f"  {title}: {listed}")


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    found = {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
    }
    return found | ({"torch": torch.__version__} if torch is not None else {})


def chart(rows: list[dict[str, Any]], path: str) -> None:
    """Bars of the ratio to each peer, one group of bars for each cell-pass."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    peers = [peer for peer in ("lax", "torch") if f"ratio {peer}" in rows[0]]
    figure, axis = pyplot.subplots(figsize=(8, 0.16 * len(rows) * len(peers) / 1.5 + 2))
    place = np.arange(len(rows))
    colours = {"lax": "#0072B2", "torch": "#E69F00"}
    for at, peer in enumerate(peers):
        values = [row.get(f"ratio {peer}", math.nan) for row in rows]
        axis.barh(
            place + (at - 0.5) * 0.4, np.array(values) - 1, 0.4, 1, label=peer, color=colours[peer]
        )
    axis.set_xscale("log")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(place, [f"{row['cell']}, {row['pass']}" for row in rows], fontsize=5)
    axis.invert_yaxis()
    axis.margins(y=0.005)
    axis.set_xlabel("times as fast as the peer's best layout (log scale; right of 1 is faster)")
    axis.set_title(f"jaxconv against its peers, {rows[0]['dtype']}")
    axis.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="", help="cpu, gpu or tpu; JAX's default if not given")
    parser.add_argument("--only", default="", help="cells whose name or pass has this in it")
    parser.add_argument(
        "--random", type=int, default=0, help="so many layers by lot in their place"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the lot")
    parser.add_argument("--dtype", default="float32", choices=sorted(TOLERANCE))
    parser.add_argument("--in-scan", action="store_true", help="also inside lax.scan")
    parser.add_argument("--memory", action="store_true", help="also temporary memory")
    parser.add_argument("--compile", action="store_true", help="also compile times")
    parser.add_argument("--no-torch", action="store_true", help="leave torch out")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each contender and pass")
    parser.add_argument("--repeat", type=int, default=1, help="the whole table so often, the best")
    parser.add_argument("--json", default="", help="where the numbers are written")
    parser.add_argument("--chart", default="", help="where the bar chart is written (PNG)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure all that was asked for; returns the exit code."""
    args = parse(argv)
    if args.device:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(args.device, args.device))
    if args.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    work = [
        (cell, which)
        for cell in (drawn(args.random, args.seed) if args.random else CELLS)
        for which in cell.passes
        if args.only in f"{cell.name}, {which}"
    ]
    if not work:
        print(f"speed: no cell or pass has {args.only!r} in its name", file=sys.stderr)
        return 2
    if torch is None:
        print("speed: torch is not installed; jaxconv is compared with lax alone", file=sys.stderr)
    elif jax.default_backend() != "cpu":
        args.no_torch = True
        print("speed: torch would run on the CPU; jaxconv is compared with lax alone")
    warnings.filterwarnings("ignore", message=".*mkldnn.*")
    console = Console(width=None if sys.stdout.isatty() else 170)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for cell, which in track(
        work * args.repeat,
        "cells",
        console=Console(stderr=True),
        disable=not console.is_terminal,
    ):
        row = measure(cell, which, args)
        found[cell.name, which] = better(row, found.get((cell.name, which), row))
        jax.clear_caches()
    rows = list(found.values())
    console.print(table(rows))
    console.print(", ".join(f"{key} {value}" for key, value in machine().items()))
    summary(rows, console)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"machine": machine(), "argv": sys.argv[1:], "rows": rows}, file, indent=1)
    if args.chart:
        chart(rows, args.chart)
    wrong = [row for row in rows if not row["error"] <= TOLERANCE[args.dtype]]
    for row in wrong:
        print(f"speed: {row['cell']}, {row['pass']} differs from lax by {row['error']:.1e}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
