"""The two files that a table is on disk: a CSV with its rows, and JSON with everything else.

The JSON names how many rows it was written with and their digest, so a pair of which only one half
was written, copied or edited is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from latency_tables.errors import TableFormatError
from latency_tables.reading import read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoFiles:
    """``what`` is it a table of, in messages; ``command`` measures one."""

    csv: Path
    what: str
    command: str

    @classmethod
    def of(cls, path: Path, *, name: str, what: str, command: str) -> Self:
        """``path`` is the folder, in which the CSV is called ``name``, or one of the two files."""
        is_file = path.suffix in (".csv", ".json") and not path.is_dir()
        csv = path.with_suffix(".csv") if is_file else path / name
        return cls(csv=csv, what=what, command=command)

    @property
    def sidecar(self) -> Path:
        """The JSON."""
        return self.csv.with_suffix(".json")

    def read(self) -> tuple[str, str]:
        """The texts of both. Raises TableFormatError."""
        return self._read(self.csv), self._read(self.sidecar)

    def _read(self, path: Path) -> str:
        try:
            return read_text(path)
        except FileNotFoundError:
            raise TableFormatError(
                f"{path}: no such file; {self.what} is {self.csv.name} with {self.sidecar.name} "
                f"next to it: copy both, or measure one with `{self.command}`"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise TableFormatError(
                f"{path}: cannot be read as text ({error}): restore the file"
            ) from None

    def require_pair(self, rows: int, digest: str, *, told: tuple[int, str]) -> None:
        """Raise TableFormatError where the rows are not those that the JSON was ``told`` of."""
        if (rows, digest) != told:
            raise TableFormatError(
                f"{self.csv}: its {rows} rows are not the {told[0]} rows that {self.sidecar} was "
                "written with (edited, or only one of the two files written): restore both files, "
                f"or run `{self.command}` again, which reuses what it has measured"
            )
