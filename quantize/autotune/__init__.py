"""The picker: a full-precision bundle in, the recipe that serves best on this machine out."""

from dst.quantize.autotune.autotune import CANDIDATES, Picked, pick
from dst.quantize.autotune.budget import budget_for
from dst.quantize.autotune.mixed import Search
from dst.quantize.autotune.sensitivity import Harm
from dst.quantize.autotune.speed import Speed
from dst.quantize.autotune.trial import Goal, Trial
from dst.quantize.autotune.verdict import Judgement, Refusal, judge

__all__ = [
    "CANDIDATES",
    "Goal",
    "Harm",
    "Judgement",
    "Picked",
    "Refusal",
    "Search",
    "Speed",
    "Trial",
    "budget_for",
    "judge",
    "pick",
]
