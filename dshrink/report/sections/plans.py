"""Plans over the network, the frontiers they come from, importances; merges and refits of them."""

from __future__ import annotations

from dshrink.plots.strips import layers_label
from dshrink.report.content import Block, Cell, Column, Grid, Section, Text, number, word
from dshrink.report.figures.of_results import frontier_figure
from dshrink.report.figures.strips import Strip, strips
from dshrink.report.folder import Contents, Held
from dshrink.search.plan import Plan
from latency_tables.wording import counted

#: More strips than that are a wall; the table has them all.
_MOST_STRIPS = 24


def section(contents: Contents) -> Section | None:
    """A strip and a row a plan; a plan that is stored several times is shown once."""
    blocks: list[Block] = []
    different: dict[tuple[object, ...], list[Held[Plan]]] = {}
    for held in contents.plans:
        plan = held.value
        different.setdefault((plan.model, plan.mask, plan.padding), []).append(held)
    for is_spans in (False, True):
        shown = [
            group for group in different.values() if bool(group[0].value.span_mask) == is_spans
        ]
        if not shown:
            continue
        drawn = [_strip(group[0]) for group in shown[:_MOST_STRIPS]]
        kind = "spans" if is_spans else "blocks"
        blocks.append(strips(drawn, f"plans_of_{kind}"))
        if len(shown) > _MOST_STRIPS:
            more = len(shown) - _MOST_STRIPS
            blocks.append(Text(text=f"{more} more plans are in the table."))
        blocks.append(_grid(shown, f"plans_{kind}"))
    if not blocks:
        return None
    return Section(anchor="plans", title="Plans: what stays, what is merged", blocks=tuple(blocks))


def _strip(held: Held[Plan]) -> Strip:
    plan = held.value
    names = plan.convolutions or tuple(block.name for block in plan.blocks)
    return Strip(
        label=_label(held.file), mask=plan.mask, names=names, is_spans=bool(plan.span_mask)
    )


def _label(file: str) -> str:
    """A plan's file, or its folder where all files are called plan.json."""
    folder, _, name = file.rpartition("/")
    stem = name.removesuffix(".json")
    return folder.rpartition("/")[2] if stem == "plan" and folder else stem


def _grid(groups: list[list[Held[Plan]]], name: str) -> Grid:
    columns = (
        Column(title="plan"),
        Column(title="network"),
        Column(title="stays"),
        Column(title="predicted ms", hint="at the time of planning", is_number=True),
        Column(title="95 % from", is_number=True),
        Column(title="to", is_number=True),
        Column(title="method"),
        Column(title="importance", is_number=True),
        Column(title="padding"),
        Column(title="mask"),
        Column(title="files"),
    )
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        plan = group[0].value
        latency = plan.predicted
        stays = (
            layers_label(plan.span_mask)
            if plan.span_mask
            else f"{plan.kept_count} of {len(plan.keep_mask)} blocks"
        )
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        rows.append(
            (
                word(_label(group[0].file)),
                word(plan.model),
                word(stays),
                number(latency.latency_ms if latency else None, ".3f"),
                number(latency.low_ms if latency else None, ".3f"),
                number(latency.high_ms if latency else None, ".3f"),
                word(plan.method),
                number(plan.importance, ".2f"),
                word(plan.padding),
                word(plan.mask),
                word(f"{group[0].file}{more}"),
            )
        )
    return Grid(name=name, caption="Plans", columns=columns, rows=tuple(rows))


def frontier_section(contents: Contents) -> Section | None:
    """The best plan for every budget, and what importances were measured."""
    blocks: list[Block] = []
    if contents.frontiers:
        curves = [(held.file, held.value) for held in contents.frontiers]
        blocks.append(frontier_figure(curves, "frontier"))
        rows = tuple(
            (
                word(held.file),
                number(point.time_ms, ".4f"),
                number(point.importance, ".3f"),
                word(point.mask),
            )
            for held in contents.frontiers
            for point in held.value.points
        )
        columns = (
            Column(title="search"),
            Column(title="latency ms", is_number=True),
            Column(title="importance", is_number=True),
            Column(title="plan"),
        )
        blocks.append(
            Grid(name="frontier_points", caption="Plans by budget", columns=columns, rows=rows)
        )
    for held in contents.importances:
        blocks += _importance(held)
    if not blocks:
        return None
    return Section(
        anchor="importance", title="Importance: what accuracy a plan may cost", blocks=tuple(blocks)
    )


def _importance(held: Held[dict[tuple[int, int, int, int], float]]) -> list[Block]:
    values = held.value
    worst = sorted(values, key=lambda key: values[key])[:3]
    listed = ", ".join(f"convolutions {i + 1} to {j}" for i, j, _, _ in worst)
    text = (
        f"{held.file}: {counted(len(values), 'importance')}, normalised as the search uses "
        f"them; the least, which the accuracy can spare worst: {listed}."
    )
    columns = (
        Column(title="from", hint="first convolution, from 1", is_number=True),
        Column(title="to", is_number=True),
        Column(title="activation before", is_number=True),
        Column(title="activation behind", is_number=True),
        Column(title="importance", is_number=True),
    )
    rows = tuple(
        (number(i + 1), number(j), number(a), number(b), number(value, ".3f"))
        for (i, j, a, b), value in values.items()
    )
    name = held.file.removesuffix(".csv").replace("/", "_")
    grid = Grid(
        name=f"{name}_importance", caption=f"Importances of {held.file}", columns=columns, rows=rows
    )
    return [Text(text=text), grid]


def merging_section(contents: Contents) -> Section | None:
    """Certificates of merges and what refits brought."""
    blocks: list[Block] = []
    if contents.certificates:
        blocks += [Text(text=_CERTIFICATES), _certificates(contents)]
    if contents.refits:
        blocks += [Text(text=_REFITS), _refits(contents)]
    if not blocks:
        return None
    return Section(anchor="merging", title="Merges and refits", blocks=tuple(blocks))


_CERTIFICATES = (
    "A certificate says that a merged network computes what the network without the removed "
    "activations computes. It does not say that either is as accurate as the original: weights "
    "that were not trained, or refitted, without these activations lose accuracy when they go."
)
_REFITS = (
    "A refit fits merged convolutions to what the original network gave, on images without "
    "labels. Agreement is the share of images that are classified as the original does."
)


def _certificates(contents: Contents) -> Grid:
    columns = (
        Column(title="merged network"),
        Column(title="from"),
        Column(title="merged", hint="blocks or spans", is_number=True),
        Column(title="error float64", hint="largest relative error", is_number=True),
        Column(title="error float32", is_number=True),
        Column(title="accuracy merged", hint="top-1 on validation images", is_number=True),
        Column(title="unmerged", is_number=True),
        Column(title="images", is_number=True),
        Column(title="classified alike", hint="as unmerged", is_number=True),
        Column(title="as the original", hint="with all of its activations", is_number=True),
        Column(title="padding"),
        Column(title="note"),
        Column(title="mask"),
    )
    rows = []
    for held in contents.certificates:
        one, seen = held.value, held.value.validation
        rows.append(
            (
                word(held.file.removesuffix(".certificate.json")),
                word(one.model),
                number(one.merged),
                number(one.float64, ".1e"),
                number(one.float32, ".1e"),
                number(seen.merged_accuracy_percent if seen else None, ".2f", " %"),
                number(seen.unmerged_accuracy_percent if seen else None, ".2f", " %"),
                number(seen.images if seen else None),
                number(seen.percent if seen else None, ".2f", " %"),
                number(seen.original_percent if seen else None, ".2f", " %"),
                word(one.padding),
                word(one.problem or one.activations.warning),
                word(one.mask),
            )
        )
    return Grid(name="merges", caption="Certificates of merges", columns=columns, rows=tuple(rows))


def _refits(contents: Contents) -> Grid:
    columns = (
        Column(title="refit"),
        Column(title="network"),
        Column(title="on"),
        Column(title="images", is_number=True),
        Column(title="agreement merged", hint="before the refit", is_number=True),
        Column(title="agreement refitted", is_number=True),
        Column(title="accuracy original", is_number=True),
        Column(title="accuracy refitted", is_number=True),
        Column(title="seconds", is_number=True),
        Column(title="mask"),
    )
    rows = []
    for held in contents.refits:
        one = held.value
        for label, seen in (("held-out images", one.held_out), ("validation", one.validation)):
            if seen is None:
                continue
            rows.append(
                (
                    word(held.file),
                    word(one.model),
                    word(label),
                    number(seen.images),
                    number(seen.agreement_percent.get("algebraic"), ".1f", " %"),
                    number(seen.agreement_percent.get("refitted"), ".1f", " %"),
                    number(seen.accuracy_percent.get("original"), ".2f", " %"),
                    number(seen.accuracy_percent.get("refitted"), ".2f", " %"),
                    number(one.seconds, ".0f"),
                    word(one.mask),
                )
            )
    return Grid(name="refits", caption="Refits", columns=columns, rows=tuple(rows))
