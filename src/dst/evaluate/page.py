"""Lay a bench out as one HTML file that needs nothing else."""

from collections.abc import Callable, Sequence
from html import escape

from dst.evaluate.drawing import COLOURS, NoMatplotlibError, Panel, divergence, panel_svg, ratio
from dst.evaluate.result import BenchResult, Cell, Entry
from dst.words import counted, mib

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #667085; --line: #e2e6ec;
  --paper: #ffffff; --tint: #f6f8fa; --good: #1f7a3d; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #98a2b3; --line: #2c333d;
  --paper: #14181e; --tint: #1b2027; --good: #5fc27e; --bad: #f0776c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1040px; padding: 40px 24px 64px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 17px; margin: 40px 0 6px; }
p { margin: 0 0 12px; color: var(--soft); max-width: 72ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 10px; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: 13px; }
th:first-child, td:first-child { text-align: left; }
td small { color: var(--soft); display: block; font-size: 12px; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px; }
.good { color: var(--good); } .bad { color: var(--bad); } .none { color: var(--soft); }
svg { width: 100%; height: auto; display: block; margin: 8px 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; margin: 8px 0 0; }
dt { color: var(--soft); } dd { margin: 0; }
"""
_NONE = '<span class="none">–</span>'


def page(result: BenchResult) -> str:
    """Return a bench as HTML; it refers to no other file and runs no script."""
    first = result.bundles[0].label
    summary = (
        f"{counted(len(result.bundles), 'bundle')} in turns on {result.environment.cpu}, "
        f"{counted(result.threads, 'thread')}, {counted(result.rounds, 'round')} of about "
        f"{result.slot_ms:g} ms per bundle and T."
    )
    title = escape(" · ".join(entry.label for entry in result.bundles))
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{escape(summary)}</p>",
        f"<h2>Speed over {escape(first)}</h2>",
        "<p>Items per second, divided round by round by the first bundle's; whiskers are 95 % "
        "intervals. Above the broken line is faster.</p>",
        _drawn(ratio, result),
        "<h2>Speed</h2>",
        _by_t(result, _speed),
        "<h2>One step</h2>",
        "<p>Microseconds for a chunk of T items: median, and the 99th percentile below it.</p>",
        _by_t(result, _step),
        "<h2>Cost</h2>",
        _cost(result),
    ]
    if any(entry.quality is not None for entry in result.bundles):
        parts += [
            "<h2>Quality over the horizon</h2>",
            f"<p>Distance from full precision ({escape(result.divergence_unit)}) by position in "
            "the stream, in items; both axes are logarithmic.</p>",
            _drawn(divergence, result),
            _quality(result),
        ]
    body = "\n".join([*parts, "<h2>Machine</h2>", _machine(result)])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _drawn(panel: Panel, result: BenchResult) -> str:
    """Draw a panel, or say what to install; the numbers stand in the tables all the same."""
    try:
        return panel_svg(panel, result)
    except NoMatplotlibError as error:
        return f"<p>{escape(str(error))}</p>"


def _table(
    result: BenchResult, head: Sequence[str], cells: Callable[[Entry], Sequence[str]]
) -> str:
    """Lay out a row per bundle, of cells that are HTML already."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in ("bundle", *head))
    body = ""
    for place, entry in enumerate(result.bundles):
        named = (
            f'<span class="dot" style="background:{COLOURS[place % len(COLOURS)]}"></span>'
            f"{escape(entry.label)}<small>{escape(entry.recipe or entry.precision)}</small>"
        )
        body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in (named, *cells(entry)))}</tr>"
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _by_t(result: BenchResult, cell: Callable[[Cell], str]) -> str:
    head = [f"T = {t}" for t in result.sizes]
    return _table(result, head, lambda entry: [cell(each) for each in entry.cells])


def _speed(cell: Cell) -> str:
    if cell.items_per_s is None:
        return f'<span class="none" title="{escape(cell.why or "")}">–</span>'
    ratio = "" if cell.ratio is None else f"<small>{cell.ratio.median:.2f} ×</small>"
    return f"{cell.items_per_s.median:,.0f}/s{ratio}"


def _step(cell: Cell) -> str:
    if cell.p50_us is None or cell.p99_us is None:
        return _NONE
    return f"{cell.p50_us:,.0f}<small>{cell.p99_us:,.0f}</small>"


def _cost(result: BenchResult) -> str:
    head = ("files", "weights", "load", "first output", "peak memory", "of that its own", "energy")
    return _table(result, head, _cost_cells)


def _cost_cells(entry: Entry) -> list[str]:
    started = [_NONE] * 4
    if (start := entry.start) is not None:
        own = start.peak_rss_bytes - start.base_rss_bytes
        times = (f"{ms:,.0f} ms" for ms in (start.load_ms, start.first_output_ms))
        started = [*times, mib(start.peak_rss_bytes), mib(own)]
    energies = (
        f"{1e6 * c.joules_per_item:,.0f} µJ at T = {c.t}"
        for c in entry.cells
        if c.joules_per_item is not None
    )
    return [mib(entry.file_bytes), mib(entry.weights_bytes), *started, next(energies, _NONE)]


def _quality(result: BenchResult) -> str:
    head = ("items read", "divergence at the end", "loss at the end", "causal", "gates")
    return _table(result, head, _quality_cells)


def _quality_cells(entry: Entry) -> list[str]:
    held = entry.quality
    if held is None:
        return [_NONE] * 5
    losses = held.loss_difference
    verdict = {True: ("passed", "good"), False: ("failed", "bad"), None: ("not judged", "none")}
    word, kind = verdict[held.passed]
    return [
        f"{held.items:,}",
        f"{held.divergence[-1]:.2g}",
        _NONE if losses is None else f"{losses[-1]:+.4f}",
        "yes" if held.causal else "no",
        f'<span class="{kind}">{word}</span>',
    ]


def _machine(result: BenchResult) -> str:
    env = result.environment
    cores = ", ".join(map(str, env.pinned_to or ()))
    before, after = (
        "not told" if load is None else " ".join(f"{value:g}" for value in load)
        for load in (env.load_before, env.load_after)
    )
    facts = {
        "processor": f"{env.cpu}, {env.cores} cores, {' '.join(env.instructions)}",
        "threads": f"{result.threads}, {f'pinned to core {cores}' if cores else 'not pinned'}",
        "provider": f"{result.provider}, onnxruntime {env.onnxruntime}",
        "governor": env.governor or "not told",
        "load before and after": f"{before} and {after}",
        "energy": result.energy_why or "package counters (RAPL), everything on the package counts",
        "system": f"{env.system}, Python {env.python}, numpy {env.numpy}",
        "input": ", ".join(f"{e.label}: {e.data}" for e in result.bundles),
    }
    pairs = "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in facts.items())
    return f"<dl>{pairs}</dl>"
