"""``dshrink demo``: the whole journey on this machine, from profile to pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options
from dshrink.cli.bench import print_results, run_bench
from dshrink.cli.console import out
from dshrink.cli.merge import run_merge
from dshrink.cli.profile import run_profile
from dshrink.cli.render import summary_lines

if TYPE_CHECKING:
    from dshrink.search.plan import Plan
    from latency_tables.table import LatencyTable

#: Share of what can be saved at all that each of the three budgets asks for.
SAVINGS = (0.3, 0.6, 0.9)


def register(app: typer.Typer) -> None:
    app.command(name="demo")(command)


def command(
    folder: Annotated[Path, typer.Option("--out", help="folder to write into")] = Path("demo"),
    model: Annotated[str, typer.Option(help="a timm name")] = "mobilenetv2_100",
    weights: Annotated[str, typer.Option(help="pretrained, random, or a file")] = "random",
    threads: options.Threads = 1,
    seed: options.Seed = 0,
) -> None:
    """Profile a network here, check the table, plan, merge, verify, benchmark, draw.

    An interrupted run goes on where it was: give the same command again.
    """
    from profiler.conditions import Target

    target = Target(threads=threads)
    out.rule("1 of 5: measure every piece of the network on this machine")
    table_dir = folder / "table"
    table = run_profile(model, table_dir, target, dense=True, seed=seed).table
    out.print("\n".join(summary_lines(table)))

    out.rule("2 of 5: plan for three latency budgets")
    plans = _plan(table, folder)

    out.rule("3 of 5: merge, and prove that nothing changed")
    files = []
    for path in plans:
        file = folder / f"{path.stem}.onnx"
        merge = run_merge(model, str(path), file, weights=weights, seed=seed)
        out.print(f"{file.name}: {merge['blocks_merged']} blocks in {merge['merge_s']:.2f} s")
        out.print(f"  {merge['certificate_line']}")
        out.print(
            f"  in ONNX Runtime the file differs from torch by {merge['onnx_difference']:.1e}"
        )
        files.append(str(file))

    out.rule("4 of 5: measure the networks, beside what the table predicted")
    results_file = folder / "results.csv"
    results = run_bench([model, *files], [], [table_dir], results_file, target, seed=seed)
    print_results(results)

    out.rule("5 of 5: pictures")
    pictures = _draw(table, plans, folder, results_file)
    base = results[0].latency_ms
    out.rule("summary")
    for result in results[1:]:
        if base and result.latency_ms:
            out.print(
                f"{result.network}: {result.kept_blocks} of {table.block_count} blocks kept, "
                f"{base / result.latency_ms:.2f} times the frames per second of {model}"
            )
    if weights == "random":
        out.print("(random weights: speed and exactness are real; accuracy needs trained ones)")
    out.print("files written:")
    certificates = [f"{file}.certificate.json" for file in files]
    tables = [table_dir / name for name in ("table.csv", "table.json", "journal.jsonl")]
    for name in (*tables, *plans, *files, *certificates, results_file, *pictures):
        out.print(f"  {name}")


def _plan(table: LatencyTable, folder: Path) -> list[Path]:
    """Plan files for budgets between the original's latency and the smallest possible one."""
    from dshrink.models import load_network
    from dshrink.plans import bind_to_network
    from dshrink.search.goal import smallest_latency
    from dshrink.search.greedy import greedy
    from dshrink.search.plan import save_plan
    from latency_tables.predictor import predict

    network = load_network(table.model, resolution=table.resolution)
    base_ms = predict(table, "1" * table.block_count).latency_ms
    least_ms = smallest_latency(table).latency_ms
    paths = []
    for number, saving in enumerate(SAVINGS, start=1):
        budget_ms = base_ms - saving * (base_ms - least_ms)
        # A table too noisy to be fit for search has said so above; the journey goes on.
        plan = bind_to_network(greedy(table, budget_ms=budget_ms, allow_unfit=True), network)
        path = folder / f"plan{number}.json"
        save_plan(plan, path)
        _say(plan, path, budget_ms)
        paths.append(path)
    return paths


def _say(plan: Plan, path: Path, budget_ms: float) -> None:
    assert plan.predicted is not None
    out.print(
        f"{path.name}: at most {budget_ms:.3f} ms -> keep {plan.kept_count} of "
        f"{len(plan.keep_mask)} blocks ({plan.keep_mask}), "
        f"predicted {plan.predicted.latency_ms:.3f} ms"
    )


def _draw(
    table: LatencyTable, plans: Sequence[Path], folder: Path, results_file: Path
) -> list[Path]:
    from dshrink import plots
    from dshrink.search.plan import load_plan

    loaded = {path.stem: load_plan(path) for path in plans}
    figures = {
        "blocks": plots.blocks_figure(table),
        "memory": plots.memory_figure(table),
        "kept": plots.kept_figure(loaded, table=table),
        "throughput": plots.throughput_figure(plots.load_results(results_file)),
    }
    if table.hold_out:
        figures["predicted"] = plots.predicted_figure(table)
    written: list[Path] = []
    for name, figure in figures.items():
        written += plots.save_figure(figure, folder / f"{name}.png")
    return written
