"""Lists and grids of layers as people write them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_tables.errors import LatencyTableError, PieceError, TableFormatError
from latency_tables.layers.layer import Layer
from latency_tables.layers.texts import (
    MOST_LAYERS,
    layer_of,
    load_layers,
    parse_grid,
    parse_layer,
)


def test_short_and_long_names_mean_the_same() -> None:
    short = parse_layer("cin=96 cout=96 k=3 s=2 hw=28 g=dw act=ReLU6 bias=no")
    long = parse_layer(
        "kind=conv in_channels=96 out_channels=96 kernel_size=3 stride=2x2 padding=same "
        "height=28 width=28 groups=96 activation=relu6 bias=false residual=0"
    )
    assert short == long
    assert short == Layer(
        in_channels=96,
        out_channels=96,
        kernel=(3, 3),
        stride=(2, 2),
        groups=96,
        height=28,
        activation="relu6",
        bias=False,
    )
    assert parse_layer("cin=8 cout=cin k=1x3 hw=4x6") == Layer(
        in_channels=8, out_channels=8, kernel=(1, 3), height=4, width=6
    )


@given(
    st.builds(
        lambda cin, cout, kernel, stride, height, width, bias: Layer(
            in_channels=cin,
            out_channels=cout,
            kernel=kernel,
            stride=stride,
            height=height,
            width=width,
            bias=bias,
        ),
        *(st.integers(1, 64),) * 2,
        *(st.tuples(st.integers(1, 5), st.integers(1, 5)),) * 2,
        *(st.integers(5, 64),) * 2,
        st.booleans(),
    )
)
def test_the_cells_of_a_layer_give_it_back(layer: Layer) -> None:
    assert layer_of(layer.to_texts()) == layer


def test_a_grid_has_all_combinations_and_counts_those_that_are_no_layer() -> None:
    grid = parse_grid("cin=16:48:16 cout=8,12 k=1,3 hw=14 g=1,8")
    expected = {
        (cin, cout, k, g)
        for cin, cout, k, g in product((16, 32, 48), (8, 12), (1, 3), (1, 8))
        if not (g == 8 and cout == 12)
    }
    assert {(x.in_channels, x.out_channels, x.kernel[0], x.groups) for x in grid.layers} == expected
    assert grid.given == 24
    assert len(grid.impossible) == 6
    assert "12 output channels do not divide into 8 groups" in grid.impossible[0]


def test_equal_layers_of_a_grid_are_one() -> None:
    # At 1 input channel a depthwise convolution is a plain one.
    grid = parse_grid("cin=1 cout=1 k=3 hw=14 g=1,dw")
    assert len(grid.layers) == 1
    assert grid.given == 2


def test_a_list_as_pandas_and_a_spreadsheet_leave_it(tmp_path: Path) -> None:
    file = tmp_path / "layers.csv"
    file.write_text(
        "\ufeff;Name;In_Channels;cout;k;height;width;groups;act\n"
        "0;stem;3.0;32,0;3;224;224;1;relu6\n"
        "1;dw;32;32;3;112;112;dw;\n"
        "2;stem again;3;32;3;224;224;1;relu6\n"
        ";;;;;;;;\n"
    )
    found = load_layers(file)
    assert [layer.name for layer in found.layers] == [
        "conv 3x3 3->32 at 224x224, relu6",
        "depthwise 3x3 32->32 at 112x112",
    ]
    assert found.names[found.layers[0]] == ("stem", "stem again")
    assert found.given == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cout=3 hw=4", "in_channels (cin) is missing"),
        ("cin=3 hw=4", "out_channels (cout) is missing"),
        ("cin=3 cout=4", "height (or hw) is missing"),
        ("cin=3 cout=4 hw=4 h=4", "give hw, or height and width"),
        ("cin=3 in_channels=3 cout=4 hw=4", "in_channels is given twice"),
        ("cin=3 cout=4 hw=4 kernal=3", "did you mean kernel?"),
        ("cin=3 cout=4.5 hw=4", "out_channels must be a whole number, got '4.5'"),
        ("cin=3 cout=4 hw=4x4x4", "hw must be a number, or HEIGHTxWIDTH"),
        ("cin=3 cout=4 hw=4 bias=perhaps", "bias must be true or false"),
        ("cin=-3 cout=4 hw=4", "must be a whole number"),
        ("96 96 3", "'96' is not NAME=VALUE"),
        ("", "no layer given"),
    ],
)
def test_a_layer_that_cannot_be_read_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(PieceError) as refused:
        parse_layer(text)
    assert says in str(refused.value)


def test_a_grid_is_bounded_before_it_is_built() -> None:
    for text in ("cin=1:999999999 cout=1 hw=4", "cin=1:9999 cout=1:9999 hw=4"):
        with pytest.raises(PieceError, match=f"at most {MOST_LAYERS}"):
            parse_grid(text)
    with pytest.raises(PieceError, match="has no layer"):
        parse_grid("cin=3 cout=4,5 hw=4 g=2")
    with pytest.raises(PieceError, match="in_channels=8,: a value is missing beside a comma"):
        parse_grid("cin=8, cout=4 hw=4")
    with pytest.raises(PieceError, match="from:to:step"):
        parse_grid("cin=9:3:1 cout=4 hw=4")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("in_channels,out_channels,height\n3,4,8\n3,x,8\n", "line 3: out_channels must be"),
        ("in_channels,out_channels,height,colour\n3,4,8,red\n", "line 1: unknown field of a layer"),
        ("name,cin,cout,hw\na,3,4,8\nb;c,4,4,8\n", "line 3: name 'b;c' must not contain ';'"),
        ("in_channels,out_channels,height\n", "no rows below the header"),
        ("in_channels,out_channels,height,groups\n3,4,8,2\n", "line 2: 3 input channels do not"),
    ],
)
def test_a_list_that_cannot_be_read_names_its_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "layers.csv"
    file.write_text(text)
    with pytest.raises(LatencyTableError) as refused:
        load_layers(file)
    assert isinstance(refused.value, TableFormatError)
    assert says in str(refused.value)
    assert str(file) in str(refused.value)
