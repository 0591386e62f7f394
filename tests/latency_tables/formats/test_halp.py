"""HALP's mapping, read by a reader written from its ``CostCalculator``."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from published_readers import HalpLookup

from latency_tables.errors import NoKeyError
from latency_tables.formats import halp
from latency_tables.formats.exporting import TimedSpec
from latency_tables.formats.halp import halp_key, write_halp
from latency_tables.opspec import Activation, Add, Conv, GlobalPool, OpSpec


def convolution(cin: int, cout: int, k: int, size: int, s: int, groups: int) -> OpSpec:
    conv = Conv(
        inputs=(0,),
        out_channels=cout,
        kernel=(k, k),
        stride=(s, s),
        pads=(k // 2,) * 4,
        groups=groups,
    )
    return OpSpec(input_shape=(cin, size, size), ops=(conv,))


@pytest.mark.parametrize("as_pickle", [False, True])
def test_each_convolution_of_a_grid_is_found_as_halp_asks_for_it(
    tmp_path: Path, as_pickle: bool
) -> None:
    dense = [(*one, 1) for one in product((3, 64), (32, 64), (1, 3, 7), (56, 14), (1, 2))]
    depthwise = [(64, 64, 3, 56, s, 64) for s in (1, 2)]
    measured = {one: 0.125 * (n + 1) for n, one in enumerate([*dense, *depthwise])}
    rows = [TimedSpec(spec=convolution(*one), latency_ms=ms) for one, ms in measured.items()]
    export = write_halp(rows, 256, as_pickle=as_pickle)
    assert export.rows == len(measured) and not export.left_out
    path = tmp_path / ("lut.pkl" if as_pickle else "lut.json")
    content = export.content
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    table = HalpLookup(path, 256)
    for (cin, cout, k, size, s, groups), ms in measured.items():
        found = table.latency(cin=cin, cout=cout, kernel=k, feat_size=size, stride=s, groups=groups)
        assert found == ms
    # The first layer of HALP's ResNet-50, by the key that stands in its messages.
    assert table.table["256_3_64_56_7_2_1"] == measured[3, 64, 7, 56, 2, 1]
    with pytest.raises(KeyError):
        HalpLookup(path, 128).latency(3, 64, 7, 56, 2, 1)


def test_an_activation_is_no_part_of_the_key() -> None:
    conv = convolution(8, 8, 3, 14, 1, 1)
    active = OpSpec(
        input_shape=(8, 14, 14), ops=(*conv.ops, Activation(inputs=(1,), function="relu"))
    )
    assert halp_key(active, 1) == halp_key(conv, 1) == "1_8_8_14_3_1_1"
    export = write_halp([TimedSpec(spec=one, latency_ms=1.5) for one in (active, conv)], 1)
    assert json.loads(export.content) == {"1_8_8_14_3_1_1": 1.5}
    assert sum(export.left_out.values()) == 1


def test_what_its_keys_cannot_say_has_none() -> None:
    wide = OpSpec(input_shape=(8, 14, 28), ops=(Conv(inputs=(0,), out_channels=8, kernel=(1, 1)),))
    valid = OpSpec(input_shape=(8, 14, 14), ops=(Conv(inputs=(0,), out_channels=8, kernel=(3, 3)),))
    for one in (wide, valid):
        with pytest.raises(NoKeyError, match="whose map, kernel and stride are square"):
            halp_key(one, 1)
    added = convolution(8, 8, 3, 14, 1, 1)
    added = OpSpec(input_shape=(8, 14, 14), ops=(*added.ops, Add(inputs=(0, 1))))
    pool = OpSpec(input_shape=(8, 14, 14), ops=(GlobalPool(inputs=(0,)),))
    for one in (added, pool):
        with pytest.raises(NoKeyError, match=halp.NO_KEY):
            halp_key(one, 1)
