"""Try recipes on this machine and keep the one that serves best."""

from dst.quantize.autotune.budget import budget_for
from dst.quantize.autotune.mixed import Search
from dst.quantize.autotune.sensitivity import Sensitivity
from dst.quantize.autotune.speed import Speed
from dst.quantize.autotune.trial import Goal, Trial
from dst.quantize.autotune.tune import CANDIDATES, Autotuned, autotune
from dst.quantize.autotune.verdict import Refusal, Verdict, judge

__all__ = [
    "CANDIDATES",
    "Autotuned",
    "Goal",
    "Refusal",
    "Search",
    "Sensitivity",
    "Speed",
    "Trial",
    "Verdict",
    "autotune",
    "budget_for",
    "judge",
]
