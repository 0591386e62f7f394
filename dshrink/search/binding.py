"""Tie a plan to what it is about: a network's block names, or the table that it was made from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from dshrink.search.choices import block_choices, convolution_choices
from dshrink.search.errors import PlanError
from dshrink.search.plan import Plan, PredictedLatency, TableReference
from latency_tables.errors import LatencyTableError
from latency_tables.masks import check_mask
from latency_tables.predictor import Prediction, predict
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
    keep_mask, layers = _mask_by_name(plan, block_names, model)
    try:
        check_mask(keep_mask, block_names, unmergeable or {}, model)
    except LatencyTableError as error:
        raise PlanError(str(error)) from None
    known = {
        block_names.index(choice.name): choice.activations
        for choice in plan.blocks
        if choice.activations
    }
    blocks = block_choices(keep_mask, block_names, activations or known, layers)
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
    span_mask = _span_mask_by_name(plan, chain, model)
    try:
        check_span_mask(span_mask, chain, known, unmergeable, model)
    except LatencyTableError as error:
        raise PlanError(str(error)) from None
    convolutions = convolution_choices(span_mask, chain.convolutions)
    return replace(plan, model=model, span_mask=span_mask, convolutions=convolutions)


def _check_model(plan: Plan, model: str) -> None:
    if plan.model is not None and _untagged(plan.model) != _untagged(model):
        raise PlanError(
            f"the plan is for {plan.model}, the network is {model}; to apply it all the same give "
            f"{plan.text}"
        )


def _span_mask_by_name(plan: Plan, chain: SpanChain, model: str) -> str:
    if not plan.convolutions:
        return plan.span_mask
    by_name = {choice.name: choice for choice in plan.convolutions}
    for name in by_name:
        if name not in chain.convolutions:
            raise PlanError(
                f"the plan names convolution {name!r}, which {model} does not have in its chain; "
                f"its convolutions: {', '.join(chain.convolutions)}"
            )
    for name in chain.convolutions:
        if name not in by_name:
            raise PlanError(f"the plan does not say what follows {model}'s convolution {name!r}")
    found = "".join(by_name[name].sign for name in chain.convolutions)
    merged = {tuple(chain.convolutions[i:j]) for i, j in mask_spans(found)}
    for i, j in mask_spans(plan.span_mask):
        names = tuple(choice.name for choice in plan.convolutions[i:j])
        if names not in merged:
            raise PlanError(
                f"the plan merges {', '.join(names)}, which do not follow one another so in the "
                f"chain of {model}; make a plan from a table of this network"
            )
    return found


def _untagged(model: str) -> str:
    # timm's names may end in the tag of their weights: mobilenetv2_100.ra_in1k.
    return model.partition(".")[0]


def _mask_by_name(
    plan: Plan, block_names: Sequence[str], model: str
) -> tuple[str, dict[int, tuple[str, str]]]:
    if not plan.blocks:
        return plan.keep_mask, {}
    by_name = {choice.name: choice for choice in plan.blocks}
    for name in by_name:
        if name not in block_names:
            raise PlanError(
                f"the plan names block {name!r}, which {model} does not have; its blocks: "
                f"{', '.join(block_names)}"
            )
    for name in block_names:
        if name not in by_name:
            raise PlanError(f"the plan does not say whether {model}'s block {name!r} is kept")
    ordered = [by_name[name] for name in block_names]
    layers = {
        index: (choice.first_layer, choice.last_layer) for index, choice in enumerate(ordered)
    }
    return "".join("1" if choice.keep else "0" for choice in ordered), layers


def plan_from_table(
    table: LatencyTable, prediction: Prediction, *, method: str, seed: int | None = None
) -> Plan:
    """The plan of the predicted mask, with the table's names and conditions."""
    layers = {
        block: (row.first_layer, row.last_layer)
        for block in range(table.block_count)
        if (row := table.row("original", block))
    }
    return Plan(
        model=table.model,
        resolution=table.resolution,
        keep_mask=prediction.keep_mask,
        blocks=block_choices(prediction.keep_mask, table.block_names, layers=layers),
        method=method,
        seed=seed,
        predicted=PredictedLatency.of(prediction),
        table=TableReference(conditions=table.conditions, digest=table.digest),
    )


def span_plan(
    table: LatencyTable,
    mask: str,
    *,
    method: str,
    padding: str = "repad",
    importance: float | None = None,
) -> Plan:
    """The plan of a span mask, with the names, the prediction and the conditions of a span table.

    Raises PlanError for a table of blocks, MaskError for a mask that its rows do not make.
    """
    if table.chain is None:
        raise PlanError(
            f"the table of {table.model} is cut into blocks; measure one with --segments spans"
        )
    return Plan(
        model=table.model,
        resolution=table.resolution,
        span_mask=mask,
        convolutions=convolution_choices(mask, table.chain.convolutions),
        method=method,
        predicted=PredictedLatency.of(predict(table, mask, padding)),
        importance=importance,
        table=TableReference(conditions=table.conditions, digest=table.digest),
    )
