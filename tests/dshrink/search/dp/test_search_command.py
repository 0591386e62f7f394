"""``dshrink search dp`` of a network: from a table of spans to a certified merge."""

from __future__ import annotations

import csv
import json
import math
import random
from dataclasses import replace

import pytest
from synthetic_tables import synthetic_span_table

from dshrink.network.references import ModelChoice
from dshrink.operations.merge import merge_by_plan
from dshrink.pieces.span_pieces import span_pieces
from dshrink.pieces.specs import shrunk_spec
from dshrink.search.dp.bounds import sizes_of
from dshrink.search.importance import importance_keys
from latency_tables.io import save_table
from latency_tables.opspec import Add, Conv, OpSpec
from latency_tables.pieces import Piece
from latency_tables.predictor import predict
from latency_tables.span_masks import mask_spans

MODEL = "mobilenetv2_035"


@pytest.fixture(scope="module")
def net(network):
    return network(MODEL, 32, "random")


@pytest.fixture(scope="module")
def pieces(net):
    return span_pieces(net, mode="exact")


@pytest.fixture(autouse=True)
def made_once(net, pieces, monkeypatch):
    """The network and its pieces are made once for all tests."""
    monkeypatch.setattr("dshrink.network.models.load_network", lambda name, **_: net)
    monkeypatch.setattr(
        "dshrink.pieces.span_pieces.span_pieces", lambda net, mode: {"exact": pieces}[mode]
    )


def make_table(pieces):
    """Made-up latencies: a merged span costs less than its layers, more than one of them."""
    draw = random.Random(3)
    chain = pieces.chain
    spans = [piece.span for piece in pieces.pieces if piece.kind == "span"]
    made = synthetic_span_table(
        {(i, j): round(draw.uniform(0.8, 1.2) * (1 + 0.4 * (j - i - 1)), 2) for i, j in spans},
        mask=chain.mask,
        skips=chain.skips,
        block_ends=chain.block_ends,
    )
    named = {"model": pieces.model, "block_names": pieces.block_names, "chain": chain}
    return replace(made, resolution=pieces.resolution, unmergeable=pieces.unmergeable, **named)


@pytest.fixture(scope="module")
def tables(pieces, tmp_path_factory):
    """Folders of two devices' tables, and the words that name the first with its importances."""
    folder = tmp_path_factory.mktemp("tables")
    table = make_table(pieces)
    made = {
        folder / device: replace(table, conditions=replace(table.conditions, device=device))
        for device in ("pi", "jetson")
    }
    for path, one in made.items():
        save_table(one, path)
    draw = random.Random(7)
    keys = importance_keys(
        [piece.span for piece in pieces.pieces if piece.kind == "span"], pieces.chain.block_ends
    )
    lines = [",".join(map(str, (*key, round(draw.uniform(0.5, 1.0), 2)))) for key in keys]
    file = folder / "importance.csv"
    file.write_text("\n".join(["st,end,st_act,end_act,imp", *lines]) + "\n")
    return made, [MODEL, "--importance", file, "--table", folder / "pi"]


def test_a_network_goes_from_its_table_to_a_certified_merge(search, tables, tmp_path):
    (table, _), words = tuple(tables[0].values()), tables[1]
    plan, points = tmp_path / "plan.json", tmp_path / "frontier.csv"
    share = ["--budget-share", 0.9, "--max-kernel", 5]
    status, out, _ = search(*words, *share, "--out", plan, "--frontier", points)
    mask = json.loads(plan.read_text())["span_mask"]
    latency_ms = predict(table, mask).latency_ms
    assert status == 0 and mask.count("0") > 0
    assert latency_ms <= 0.9 * predict(table, table.chain.mask).latency_ms
    first, chosen, predicted, last = out.splitlines()
    assert first.endswith(f"plans: {points}")
    assert chosen.startswith(f"pi: plan spans:{mask}: {50 - mask.count('0')} layers, importance ")
    assert predicted.startswith(f"predicted {latency_ms:.3f} ms (95 %: ")
    assert last == f"plan: {plan}"
    with points.open() as lines:
        found = {line["mask"]: float(line["time_ms"]) for line in csv.DictReader(lines)}
    assert found[mask] == latency_ms
    ran = merge_by_plan(
        ModelChoice(model=MODEL, weights="random", resolution=(32, 32)),
        str(plan),
        tmp_path / "a.onnx",
    ).result
    assert (ran.span_mask, ran.spans_merged) == (mask, len(merged_spans(mask)))
    certificate = json.loads((tmp_path / "a.onnx.certificate.json").read_text())
    assert certificate["problem"] == "" and certificate["span_mask"] == mask


def merged_spans(mask):
    return [(i, j) for i, j in mask_spans(mask) if j > i + 1]


def test_bounds_hold_for_a_network(search, tables, pieces):
    def mask(*more):
        ran = search(*tables[1], "--budget-share", 0.6, "--json", *more)
        return json.loads(ran[1])["chosen"][0]["mask"]

    kernels = sizes_of(pieces).kernels
    free, bounded, kept = mask(), mask("--max-kernel", 3), mask("--keep-block", 3)
    assert max(kernels[span] for span in merged_spans(free)) > 3
    assert max(kernels[span] for span in merged_spans(bounded)) == 3
    first, last = pieces.chain.block_ends[2:4]
    assert free[first:last] != pieces.chain.mask[first:last]
    assert kept[first:last] == pieces.chain.mask[first:last]


def test_keys_that_were_not_evaluated_are_reported(search, tables, tmp_path):
    words = list(tables[1])
    lines = words[2].read_text().splitlines()
    words[2] = tmp_path / "importance.csv"
    key = [int(part) for part in lines[-1].split(",")[:4]]
    words[2].write_text("\n".join(lines[:-1]))
    about = {
        "schema": "dshrink.importance",
        "schema_version": 1,
        "model": MODEL,
        "missing": [{"key": key, "reason": "x"}],
    }
    words[2].with_suffix(".json").write_text(json.dumps(about))
    status, _, err = search(*words, "--budget-share", 1)
    assert status == 0
    about = words[2].with_suffix(".json")
    assert err == f"keys without importance, which no plan uses: 1 (see {about})\n"


def held_by_convolutions(spec):
    """Numbers alive while each convolution of a whole network runs."""
    readers = [(t, n) for n, op in enumerate(spec.ops) for t in op.inputs]
    return [
        sum(math.prod(spec.shapes[t]) for t in {n + 1, *(t for t, m in readers if t <= n <= m)})
        for n, op in enumerate(spec.ops)
        if isinstance(op, Conv)
    ]


def held_by_spans(net, mask):
    """The same of a shrunk network's spans: one convolution stands before them, one behind."""
    return held_by_convolutions(shrunk_spec(net, mask, segments="spans"))[1:-1]


def test_what_waits_in_open_skips_is_held_as_well_as_a_span(net, pieces, search, tables):
    peaks, base = sizes_of(pieces).peaks, pieces.chain.mask
    # Blocks 2 and 4 have skips; a span merges inside of one of them, or swallows it.
    for mask in (base, base[:5] + "10|" + base[8:], base[:5] + "00|" + base[8:]):
        assert [peaks["span", span] for span in mask_spans(mask)] == held_by_spans(net, mask)
    for p, q in pieces.chain.skips:
        size = math.prod(pieces.piece("span", (q - 1, q)).spec.output_shape)
        assert peaks["addition", (p, q)] == 3 * size
    status, _, err = search(*tables[1], "--budget-share", 1, "--max-peak-mib", 0.001)
    assert status == 2 and "ask for at least" in err
    most = err.split()[-1]
    ran = search(*tables[1], "--budget-share", 1, "--max-peak-mib", most, "--json")
    mask = json.loads(ran[1])["chosen"][0]["mask"]
    assert max(held_by_spans(net, mask)) * 4 / 2**20 <= float(most)


def test_a_projection_in_a_skip_runs_beside_what_it_is_added_to(pieces):
    layers = (
        Conv(inputs=(0,), out_channels=8, kernel=(1, 1), stride=(2, 2)),
        Add(inputs=(1, 1)),
    )
    spec = OpSpec(input_shape=(4, 8, 8), ops=layers)  # 256 numbers, then 128
    skip = next(skip for skip in pieces.chain.skips)
    piece = Piece(kind="addition", span=skip, layers=("a", "b"), spec=spec)
    others = tuple(p for p in pieces.pieces if p.place != piece.place)
    peaks = sizes_of(replace(pieces, pieces=(*others, piece))).peaks
    assert peaks["addition", skip] == 256 + 128 + 128


def test_two_devices_get_a_plan_and_a_file_each(search, tables, tmp_path):
    (pi, jetson), words = tuple(tables[0]), tables[1]
    both = [*words, "--table", jetson, "--budget-share", 0.7]
    files = [tmp_path / "pi.json", tmp_path / "jetson.json"]
    status, out, _ = search(*both, "--out", files[0], "--out", files[1])
    assert status == 0
    for file, folder in zip(files, (pi, jetson), strict=True):
        plan = json.loads(file.read_text())
        assert plan["table"]["conditions"]["device"] == folder.name
        assert f"{folder.name}: plan spans:{plan['span_mask']}: " in out
    one = tmp_path / "one.json"
    status, out, _ = search(*both, "--out", one, "--one-plan", "worst")
    assert status == 0 and json.loads(one.read_text())["method"] == "dp"
    assert out.startswith("plan spans:") and "\npi: " in out and "\njetson: " in out


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--budget-ms", 1], "on pi: the smallest possible latency is "),
        (["--frontier", "x.csv", "--out", "x.json"], "--out is given 1 time for 0 plans"),
        (["--budget-ms", 9, "--out", "x", "--out", "y"], "--out is given 2 times for 1 plan"),
        (["--budget-ms", 9, "--budget-ms", 9], "1 latency table and 2 budgets"),
        (["--budget-ms", 9, "--weight", 1], "weights are those of the tables in one plan"),
        (["--budget-ms", 9, "--keep-block", 17], "blocks 0 to 16"),
        (["--budget-ms", 9, "--max-parameters", 1], "no plan has at most"),
    ],
)
def test_what_cannot_be_is_one_line(more, part, search, tables, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = search(*tables[1], *more)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert part in err and not list(tmp_path.iterdir())
