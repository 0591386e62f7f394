"""Pages and pictures of the refit benchmarks, from their results as JSON lines.

    python benchmarks/refit_pages.py --agreement DIR --table DIR --training DIR

Reads what ``refit_agreement.py`` and ``refit_training.py`` have left in their folders and writes
``refit_agreement_local`` and ``refit_training_local`` (.md, .png) and their results as CSV into
results/, next to this file.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from dshrink.fronts import wilson_interval
from dshrink.plots import save_figure
from dshrink.version import __version__
from latency_tables.csv_lines import write_csv
from latency_tables.io import load_table
from latency_tables.predictor import predict

RESULTS = Path(__file__).parent / "results"
AGREEMENT, TRAINING = "refit_agreement_local", "refit_training_local"
PADDING = "repad"
TITLES = {
    "algebraic": "algebraic merge",
    "recalibrated": "norms recalibrated, then merged",
    "linearised": "activations linearised, then merged",
    "merged only": "refit of merged convolutions only",
    "refit": "refit",
}
VALIDATION_IMAGES = 719
Entry = Mapping[str, Any]


def read(file: Path) -> dict[str, Entry]:
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {entry["key"]: entry for entry in lines}


def machine() -> str:
    cpu = next(
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return (
        f"Machine: {cpu}, two shared cores, {platform.system()}; torch {torch.__version__}, "
        f"dshrink {__version__}. {datetime.now(UTC):%Y-%m-%d}."
    )


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def percent(found: Entry | None, *, interval: bool = True) -> str:
    if found is None:
        return ""
    text = f"{found['agreement']:.0f} %"
    return f"{text} ({found['low']:.0f} to {found['high']:.0f})" if interval else text


def agreement_page(known: Mapping[str, Entry], folder: Path) -> list[str]:
    table = load_table(folder)
    names = table.block_names
    whole = predict(table, "1" * len(names), PADDING).latency_ms
    lines = [
        "# Agreement with the original after a refit, without labels or training",
        "",
        machine(),
        "",
        "EfficientNet-Lite0 (tf_efficientnet_lite0) with pre-trained ImageNet weights at 224x224; "
        "padding repad, no free activation. 19 photographs to fit (152 random crops, of which 30 "
        "crops of 4 photographs choose the ridge), 19 others to test (95 crops). Agreement: the "
        "top-1 class is the original's; 95 % intervals by drawing test photographs with "
        "replacement. `python benchmarks/refit_agreement.py`. Latencies are predictions of a table "
        f"measured on this machine ({whole:.2f} ms unmerged; one thread, batch 1).",
        "",
        "## Each block alone",
        "",
        "Its merged convolution refitted, norms behind matched where that helps; nothing else.",
        "",
    ]
    rows = []
    for block, name in enumerate(names):
        if found := known.get(f"single {block}"):
            methods, mask = found["methods"], found["mask"]
            refit = methods["merged only"]
            saved = whole - predict(table, mask, PADDING).latency_ms
            rows.append(
                [
                    f"{block} ({name})",
                    f"{saved:+.3f}",
                    percent(methods.get("algebraic"), interval=False),
                    percent(refit),
                    f"{refit['in_top5']:.0f} %",
                    f"{refit['explained'][0]:.2f}",
                    f"{refit['error']:.3f}",
                ]
            )
    heads = (
        *("block", "saves ms", "algebraic", "refit (95 %)", "in top 5"),
        *("R^2 held out", "KL"),
    )
    lines += table_of(heads, rows)
    lines += [
        "## Growing plans",
        "",
        "In the order of what a block loses alone (KL divergence on the held-out images) for what "
        "it saves; blocks that save nothing on this CPU (their kernels are 5x5, or their maps "
        "large) are kept. The last line merges four that a refit keeps well, whatever they cost.",
        "",
    ]
    rows = []
    others = [known["other 4"]] if "other 4" in known else []
    for entry in (*growing(known), *others):
        methods = entry["methods"]
        predicted = predict(table, entry["mask"], PADDING).latency_ms
        rows.append(
            [
                f"{len(entry['blocks'])}: {' '.join(map(str, entry['blocks']))}",
                f"{predicted:.2f} ({whole / predicted:.2f}x)",
                *(percent(methods.get(name), interval=name == "refit") for name in TITLES),
                f"{methods['refit']['in_top5']:.0f} %",
                f"{methods['refit']['error']:.3f}",
            ]
        )
    lines += table_of(
        ("blocks merged", "predicted ms", *TITLES.values(), "refit, in top 5", "refit, KL"), rows
    )
    if more := [entry for key, entry in known.items() if key.startswith("crops ")]:
        lines += ["## By the number of crops", ""]
        lines += table_of(
            ("blocks merged", "crops", "refit (95 %)", "KL"),
            [
                [
                    " ".join(map(str, entry["blocks"])),
                    entry["key"].split()[1],
                    percent(entry["methods"]["refit"]),
                    f"{entry['methods']['refit']['error']:.3f}",
                ]
                for entry in more
            ],
        )
    counts = [entry for key, entry in known.items() if key.startswith("photographs ")]
    if counts:
        blocks = " ".join(map(str, counts[0]["blocks"]))
        lines += [
            f"## By the number of photographs (blocks {blocks} merged)",
            "",
            "Merged convolutions only. Always 152 crops: fewer photographs give more crops each.",
            "",
        ]
        rows = [
            [
                entry["key"].split()[1],
                percent(entry["methods"]["merged only"]),
                f"{entry['methods']['merged only']['error']:.3f}",
            ]
            for entry in counts
        ]
        lines += table_of(("photographs", "refit (95 %)", "KL"), rows)
    if timed := known.get("time"):
        refit, peak = timed["methods"]["refit"], known["memory"]["peak_gib"]
        lines += [
            "## Time and memory",
            "",
            f"All 16 blocks, 64 images, two threads: {refit['seconds']:.0f} s, at most "
            f"{peak:.1f} GiB in the process (agreement {refit['agreement']:.0f} %: such a plan "
            "needs training).",
            "",
        ]
    return lines


def growing(known: Mapping[str, Entry]) -> list[Entry]:
    found = [entry for key, entry in known.items() if key.startswith("growing ")]
    return sorted(found, key=lambda entry: len(entry["blocks"]))


def agreement_figure(known: Mapping[str, Entry]) -> Figure:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    entries = growing(known)
    counts = [len(entry["blocks"]) for entry in entries]
    for name, title in TITLES.items():
        points = [
            (c, e["methods"][name])
            for c, e in zip(counts, entries, strict=True)
            if name in e["methods"]
        ]
        if len(points) < 2:
            continue
        xs = [count for count, _ in points]
        ys = [found["agreement"] for _, found in points]
        line = left.plot(xs, ys, marker="o", label=title)[0]
        if name == "refit":
            low, high = ([found[side] for _, found in points] for side in ("low", "high"))
            left.fill_between(xs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    left.set_xticks(counts)
    left.set(xlabel="merged blocks", ylabel="top-1 agreement with the original (%)", ylim=(0, 100))
    left.set_title("Without labels or training: EfficientNet-Lite0")
    left.legend(loc="best")
    counted = [
        (int(key.split()[1]), entry["methods"]["merged only"])
        for key, entry in known.items()
        if key.startswith("photographs ")
    ]
    if counted:
        xs, found = [count for count, _ in counted], [one for _, one in counted]
        ys = [one["agreement"] for one in found]
        errors = [
            [y - one["low"] for y, one in zip(ys, found, strict=True)],
            [one["high"] - y for y, one in zip(ys, found, strict=True)],
        ]
        right.errorbar(xs, ys, yerr=errors, marker="o", capsize=3)
    right.set_xticks([count for count, _ in counted])
    right.set(xlabel="photographs to fit", ylim=(0, 100))
    right.set_title("Two blocks merged, by the number of photographs")
    return figure


def training_page(models: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    lines = [
        "# Accuracy against epochs: at once, progressive, and from a refit",
        "",
        machine(),
        "",
        "Handwritten digits at 64x64 (1,078 training images, 719 validation images by other "
        "writers), settings of the recipe `digits`, no free activation; masks of the digits study. "
        "Top-1 accuracy in percent; one validation set of 719 images: differences below 2.5 points "
        "are not significant (95 %). The refit reads 256 training images without labels; from it "
        "the learning rate is half of the recipe's. `progressive`: activations fade over the first "
        "half of the epochs (all of a single one), block distillation 1. "
        "`python benchmarks/refit_training.py`.",
        "",
    ]
    for model, known in models.items():
        lines += [f"## {model} ({known['pretrained']['accuracy']:.1f} % before)", ""]
        keeps = sorted({e["keep"] for e in known.values() if "keep" in e}, reverse=True)
        epochs = sorted({e["epochs"] for e in known.values() if e.get("epochs")})
        rows = []
        for keep in keeps:
            for method, at_0 in (("at once", "algebraic"), ("progressive", ""), ("refit", "refit")):
                found = [mean(known, keep, method, number) for number in epochs]
                start = known.get(f"{keep} {at_0}")
                cells = ["" if one is None else f"{one:.1f}" for one in found]
                rows.append(
                    [str(keep), method, f"{start['accuracy']:.1f}" if start else "", *cells]
                )
            if again := known.get(f"{keep} recalibrated"):
                rows.append(
                    [str(keep), "recalibrated", f"{again['accuracy']:.1f}", *[""] * len(epochs)]
                )
        lines += table_of(
            ("kept", "method", "after 0 epochs", *(f"after {n}" for n in epochs)), rows
        )
    return lines


def mean(known: Mapping[str, Entry], keep: int, method: str, epochs: int) -> float | None:
    """Over the seeds."""
    found = [
        entry["accuracy"]
        for entry in known.values()
        if (entry.get("keep"), entry.get("method"), entry.get("epochs")) == (keep, method, epochs)
    ]
    return sum(found) / len(found) if found else None


def training_figure(known: Mapping[str, Entry]) -> Figure:
    keeps = sorted({e["keep"] for e in known.values() if "keep" in e}, reverse=True)
    epochs = sorted({e["epochs"] for e in known.values() if e.get("epochs")})
    figure = Figure(figsize=(3 * len(keeps), 3.4), layout="constrained")
    panels = figure.subplots(1, len(keeps), sharey=True, squeeze=False)[0]
    places = range(len(epochs) + 1)
    for panel, keep in zip(panels, keeps, strict=True):
        for method, start in (("at once", "algebraic"), ("progressive", None), ("refit", "refit")):
            first = known[f"{keep} {start}"]["accuracy"] if start else None
            values = [first, *(mean(known, keep, method, number) for number in epochs)]
            points = [(x, y) for x, y in zip(places, values, strict=True) if y is not None]
            xs, ys = [x for x, _ in points], [y for _, y in points]
            sides = [wilson_interval(y / 100, VALIDATION_IMAGES) for y in ys]
            bars = [
                [y - 100 * low for y, (low, _) in zip(ys, sides, strict=True)],
                [100 * high - y for y, (_, high) in zip(ys, sides, strict=True)],
            ]
            panel.errorbar(xs, ys, yerr=bars, marker="o", capsize=2, label=method)
        panel.axhline(known["pretrained"]["accuracy"], color="grey", linestyle=":", linewidth=1)
        panel.set(title=f"{keep} of 17 blocks kept", xlabel="epochs of training")
        panel.set_xticks(list(places), ["0", *map(str, epochs)])
    panels[0].set_ylabel("top-1 accuracy (%)")
    panels[-1].legend(loc="lower right")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agreement", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--training", type=Path)
    asked = parser.parse_args()
    if asked.agreement:
        known = read(asked.agreement / "results.jsonl")
        page = agreement_page(known, asked.table or asked.agreement / "table")
        (RESULTS / f"{AGREEMENT}.md").write_text("\n".join(page), encoding="utf-8")
        save_figure(agreement_figure(known), RESULTS / f"{AGREEMENT}.png")
        lines = [
            (entry["key"], entry["mask"], name, *(found[one] for one in COLUMNS))
            for entry in known.values()
            for name, found in entry.get("methods", {}).items()
        ]
        write_csv(RESULTS / f"{AGREEMENT}.csv", ("plan", "keep_mask", "method", *COLUMNS), lines)
    if asked.training:
        models = {
            file.parent.name: read(file) for file in sorted(asked.training.glob("*/results.jsonl"))
        }
        page = training_page(models)
        (RESULTS / f"{TRAINING}.md").write_text("\n".join(page), encoding="utf-8")
        first = min(models, key=lambda model: model != "mobilenetv2_035")
        save_figure(training_figure(models[first]), RESULTS / f"{TRAINING}.png")
        fields = ("key", "model", "keep", "method", "epochs", "seed", "accuracy")
        write_csv(
            RESULTS / f"{TRAINING}.csv",
            fields,
            [
                [e.get(name, "") for name in fields]
                for known in models.values()
                for e in known.values()
            ],
        )


COLUMNS = ("agreement", "low", "high", "in_top5", "error", "seconds")

if __name__ == "__main__":
    main()
