"""The `dst` program: a command line goes in, one verb is called, an exit code comes out.

What a verb needs is imported when it is called, so that `dst --help` answers at once.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

import dst
from dst.cli import help as help_of
from dst.cli.errors import WrongUseError, guarded
from dst.cli.options import (
    BUNDLE_HELP,
    MAX_THREADS,
    BundleArgument,
    Json,
    Provider,
    ProviderName,
    State,
    Threads,
)
from dst.cli.output import Output
from dst.cli.signals import raise_ctrl_c
from dst.cli.verbs.adopt_verb import adopt
from dst.cli.verbs.bench_verb import bench
from dst.cli.verbs.export_verb import export
from dst.cli.verbs.quantize_verb import quantize
from dst.cli.verbs.report_verb import report
from dst.cli.verbs.run_verb import run
from dst.cli.verbs.store import app as store
from dst.cli.verbs.upgrade import upgrade

Job = Callable[[], int]
"""What a verb returns to be run when the command line has been understood; gives the exit code."""

app = typer.Typer(
    name="dst",
    help=help_of.TOP,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"dst {dst.__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Hold the options that stand before a verb."""


@app.command(help=help_of.DEMO)
def demo(
    count: Annotated[
        int | None, typer.Option("--bytes", min=1, help="Stream only so many bytes.")
    ] = None,
    bundle: Annotated[str, typer.Option("--bundle", metavar="BUNDLE", help=BUNDLE_HELP)] = "text",
    chunk: Annotated[
        int | None,
        typer.Option("--chunk", metavar="T", help="Bytes per step; by default the most it takes."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, max=MAX_THREADS, help="Threads; by default 2, if there are."
        ),
    ] = None,
    json: Json = None,
) -> Job:
    """Prepare `dst.cli.verbs.demo`."""
    output = Output.to(json)
    from dst.cli.verbs.demo import demo as work

    return lambda: work(bundle, count, chunk, threads, output)


app.command(help=help_of.RUN)(run)


@app.command(help=help_of.GENERATE)
def generate(
    bundle: BundleArgument,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="What to continue.")
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option("--prompt-file", metavar="FILE", help="Continue this file instead."),
    ] = None,
    items: Annotated[
        int, typer.Option("--items", metavar="N", min=1, help="How many bytes at most.")
    ] = 200,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="S", help="Start of the random source.")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Below 1 is bolder; 0 takes the likeliest.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="K", help="Only the K likeliest; 0 for all.")
    ] = 0,
    top_p: Annotated[
        float, typer.Option("--top-p", metavar="P", help="Only the likeliest that reach P.")
    ] = 1.0,
    stop: Annotated[str, typer.Option("--stop", metavar="TEXT", help="End after this text.")] = "",
    state: State = None,
    provider: Provider = ProviderName.cpu,
    threads: Threads = 1,
    json: Json = None,
) -> Job:
    """Prepare `dst.cli.verbs.generate`."""
    output = Output.to(json)
    if prompt is not None and prompt_file is not None:
        raise WrongUseError("--prompt and --prompt-file exclude each other; give one of them")
    text = prompt_file.read_bytes() if prompt_file is not None else os.fsencode(prompt or "")
    from dst.cli.verbs.generate import Manner, write

    manner = Manner(items, seed, temperature, top_k, top_p, os.fsencode(stop))
    return lambda: write(bundle, text, prompt_file, provider.value, threads, state, manner, output)


@app.command(help=help_of.SHOW)
def show(
    bundle: Annotated[str | None, typer.Argument(metavar="[BUNDLE]", help=BUNDLE_HELP)] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Only what it will hold in memory, part by part.")
    ] = False,
    slots: Annotated[
        int | None,
        typer.Option("--slots", metavar="N", min=1, help="With --memory: for so many streams."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="With --memory: open it in a process and measure that."),
    ] = False,
    provider: Annotated[
        ProviderName | None,
        typer.Option("--provider", help="Only which nodes and multiply-adds run on it, and where."),
    ] = None,
    json: Json = None,
) -> Job:
    """Prepare `dst.cli.verbs.show`."""
    output = Output.to(json)
    if provider is not None and (bundle is None or memory):
        raise WrongUseError("--provider needs a BUNDLE, and goes without --memory")
    if not memory and (measure or slots is not None):
        raise WrongUseError("--slots and --measure go with --memory")
    if memory and bundle is None:
        raise WrongUseError("--memory needs a BUNDLE, for example: dst show text --memory")
    if memory and bundle is not None:
        from dst.cli.footprint import show_memory

        return lambda: show_memory(bundle, slots or 1, measure, output)
    if provider is not None and bundle is not None:
        from dst.cli.verbs.placement import show_placement

        return lambda: show_placement(bundle, provider.value, output)
    from dst.cli.verbs import show as work

    return lambda: work.show_shipped(output) if bundle is None else work.show(bundle, output)


@app.command(help=help_of.VERIFY)
def verify(
    bundle: BundleArgument,
    graph: Annotated[
        str | None,
        typer.Option("--graph", metavar="NAME", help="Only this file, or this lowering."),
    ] = None,
    provider: Provider = ProviderName.cpu,
    threads: Threads = 1,
    timed: Annotated[
        bool, typer.Option("--time", help="Time the provider against the CPU as well.")
    ] = False,
    json: Json = None,
) -> Job:
    """Prepare `dst.cli.verbs.verify`."""
    output = Output.to(json)
    from dst.cli.verbs.verify import verify as work

    return lambda: work(bundle, provider.value, threads, graph, timed, output)


@app.command(help=help_of.SOAK)
def soak(
    bundle: BundleArgument,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="How many steps.")],
    chunk: Annotated[
        int | None,
        typer.Option("--t", metavar="T", help="Items per step; the bundle's own by default."),
    ] = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option("--deadline-ms", metavar="X", min=0, help="Count the steps that take longer."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="FILE", help="Feed these items; text or random ones by default."
        ),
    ] = None,
    provider: Provider = ProviderName.cpu,
    threads: Threads = 1,
    json: Json = None,
) -> Job:
    """Prepare `dst.cli.verbs.soak`."""
    output = Output.to(json)
    from dst.cli.verbs.soak import Wish
    from dst.cli.verbs.soak import soak as work

    wish = Wish(steps=steps, t=chunk, deadline_ms=deadline_ms, data=data)
    return lambda: work(bundle, provider.value, threads, wish, output)


app.command(help=help_of.EXPORT)(export)
app.command(help=help_of.ADOPT)(adopt)
app.command(help=help_of.QUANTIZE)(quantize)
app.command(help=help_of.BENCH)(bench)
app.command(help=help_of.REPORT)(report)
app.command(help=help_of.told(upgrade))(upgrade)
app.add_typer(store)


def call(arguments: list[str]) -> int:
    """Run the command with these arguments and return its exit code."""

    def work() -> int:
        job: Job | int | None = app(arguments or ["--help"], prog_name="dst", standalone_mode=False)
        raise_ctrl_c()
        return job() if callable(job) else job or 0

    return guarded(work)


def main() -> None:
    """Run the command with the arguments of this process, and end it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed; a file of ours would get its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a box drawing may not fit the encoding
    sys.exit(call(sys.argv[1:]))
