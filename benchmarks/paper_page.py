"""The page of the paper's experiments, from what devices have measured so far.

    python benchmarks/paper_page.py [--take DIR]

Reads ``results/paper/PLACE/`` next to this file, one folder a device, runtime, precision and launch
mode with what ``dshrink paper EXPERIMENT --out DIR`` wrote there, and writes ``docs/paper.md``.
``--take DIR`` first copies the results of such a DIR (tables and pictures, no journals) into their
folder. Nothing is in the page that no device measured (``dshrink paper kim`` without a table
measures nothing); what is published for other devices is listed as waiting.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dshrink.markdown import markdown_table
from dshrink.paper.experiments import KIM, experiment, names
from dshrink.paper.published import Setting

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "paper"
PAGE = HERE.parent / "docs" / "paper.md"
TAKEN = (".csv", ".json", ".md", ".png")

INTRODUCTION = """\
# The paper's tables and figures, measured

`dshrink paper EXPERIMENT` measures a table or figure of DepthShrinker (Fu et al., ICML 2022) on a
device and sets what was published beside it; `dshrink paper list` names the experiments:

```
$ dshrink paper list
$ dshrink paper table2 --device local --out paper
```

It writes `table2.csv`, `table2.json`, `table2.md` and pictures into `paper/`; the same command
again resumes an interrupted run. Networks are timed as they are shipped: exactly merged, with the
free ReLU6 behind merged blocks. `--unmerged` also times them with the activations removed and
nothing merged. Speed-ups are ratios of networks measured by turns in the same processes, with the
interval of the ratio.

Batch sizes are the paper's for the device (128 on V100 and RTX 2080 Ti, 64 on Jetson TX2, 1 on
CPUs) unless `--batch` gives others. `--runtime`, `--precision` and `--launch` are those of
`dshrink profile`. A folder is of one device, runtime, precision and launch mode, with one choice of
`--unmerged` and `--padding`: give another one an `--out` of its own.

`dshrink paper kim` sets the published results of Kim et al. (ICML 2023) beside their own latency
tables; with a table of spans and importances of a network it compares the paper's masks with the
dynamic program's plans:

```
$ dshrink paper kim --table spans --importance importance.csv --out paper
```

This page is generated from the files in `benchmarks/results/paper` (`python
benchmarks/paper_page.py`): nothing is in it that no device measured.
"""

#: What the results of this date say; to be read again when others come in.
FINDINGS = """\
## What a cloud machine's CPU makes of them (2026-11-30)

Two shared cores (AMD EPYC), ONNX Runtime, one thread. Little is left of what the paper measures on
GPUs; latency follows multiply-accumulates here, and merging saves few of those:

- A dense convolution is hardly faster than a block of the same FLOPs: 0.96 to 1.07 times (V100: 2.0
  to 4.2; table 1), alone 60 % slower to 13 % faster (figure 1).
- Shrunk networks are 1.04 to 1.47 times as fast as MobileNetV2-1.4 (V100: 1.8 to 5.1; table 2);
  uniformly narrower ones are 3.0 and 7.5 times as fast (V100: 1.9 and 2.9), and MobileNetV3 is as
  accurate and faster (figure 6).
- Merging block 0 costs more than it saves (figure 4). Masks that begin with 0 are 6 to 25 % faster
  with it unmerged, which is also what the paper's FLOPs are of.
- At equal FLOPs depth and width hardly matter (0.80 to 1.05 times; on a TX2 0.55 to 1.85; table 8).
  What matters is that channels are multiples of 8: exactly scaled ones give 0.64 to 0.89.
- The paper's masks were searched with latencies of an RTX 2080 Ti. A search with the table of the
  device at hand finds others.
"""


def take(folder: Path) -> None:
    """Copy the results of a folder into that of their conditions."""
    for file in sorted(folder.glob("*.json")):
        conditions = _first_run(file).get("conditions")
        if conditions is None:
            continue
        to = RESULTS / "_".join(_place(conditions))
        to.mkdir(parents=True, exist_ok=True)
        for one in sorted(folder.glob(f"{file.stem}[._]*")):
            if one.suffix in TAKEN and one.is_file():
                shutil.copyfile(one, to / one.name)


def _first_run(file: Path) -> dict[str, Any]:
    """What was measured and on what; figures of blocks and kim have no runs."""
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {**data, **data["runs"][0]} if "runs" in data else data


def _place(conditions: dict[str, Any]) -> list[str]:
    """What tells results apart that are not of one table: device, runtime, precision, launch."""
    words = [str(conditions[name]) for name in ("device", "runtime", "precision")]
    return words if conditions["launch"] == "plain" else [*words, str(conditions["launch"])]


def page() -> str:
    """The whole page."""
    found = sorted(RESULTS.glob("*/*.json"))
    lines = [INTRODUCTION, FINDINGS, *_overview(found)]
    for name in names():
        for file in found:
            if file.stem == name:
                lines += ["", *_section(file)]
    return "\n".join(lines) + "\n"


def _overview(found: Sequence[Path]) -> Iterator[str]:
    measured = [(file.stem, _place(_first_run(file)["conditions"])) for file in found]
    rows = []
    for name in names():
        here = [words for stem, words in measured if stem == name]
        devices = {device for device, *_ in here}
        settings: tuple[Setting, ...] = experiment(name).settings if name != KIM else ()
        waiting = [setting.title for setting in settings if setting.device not in devices]
        where = "; ".join(" ".join(words) for words in here)
        rows.append([name, where or "not yet", "; ".join(waiting)])
    yield "## What is measured, and what waits for a device"
    yield ""
    yield from markdown_table(("experiment", "measured on", "published, not measured by us"), rows)


def _section(file: Path) -> Iterator[str]:
    """The report with its headings one level lower, its date, and its pictures."""
    data = _first_run(file)
    for line in file.with_suffix(".md").read_text(encoding="utf-8").splitlines():
        yield f"#{line}" if line.startswith("#") else line
    yield ""
    yield f"Measured {data['date'][:10]} on {_machine(data)}, dshrink {data['dshrink']}."
    for picture in sorted(file.parent.glob(f"{file.stem}[._]*png")):
        at = picture.relative_to(HERE.parent)
        yield ""
        yield f"![{picture.stem}](../{at})"


def _machine(data: dict[str, Any]) -> str:
    """What the device reports that it is."""
    told = data.get("fingerprint", {})
    gpu, cpu = (told.get("gpu") or {}).get("name"), told.get("cpu_model")
    of_gpu = data["conditions"]["clock"] == "cuda_events"
    return str((gpu if of_gpu else cpu) or data["conditions"]["device"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--take", type=Path, nargs="*", default=[])
    for folder in parser.parse_args().take:
        take(folder)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
