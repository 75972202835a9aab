"""Try recipes on this machine and keep the one that serves best."""

from dst.quantize.autotune.mixed import Search, Sensitivity
from dst.quantize.autotune.trial import Goal, Trial, budget_for
from dst.quantize.autotune.tune import CANDIDATES, Autotuned, autotune
from dst.quantize.autotune.verdict import Refusal, Speed, Verdict, judge

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
