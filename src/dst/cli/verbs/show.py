"""`dst show`: print the contract, state, graphs, memory and certificates of a bundle.

With `--provider` print what would run where.
"""

from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from dst.cli.errors import WrongUseError
from dst.cli.options import BUNDLE_HELP, Json, ProviderName, argument, flag, option
from dst.cli.output import Output, check_paths, foreign, pairs, table
from dst.words import counted, mib

if TYPE_CHECKING:
    from dst.runtime import Bundle
    from dst.runtime.bundle.manifest import Features, Fill, Manifest, Stored, Zeros
    from dst.runtime.execution.placement import LoadReport


def show(
    bundle: Annotated[str | None, argument("[BUNDLE]", BUNDLE_HELP)] = None,
    memory: Annotated[
        bool, flag("--memory", "Only what it will hold in memory, part by part.")
    ] = False,
    slots: Annotated[
        int | None, option("--slots", "N", "With --memory: for so many streams.", least=1)
    ] = None,
    measure: Annotated[
        bool, flag("--measure", "With --memory: open it in a process and measure that.")
    ] = False,
    provider: Annotated[
        ProviderName | None,
        flag("--provider", "Only which nodes and multiply-adds run on it, and where."),
    ] = None,
    json: Json = None,
) -> int:
    """Print what a bundle is: contract, state, graphs, memory, certificates.

    Without BUNDLE: the bundles that come with the package.

        dst show
        dst show text
        dst show text --memory --slots 64 --measure
        dst show text --provider openvino
        dst show ./my-bundle --json -
    """
    from dst.cli.footprint import show_memory

    output = Output.to(json)
    if provider is not None and (bundle is None or memory):
        raise WrongUseError("--provider needs a BUNDLE, and goes without --memory")
    if not memory and (measure or slots is not None):
        raise WrongUseError("--slots and --measure go with --memory")
    if memory and bundle is None:
        raise WrongUseError("--memory needs a BUNDLE, for example: dst show text --memory")
    if bundle is None:
        return _shipped(output)
    if memory:
        return show_memory(bundle, slots or 1, measure, output)
    if provider is not None:
        return _placement(bundle, provider, output)
    return _bundle(bundle, output)


def _shipped(output: Output) -> int:
    """List the bundles that come with the package, and return the exit code."""
    from dst.runtime import open_bundle, shipped
    from dst.runtime.execution.buffers import Layout

    bundles = {name: open_bundle(path, "size").manifest for name, path in shipped().items()}
    grid = table("name", "precision", ">state", ">weights", "")
    for name, m in bundles.items():
        sizes = mib(Layout.of(m.contract).state_bytes), mib(m.weights_bytes)
        title, what = f"[bold]{foreign(name)}[/]", foreign(m.description)
        grid.add_row(title, foreign(m.precision), *sizes, what)
    if bundles:
        output.out.print(grid)
        output.out.print("[dim]dst show NAME tells more[/]")
    else:
        output.out.print("no bundles are shipped with this installation")
    output.write_json({"shipped": {name: m.description for name, m in bundles.items()}})
    return 0


def _bundle(path: str, output: Output) -> int:
    """Print what a bundle says of itself, and return the exit code."""
    from dst.cli.footprint import memory_bytes, memory_parts
    from dst.runtime import open_bundle, predict

    check_paths(output, {"BUNDLE": path})
    bundle = open_bundle(path)
    manifest = bundle.manifest
    memory = predict(manifest, 1, 1, [manifest.contract.chunk.nominal_t])
    held = pairs()
    for name, size, what in memory_parts(memory):
        held.add_row(name, f"{mib(size)} for {what}")
    held.add_row("[bold]all[/]", f"[bold]{mib(memory.total_bytes)}[/] for one graph and one stream")
    _heading(bundle, output.out)
    for title, part in (
        ("contract", _contract(manifest)),
        ("state", _state(manifest)),
        ("graphs", _graphs(manifest)),
        ("memory", held),
        ("certificates", _certificates(manifest)),
    ):
        output.out.print()
        output.out.print(Rule(f"[bold]{title}[/]", align="left", style="dim"))
        output.out.print(part)
    output.write_json({"manifest": manifest, "memory": memory_bytes(memory)})
    return 0


def _placement(path: str, provider: ProviderName, output: Output) -> int:
    """Open a bundle on a provider, print what runs where, and return the exit code."""
    from dst.runtime import Session

    check_paths(output, {"BUNDLE": path})
    with output.progress(f"open on {provider}", None):
        report = Session.open(path, provider=provider, strict=False).report()
    output.out.print(_shares(report))
    for load in report.graphs:
        if load.fallback_reason is not None:
            output.out.print(
                f"[bold red]strict refuses {foreign(load.graph)}[/]: {load.fallback_reason}"
            )
    placed = [
        {
            "graph": load.graph,
            "lowering": load.lowering,
            "recorded": load.recorded,
            "multiply_adds": load.multiply_adds,
            "unknown_multiply_adds": load.unknown_multiply_adds,
            "part": load.fraction,
            "refused": load.fallback_reason,  # null where strict would take it
            "parts": load.shares,
        }
        for load in report.graphs
    ]
    output.write_json({"provider": provider, "graphs": placed})
    return 0


def _heading(bundle: "Bundle", console: Console) -> None:
    m = bundle.manifest
    console.print(f"[bold]{foreign(bundle.root.name)}[/]  {foreign(m.description)}")
    grid = pairs()
    if m.name != bundle.root.name:
        grid.add_row("name", foreign(m.name))
    recipe = f" by recipe {m.recipe}" if m.recipe else ""
    grid.add_row("licence", foreign(m.license or "not stated"))
    grid.add_row("precision", foreign(m.precision + recipe))
    if m.recipe:
        grid.add_row("over T", over_t(m.recipe))
    grid.add_row("made by", foreign(f"{m.producer.name} {m.producer.version}"))
    grid.add_row("model id", m.model_id[:32] + "…")
    grid.add_row("bundle id", m.bundle_id[:32] + "…")
    size = mib(sum(f.size for f in m.files.values()))
    grid.add_row("on disk", f"{size}, {counted(len(m.files), 'file')}")
    console.print(grid)


def _contract(manifest: "Manifest") -> Table:
    from dst.runtime.bundle.manifest import Tokens, item_shape

    contract, grid = manifest.contract, pairs()
    chunk, content = contract.chunk, contract.chunk.content

    def add(title: str, name: str, dtype: str, axes: tuple[int | str, ...], more: str = "") -> None:
        grid.add_row(title, f"{foreign(name)}  {dtype} {shape(axes)}{more}")

    add("chunk", chunk.input, chunk.dtype, chunk.shape)
    if isinstance(content, Tokens):
        items = f"token ids below {content.vocabulary}, tokenizer {foreign(content.tokenizer)}"
    else:
        items = _features(content, item_shape(chunk))
    grid.add_row("items", items)
    allowed = ", ".join(map(str, chunk.allowed_t))
    grid.add_row("T", f"{chunk.nominal_t} by default, allowed: {allowed}")
    pad = f" with {chunk.pad_value:g}" if chunk.pad_value is not None else ""
    grid.add_row("tail", f"{chunk.tail}{pad}")
    if chunk.lookback:
        before = counted(chunk.lookback, "item")
        grid.add_row("lookback", f"{before}, at first {chunk.lookback_fill:g}")
    if chunk.lookahead:
        grid.add_row("look-ahead", f"{counted(chunk.lookahead, 'item')} behind each chunk")
    if not chunk.causal:
        grid.add_row("causal", "no: later items of a chunk move its earlier outputs")
    for given in contract.stream_inputs:
        add("per stream", given.input, given.dtype, given.shape, "  given once")
    for constant in contract.constants:
        add("constant", constant.input, constant.dtype, constant.shape)
    for o in contract.outputs:
        add("output", o.name, o.dtype, o.shape, f"  {foreign(o.meaning)} per {o.per}")
    half_life = manifest.horizon.half_life_items
    adopted = all(graph.lowering == "other" for graph in manifest.graphs)
    horizon = "not known" if adopted else "unbounded"
    if half_life is not None:
        horizon = f"a half-life of {half_life:,.0f} items at most"
    grid.add_row("memory", f"horizon: {horizon}")
    return grid


def _features(content: "Features", item: tuple[int, ...]) -> str:
    plain = " × ".join(map(str, item)) + " values" if item else "one signal"
    rate = f" at {content.sample_rate_hz:g} Hz" if content.sample_rate_hz is not None else ""
    scaled = ", normalised" if content.normalisation is not None else ""
    return foreign(", ".join(content.names) or plain) + rate + scaled


def _state(manifest: "Manifest") -> Table:
    from dst.runtime.execution.buffers import Layout

    grid = table("name", "shape", "dtype", "role", "starts as", ">bytes")
    layout = Layout.of(manifest.contract)
    for state, place in zip(manifest.contract.state, layout.places, strict=True):
        kind = shape(state.shape), state.dtype, state.role
        grid.add_row(foreign(state.input), *kind, foreign(starts_as(state.init)), f"{place.size:,}")
    grid.add_row("[bold]all[/]", "", "", "", "", f"[bold]{layout.state_bytes:,}[/]")
    return grid


def starts_as(init: "Zeros | Fill | Stored") -> str:
    """Say what a state is before its first item."""
    from dst.runtime.bundle.manifest import Fill, Zeros

    if isinstance(init, Fill):
        return f"{init.value:g}"
    return "zeros" if isinstance(init, Zeros) else f"tensor {init.tensor}"


def _graphs(manifest: "Manifest") -> Table:
    grid = table("file", "lowering", "T", "B", "opset", "operators of", "onnxruntime")
    for g in manifest.graphs:
        sizes = ", ".join(map(str, g.allowed_t)), ", ".join(map(str, g.batch)) or "any"
        needs = str(g.opsets.get("ai.onnx", "")), ", ".join(g.domains), f">= {g.min_ort}"
        grid.add_row(foreign(g.file), g.lowering, *sizes, *map(foreign, needs))
    return grid


def _certificates(manifest: "Manifest") -> Table | str:
    if not manifest.certificates:
        return "[dim]none[/]"
    grid = table("compared", ">steps", ">items", ">outputs", ">state", ">bound", ">growth", "")
    for c in manifest.certificates:
        mark = "[green]✓ passed[/]" if c.passed else "[bold red]✗ FAILED[/]"
        over = f"{c.steps:,}", f"{c.steps * c.items_per_step:,}"
        worst = f"{c.worst:.1e}", f"{c.worst_state_of_peak:.1e}", f"{c.bound:.0e}"
        growth = f"{c.decile_ratio:.2f} ≤ {c.decile_ratio_bound:g}"
        grid.add_row(foreign(c.name), *over, *worst, growth, mark)
    return grid


def shape(sizes: tuple[int | str, ...]) -> str:
    """Write a shape as `[B, T, 256]`, safe from the console's markup."""
    return foreign(f"[{', '.join(map(str, sizes))}]")


def _shares(report: "LoadReport") -> Table:
    """One row per graph and provider; the part is of the graph's multiply-adds."""
    grid = table("graph", "lowering", "runs on", ">nodes", ">multiply-adds a step", ">part")
    for load in report.graphs:
        rows = []
        for s in load.shares:
            unknown = f" ({s.unknown_nodes:,} of unknown cost)" if s.unknown_nodes else ""
            rows.append((s.provider, f"{s.nodes:,}{unknown}", s.multiply_adds))
        if load.unknown_multiply_adds:
            rows.append(("unknown", "", load.unknown_multiply_adds))
        if not load.recorded:
            rows = [("unknown", "", load.multiply_adds)]
        for where, nodes, cost in rows:
            part = f"{cost / load.multiply_adds:.1%}" if load.multiply_adds else ""
            name = foreign(load.graph)
            grid.add_row(name, load.lowering, foreign(where), nodes, f"{cost:,}", part)
    return grid


EXACT_UP_TO = {
    ("int4-weights", 32): {"AVX512": 32, "AVX2": 16},
    ("int4-mixed", 32): {"AVX512": 32, "AVX2": 16},
    ("int8-weights", 64): {"AVX512": 64, "AVX2": 128},
}
"""Recipes in blocks, with their usual block -> the largest block whose kernel (`MatMulNBits`, ONNX
Runtime 1.32) answers an item alone as it does among others, bit for bit; by kind of CPU."""
BY_ITEM = ("int8-rows", "int8-static")
"""Recipes whose products are sums of whole numbers, exact on every CPU."""


def over_t(recipe: str) -> str:
    """Return one line about a recipe's products, from the manifest's `recipe`.

    It tells of products only: what stays float32 may depend on where in a chunk an item stands.

    Examples:
        >>> over_t("int8-rows")
        'products are the same bit for bit, on every CPU'
    """
    name, *changes = recipe.split(", ")
    if "non-causal" in changes:
        return "each T is another model: one scale spans the chunk"
    if name == "int4-rows":
        return "products of chunks are the same bit for bit; T = 1 rounds otherwise"
    if name in BY_ITEM:
        return "products are the same bit for bit, on every CPU"
    for (known, usual), limits in EXACT_UP_TO.items():
        if name == known:
            given = (int(change[6:]) for change in changes if change.startswith("block "))
            block = next(given, usual)
            exact = [kind for kind, limit in limits.items() if block <= limit]
            other = [kind for kind in limits if kind not in exact]
            parts = [f"the same bit for bit with {' and '.join(exact)} kernels"] if exact else []
            parts += [f"the same but for last bits with {' and '.join(other)}"] if other else []
            return f"products are {', '.join(parts)}"
    return "products are the same but for last bits"
