"""Tie a plan to what it is about: a network's names, or the table that it was made from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from dshrink.network.references import same_model
from dshrink.search.errors import PlanError
from dshrink.search.plan import BlockLayers, Plan, PredictedLatency, TableReference
from latency_tables.errors import LatencyTableError
from latency_tables.masks import check_mask
from latency_tables.predictor import Prediction
from latency_tables.span_masks import Span, SpanChain, check_span_mask, mask_spans
from latency_tables.table import LatencyTable


def bind(
    plan: Plan,
    *,
    model: str,
    block_names: Sequence[str],
    unmergeable: Mapping[int, str] | None = None,
    activations: Mapping[int, Sequence[str]] | None = None,
) -> Plan:
    """The plan for this network, its blocks in the network's order and by the network's names.

    Raises PlanError where the plan is for another network, names blocks that it does not have, or
    shrinks a block that cannot merge.
    """
    _check_model(plan, model)
    blocks = plan.blocks or tuple(BlockLayers(name=name) for name in block_names)
    keep_mask = plan.keep_mask
    if plan.blocks:
        order = _order([block.name for block in blocks], block_names, model, "block")
        keep_mask = "".join(keep_mask[at] for at in order)
        blocks = tuple(blocks[at] for at in order)
    try:
        check_mask(keep_mask, block_names, unmergeable or {}, model)
    except LatencyTableError as error:
        raise PlanError(str(error)) from None
    if activations:
        blocks = tuple(
            replace(block, activations=tuple(activations.get(index, ())))
            for index, block in enumerate(blocks)
        )
    return replace(plan, model=model, keep_mask=keep_mask, blocks=blocks)


def bind_spans(
    plan: Plan,
    *,
    model: str,
    chain: SpanChain,
    known: Collection[Span],
    unmergeable: Mapping[Span, str] | None = None,
) -> Plan:
    """``bind`` for a plan that merges spans; ``known`` are those that may merge in the network.

    Raises PlanError where the plan is for another network, names convolutions that it does not
    have or has in another order where they merge, or merges a span that cannot merge.
    """
    _check_model(plan, model)
    span_mask = plan.span_mask
    if plan.convolutions:
        order = _order(plan.convolutions, chain.convolutions, model, "convolution")
        span_mask = "".join(span_mask[at] for at in order)
        _check_merged_runs(plan, span_mask, chain, model)
    try:
        check_span_mask(span_mask, chain, known, unmergeable, model)
    except LatencyTableError as error:
        raise PlanError(str(error)) from None
    return replace(plan, model=model, span_mask=span_mask, convolutions=chain.convolutions)


def bind_to_table(plan: Plan, table: LatencyTable) -> Plan:
    """The plan for the network that a table is of, in the table's order.

    Raises PlanError where the plan is for another network or image size, cuts it otherwise than the
    table does, or merges what has no row.
    """
    _check_model(plan, table.model)
    if plan.resolution not in (None, table.resolution):
        wanted, known = ("x".join(map(str, each)) for each in (plan.resolution, table.resolution))
        raise PlanError(
            f"the plan {plan.text} is for images of {wanted}, the table of {table.model} for "
            f"{known}: give the table of that size"
        )
    segments = "spans" if table.chain else "blocks"
    if plan.segments != segments:
        raise PlanError(
            f"{plan.text} merges {plan.segments}, the table of {table.model} is of {segments}: "
            f"measure one with --segments {plan.segments}"
        )
    reasons = table.unmergeable.items()
    if table.chain is None:
        return bind(
            plan,
            model=table.model,
            block_names=table.block_names,
            unmergeable={at: why for at, why in reasons if isinstance(at, int)},
        )
    return bind_spans(
        plan,
        model=table.model,
        chain=table.chain,
        known=[row.span for row in table.rows if row.kind == "span" and row.span],
        unmergeable={at: why for at, why in reasons if isinstance(at, tuple)},
    )


def _check_model(plan: Plan, model: str) -> None:
    if plan.model is not None and not same_model(plan.model, model):
        raise PlanError(
            f"the plan is for {plan.model}, the network is {model}; to apply it all the same give "
            f"{plan.text}"
        )


def _order(planned: Sequence[str], names: Sequence[str], model: str, what: str) -> list[int]:
    """Where each name of the network is in the plan. Raises PlanError unless both have the same."""
    for name in planned:
        if name not in names:
            raise PlanError(
                f"the plan names {what} {name!r}, which {model} does not have; its {what}s: "
                f"{', '.join(names)}"
            )
    for name in names:
        if name not in planned:
            raise PlanError(f"the plan does not say what happens to {model}'s {what} {name!r}")
    return [planned.index(name) for name in names]


def _check_merged_runs(plan: Plan, found: str, chain: SpanChain, model: str) -> None:
    """Raise PlanError unless what the plan merges is merged in the network's order too."""
    merged = {chain.convolutions[i:j] for i, j in mask_spans(found)}
    for i, j in mask_spans(plan.span_mask):
        if plan.convolutions[i:j] not in merged:
            raise PlanError(
                f"the plan merges {', '.join(plan.convolutions[i:j])}, which are not consecutive "
                f"in the chain of {model}; make a plan from a table of this network"
            )


def plan_from_table(
    table: LatencyTable,
    prediction: Prediction,
    *,
    method: str,
    seed: int | None = None,
    importance: float | None = None,
) -> Plan:
    """The plan of the predicted mask, with the table's names and conditions."""
    chain, rows = table.chain, []
    if chain is None:
        rows = [table.row("original", block) for block in range(table.block_count)]
    return Plan(
        model=table.model,
        resolution=table.resolution,
        in_channels=table.in_channels,
        keep_mask="" if chain else prediction.keep_mask,
        span_mask=prediction.keep_mask if chain else "",
        blocks=tuple(
            BlockLayers(name=name, first_layer=row.first_layer, last_layer=row.last_layer)
            for name, row in zip(table.block_names, rows, strict=False)
        ),
        convolutions=chain.convolutions if chain else (),
        padding=prediction.padding,
        method=method,
        seed=seed,
        predicted=PredictedLatency.of(prediction),
        importance=importance,
        table=TableReference(conditions=table.conditions, digest=table.digest),
    )
