"""The picker: a full-precision bundle in, the recipe that serves best on this machine out."""

from dst.quantize.pick.budget import budget_for
from dst.quantize.pick.mix import Search
from dst.quantize.pick.picker import CANDIDATES, Picked, pick
from dst.quantize.pick.sensitivity import Harm
from dst.quantize.pick.speed import Speed
from dst.quantize.pick.trial import Goal, Trial
from dst.quantize.pick.verdict import Judgement, Refusal, judge

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
