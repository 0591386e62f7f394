"""Tie a plan to what it is about: a network's block names, or the table that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dshrink.search.errors import PlanError
from dshrink.search.plan import MASK_PREFIX, BlockChoice, Plan, PredictedLatency, TableReference
from latency_tables.errors import LatencyTableError
from latency_tables.masks import check_mask
from latency_tables.predictor import Prediction
from latency_tables.table import LatencyTable


def block_choices(
    keep_mask: str,
    block_names: Sequence[str],
    activations: Mapping[int, Sequence[str]] | None = None,
    layers: Mapping[int, tuple[str, str]] | None = None,
) -> tuple[BlockChoice, ...]:
    """One choice a block; ``layers`` gives a block's first and last layer."""
    choices = []
    for index, (bit, name) in enumerate(zip(keep_mask, block_names, strict=True)):
        first_layer, last_layer = (layers or {}).get(index, ("", ""))
        choices.append(
            BlockChoice(
                index=index,
                name=name,
                keep=bit == "1",
                activations=tuple((activations or {}).get(index, ())),
                first_layer=first_layer,
                last_layer=last_layer,
            )
        )
    return tuple(choices)


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
    if plan.model is not None and _untagged(plan.model) != _untagged(model):
        raise PlanError(
            f"the plan is for {plan.model}, the network is {model}; to apply it all the same give "
            f"{MASK_PREFIX}{plan.keep_mask}"
        )
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
