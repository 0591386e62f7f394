import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from small_network import HEAD, STEM, merged, original

from devices.agent import runtimes
from dshrink.network.models import Network
from dshrink.pieces.block_pieces import network_pieces
from dshrink.pieces.operator_places import operator_places
from dshrink.pieces.span_pieces import span_pieces
from dshrink.pieces.specs import shrunk_spec
from latency_tables.opspec import Activation, Add, Conv, Op, OpSpec, join
from latency_tables.pieces import NetworkPieces
from latency_tables.places import Place
from profiler.planning.hold_out import between_masks
from profiler.replies import LayerTimes
from profiler.table.layer_profile import PieceTimes, named_operators, profiled_ms, share_out
from profiler.workloads import build_onnx

ENTRY: Place = ("stem", None)
KEPT: Place = ("original", 0)
MERGED: Place = ("merged", 1)
END: Place = ("head", None)
#: STEM has 2 operators, a block with a residual 6, a merged one 2, HEAD 3 of which the last makes
#: the result.
PIECES = {ENTRY: STEM, KEPT: original(0), END: OpSpec(input_shape=(8, 12, 12), ops=HEAD.ops)}
NETWORK = {ENTRY: STEM, KEPT: original(0), MERGED: merged(1, False)}
COUNT = 11


def times(*layers: tuple[str, int]) -> LayerTimes:
    """A profile of two passes, the second twice as slow."""
    return LayerTimes(layers=tuple((name, (time_ns, 2 * time_ns)) for name, time_ns in layers))


@pytest.mark.parametrize(
    ("layer", "whole", "parts"),
    [
        ("t1/Conv", {0}, set()),
        ("t1/Conv + t2/Clip", {0, 1}, set()),
        ("t10/Conv", {9}, set()),
        ("result/Gemm", {10}, set()),
        ("t9/Flatten + result/Gemm", {8, 10}, set()),
        ("Reformatting CopyNode for Input Tensor 0 to t5/Conv + t6/Clip", {4, 5}, set()),
        ("Reformatting CopyNode for Network Output result", {10}, set()),
        ("Reformatting CopyNode for Network Input image", set(), set()),
        ("PWN(t4.gate/Sigmoid, t4/Mul)", {3}, set()),
        ("t4.gate/Sigmoid", set(), {3}),
        ("t5.q/QuantizeLinear_clone_1 + t6/Conv", {5}, {4}),
        ("t3.weight + t3.weight.q/QuantizeLinear", set(), {2}),
        ("t3/Conv || t7/Conv", {2, 6}, set()),
        ("t1/Conv_nchwc", {0}, set()),
        ("t2_nchwc/Conv", {1}, set()),
        ("result_nchwc/Conv", {10}, set()),
        ("fused t1/Conv", {0}, set()),
        ("t4/Mul/QuickGeluFusion/", {3}, set()),
        ("ReorderOutput_token_5", set(), set()),
        ("t2_nchwcs/Conv", set(), set()),
        ("{ForeignNode[t3/Conv...t6/Add]}", {2, 3, 4, 5}, set()),
        ("{ForeignNode[t3.weight + t4/Clip...t6/Add]}", {2, 3, 4, 5}, set()),
        ("__myl_ConvClip_myl0_3", set(), set()),
        ("Reorder_token_1", set(), set()),
        ("at1/Conv t12/Conv t0/Conv t99/Conv", set(), set()),
        ("results/Conv", set(), set()),
        ("", set(), set()),
    ],
)
def test_the_operators_of_a_layer_are_those_that_its_name_mentions(
    layer: str, whole: set[int], parts: set[int]
) -> None:
    assert named_operators(layer, COUNT) == (set(whole), set(parts))


def share(layers: LayerTimes, pieces: dict[Place, OpSpec]) -> PieceTimes:
    """The layers of these pieces one after the other, shared out."""
    owners = [place for place, spec in pieces.items() for _ in spec.ops]
    return share_out(layers, join(list(pieces.values())), owners)


def test_layers_belong_to_the_pieces_of_their_operators() -> None:
    found = share(
        times(
            ("t1/Conv + t2/Clip", 100),
            ("Reformatting CopyNode for Input Tensor 0 to t3/Conv + t4/Clip", 7),
            ("t3/Conv + t4/Clip", 20),
            ("t5/Conv + t6/Clip", 30),
            ("t7/Conv + t8/Add", 40),
            ("t9/GlobalAveragePool", 3),
            ("t10/Flatten", 1),
            ("result/Gemm", 5),
        ),
        PIECES,
    )
    assert found.places_ns == {ENTRY: (100, 200), KEPT: (97, 194), END: (9, 18)}
    assert found.unnamed_ns == (0, 0)
    assert found.unnamed_percent == 0


def test_a_change_of_layout_belongs_to_the_operator_that_is_not_in_the_blocked_layout() -> None:
    # The block's addition is not: what it reads is brought back for it, and what it gives is
    # blocked again for the head.
    found = share(
        times(
            ("ReorderInput_token_3", 1),  # of the image
            ("t2_nchwc/Conv", 100),
            ("t4_nchwc/Conv", 20),
            ("t6_nchwc/Conv", 30),
            ("t7_nchwc/Conv", 40),
            ("ReorderOutput", 5),
            ("ReorderOutput_token_2", 6),
            ("t8/Add", 10),
            ("ReorderInput", 7),
            ("t9_nchwc/GlobalAveragePool", 3),
            ("ReorderOutput_token_9", 2),
            ("t10/Flatten", 1),
            ("result/Gemm", 5),
        ),
        PIECES,
    )
    firsts = {place: values[0] for place, values in found.places_ns.items()}
    assert firsts == {ENTRY: 100, KEPT: 20 + 30 + 40 + 5 + 6 + 10 + 7, END: 3 + 2 + 1 + 5}
    assert found.unnamed_ns == (1, 2)  # no layer ran before it


def test_nothing_of_a_profile_is_lost_and_what_names_nothing_is_kept_apart() -> None:
    layers = times(
        ("t1/Conv", 100), ("__myl_1", 50), ("t2/Clip + t3/Conv", 30), ("result/Clip", 20)
    )
    found = share(layers, NETWORK)
    total = math.fsum(value for values in found.places_ns.values() for value in values)
    assert total + sum(found.unnamed_ns) == pytest.approx(3 * 200)
    assert found.unnamed_ns == (50, 100)
    assert found.unnamed_percent == pytest.approx(25)


def macs_of(network: OpSpec, number: int) -> int:
    op: Op = network.ops[number]
    assert isinstance(op, Conv)
    return op.macs([network.shapes[tensor] for tensor in op.inputs])


def test_a_layer_over_several_pieces_is_shared_by_multiplications() -> None:
    network = join(list(NETWORK.values()))
    stem, first, last = macs_of(network, 0), macs_of(network, 2), macs_of(network, 8)
    found = share(times(("t1/Conv + t2/Clip + t3/Conv + t9/Conv", 1000)), NETWORK)
    total = stem + first + last
    shares = {place: values[0] / 1000 for place, values in found.places_ns.items()}
    assert shares == pytest.approx({ENTRY: stem / total, KEPT: first / total, MERGED: last / total})


def test_without_multiplications_the_numbers_written_decide() -> None:
    # The activation of the stem and one inside the block, which is six times as wide.
    found = share(times(("t2/Clip + t4/Clip", 700)), NETWORK)
    firsts = {place: values[0] for place, values in found.places_ns.items()}
    assert firsts == pytest.approx({ENTRY: 100, KEPT: 600})


def test_what_prepares_an_operators_input_takes_no_share_of_its_maker() -> None:
    # The quantization of the stem's output, fused into the block that reads it.
    found = share(times(("t2.q/QuantizeLinear + t3/Conv", 50), ("t2.q/X", 9)), NETWORK)
    assert {place: values[0] for place, values in found.places_ns.items()} == {ENTRY: 9, KEPT: 50}


#: Two convolutions, and the input added behind them: the addition is fused into the second one.
CONV = Conv(inputs=(0,), out_channels=4, kernel=(3, 3), pads=(1, 1, 1, 1))
CHAIN = OpSpec(
    input_shape=(4, 8, 8),
    ops=(
        CONV,
        dataclasses.replace(CONV, inputs=(1,)),
        Add(inputs=(2, 0)),
        Activation(inputs=(3,), function="relu"),
    ),
)
FIRST, SECOND, ADDITION = ("span", (0, 1)), ("span", (1, 2)), ("addition", (0, 2))
OWNERS: list[Place] = [FIRST, SECOND, ADDITION, SECOND]


def test_a_place_between_operators_of_another_one_is_told_from_it() -> None:
    layers = times(("t1/Conv", 10), ("t2/Conv", 20), ("t3/Add", 5), ("result/Relu", 2))
    found = share_out(layers, CHAIN, OWNERS)
    assert found.places_ns == {FIRST: (10, 20), SECOND: (22, 44), ADDITION: (5, 10)}


def test_what_no_layer_names_is_free_where_it_multiplies_nothing_and_else_unknown() -> None:
    found = share_out(times(("t1_nchwc/Conv", 10), ("__myl_1", 25)), CHAIN, OWNERS)
    assert found.places_ns == {FIRST: (10, 20), ADDITION: (0, 0)}


def profile(unnamed: float = 0.0, **places: tuple[float, ...]) -> PieceTimes:
    return PieceTimes(
        places_ns={(kind, None): values for kind, values in places.items()}, unnamed_ns=(unnamed,)
    )


def test_a_profile_adds_up_to_the_latency_of_its_network_with_what_is_unnamed_spread() -> None:
    assert profiled_ms([(profile(50.0, stem=(300.0,), head=(100.0,)), 2.0)]) == pytest.approx(
        {ENTRY: 1.5, END: 0.5}
    )


def test_a_place_costs_the_lower_quartile_over_profiles_of_the_lower_quartile_of_passes() -> None:
    # Every pass but the first two is disturbed, as is the whole of the last profile's stem.
    passes = (1.0, 1.0, 9.0, 9.0, 9.0)
    profiles = [profile(stem=passes, head=(3.0,) * 5) for _ in range(4)]
    profiles.append(profile(stem=(60.0,) * 5, head=(3.0,) * 5))
    found = profiled_ms((one, 4.0) for one in profiles)
    assert found[ENTRY] == pytest.approx(1.0)
    assert found[END] == pytest.approx(3.0)


def test_each_place_is_known_from_the_networks_that_hold_it() -> None:
    both = profile(stem=(1.0,), head=(1.0,)), 2.0
    assert profiled_ms([both, (profile(stem=(5.0,)), 1.0)]) == {ENTRY: 1.0, END: 1.0}


def test_a_profile_in_which_nothing_took_time_says_nothing() -> None:
    assert profiled_ms([(profile(stem=(0.0,)), 2.0)]) == {}


@pytest.mark.parametrize(("segments", "make"), [("blocks", network_pieces), ("spans", span_pieces)])
def test_onnx_runtime_names_all_that_it_runs(
    segments: str,
    make: Callable[[Network], NetworkPieces],
    network: Callable[..., Network],
    tmp_path: Path,
) -> None:
    net = network("mobilenetv2_100", 64)
    pieces = make(net)
    runtime = runtimes.get("onnxruntime")
    runtime.load()
    for mask, padding in between_masks(pieces, 4, seed=5):
        spec = shrunk_spec(net, mask, segments=segments, padding=padding)
        file = tmp_path / "model.onnx"
        file.write_bytes(build_onnx(spec))
        prepared = runtime.prepare(str(file), 1, 0, {})
        layers = tuple((name, tuple(ns)) for name, ns in prepared.layers(2))
        prepared.close()
        owners = operator_places(net, mask, segments=segments, padding=padding)
        found = share_out(LayerTimes(layers=layers), spec, owners)
        assert found.unnamed_percent == 0.0
        assert set(found.places_ns) == set(pieces.forms.places(mask, padding))
        alone = [place for place, values in found.places_ns.items() if not any(values)]
        assert {kind for kind, _ in alone} <= {"addition"}  # a convolution takes it in
