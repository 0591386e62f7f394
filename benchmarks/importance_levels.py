"""Plans by importances of two levels, refit and recalibrate, after the same fine-tuning.

    python benchmarks/importance_levels.py --training DIR --table DIR --out DIR

The network that ``refit_training.py`` has pre-trained on digits. Importances of all spans are
measured at both levels on the same images, the dynamic program finds a plan at each share of the
original latency, and both plans are fine-tuned by the recipe ``digits`` from the original weights.
Without a table of spans in ``--table`` it is measured first. Importances, plans and trainings that
exist are used again. Writes a page into results/, next to this file. Allow half an hour.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

from refit_pages import RESULTS, machine, table_of

from dshrink.importance.settings import ImportanceSettings, Level
from dshrink.network.references import ModelChoice, Size
from dshrink.operations.finetune import finetune_by_plan
from dshrink.operations.importance import measure_importance
from dshrink.operations.profile import profile_network
from dshrink.operations.search import DpRequest, search_tables
from dshrink.search.plan import save_plan
from dshrink.study.recipe import load_recipe
from latency_tables.io import load_table
from profiler.target import Target

MODEL = "mobilenetv2_035"
LEVELS = ("recalibrate", "refit:128")
SHARES = (0.9, 0.8, 0.7)
VALIDATION_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A plan of a level at a share of the original's latency, fine-tuned."""

    level: str
    share: float
    mask: str
    predicted_ms: float
    accuracy: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--remark", help="a sentence for the end of the page")
    asked = parser.parse_args()
    data = str(asked.training / "digits")
    choice = ModelChoice(
        model=MODEL,
        resolution=Size(64, 64),
        in_channels=1,
        weights=str(asked.training / MODEL / "pretrained" / "weights.safetensors"),
    )
    if not (asked.table / "table.json").exists():
        plain = replace(choice, weights="initial", classes=10)
        profile_network(plain, asked.table, Target(device="local"), segments="spans", notice=print)
    table = load_table(asked.table)
    settings = load_recipe("digits").finetune
    found: list[Trained] = []
    seconds: dict[str, list[float]] = {}
    for level in LEVELS:
        name = level.partition(":")[0]
        file = asked.out / f"{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        result = measure_importance(
            ImportanceSettings(
                choice=choice,
                data=data,
                level=Level.parse(level),
                images=VALIDATION_IMAGES,
                augment=False,
            ),
            file,
            notice=print,
        )
        assert result.table is not None
        networks = {e.candidate: e.seconds for e in result.table.evaluations.values()}
        seconds[level] = sorted(networks.values())
        for share in SHARES:
            wanted = DpRequest(importance=file, share=share, allow_unfit=True)
            plan = search_tables([table], wanted).plans[0]
            plan_file = asked.out / f"{name}_{share}.json"
            save_plan(plan, plan_file)
            accuracies = []
            for seed in asked.seeds:
                tuned = finetune_by_plan(
                    choice,
                    str(plan_file),
                    data,
                    asked.out / f"{name}_{share}_seed{seed}",
                    replace(settings, seed=seed),
                )
                assert tuned is not None
                accuracies.append(tuned.accuracy_percent)
            entry = Trained(
                level=level,
                share=share,
                mask=plan.mask,
                predicted_ms=plan.predicted.latency_ms if plan.predicted else 0.0,
                accuracy=sum(accuracies) / len(accuracies),
            )
            print(entry, flush=True)
            found.append(entry)
    lines = [
        "# Importances by refit and by recalibration, after the same fine-tuning",
        "",
        machine(),
        "",
        f"{MODEL} on handwritten digits at 64x64. Importances of all keys at both levels on the "
        f"same {VALIDATION_IMAGES} validation images; plans of the dynamic program at shares of "
        f"the original latency; fine-tuned for {settings.epochs} epochs of the recipe `digits` "
        f"from the original weights, mean over {len(asked.seeds)} seed(s), 719 validation images: "
        "differences below 2.5 points are not significant. `python "
        "benchmarks/importance_levels.py`.",
        "",
        *table_of(
            ("level", "share", "predicted ms", "mask", "top-1 accuracy %"),
            (
                (
                    e.level,
                    f"{e.share:g}",
                    f"{e.predicted_ms:.3f}",
                    e.mask.replace("|", "\\|"),
                    f"{e.accuracy:.1f}",
                )
                for e in found
            ),
        ),
        *(
            f"{level}: {mean(taken):.1f} s a network on one thread (median {median(taken):.1f}, at "
            f"most {taken[-1]:.1f})."
            for level, taken in seconds.items()
        ),
        "",
        *([asked.remark, ""] if asked.remark else []),
    ]
    (RESULTS / "importance_levels_local.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
