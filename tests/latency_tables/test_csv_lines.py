"""CSV files as spreadsheets and pandas leave them: read with the same values, or refused."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from latency_tables.csv_lines import CsvSource, load_lines, read_lines
from latency_tables.mask_cells import check_lengths, mask_in


class RefusedError(ValueError):
    """What is raised here."""


SOURCE = CsvSource(where="f.csv", error=RefusedError, fix="mend it")
ROWS = [(0, 1, 0.81, "a"), (1, 12, 1234.5, "b"), (2, 3, 1e-05, "")]
PLAIN = "st,end,time,note\n0,1,0.81,a\n1,12,1234.5,b\n2,3,1e-05,\n"


def values(text: str) -> list[tuple[int, int, float, str]]:
    return [
        (line.whole("st"), line.whole("end"), line.number_in("time"), line.text("note"))
        for line in read_lines(text, SOURCE, ("st", "end"))
    ]


def frame() -> pd.DataFrame:
    return pd.read_csv(io.StringIO(PLAIN))


def semicolons(text: str) -> str:
    return text.replace(",", ";").replace(".", ",")


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        semicolons(PLAIN),
        semicolons(PLAIN).replace(";", "\t"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", " , "),
        f"sep=,\n{PLAIN}",
        f'"sep=;"\n{semicolons(PLAIN)}',
        f"# measured on a board\n\n# twice, in a row\n{PLAIN}",
        PLAIN.replace("\n", "\n\n"),
        PLAIN.replace("\n", ",\n"),
        PLAIN.replace("\n", ",,\n").replace("note,,", "note", 1) + ",,,\n",
        PLAIN.replace("st,end,time", "St,END,Time"),
        frame().to_csv(),
        frame().reset_index().to_csv(),
        pd.read_csv(io.StringIO(frame().to_csv())).to_csv(),
        frame().astype({"st": float, "end": float}).to_csv(),
        frame().to_csv(sep=";", decimal=",", float_format="%.6e"),
        frame().astype({"st": float}).to_csv(sep="\t", decimal=",", index=False),
        frame().to_csv(quoting=1),
    ],
)
def test_what_lies_around_the_values_does_no_harm(text: str) -> None:
    assert values(text) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends_of_spreadsheets(encoding: str, end: str, tmp_path: Path) -> None:
    mark = "\ufeff" if encoding[-2:] in ("le", "be") else ""
    file = tmp_path / "f.csv"
    file.write_bytes((mark + PLAIN.replace("a", "\u00fc")).replace("\n", end).encode(encoding))
    lines = load_lines(file, SOURCE)
    assert [line.text("note") for line in lines] == ["\u00fc", "b", ""]
    assert [line.number for line in lines] == [2, 3, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            PLAIN.replace("0.81", '"0,81"'),
            "line 2: time must be a finite number, got 0,81 (write a",
        ),
        (PLAIN.replace("0.81", '"1,234"'), "line 2: time must be a finite number, got 1,234"),
        (PLAIN.replace("0.81", "0,81"), "line 2: 5 values for 4 columns (cut off, or a decimal"),
        # The comma's other half lies in a column without a name.
        (
            "st,end,time,,note\n0,1,0,81,a\n",
            "line 1: column 4 holds values, and has no name",
        ),
        (semicolons(PLAIN).replace("0,81", "0.81"), "line 3: time must be"),
        (semicolons(PLAIN).replace("1234,5", "1.234,5"), "line 2: time must be"),
        (PLAIN.replace("1,12", "1,1.2"), "line 3: end must be a whole number, 0 or more, got 1.2"),
        (PLAIN.replace("1,12", "1,1e1"), "line 3: end must be a whole number"),
        (PLAIN.replace("0.81", ""), "line 2: time must be a finite number, got an empty value"),
        (PLAIN.replace("0.81", "inf"), "line 2: time must be a finite number, got inf"),
        (f"# a\n\n{PLAIN}".replace("1,12", "1,x"), "line 5: end must be a whole number"),
        (f"sep=;\n{PLAIN}", "line 2: missing columns st, end"),
        (PLAIN.replace("note", "Time"), "line 1: column time is given twice"),
        (PLAIN.replace("a\n", '"a\nb"\n').replace("1,12", "1,x"), "line 4: end must be"),
        ("# nothing else\n\n", "empty file"),
        (PLAIN.splitlines()[0], "no rows below the header"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused_by_line(text: str, message: str) -> None:
    with pytest.raises(RefusedError) as caught:
        values(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith("f.csv: ") and str(caught.value).endswith(": mend it")


def masks(*cells: str) -> list[str]:
    lines = read_lines("name,keep_mask\n" + "".join(f"n,{cell}\n" for cell in cells), SOURCE)
    found = [(line, mask_in(line, "keep_mask")) for line in lines]
    check_lengths(found, "keep_mask")
    return [mask for _, mask in found]


def test_masks_are_texts() -> None:
    assert masks("0011", "", "1|01") == ["0011", "", "1|01"]
    assert masks("") == [""]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("0011", "1.1e+16"), "line 3: keep_mask must hold one 1, 0 or | a block"),
        (("1,00E+16".replace(",", "."),), "got 1.00E+16 (read as a number by a spreadsheet"),
        (("1111.0",), "got 1111.0"),
        (("11", "1011", ""), "line 2: keep_mask 11 has 2 characters, that of line 3 has 4 (read"),
    ],
)
def test_masks_that_became_numbers_are_refused(cells: tuple[str, ...], message: str) -> None:
    with pytest.raises(RefusedError) as caught:
        masks(*cells)
    assert message in str(caught.value)
    assert "dtype={'keep_mask': str}" in str(caught.value)


@pytest.mark.parametrize("text", ["1e300", "-1e16", "1e999", "9" * 5000])
def test_a_number_that_no_sum_or_axis_holds_is_refused(text: str) -> None:
    (line,) = read_lines(f"a\n{text}\n", SOURCE)
    with pytest.raises(RefusedError, match="a must be a finite number, got"):
        line.number_in("a")


def test_a_whole_number_beyond_64_bits_and_a_null_character_are_refused() -> None:
    (line,) = read_lines(f"a\n{'9' * 5000}\n", SOURCE)
    with pytest.raises(RefusedError, match=r"a whole number, 0 or more, got 9{57}\.\.\."):
        line.whole("a")
    with pytest.raises(RefusedError, match="line 2: holds a null character"):
        read_lines("a\n\0\n", SOURCE)


@pytest.mark.parametrize(
    ("text", "said"),
    [("," * 100_000, "line 1: more than 1000 columns"), ("\n" * 1_100_000, "more than 1000000")],
)
def test_files_of_empty_cells_are_refused_at_once(text: str, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        read_lines(text, SOURCE)
