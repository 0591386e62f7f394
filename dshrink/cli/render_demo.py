"""The last screen of the demo: what a network costs, what each budget buys, and what to do next.

It fits a terminal of 80 columns and 40 lines. It says what was measured and what was not; where the
machine was disturbed, that comes before any doubt about a prediction.
"""

from __future__ import annotations

from collections.abc import Iterator

from dshrink.cli.console import out
from dshrink.cli.grids import Column, number, print_grid, print_page, screen_width
from dshrink.cli.render import how_timed
from dshrink.operations.demo_results import DemoAgreement, DemoNetwork, DemoResult
from latency_tables.wording import counted

#: A level that moved by more than this is told.
DRIFT_PERCENT = 1.5
OWN = (
    "dshrink profile MODEL --out table",
    "dshrink search greedy MODEL --table table --budget-ms N --out plan.json",
    "dshrink merge MODEL --plan plan.json --weights FILE --out shrunk.onnx",
)
TUNE = "dshrink finetune MODEL --plan plan.json --data DIR --out tuned"


def print_demo(result: DemoResult, *, wide: bool = False) -> None:
    """Print the last screen."""
    for line in _now(result):
        _say(line)
    places = _places(result.original.result.latency_ms)

    def predicted(one: DemoNetwork) -> str:
        found = one.result
        interval = (found.predicted_low_ms, found.predicted_high_ms)
        return _with_half(found.predicted_ms, *interval, places)

    def measured(one: DemoNetwork) -> str:
        found = one.result
        return _with_half(found.latency_ms, found.low_ms, found.high_ms, places)

    columns: list[Column[DemoNetwork]] = [
        Column("network", _name, least=12),
        Column("kept", lambda one: f"{one.result.kept_blocks}/{one.blocks}", is_number=True),
        number("budget", lambda one: one.budget_ms, "g", suffix=" ms", rank=1),
        Column("predicted ms", predicted, is_number=True),
        Column("measured ms", measured, is_number=True),
        Column("speed-up", _speedup, is_number=True),
    ]
    print_grid(columns, result.networks, wide=wide)
    out.print()
    print_page(
        [
            *_trust(result),
            *_accuracy(result),
            ("page", f"{result.report} (pictures as files: {result.pictures})"),
        ]
    )
    out.print()
    _say("the same with a network of your own (a timm name, FILE.py:FACTORY or FILE.onnx):")
    for line in OWN:
        out.print(f"  {line}")
    _say("and before the merge, to keep its accuracy (docs/training.md):")
    out.print(f"  {TUNE}")


def _say(line: str) -> None:
    """A line, wrapped between words on a terminal."""
    out.print(line, soft_wrap=screen_width() is None)


def _now(result: DemoResult) -> Iterator[str]:
    one = result.original.result
    height, width = result.resolution
    yield (
        f"{result.model} at {height}x{width} on {one.device}: {one.runtime}, {one.precision}, "
        f"batch {one.batch}, {how_timed(one)}"
    )
    if one.latency_ms is None:
        yield f"the original could not be measured: {one.reason}"
    else:
        yield (
            f"now it takes {one.latency_ms:.{_places(one.latency_ms)}f} ms, "
            f"{one.throughput_fps:.1f} frames per second; with its blocks merged for three budgets:"
        )


def _name(one: DemoNetwork) -> str:
    return one.result.network if one.budget_ms is not None else "original"


def _places(ms: float | None) -> int:
    """The digits behind the point, of all networks as many: four digits of the original."""
    return 3 if ms is None else 2 if ms >= 10 else 3 if ms >= 1 else 4


def _with_half(value: float | None, low: float | None, high: float | None, places: int) -> str:
    """ "14.24 +- 0.10": the wider half of the interval."""
    if value is None:
        return "not known"
    if low is None or high is None:
        return f"{value:.{places}f}"
    return f"{value:.{places}f} +- {max(value - low, high - value):.{places}f}"


def _speedup(one: DemoNetwork) -> str:
    found = one.result
    if one.budget_ms is None or found.speedup is None:
        return ""
    if found.speedup_low is None or found.speedup_high is None:
        return f"{found.speedup:.2f}x"
    half = max(found.speedup - found.speedup_low, found.speedup_high - found.speedup)
    return f"{found.speedup:.3f} +- {half:.3f}"


def _trust(result: DemoResult) -> Iterator[tuple[str, str]]:
    """The table, the predictions, the machine, and the merges."""
    yield "table", result.usable
    yield from _predictions(result)
    for note in result.notes:
        yield "measured", note
    errors = [one.certificate for one in result.networks if one.certificate is not None]
    if errors:
        yield (
            "merges",
            "exact: without the removed activations the networks compute the same, to "
            f"{max(errors):.0e} in float64",
        )


def _predictions(result: DemoResult) -> Iterator[tuple[str, str]]:
    off = [one.off_percent for one in result.networks if one.off_percent is not None]
    meet = [one.meets_prediction for one in result.networks if one.meets_prediction is not None]
    if not off or not meet:
        return
    ratios = [result.predicted_speedup(one) for one in result.networks[1:]]
    said = ", ".join(f"{ratio:.3f}" for ratio in ratios if ratio)
    yield (
        "predictions",
        f"latencies off by {max(map(abs, off)):.1f} % at most, {sum(meet)} of {len(meet)} measured "
        f"intervals meet the predicted ones; predicted speed-ups: {said}",
    )
    drift = result.drift_percent
    if not all(meet) and drift is not None and abs(drift) > DRIFT_PERCENT:
        yield (
            "machine",
            f"it was disturbed: everything ran {abs(drift):.1f} % "
            f"{'slower' if drift > 0 else 'faster'} while the networks were measured than while "
            "the table was, which says nothing of the method and does not touch the speed-ups",
        )


def _accuracy(result: DemoResult) -> Iterator[tuple[str, str]]:
    if result.agreement is None:
        random = result.weights in ("random", "initial")
        why = f": the weights are {result.weights}, on which speed does not depend" * random
        yield (
            "accuracy",
            f"not measured{why}; a network that loses activations has to be fine-tuned (the paper: "
            "180 epochs of ImageNet)",
        )
        return
    yield "refit", _refit(result.agreement)
    yield (
        "accuracy",
        "not measured: what merging more blocks loses is won back by fine-tuning without their "
        "activations (the paper: 180 epochs of ImageNet)",
    )


def _refit(found: DemoAgreement) -> str:
    closeness = found.closeness
    on = f"on {counted(closeness.images, 'crop')} of photographs that were not fitted"
    what = (
        f"with {counted(found.merged, 'block')} merged (predicted: {found.predicted_speedup:.2f} "
        "times as fast)"
    )
    if same := closeness.agreement_percent:
        near = closeness.in_top5_percent["refitted"]
        return (
            f"{what} the network names the original's class for {same['algebraic']:.0f} % {on}; "
            f"refitted, without labels or training, for {same['refitted']:.0f} % ({near:.0f} % "
            "among its first five)"
        )
    before, after = closeness.error["algebraic"], closeness.error["refitted"]
    return (
        f"{what} the error of the result {on} is {before:.3g}; refitted, without labels or "
        f"training, {after:.3g}"
    )
