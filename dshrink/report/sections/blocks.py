"""What each block costs, as it is and merged; what each number of kept blocks buys; predictions."""

from __future__ import annotations

import contextlib

from dshrink.report.content import Block, Cell, Column, Grid, Section, Text, number, word
from dshrink.report.figures import of_tables
from dshrink.report.folder import Contents, Held
from dshrink.results import BenchmarkResult
from dshrink.search.errors import SearchError
from dshrink.search.goal import savings_ms
from dshrink.search.greedy import greedy
from latency_tables.errors import LatencyTableError
from latency_tables.forms import merged_kind
from latency_tables.predictor import Prediction, predict
from latency_tables.schema import Row
from latency_tables.table import LatencyTable
from latency_tables.wording import counted


def section(contents: Contents) -> Section | None:
    """Blocks before and after merging, of every table; spans of tables of spans."""
    blocks: list[Block] = []
    for held in contents.tables:
        blocks += _of_spans(held) if held.value.chain else _of_blocks(held)
    if not blocks:
        return None
    return Section(anchor="blocks", title="Blocks, before and after merging", blocks=tuple(blocks))


def _name(held: Held[LatencyTable]) -> str:
    folder = held.file.rpartition("/")[0].replace("/", "_")
    return folder or "table"


def _heading(contents: Contents, held: Held[LatencyTable]) -> str:
    return f"{held.value.model} ({held.file})" if len(contents.tables) > 1 else held.value.model


def _of_blocks(held: Held[LatencyTable]) -> list[Block]:
    table, name = held.value, _name(held)
    saved = dict(savings_ms(table, table.forms.padding))
    drawn = (
        of_tables.block_costs(table, f"{name}_blocks"),
        of_tables.savings(table, saved, f"{name}_savings"),
    )
    where = "in the network" if table.costs is not None else "alone"
    said = (
        f"{table.model}: what each block costs {where}. Blocks are numbered from 0. Bars of rows "
        "that are less certain are pale; every bar has its 95 % interval."
    )
    worse = [block for block, ms in saved.items() if ms <= 0]
    if worse:
        listed = ", ".join(map(str, worse))
        said += f" Merging makes {'block' if len(worse) == 1 else 'blocks'} {listed} slower."
    grid = _block_grid(table, saved, f"{name}_by_block")
    return [Text(text=said), *(one for one in drawn if one is not None), grid]


_BLOCK_COLUMNS = (
    Column(title="block", is_number=True),
    Column(title="name"),
    Column(title="as it is ms", hint="what it costs in the network", is_number=True),
    Column(title="±", hint="half of its 95 % interval", is_number=True),
    Column(title="merged ms", hint="as one convolution", is_number=True),
    Column(title="± merged", hint="half of its 95 % interval", is_number=True),
    Column(title="saves ms", is_number=True),
    Column(title="saves %", is_number=True),
    Column(title="alone ms", hint="as it is, measured alone", is_number=True),
    Column(title="merged alone ms", is_number=True),
    Column(title="MMAC", hint="millions of multiply-accumulates, as it is", is_number=True),
    Column(title="MMAC merged", is_number=True),
    Column(title="verdict", hint="how well the piece is known alone: as it is / merged"),
    Column(title="note"),
)


def _block_grid(table: LatencyTable, saved: dict[int, float], name: str) -> Grid:
    rows = [_fixed_row(row) for row in table.rows if row.kind == "stem"]
    for block, block_name in enumerate(table.block_names):
        rows.append(_block_row(table, block, block_name, saved.get(block)))
    rows += [_fixed_row(row) for row in table.rows if row.kind in ("between", "head")]
    return Grid(
        name=name,
        caption=f"Blocks of {table.model}",
        columns=_BLOCK_COLUMNS,
        rows=tuple(rows),
    )


def _fixed_row(row: Row) -> tuple[Cell, ...]:
    empty = Cell("", None)
    return (
        *(Cell("", None), word(row.piece), number(row.cost_ms, ".4f"), number(_half(row), ".4f")),
        *(empty, empty, empty, empty, number(row.latency_ms, ".4f"), empty),
        *(number(row.macs / 1e6 or None, ".2f"), empty, word(row.verdict)),
        word("in every network"),
    )


def _block_row(table: LatencyTable, block: int, name: str, saves: float | None) -> tuple[Cell, ...]:
    original = table.row("original", block)
    merged: Row | None = None
    if block in table.mergeable:
        merged = table.row(merged_kind(table.by_place, block, table.forms.padding), block)
    percent = 100 * saves / original.cost_ms if saves is not None and original.cost_ms else None
    note = str(table.unmergeable.get(block, ""))
    verdicts = [original.verdict] + ([merged.verdict] if merged else [])
    return (
        number(block),
        word(name),
        number(original.cost_ms, ".4f"),
        number(_half(original), ".4f"),
        number(merged.cost_ms if merged else None, ".4f"),
        number(_half(merged) if merged else None, ".4f"),
        number(saves, "+.4f"),
        number(percent, "+.0f", " %"),
        number(original.latency_ms, ".4f"),
        number(merged.latency_ms if merged else None, ".4f"),
        number(original.macs / 1e6 or None, ".2f"),
        number(merged.macs / 1e6 if merged else None, ".2f"),
        word(" / ".join(dict.fromkeys(verdicts))),
        word(f"cannot merge: {note}" if note else _failure(original, merged)),
    )


def _failure(original: Row, merged: Row | None) -> str:
    rows = [row for row in (original, merged) if row is not None and row.latency_ms is None]
    return "; ".join(f"{row.piece}: {row.reason}" for row in rows)


def _half(row: Row) -> float | None:
    low, high = row.cost_interval_ms
    return None if low is None or high is None else (high - low) / 2


_SPAN_COLUMNS = (
    Column(title="piece"),
    Column(title="from", hint="first convolution, from 1", is_number=True),
    Column(title="to", hint="last convolution", is_number=True),
    Column(title="cost ms", hint="in the network where known, else alone", is_number=True),
    Column(title="±", hint="half of its 95 % interval", is_number=True),
    Column(title="single ms", hint="the same convolutions one by one", is_number=True),
    Column(title="saves ms", is_number=True),
    Column(title="alone ms", is_number=True),
    Column(title="MMAC", is_number=True),
    Column(title="verdict"),
    Column(title="layers"),
    Column(title="note"),
)


def _of_spans(held: Held[LatencyTable]) -> list[Block]:
    table = held.value
    singles = {
        row.end: row.cost_ms
        for row in table.rows
        if row.kind == "span" and row.span and row.span[1] == row.span[0] + 1
    }
    rows = []
    for row in table.rows:
        single: float | None = None
        if row.kind == "span" and row.span and row.span[1] > row.span[0] + 1:
            parts = [singles.get(at) for at in range(row.span[0] + 1, row.span[1] + 1)]
            known = [part for part in parts if part is not None]
            single = sum(known) if len(known) == len(parts) else None
        cost = row.cost_ms
        saves = single - cost if single is not None and cost is not None else None
        rows.append(
            (
                word(row.piece),
                number(row.start + 1 if row.start is not None else None),
                number(row.end),
                number(cost, ".4f"),
                number(_half(row), ".4f"),
                number(single, ".4f"),
                number(saves, "+.4f"),
                number(row.latency_ms, ".4f"),
                number(row.macs / 1e6 or None, ".2f"),
                word(row.verdict),
                word(" .. ".join(dict.fromkeys((row.first_layer, row.last_layer)))),
                word(row.reason),
            )
        )
    said = (
        f"{table.model} is cut into spans: runs of convolutions that can become one. Sort by what "
        "a span saves to see which runs are worth it."
    )
    caption = f"Spans of {table.model}"
    grid = Grid(
        name=f"{_name(held)}_spans", caption=caption, columns=_SPAN_COLUMNS, rows=tuple(rows)
    )
    return [Text(text=said), grid]


def kept_section(contents: Contents) -> Section | None:
    """What each number of kept blocks buys, by the tables of blocks."""
    blocks: list[Block] = []
    for held in contents.tables:
        predictions = _kept(held.value)
        if len(predictions) > 1:
            blocks += _kept_blocks(contents, held, predictions)
    if not blocks:
        return None
    text = Text(
        text="If only so many blocks stay as they are, and the others are merged, those first that "
        "save most: the latency that the table predicts. Which blocks the accuracy can spare is "
        "not in a latency table; `dshrink search mask` or `dshrink search dp` finds that out."
    )
    return Section(anchor="kept", title="What keeping fewer blocks buys", blocks=(text, *blocks))


def _kept(table: LatencyTable) -> list[tuple[int, Prediction]]:
    """(number, prediction) of the plan for each number of kept blocks."""
    found: list[tuple[int, Prediction]] = []
    for keep in range(table.block_count, -1, -1):
        with contextlib.suppress(SearchError, LatencyTableError):
            plan = greedy(table, keep=keep, allow_unfit=True)
            found.append((keep, predict(table, plan.keep_mask, plan.padding)))
    return found


def _kept_blocks(
    contents: Contents, held: Held[LatencyTable], predictions: list[tuple[int, Prediction]]
) -> list[Block]:
    table, name = held.value, f"{_name(held)}_kept"
    measured = {
        one.network: (one.kept_blocks, one) for one in contents.measured if _is_of(one, table)
    }
    marks = [
        (
            kept,
            network,
            (one.low_ms or one.latency_ms, one.latency_ms, one.high_ms or one.latency_ms),
        )
        for network, (kept, one) in measured.items()
        if kept is not None and one.latency_ms is not None
    ]
    base = next((p.latency_ms for kept, p in predictions if kept == table.block_count), None)
    columns = (
        Column(title="blocks that stay", is_number=True),
        Column(title="predicted ms", is_number=True),
        Column(title="95 % from", is_number=True),
        Column(title="to", is_number=True),
        Column(title="FPS", is_number=True),
        Column(title="times as fast", hint="as the network as it is", is_number=True),
        Column(title="mask", hint="1 stays, 0 is merged"),
    )
    rows = tuple(
        (
            number(kept),
            number(one.latency_ms, ".3f"),
            number(one.low_ms, ".3f"),
            number(one.high_ms, ".3f"),
            number(one.throughput_fps, ".1f"),
            number(base / one.latency_ms if base else None, ".3f"),
            word(one.keep_mask),
        )
        for kept, one in predictions
    )
    caption = f"Predictions for {_heading(contents, held)}"
    grid = Grid(name=name, caption=caption, columns=columns, rows=rows)
    return [of_tables.kept_counts(predictions, marks, f"{name}_figure"), grid]


def _is_of(result: BenchmarkResult, table: LatencyTable) -> bool:
    """Whether a result is of this table's network, under its conditions, merged by its blocks."""
    c = table.conditions
    same = (result.device, result.runtime, result.precision, result.batch, result.threads)
    return (
        len(result.keep_mask) == table.block_count
        and result.method not in ("layer_pruning", "narrower")
        and same == (c.device, c.runtime, c.precision, c.batch, c.threads)
    )


def predictions_section(contents: Contents) -> Section | None:
    """Predictions against measurements: held-out networks, and networks of benchmarks."""
    blocks: list[Block] = []
    for held in contents.tables:
        check = held.value.hold_out
        if check is None:
            continue
        series = f"held out by {held.file}" if len(contents.tables) > 1 else "held-out networks"
        checked = of_tables.held_out(check, series)
        blocks += [Text(text=_error_text(held)), *_checked(checked, f"{_name(held)}_predictions")]
    later = [_checked_result(one) for one in contents.measured if one.predicted_ms is not None]
    if later:
        worst = max(abs(one.error_percent) for one in later)
        mean = sum(abs(one.error_percent) for one in later) / len(later)
        text = (
            f"{counted(len(later), 'network')} measured by `dshrink bench` after "
            f"a prediction: off by {mean:.1f} % on average, {worst:.1f} % at most."
        )
        blocks += [Text(text=text), *_checked(later, "bench_predictions")]
    if not blocks:
        return None
    return Section(anchor="predictions", title="Predicted against measured", blocks=tuple(blocks))


def _error_text(held: Held[LatencyTable]) -> str:
    check = held.value.hold_out
    assert check is not None
    said = (
        f"{counted(len(check.networks), 'network')} took no part in the estimate "
        f"({held.file}). Their predictions are off by {check.mape_percent:.2f} % on average and "
        f"{check.max_error_percent:.2f} % at most; what was measured of them is itself known to "
        f"{check.measuring_percent:.2f} %. The 95 % intervals of predictions are "
        f"±{check.interval_percent:.1f} % on average. For comparison: the plain sum of pieces "
        f"measured alone is off by {check.plain_sum_mape_percent:.1f} %, scaled "
        f"multiply-accumulates by {check.scaled_macs_mape_percent:.1f} %."
    )
    if check.interval_method == "conformal":
        said += (
            f" The intervals were widened {check.interval_factor:.1f} times, as they held only "
            f"{check.coverage_percent:.0f} % of these networks."
        )
    return said


def _checked(networks: list[of_tables.Checked], name: str) -> list[Block]:
    drawing = of_tables.predicted_measured(networks, f"{name}_figure")
    columns = (
        Column(title="network"),
        Column(title="predicted ms", is_number=True),
        Column(title="measured ms", is_number=True),
        Column(title="error", is_number=True),
    )
    rows = tuple(
        (
            word(one.name),
            number(one.predicted[1], ".3f"),
            number(one.measured[1], ".3f"),
            number(one.error_percent, "+.2f", " %"),
        )
        for one in networks
    )
    grid = Grid(name=name, caption="Predictions and measurements", columns=columns, rows=rows)
    return [*([drawing] if drawing else []), grid]


def _checked_result(one: BenchmarkResult) -> of_tables.Checked:
    latency, predicted = one.latency_ms or 0.0, one.predicted_ms or 0.0
    return of_tables.Checked(
        name=one.network,
        series="networks of benchmarks",
        measured=(one.low_ms or latency, latency, one.high_ms or latency),
        predicted=(
            one.predicted_low_ms or predicted,
            predicted,
            one.predicted_high_ms or predicted,
        ),
    )
