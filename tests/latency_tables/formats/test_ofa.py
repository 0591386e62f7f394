"""once-for-all's YAML, read by a reader written from its ``query``: every layer has its own key."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from published_readers import OfaLookup

from latency_tables.errors import NoKeyError, TableFormatError
from latency_tables.formats import ofa_keys as keys
from latency_tables.formats.exporting import SAME_KEY, TimedSpec
from latency_tables.formats.ofa import write_ofa
from latency_tables.formats.ofa_keys import ofa_keys
from latency_tables.formats.registry import load_published_layers
from latency_tables.opspec import (
    Activation,
    Add,
    Conv,
    Flatten,
    GlobalPool,
    Linear,
    Mul,
    Op,
    OpSpec,
    Pool,
    Shape,
)


def conv(n: int, out: int, k: int = 1, s: int = 1, groups: int = 1, pad: int | None = None) -> Conv:
    pads = (k // 2 if pad is None else pad,) * 4
    return Conv(
        inputs=(n,), out_channels=out, kernel=(k, k), stride=(s, s), pads=pads, groups=groups
    )


def act(n: int, function: str = "relu6") -> Activation:
    return Activation(inputs=(n,), function=function)


def spec(shape: Shape, *ops: Op) -> OpSpec:
    return OpSpec(input_shape=shape, ops=ops)


def bottleneck(
    cin: int,
    mid: int,
    cout: int,
    size: int,
    *,
    k: int = 3,
    s: int = 1,
    function: str = "relu6",
    squeeze: int = 0,
    expands: bool = True,
    skip: bool = False,
    gate: str = "hard_sigmoid",
) -> OpSpec:
    """MobileNet's inverted bottleneck, ``squeeze`` channels inside of squeeze-excite."""
    ops: list[Op] = [conv(0, mid), act(1, function)] if expands else []
    ops += [conv(len(ops), mid, k, s, groups=mid)]
    ops += [act(len(ops), function)]
    if squeeze:
        at = len(ops)
        ops += [GlobalPool(inputs=(at,)), conv(at + 1, squeeze), act(at + 2, "relu")]
        ops += [conv(at + 3, mid), act(at + 4, gate), Mul(inputs=(at, at + 5))]
    ops += [conv(len(ops), cout)]
    if skip:
        ops += [Add(inputs=(0, len(ops)))]
    return spec((cin, size, size), *ops)


def lookup(folder: Path, *timed: TimedSpec) -> OfaLookup:
    content = write_ofa(timed).content
    assert isinstance(content, str)
    (folder / "table.yaml").write_text(content)
    return OfaLookup(folder / "table.yaml")


def timed(one: OpSpec, ms: float = 1.0) -> TimedSpec:
    return TimedSpec(spec=one, latency_ms=ms, stdev_ms=ms / 8, samples=45)


def test_the_layers_of_a_grid_are_found_by_their_shapes(tmp_path: Path) -> None:
    grid = list(product((16, 24), (16, 32), (1, 3), (1, 2), (28, 7)))
    measured = {one: 0.125 * (number + 1) for number, one in enumerate(grid)}
    table = lookup(
        tmp_path,
        *(
            timed(spec((cin, size, size), conv(0, cout, k, s), act(1)), ms)
            for (cin, cout, k, s, size), ms in measured.items()
        ),
    )
    assert len(table.table) == len(grid)
    for (cin, cout, k, s, size), ms in measured.items():
        out = int((size - 1) / s + 1)
        kind = "Conv" if k == 3 else "Conv_1"
        assert table.query(kind, [size, size, cin], [out, out, cout]) == ms
    assert table.table["Conv-input:28x28x16-output:14x14x32"] == {
        "mean": measured[16, 32, 3, 2, 28],
        "count": 45,
        "std": measured[16, 32, 3, 2, 28] / 8,
    }


def test_the_end_of_a_network_is_found_as_both_families_ask_for_it(tmp_path: Path) -> None:
    pool = GlobalPool(inputs=(0,))
    table = lookup(
        tmp_path,
        timed(spec((960, 7, 7), pool), 0.5),
        timed(spec((960, 1, 1), conv(0, 1280), act(1, "hard_swish")), 0.25),
        timed(spec((1280,), Linear(inputs=(0,), out_features=1000)), 0.75),
        timed(
            spec((1280, 7, 7), pool, Flatten(inputs=(1,)), Linear(inputs=(2,), out_features=1000)),
            2.5,
        ),
    )
    assert table.query("AvgPool2D", [7, 7, 960], [1, 1, 960]) == 0.5
    assert table.query("Conv_2", [1, 1, 960], [1, 1, 1280]) == 0.25
    assert table.query("Logits", [1, 1, 1280], [1000]) == 0.75
    assert table.query("Logits", [7, 7, 1280], [1000]) == 2.5


@pytest.mark.parametrize(("k", "s", "skip"), [(3, 1, True), (5, 2, False), (7, 1, False)])
def test_a_bottleneck_is_found_by_its_ratio_and_by_its_channels(
    tmp_path: Path, k: int, s: int, skip: bool
) -> None:
    table = lookup(tmp_path, timed(bottleneck(24, 144, 24, 56, k=k, s=s, skip=skip), 0.5))
    out = 56 // s
    shapes = [56, 56, 24], [out, out, 24]
    said = {"kernel": k, "stride": s, "idskip": int(skip)}
    assert table.query("expanded_conv", *shapes, expand=6, **said) == 0.5
    assert table.query("expanded_conv", *shapes, expand=144, **said, se=0, hs=0) == 0.5


def test_a_bottleneck_without_expansion_has_the_ratio_one(tmp_path: Path) -> None:
    table = lookup(tmp_path, timed(bottleneck(32, 32, 16, 112, expands=False)))
    said = {"kernel": 3, "stride": 1, "idskip": 0}
    assert table.query("expanded_conv", [112, 112, 32], [112, 112, 16], expand=1, **said) == 1


@pytest.mark.parametrize(("function", "swish"), [("relu", 0), ("hard_swish", 1)])
def test_squeeze_excite_and_hard_swish_have_a_key_of_channels_alone(
    tmp_path: Path, function: str, swish: int
) -> None:
    # 136 * 3 / 4 = 102, which once-for-all rounds to 104.
    one = bottleneck(136, 408, 136, 10, k=5, function=function, squeeze=104, skip=True)
    table = lookup(tmp_path, timed(one, 0.988))
    said = {"expand": 408, "kernel": 5, "stride": 1, "idskip": 1, "se": 1, "hs": swish}
    assert table.query("expanded_conv", [10, 10, 136], [10, 10, 136], **said) == 0.988
    assert len(table.table) == 1


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (spec((8, 9, 9), conv(0, 8, 5)), keys.NO_KEY),
        (spec((8, 9, 9), conv(0, 8, 3, groups=8)), keys.NO_KEY),
        (spec((8, 9, 9), conv(0, 8, 3, pad=0)), keys.NO_KEY),
        (spec((8, 9, 9), conv(0, 8, 3), Add(inputs=(0, 1))), keys.NO_KEY),
        (spec((8, 9, 9), Flatten(inputs=(0,)), Linear(inputs=(1,), out_features=2)), keys.NO_KEY),
        (
            spec((8, 9, 9), Pool(inputs=(0,), function="max", kernel=(2, 2), stride=(2, 2))),
            keys.NO_KEY,
        ),
        (bottleneck(8, 48, 8, 9, k=4, s=2), keys.NO_KEY),
        (bottleneck(8, 48, 8, 9, function="silu"), keys.ACTIVATIONS),
        (bottleneck(8, 48, 8, 9, function="hard_swish", squeeze=12), keys.SQUEEZE),
        (bottleneck(8, 64, 8, 9, squeeze=16, gate="sigmoid"), keys.SQUEEZE),
    ],
)
def test_what_its_keys_cannot_say_has_none(one: OpSpec, reason: str) -> None:
    with pytest.raises(NoKeyError) as caught:
        ofa_keys(one)
    assert str(caught.value) == reason


def test_equal_operators_are_one_row_of_their_mean(tmp_path: Path) -> None:
    one = spec((8, 9, 9), conv(0, 8))
    table = lookup(tmp_path, timed(one, 1.0), timed(one, 2.0))
    assert table.query("Conv_1", [9, 9, 8], [9, 9, 8]) == 1.5


def test_rows_without_a_key_of_their_own_are_counted() -> None:
    plain, active = spec((8, 9, 9), conv(0, 8)), spec((8, 9, 9), conv(0, 8), act(1))
    rows = [timed(plain), timed(plain), timed(active), "it failed", timed(bottleneck(8, 48, 8, 9))]
    export = write_ofa(rows)
    assert (export.rows, dict(export.left_out)) == (2, {SAME_KEY: 1, "it failed": 1})
    assert "1 of 4 rows have no place in the format ofa: it failed" in export.lines("ofa")
    with pytest.raises(
        TableFormatError, match=r"no row .* in the format ofa \(1 rows: it failed\)"
    ):
        write_ofa(["it failed"])


GOOD = "Conv-input:224x224x3-output:112x112x32"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [1]\nb: [*a, *a]\n", "holds anchors or aliases"),
        (f"{GOOD}: {{mean: 0x{'f' * 9000}}}\n", "got an integer of thousands of digits"),
        (f"{GOOD}: {{mean: 1.0e+300}}\n", "must be a number of ms above 0, got 1e+300"),
        (f"{GOOD}: {'[' * 3000}{']' * 3000}\n", "cannot be read"),
        (f"{GOOD}: {[1] * 100_000}\n", "must hold mean (and std) in ms, got [1, 1, 1"),
        ("a" * (8 << 20) + ": 1\n", "above 8 MiB, and YAML is slow to read"),
    ],
)
def test_a_hostile_yaml_is_one_short_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "lut.yaml").write_text(text)
    with pytest.raises(TableFormatError) as caught:
        load_published_layers(tmp_path / "lut.yaml")
    assert said in str(caught.value) and len(str(caught.value)) < 600
