"""Faulty stateful modules as their owners would write them, each beside its mended twin.

Written from the public documents alone: what the exporter checks, and how, was not looked at. A
twin is the same module with the one fault mended; where the cure needs a further state tensor, the
twin has a state of its own.
"""

from tests.twins import (
    cut_matters,
    data_dependent,
    hidden_state,
    not_causal,
    randomness,
    rows_mixed,
    state_grows,
    state_never_read,
    state_never_updated,
)
from tests.twins.pair import SAME, Pair

KINDS = (
    state_never_updated,
    state_never_read,
    hidden_state,
    randomness,
    rows_mixed,
    not_causal,
    state_grows,
    data_dependent,
    cut_matters,
)
PAIRS = [pair for kind in KINDS for pair in kind.PAIRS]

__all__ = ["PAIRS", "SAME", "Pair"]
