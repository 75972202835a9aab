"""Draw what `suite.py` has measured, and print it as a table.

    python examples/evaluate/tasks/plots.py runs/tasks/results.json --png runs/tasks.png

A figure is the mean over the seeds; beside it stand the least and the greatest. A seed that has not
been measured is not in it, and the table says how many were.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from suite import Answers, Cell, Results
from tasks import TASKS

from dst.evaluate.drawing import COLOURS, SOFT, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMS = {
    "dst": "DST", "dst-int8": "DST, int8", "dst-reset": "DST, state reset every 32 items",
    "dst-16": "DST, memories of 16 x 16", "dst-64": "DST, memories of 64 x 64",
    "lstm": "LSTM", "window": "attention, window of 32",
    "full": "attention, whole cache",
}  # fmt: skip
"""Form -> what pictures and tables call it."""
DRAWN = ("dst", "dst-16", "dst-64", "dst-reset", "lstm", "window", "full")
AXES = {"recall": "pairs", "stream": "bin"}
"""What the figures of a task are told by, where that is not `length`."""
Seeds = dict[float, list[float]]
"""Place -> share of right answers of each seed."""


def by(cells: list[Cell], task: str, form: str, axis: str) -> Seeds:
    """Gather the shares of a form by one coordinate; what differs in others is put together."""
    found: Seeds = {}
    for cell in cells:
        if cell.task != task or form not in cell.forms:
            continue
        places: dict[float, list[Answers]] = {}
        for answers in cell.forms[form]:
            places.setdefault(answers.where[axis], []).append(answers)
        for place, parts in places.items():
            if place:  # 0: items before the place that is judged
                share = sum(part.right for part in parts) / sum(part.asked for part in parts)
                found.setdefault(place, []).append(share)
    return dict(sorted(found.items()))


def number(value: float) -> str:
    """Write a place as a reader says it."""
    return f"{value:,.0f}"


def spread(shares: list[float]) -> str:
    """Write the mean in percent, and the least and the greatest where there are several."""
    mean = 100 * sum(shares) / len(shares)
    if len(shares) == 1:
        return f"{mean:.1f}"
    return f"{mean:.1f} ({100 * min(shares):.1f}–{100 * max(shares):.1f})"


def table(cells: list[Cell], task: str, axis: str) -> list[str]:
    """Write the rows of one task."""
    rows = {form: by(cells, task, form, axis) for form in FORMS}
    rows = {form: found for form, found in rows.items() if found}
    places = sorted({place for found in rows.values() for place in found})
    seeds = {form: max(map(len, found.values())) for form, found in rows.items()}
    lines = [
        f"| {axis} | seeds | " + " | ".join(map(number, places)) + " |",
        "|---|---|" + "---|" * len(places),
    ]
    for form, found in rows.items():
        shares = [spread(found[place]) if place in found else "–" for place in places]
        lines.append(f"| {FORMS[form]} | {seeds[form]} | " + " | ".join(shares) + " |")
    return lines


def knee(found: Seeds, least: float = 0.9) -> str:
    """Write the greatest place up to which the mean share is at least 90 %."""
    reached = 0.0
    for place, shares in found.items():
        if sum(shares) / len(shares) < least - 1e-9:  # a mean of 0.95 and 0.85 is just below 0.9
            break
        reached = place
    return number(reached) if reached else "none"


def grid(cells: list[Cell], form: str) -> list[str]:
    """Write the passkey's shares by length and depth."""
    found: dict[tuple[float, float], list[float]] = {}
    for cell in cells:
        for answers in cell.forms.get(form, []) if cell.task == "passkey" else []:
            place = answers.where["length"], answers.where["depth"]
            found.setdefault(place, []).append(answers.right / answers.asked)
    if not found:
        return []
    lengths, depths = (sorted({place[i] for place in found}) for i in (0, 1))
    lines = [
        f"| {FORMS[form]}, noise before the passkey | " + " | ".join(map(number, lengths)) + " |",
        "|---|" + "---|" * len(lengths),
    ]
    for depth in depths:
        shares = [spread(found[n, depth]) if (n, depth) in found else "–" for n in lengths]
        lines.append(f"| {100 * depth:.0f} % | " + " | ".join(shares) + " |")
    return lines


def report(results: Results) -> list[str]:
    """Write all tables."""
    cells = results.cells
    lines: list[str] = []
    for task in TASKS:
        if not any(cell.task == task.name for cell in cells):
            continue
        axis = AXES.get(task.name, "length")
        lines += ["", f"### {task.name}", "", *table(cells, task.name, axis)]
        if task.name == "recall":
            knees = ((FORMS[form], by(cells, task.name, form, axis)) for form in FORMS)
            said = ", ".join(f"{form} {knee(found)}" for form, found in knees if found)
            lines += ["", f"Most pairs with 90 % or more: {said}."]
        if task.name == "passkey":
            for form in ("dst", "lstm", "full"):
                lines += ["", *grid(cells, form)]
    times: dict[str, list[float]] = {}
    for cell in cells:
        times.setdefault(cell.contestant, []).append(cell.train_seconds)
    lines += ["", "| | cells | seconds of a training, mean |", "|---|---|---|"]
    for name, spent in times.items():
        lines.append(f"| {FORMS[name]} | {len(spent)} | {sum(spent) / len(spent):.0f} |")
    return lines


def draw(results: Results, target: Path) -> None:
    """Draw every task: the mean over the seeds, and a band from the least to the greatest."""
    figure = new_figure(13, 6.4)
    for axes, task in zip(figure.subplots(2, 4).flat, TASKS, strict=True):
        axis = AXES.get(task.name, "length")
        for colour, form in zip(COLOURS, DRAWN, strict=False):
            found = by(results.cells, task.name, form, axis)
            if not found:
                continue
            at = list(found)
            for edge in (min, max):
                _line(axes, at, found, edge, colour, 0.35)
            mean = [sum(shares) / len(shares) for shares in found.values()]
            axes.plot(at, mean, "-o", ms=3, lw=1.3, color=colour, label=FORMS[form])
        axes.axhline(task.chance, color=SOFT, lw=0.8, ls="--")
        axes.set_ylim(-0.02, 1.02)
        if axis == "length":
            axes.set_xscale("log")
        below = {"bin": "tenth of 1,000,000 items", "length": "items"}.get(axis, axis)
        dress(axes, task.name, below, "share of right answers")
    entries = {
        label: line
        for axes in figure.axes
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=4, frameon=False
    )
    figure.savefig(target, metadata={"Software": None})


def _line(
    axes: "Axes",
    at: list[float],
    found: Seeds,
    edge: Callable[[list[float]], float],
    colour: str,
    strength: float,
) -> None:
    axes.plot(at, [edge(shares) for shares in found.values()], lw=0.7, color=colour, alpha=strength)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="results.json of suite.py")
    parser.add_argument("--png", type=Path, help="where the picture goes; beside the results")
    given = parser.parse_args()
    results = msgspec.json.decode(given.results.read_bytes(), type=Results)
    print(f"{results.machine.cpu}, {', '.join(results.machine.instructions)}")
    print("\n".join(report(results)))
    draw(results, given.png or given.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
