"""Mutations that keep JSON whole: bytes with a JSON text and a seed in, changed bytes out.

Plain byte mutations rarely leave a text that parses, so half of the time one value of the tree is
replaced, removed, copied or renamed instead.
"""

import json
import random
from typing import Any

VALUES: tuple[object, ...] = (
    *(None, True, False, 0, 1, -1, 16, 2**31, 2**63, 2**64, -(2**70), 10**400),
    *(0.0, -0.5, 1e30, 5e-324, 1e308, "", "B", "T", "x", "\n", "\x1b[0m", "../x", "nul", "a" * 300),
    *("float16", "int8", "bool", "zeros", "fill", "stored", "exact", "pad", "refuse", "tokens"),
    *("F32", "BF16", "C64", "U16", "18446744073709551616", [], {}, [1, 2], ["B", "T"], "0" * 64),
)


def changed(text: bytes, chance: random.Random) -> bytes | None:
    """Change one place of a JSON text; None where it is none, or is a leaf."""
    try:
        tree: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    spots: list[tuple[Any, Any]] = []
    open_ones = [tree]
    while open_ones:
        at = open_ones.pop()
        keys = list(at) if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else []
        spots += [(at, key) for key in keys]
        open_ones += [at[key] for key in keys]
    if not spots:
        return None
    at, key = chance.choice(spots)
    other, other_key = chance.choice(spots)
    how = chance.randrange(5)
    if how == 0:
        del at[key]
    elif how == 1:
        at[key] = json.loads(json.dumps(other[other_key]))
    elif how == 2 and isinstance(at, dict):
        at[str(chance.choice(VALUES))[:300]] = at.pop(key)
    elif how == 3 and isinstance(at, list):
        at.extend([at[key]] * chance.choice((1, 20)))
    else:
        at[key] = chance.choice(VALUES)
    return json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def changed_header(data: bytes, chance: random.Random) -> bytes | None:
    """Change one place of the header of a safetensors file, and its length with it."""
    length = int.from_bytes(data[:8], "little")
    text = changed(data[8 : 8 + length], chance)
    if text is None:
        return None
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
