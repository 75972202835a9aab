"""Expect an error of a class, with its code."""

from __future__ import annotations

from typing import NamedTuple, Self

import pytest

from dst.runtime import DstError


class Fault(NamedTuple):
    """An error that a table of cases expects."""

    kind: type[DstError]
    code: str

    @classmethod
    def of(cls, error: DstError) -> Self:
        """Return what an error is, to compare it with what was expected."""
        return cls(type(error), error.code)


def refused(
    kind: type[DstError], code: str, *, match: str | None = None
) -> pytest.RaisesExc[DstError]:
    """Expect an error of this class, and of no class below it, with this code."""
    return pytest.RaisesExc(
        kind, match=match, check=lambda error: type(error) is kind and error.code == code
    )
