"""Pair the inputs and outputs of a graph that are one state tensor before and after a step.

Names tell: `h -> h_out`, `state -> stateN`, `h0 -> hn`, `cached_x -> new_cached_x`,
`past.0 -> present.0`, `in_cache -> out_cache`. Both must have the same dtype and sizes that agree,
and a name that fits two partners fits none: what is not sure is left to be asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from dst.export.adopt.infer.ports import Port

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_BEFORE = frozenset(
    ["past", "prev", "previous", "old", "in", "input", "init", "initial", "cur", "current", "last"]
)
_AFTER = frozenset(["present", "next", "new", "out", "output", "updated", "after"])

Words = tuple[str, ...]


def may_carry(before: Port, after: Port) -> bool:
    """Say whether an output could be the next value of an input, by dtype and sizes."""
    return same_kind(before, after) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int))
        for a, b in zip(before.dims, after.dims, strict=True)
    )


def same_kind(before: Port, after: Port) -> bool:
    """Say whether two have one dtype and as many axes, whatever the sizes."""
    return before.dtype == after.dtype and len(before.dims) == len(after.dims)


def state_pairs(
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    fits: Callable[[Port, Port], bool] = may_carry,
) -> dict[str, str]:
    """Pair the inputs and outputs whose names and shapes leave no doubt.

    Args:
        inputs: those that may be a state.
        outputs: those that may be the next value of one.
        fits: whether two may be one state, apart from their names.

    Returns:
        Input name -> output name.
    """
    fitting = {
        before.name: [
            after.name
            for after in outputs
            if _before(before.name) & _after(after.name) and fits(before, after)
        ]
        for before in inputs
    }
    wanted = [name for names in fitting.values() for name in names]
    return {
        before: names[0]
        for before, names in fitting.items()
        if len(names) == 1 and wanted.count(names[0]) == 1
    }


def words(name: str) -> Words:
    """Split a name: `past_key_values.0.key` -> past, key, values, 0, key; `stateN` -> state, n."""
    return tuple(word.lower() for word in _WORD.findall(name))


def _before(name: str) -> set[Words]:
    """What an input may be called apart from the words that say `before`."""
    core = _without(_short(words(name)), _BEFORE)
    found = {core}
    if core[-1:] == ("0",):  # h0, the state at time 0
        found.add(core[:-1])
    return found - {()}


def _after(name: str) -> set[Words]:
    """What an output may be called apart from the words that say `after`."""
    core = _without(_short(words(name)), _AFTER)
    found = {core}
    if core[-1:] == ("n",):  # stateN, h_n
        found.add(core[:-1])
    elif core and core[-1].endswith("n"):  # hn
        found.add((*core[:-1], core[-1][:-1]))
    return found - {()}


def _short(name: Words) -> Words:
    """Write `past_key_values` and `present_key_values` as `past` and `present`."""
    if name[:1] in (("past",), ("present",)) and name[1:3] == ("key", "values"):
        return (name[0], *name[3:])
    return name


def _without(name: Words, marks: frozenset[str]) -> Words:
    return tuple(word for word in name if word not in marks)
