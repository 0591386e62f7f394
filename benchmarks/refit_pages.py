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
from statistics import fmean
from typing import Any

import torch
from matplotlib.figure import Figure
from refit_training import RATE_EPOCHS, RATE_KEEP, RATES

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


#: In the order of the page; the first three are what merging gives without any training.
UNTRAINED = {"at once": "algebraic", "recalibrated": "recalibrated", "refit": "refit"}
TRAINED = (
    *("at once", "at once, ReLU6 behind", "block distillation", "fading", "progressive", "refit"),
)
#: Whose lines the picture has, and their colours.
DRAWN = {
    "at once": "#0072B2",
    "at once, ReLU6 behind": "#E69F00",
    "progressive": "#009E73",
    "refit": "#D55E00",
}


def training_page(models: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    lines = [
        "# Accuracy against epochs: at once, progressive, and from a refit",
        "",
        machine(),
        "",
        "Handwritten digits at 64x64 (1,078 training images, 719 validation images by other "
        "writers), settings of the recipe `digits`; masks of the digits study. Top-1 accuracy in "
        "percent, the mean over seeds of training (all start from one pre-trained network) with "
        "the lowest and the highest where there are several; one validation set of 719 images: a "
        "single accuracy is known to about +-2 points. Every way has the learning rate that is "
        "better for it, of the recipe's and half of it, at 5 kept blocks, 3 epochs and seed 0 "
        "(`python benchmarks/refit_training.py`).",
        "",
        "`at once`: the activations are removed before the first epoch, nothing stands behind "
        "merged blocks; `ReLU6 behind`: the same with the paper's free activation (its stage 2). "
        "`fading`: they fade over the first half of the epochs (all of a single one). `block "
        "distillation`: at once, with the difference to the original's block outputs in the loss. "
        "`progressive`: both. `refit`: from the refit of the merged network, which has read 256 "
        "training images without labels.",
        "",
    ]
    for model, known in models.items():
        lines += [f"## {model} ({known['pretrained']['accuracy']:.1f} % before)", ""]
        keeps = sorted({e["keep"] for e in known.values() if "keep" in e}, reverse=True)
        epochs = sorted({e["epochs"] for e in known.values() if e.get("epochs")})
        rows = []
        for keep in keeps:
            for method in ("recalibrated", *TRAINED):
                start = known.get(f"{keep} {UNTRAINED.get(method)}")
                found = [accuracies(known, keep, method, number) for number in epochs]
                if start is None and not any(found):
                    continue
                rate = {e["rate"] for e in runs(known, keep, method)}
                rows.append(
                    [
                        str(keep),
                        method,
                        "/".join(f"{one:g}" for one in sorted(rate)),
                        f"{start['accuracy']:.1f}" if start else "",
                        *map(cell, found),
                    ]
                )
        heads = ("kept", "method", "rate", "without training", *(f"{n} epochs" for n in epochs))
        lines += table_of(heads, rows)
    return lines


def runs(known: Mapping[str, Entry], keep: int, method: str) -> list[Entry]:
    """The trainings of a way, at the learning rate that it was given for all keep counts."""
    found = [e for e in known.values() if (e.get("keep"), e.get("method")) == (keep, method)]
    every = [e for e in known.values() if e.get("method") == method]
    counts = {rate: sum(e["rate"] == rate for e in every) for rate in {e["rate"] for e in every}}
    best = better_rate(known, method) or max(counts, key=lambda rate: counts[rate], default=None)
    return [e for e in found if e["rate"] == best]


def better_rate(known: Mapping[str, Entry], method: str) -> float | None:
    """As the benchmark chose it; of equals the recipe's own."""
    tried = [
        known.get(f"{RATE_KEEP} {method} {RATE_EPOCHS} seed 0 rate {rate:g}") for rate in RATES
    ]
    present = [entry for entry in tried if entry]
    return max(present, key=lambda entry: entry["accuracy"])["rate"] if present else None


def accuracies(known: Mapping[str, Entry], keep: int, method: str, epochs: int) -> list[float]:
    return [e["accuracy"] for e in runs(known, keep, method) if e["epochs"] == epochs]


def cell(found: Sequence[float]) -> str:
    if not found:
        return ""
    span = f" ({min(found):.1f} to {max(found):.1f})" if len(found) > 1 else ""
    return f"{fmean(found):.1f}{span}"


def training_figure(known: Mapping[str, Entry]) -> Figure:
    keeps = sorted({e["keep"] for e in known.values() if "keep" in e}, reverse=True)
    epochs = sorted({e["epochs"] for e in known.values() if e.get("epochs")})
    figure = Figure(figsize=(max(7, 3 * len(keeps)), 3.7), layout="constrained")
    panels = figure.subplots(1, len(keeps), sharey=True, squeeze=False)[0]
    places = range(len(epochs) + 1)
    for panel, keep in zip(panels, keeps, strict=True):
        for method, colour in DRAWN.items():
            untrained = known.get(f"{keep} {UNTRAINED.get(method)}")
            first = untrained["accuracy"] if untrained else None
            trained = [accuracies(known, keep, method, number) for number in epochs]
            values = [first, *(fmean(found) if found else None for found in trained)]
            if not any(trained):
                continue
            points = [(x, y) for x, y in zip(places, values, strict=True) if y is not None]
            xs, ys = [x for x, _ in points], [y for _, y in points]
            sides = [wilson_interval(y / 100, VALIDATION_IMAGES) for y in ys]
            bars = [
                [y - 100 * low for y, (low, _) in zip(ys, sides, strict=True)],
                [100 * high - y for y, (_, high) in zip(ys, sides, strict=True)],
            ]
            how = {"marker": "o", "capsize": 2, "color": colour, "label": method}
            panel.errorbar(xs, ys, yerr=bars, **how)
        panel.axhline(known["pretrained"]["accuracy"], color="grey", linestyle=":", linewidth=1)
        panel.set(title=f"{keep} of 17 blocks kept", xlabel="epochs of training")
        panel.set_xticks(list(places), ["0", *map(str, epochs)])
    panels[0].set_ylabel("top-1 accuracy (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
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
        for number, model in enumerate(sorted(models, key=lambda name: name != "mobilenetv2_035")):
            name = TRAINING if number == 0 else f"{TRAINING}_{model}"
            save_figure(training_figure(models[model]), RESULTS / f"{name}.png")
        fields = ("key", "model", "keep", "method", "epochs", "seed", "rate", "accuracy")
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
