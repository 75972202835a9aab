"""Count what a scheduler does, and print it in Prometheus' text format."""

from collections import deque
from collections.abc import Mapping

import numpy as np

_RECENT = 8192  # answers that the quantiles are taken of
_OUTCOMES = ("ok", "failed", "cancelled", "deadline", "busy")


class Metrics:
    """The counters of one scheduler; they only rise.

    Attributes:
        outcomes: how requests ended -> how many.
        items: items read by requests that were answered.
        turns: turns of the batch.
        seats: slots that stepped, summed over the turns.
        loads: states that were read from the store.
        evictions: users that left their slot for another one.
        writes: states that were written to the store.
        undone: requests whose work was taken back.
    """

    __slots__ = (
        "_latencies",
        "evictions",
        "items",
        "latency_sum_s",
        "loads",
        "outcomes",
        "seats",
        "turns",
        "undone",
        "writes",
    )

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(_OUTCOMES, 0)
        self.items = self.turns = self.seats = 0
        self.loads = self.evictions = self.writes = self.undone = 0
        self.latency_sum_s = 0.0
        self._latencies: deque[float] = deque(maxlen=_RECENT)

    def answered(self, items: int, latency_s: float) -> None:
        """Count one request that was answered."""
        self.outcomes["ok"] += 1
        self.items += items
        self.latency_sum_s += latency_s
        self._latencies.append(latency_s)

    def quantile(self, q: float) -> float:
        """Return a quantile of the time from request to answer, of the last 8,192, in seconds.

        NaN before the first answer.
        """
        return float(np.quantile([*self._latencies], q)) if self._latencies else float("nan")

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Return all of it in Prometheus' text format, with `gauges` (name -> help, value)."""
        counters = {
            "items_total": ("Items read by answered requests.", self.items),
            "turns_total": ("Turns of the batch.", self.turns),
            "turn_slots_total": ("Slots that stepped, summed over the turns.", self.seats),
            "loads_total": ("States read from the store.", self.loads),
            "evictions_total": ("Users who left their slot for another user.", self.evictions),
            "store_writes_total": ("States written to the store.", self.writes),
            "undone_total": ("Requests whose work was taken back.", self.undone),
        }
        lines = [
            "# HELP dst_serving_requests_total Requests by how they ended.",
            "# TYPE dst_serving_requests_total counter",
            *(
                f'dst_serving_requests_total{{outcome="{name}"}} {count}'
                for name, count in self.outcomes.items()
            ),
        ]
        for kind, table in (("counter", counters), ("gauge", gauges)):
            for name, (about, value) in table.items():
                lines += [
                    f"# HELP dst_serving_{name} {about}",
                    f"# TYPE dst_serving_{name} {kind}",
                    f"dst_serving_{name} {value:g}"
                    if kind == "gauge"
                    else f"dst_serving_{name} {value}",
                ]
        lines += [
            "# HELP dst_serving_latency_seconds From request to answer, of the last 8192 answers.",
            "# TYPE dst_serving_latency_seconds summary",
            *(
                f'dst_serving_latency_seconds{{quantile="{q}"}} {self.quantile(q):.6g}'
                for q in (0.5, 0.99)
            ),
            f"dst_serving_latency_seconds_sum {self.latency_sum_s:.6f}",
            f"dst_serving_latency_seconds_count {self.outcomes['ok']}",
        ]
        return "\n".join(lines) + "\n"
