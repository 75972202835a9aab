"""Name the bundles of the conformance suite, each with the model that it is made of."""

from collections.abc import Callable, Mapping

from tests.conformance.building import Model
from tests.conformance.feature_models import given, growth, half, level, lookahead, lookback, marks
from tests.conformance.token_models import refuse, text

BUNDLES: Mapping[str, Callable[[], Model]] = {
    "tokens": lambda: text("tokens"),
    "int8": lambda: text("int8"),
    "plain": lambda: text("plain"),
    "level": level,
    "lookback": lookback,
    "lookahead": lookahead,
    "refuse": refuse,
    "given": given,
    "half": half,
    "growth": growth,
    "marks": marks,
}
