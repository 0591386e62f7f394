"""Latencies as LayerMerge (Kim et al., ICML 2024) has them: T(i, j, k), a line a kernel size.

Its files have the columns ``id,st,end,ker,str,is_dw,time,stdev``: a span (st, end] becomes one
convolution of size ``ker``, depthwise or not, depending on which of its convolutions are dropped
(``ker`` 0: all of them). The span of which none is dropped is the one that tables of spans hold.
Sizes add up, so it has the largest one; and where that is both dense and depthwise, a dense 1x1
convolution was dropped from the depthwise one.
"""

from __future__ import annotations

from collections.abc import Sequence

from latency_tables.csv_lines import CsvLine

#: How the kernel size may be called: its column marks a table as LayerMerge's.
KERNEL_COLUMNS = ("kernel", "ker")
_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false", "")


def kernel_column(line: CsvLine) -> str:
    """The column of kernel sizes, an empty text where the file has none."""
    return next((name for name in KERNEL_COLUMNS if name in line.values), "")


def is_depthwise(line: CsvLine) -> bool:
    """The cell ``is_dw``, False where the file has no such column. Raises the source's error."""
    text = line.values.get("is_dw", "").strip().lower()
    if text not in (*_TRUE, *_FALSE):
        raise line.error(f"is_dw must be True or False, got {text!r}")
    return text in _TRUE


def whole_spans(lines: Sequence[CsvLine]) -> list[CsvLine]:
    """Of each span the line where no convolution is dropped, in the order of the file.

    Raises the source's error where two lines may be that: sizes that differ in the stride alone.
    """
    column = kernel_column(lines[0])
    chosen: dict[tuple[int, int], tuple[tuple[int, bool], CsvLine]] = {}
    for line in lines:
        span = line.whole("st"), line.whole("end")
        size = line.whole(column), not is_depthwise(line)
        before = chosen.get(span)
        if before is not None and before[0] == size:
            raise line.error(
                f"span {span[0]}-{span[1]} has kernel {size[0]} on line {before[1].number} already "
                "(is the stride the difference? keep the network's)"
            )
        if before is None or size > before[0]:
            chosen[span] = size, line
    return [line for _, line in chosen.values()]
