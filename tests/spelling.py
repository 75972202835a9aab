"""Spell floats as FORMAT.md says, by exact fractions; `python -m tests.spelling` makes the table.

It shares no code with the runtimes, whose spellings are compared with `data/numbers.json`.
"""

import hashlib
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np

TABLE = Path(__file__).resolve().parent / "data/numbers.json"
RESPELLED = {
    "float32 [] 1e+06": "float32 [] 1000000.0",  # numpy 2.4
    "float16 [2] [1.024e+03, -0.0]": "float16 [2] [1024.0, -0.0]",
    "float32 [1] 0.00024414063": "float32 [1] 0.00024414062",  # JavaScript's halves go up
    "float16 [] 0.1563": "float16 [] 0.1562",
    "float32 [] 1.26217745e-29": "float32 [] 1.2621775e-29",  # a digit more than it needs
    "float16 [] 6.55e+04": "float16 [] 65500.0",
    "float32 [] 3.4028235e38": "float32 [] 3.4028235e+38",  # above the greatest, and read as it
    "float64 [0, 3] []": "float64 [0, 3] []",
    "float64 [] 1e22": "float64 [] 1e+22",
    "float32 [] 1e300": "float32 [] 1e300",  # no float32, so no mark
    "float32 [] true": "float32 [] true",
    "float32 [3, 3] sha256 213d3aaf71b02c79569943046588d5ee": (
        "float32 [3, 3] sha256 213d3aaf71b02c79569943046588d5ee"
    ),
    "int64 [] 16000": "int64 [] 16000",
    "bool [2] [True, False]": "bool [2] [True, False]",
}
"""What another version or language wrote, and the same mark as it is spelled now."""
_KINDS = {"float16": (11, -24), "float32": (24, -149), "float64": (53, -1074)}
"""Bits of the significand, and the exponent of the least value."""


def shortest(value: float, dtype: str) -> str:
    """Return the decimal of fewest digits that reads back the same, the closest of those."""
    sign = "-" if np.signbit(value) else ""
    if value == 0:
        return f"{sign}0.0"
    bits, least = _KINDS[dtype]
    exact = abs(Fraction(value))
    exponent = max(least, exact.numerator.bit_length() - exact.denominator.bit_length() - bits)
    while exact >= Fraction(2) ** (exponent + bits):
        exponent += 1
    unit = Fraction(2) ** exponent
    whole = exact / unit
    assert whole.denominator == 1
    closer = whole == 2 ** (bits - 1) and exponent > least  # the values below a power of two
    low, high = exact - unit / (4 if closer else 2), exact + unit / 2
    even = whole.numerator % 2 == 0  # to which the half between two values is read
    place = math.ceil(math.log10(abs(value))) + 1  # or above, where fewer digits are tried first
    while True:
        step = Fraction(10) ** place
        floor = exact // step
        near = [
            number
            for number in (floor, floor + 1)
            if low < number * step < high or (even and number * step in (low, high))
        ]
        if near:
            best = min(near, key=lambda number: (abs(number * step - exact), number % 2))
            return sign + _laid_out(str(best), place)
        place -= 1


def _laid_out(digits: str, last: int) -> str:
    """Lay digits out whose last one stands for 10^last."""
    first = last + len(digits) - 1
    digits = digits.rstrip("0")
    if not -4 <= first < 16:
        point = "." if digits[1:] else ""
        return f"{digits[0]}{point}{digits[1:]}e{'-' if first < 0 else '+'}{abs(first):02}"
    if first < 0:
        return f"0.{'0' * (-first - 1)}{digits}"
    return f"{digits[: first + 1].ljust(first + 1, '0')}.{digits[first + 1 :] or '0'}"


def _samples(dtype: str, every: int, count: int) -> list[tuple[int, float]]:
    """Return bits and values: powers of two and their neighbours, halves, random ones, the ends."""
    size = np.dtype(dtype).itemsize
    whole = np.dtype(f"u{size}")
    bits, least = _KINDS[dtype]
    greatest = int(np.array(np.finfo(dtype).max).view(whole))
    powers = [
        2.0**e for e in range(least, -least - bits - 20, every) if 2.0**e < np.finfo(dtype).max
    ]
    around = np.array(powers, dtype).view(whole).astype(object)
    chosen = {int(b) + d for b in around for d in (-1, 0, 1)} | {greatest, greatest - 1}
    random = np.random.default_rng(7)
    for drawn in random.integers(0, greatest, count, whole):
        chosen.add(int(drawn))
    halves = (random.integers(1, 2**bits, count) * 2.0 ** random.integers(-14, 0, count)).astype(
        dtype
    )
    chosen |= set(map(int, halves.view(whole)))
    minus = 1 << (8 * size - 1)
    chosen |= {minus, *(minus | b for b in sorted(chosen)[:: len(chosen) // 20])}
    return [(b, float(np.array(b, whole).view(dtype))) for b in sorted(chosen)]


def table() -> dict[str, object]:
    """Return what `data/numbers.json` holds."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    texts = [shortest(float(value), "float16") for value in halves[:0x7C00]]
    lines = [f"float16 [] {sign}{text}\n" for sign in ("", "-") for text in texts]
    rows = {"float32": _samples("float32", 1, 300), "float64": _samples("float64", 13, 60)}
    return {
        **{
            dtype: [[f"{bits:x}", shortest(value, dtype)] for bits, value in held]
            for dtype, held in rows.items()
        },
        "float16_sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "respelled": [list(pair) for pair in RESPELLED.items()],
    }


if __name__ == "__main__":
    TABLE.write_text(json.dumps(table(), separators=(",", ":")).replace("],[", "],\n[") + "\n")
