import math

import pytest
from small_network import HEAD, STEM, merged, original

from latency_tables.opspec import Conv, Op, OpSpec, join
from profiler.replies import LayerTimes
from profiler.table.layer_profile import named_operators, share_out

#: STEM has 2 operators, a block with a residual 6, a merged one 2, HEAD 3 of which the last makes
#: the result.
PIECES = (STEM, original(0), OpSpec(input_shape=(8, 12, 12), ops=HEAD.ops))
NETWORK = (STEM, original(0), merged(1, False))
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


def test_layers_belong_to_the_pieces_of_their_operators() -> None:
    found = share_out(
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
    assert found.pieces_ns == ((100, 200), (97, 194), (9, 18))
    assert found.unnamed_ns == (0, 0)
    assert found.unnamed_percent == 0


def test_nothing_of_a_profile_is_lost_and_what_names_nothing_is_kept_apart() -> None:
    layers = times(
        ("t1/Conv", 100), ("__myl_1", 50), ("t2/Clip + t3/Conv", 30), ("result/Clip", 20)
    )
    found = share_out(layers, NETWORK)
    total = math.fsum(value for values in found.pieces_ns for value in values)
    assert total + sum(found.unnamed_ns) == pytest.approx(3 * 200)
    assert found.unnamed_ns == (50, 100)
    assert found.unnamed_percent == pytest.approx(25)


def macs_of(network: OpSpec, number: int) -> int:
    op: Op = network.ops[number]
    assert isinstance(op, Conv)
    return op.macs([network.shapes[tensor] for tensor in op.inputs])


def test_a_layer_over_several_pieces_is_shared_by_multiplications() -> None:
    network = join(NETWORK)
    stem, first, last = macs_of(network, 0), macs_of(network, 2), macs_of(network, 8)
    found = share_out(times(("t1/Conv + t2/Clip + t3/Conv + t9/Conv", 1000)), NETWORK)
    shares = [values[0] / 1000 for values in found.pieces_ns]
    total = stem + first + last
    assert shares == pytest.approx([stem / total, first / total, last / total])


def test_without_multiplications_the_numbers_written_decide() -> None:
    # The activation of the stem and one inside the block, which is six times as wide.
    found = share_out(times(("t2/Clip + t4/Clip", 700)), NETWORK)
    assert [values[0] for values in found.pieces_ns] == pytest.approx([100, 600, 0])


def test_what_prepares_an_operators_input_takes_no_share_of_its_maker() -> None:
    # The quantization of the stem's output, fused into the block that reads it.
    found = share_out(times(("t2.q/QuantizeLinear + t3/Conv", 50), ("t2.q/X", 9)), NETWORK)
    assert [values[0] for values in found.pieces_ns] == [9, 50, 0]
