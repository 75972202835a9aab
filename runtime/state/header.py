"""What the header of a saved state says, and how its texts are spelled.

The values of its metadata are texts, since safetensors allows no others there.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np

from dst.runtime.bundle.manifest import MAX_AXES, Count, Hash, Name

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")
DTYPES = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "bool": "BOOL",
}
MOST = {"items_consumed": 2**63 - 1, "draws": 2**63 - 1, "seed": 2**64 - 1}
"""The largest number of each kind; no stream counts so far, and none wraps."""
DTYPE_OF = {code: np.dtype(name) for name, code in DTYPES.items()}


class Version(msgspec.Struct, frozen=True):
    """The only field that every version has."""

    version: str | None = None


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose state it is and how far it has come; FORMAT.md tells each field."""

    checksum: str
    format: Literal["dst-state"]
    version: str
    model_id: Hash
    state_hash: Hash
    bundle_id: Hash
    precision: Name
    items_consumed: str
    seed: str
    draws: str
    constants: str = ""


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one tensor lies behind the header."""

    dtype: str
    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=MAX_AXES)]
    data_offsets: tuple[Count, Count]


def spelled(constants: Mapping[str, str]) -> str:
    """Spell the constants for the header, whose values are texts."""
    return json.dumps(constants, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def read_constants(text: str) -> dict[str, str]:
    """Read the constants of the header; `ValueError` if they are not spelled as they must be."""
    constants = msgspec.json.decode(text, type=dict[Name, str])
    if not constants or spelled(constants) != text:
        raise ValueError(f"constants are not in canonical form: {text:.40}")
    return constants


def read_count(name: str, text: str) -> int:
    """Read a number of the header; `ValueError` if it is none that a stream can have."""
    if not _DECIMAL.fullmatch(text) or int(text) > MOST[name]:
        raise ValueError(f"{name} is {text[:40]!r}, expected a decimal in 0 .. {MOST[name]}")
    return int(text)
