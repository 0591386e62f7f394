"""Stage 1: learn, jointly with the weights, which blocks keep their activations.

DepthShrinker, Sec. 4.2; the decay is in ``latency_decay``. Only the order of the mask's values
decides anything, all start equal, and SGD is linear in what it adds up; so a learning rate of the
mask's own would change nothing, and there is none.

What is kept in the end is what was kept most of the time in the last epoch of steps; the values
decide between equals. The paper takes the largest values. But a block that is kept has little to
gain from its activation, one that is removed much, so values drift towards each other and blocks
change places to the last step, which makes the last values an arbitrary cut through it; the share
of time is stable, and where the values have settled it is the same.

Where a kept activation is 0 for a whole channel, the norm after the next convolution divides by
nearly nothing, and one step's slope can outweigh all others. ``limit`` bounds what counts of a
slope; the paper has no such bound, and so it is off unless asked for.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dshrink.network.blocks import Block
from dshrink.network.models import Network, weights_digest
from dshrink.network.references import untagged
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.search.binding import plan_from_table
from dshrink.search.errors import SearchError
from dshrink.search.goal import Goal, check_blocks, check_fit, savings_ms
from dshrink.search.plan import Plan
from dshrink.train.feed import Feed
from dshrink.train.finetune import PADDING
from dshrink.train.gates import MASK_NAME, SHARE_NAME, gated_module, searchable_blocks
from dshrink.train.keep_rule import KeepRule
from dshrink.train.latency_decay import DECAY, Decay, decayed_steps, latency_decay
from dshrink.train.loop import Fitted, fit
from dshrink.train.settings import OF_SHRINKING
from latency_tables.csv_lines import write_csv
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable

METHOD = "mask"
#: As long as the paper searches (Sec. 5.1).
EPOCHS = 20
HISTORY_COLUMNS = ("epoch", "step", "block", "name", "mask", "share", "kept", "saving_ms")


@dataclass(frozen=True, kw_only=True)
class MaskSearch:
    """A finished search: its plan, and the mask's history as lines of ``HISTORY_COLUMNS``."""

    plan: Plan
    history: tuple[tuple[Any, ...], ...]
    decay: Decay | None
    fitted: Fitted


def search_masks(
    network: Network,
    feed: Feed,
    *,
    goal: Goal,
    folder: Path,
    table: LatencyTable | None = None,
    decay: float | None = None,
    limit: float | None = None,
    allow_unfit: bool = False,
    progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> MaskSearch:
    """Train ``network`` and a mask of its activations until ``goal`` is met by what it keeps.

    The settings of ``feed`` are those of the fine-tuning, but for the epochs; their seed also
    breaks ties, and averages of the weights, teachers and fades have no part in a search. ``decay``
    is the strength of the latency-aware decay, ``DECAY`` if not given; without a ``table`` there is
    none, and a budget needs one. ``limit`` bounds the gradient of a mask value in one step, None
    for no bound. ``folder`` takes the checkpoints: the same call resumes an interrupted search.

    Raises SearchError where table and network do not go together, InfeasibleBudgetError before
    anything is trained, and as ``loop.fit`` does.
    """
    rule = _rule(network, goal, table, feed.settings.seed, allow_unfit)
    if table is None and decay:
        raise SearchError("without a latency table there is no decay: give --table, or no --decay")
    drawn = latency_decay(table, rule.blocks, DECAY if decay is None else decay) if table else None
    limit = math.inf if limit is None else limit
    if not limit > 0:
        raise SearchError(f"the gradient limit of the mask must be above 0 (or inf), got {limit:g}")
    feed = copy.copy(feed)
    feed.settings = replace(feed.settings, ema=None, distillation=0.0, **OF_SHRINKING)
    known = network.blocks
    searched = [known[block] for block in rule.blocks]
    module = gated_module(network, searched, rule, horizon=feed.steps)
    mask, share = module.get_parameter(MASK_NAME), module.get_buffer(SHARE_NAME)

    def observe() -> Mapping[str, Any]:
        shares, values = share.tolist(), mask.tolist()
        keep_mask = rule.keep_mask(list(zip(shares, values, strict=True)))
        return {"mask": values, "share": shares, "keep_mask": keep_mask}

    with decayed_steps(mask, drawn, limit):
        fitted = fit(
            module,
            feed,
            folder=folder,
            identity={**_identity(network, rule, drawn), "limit": str(limit)},
            observe=observe,
            progress=progress,
            notice=notice,
        )
    return MaskSearch(
        plan=_plan(network, fitted.history[-1]["keep_mask"], table, rule.seed),
        history=tuple(_lines(fitted.history, feed.steps, known, rule, drawn)),
        decay=drawn,
        fitted=fitted,
    )


def _rule(
    network: Network, goal: Goal, table: LatencyTable | None, seed: int, allow_unfit: bool
) -> KeepRule:
    """What decides which blocks are kept; asked once, so that a goal out of reach is refused."""
    blocks = [block.index for block in searchable_blocks(network)]
    if table is not None:
        check_blocks(table, METHOD)
        check_fit(table, allow_unfit=allow_unfit)
        _check_network(table, network)
        savings = savings_ms(table, PADDING)
        blocks = [block for block in blocks if block in savings]
    elif goal.keep is None:
        raise SearchError("a latency budget needs a latency table: give --table, or --keep")
    rule = KeepRule(
        model=network.name,
        block_count=len(network.blocks),
        blocks=tuple(blocks),
        goal=goal,
        table=table,
        padding=PADDING,
        seed=seed,
    )
    if not blocks:
        raise SearchError(
            f"{network.name}: no block can merge and has activations to remove: nothing to search"
        )
    rule.keep_mask([0.0] * len(blocks))
    return rule


def _check_network(table: LatencyTable, network: Network) -> None:
    """Raise SearchError unless the table is of this network at this resolution."""
    names = tuple(block.name for block in network.blocks)
    facts = (
        ("model", untagged(table.model), untagged(network.name)),
        ("resolution", "{}x{}".format(*table.resolution), "{}x{}".format(*network.resolution)),
        ("blocks", ", ".join(table.block_names), ", ".join(names)),
    )
    for what, theirs, ours in facts:
        if theirs != ours:
            raise SearchError(
                f"the table on {table.conditions.device} is of {what} {theirs}, the network has "
                f"{ours}: give a table of this network, measured by `dshrink profile`"
            )


def _identity(network: Network, rule: KeepRule, decay: Decay | None) -> dict[str, Any]:
    """What the result depends on besides settings and images."""
    return {
        "stage": "mask search",
        "model": network.name,
        "resolution": list(network.resolution),
        "blocks": list(rule.blocks),
        "keep": rule.goal.keep,
        "budget_ms": rule.goal.budget_ms,
        "table": rule.table.digest if rule.table else None,
        "decay": decay.strength if decay else None,
        "decay_unit_ms": decay.unit_ms if decay else None,
        "weights": weights_digest(network.module),
    }


def _plan(network: Network, keep_mask: str, table: LatencyTable | None, seed: int) -> Plan:
    if table is not None:
        found = plan_from_table(table, predict(table, keep_mask, PADDING), method=METHOD, seed=seed)
    else:
        found = Plan(
            model=network.name,
            resolution=network.resolution,
            in_channels=network.spec.input_shape[0],
            keep_mask=keep_mask,
            padding=PADDING,
            method=METHOD,
            seed=seed,
        )
    return bind_to_network(found, network)


def _lines(
    history: Sequence[Mapping[str, Any]],
    steps: int,
    blocks: Sequence[Block],
    rule: KeepRule,
    decay: Decay | None,
) -> list[tuple[Any, ...]]:
    savings = decay.savings_ms if decay else ("",) * len(rule.blocks)
    return [
        (
            entry["epoch"],
            entry["epoch"] * steps,
            block,
            blocks[block].name,
            value,
            share,
            entry["keep_mask"][block],
            saving_ms,
        )
        for entry in history
        for block, value, share, saving_ms in zip(
            rule.blocks, entry["mask"], entry["share"], savings, strict=True
        )
    ]


def write_mask_history(search: MaskSearch, file: Path) -> None:
    """A CSV with a line a block and epoch: what ``dshrink plot mask`` draws."""
    write_csv(file, HISTORY_COLUMNS, search.history)
