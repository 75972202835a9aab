"""The `dst` program: find the verb of a command line, import it, run it, return its exit code."""

import os
import sys
from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from inspect import cleandoc, getdoc, unwrap
from textwrap import dedent
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import dst
from dst.cli.errors import guarded
from dst.cli.signals import raise_ctrl_c

ABOUT = """
Run, make and check stateful models that read endless input in fixed memory.

    dst demo                          see it work, without any file of yours
    dst run text notes.txt --top 5    the five most surprising lines of a file
    dst generate text --prompt "def " continue a text
"""
VERBS = {
    "demo": "Show a memory that survives a kill, a log's odd lines, and a sensor's odd hours.",
    "run": "Stream a file or a pipe of any size through a bundle, in constant memory.",
    "generate": "Continue a prompt; the text is printed as it comes.",
    "show": "Print what a bundle is: contract, state, graphs, memory, certificates.",
    "verify": "Replay a bundle's golden vectors here and compare with what was recorded.",
    "soak": "Run a bundle for very many steps: "
    "is memory flat, is every step in time, is the state sound?",
    "train": "Make a monitor of a CSV: learn its columns, calibrate alerts, export, quantize.",
    "export": "Export a torch module to a bundle, and prove that it does what torch does.",
    "adopt": "Wrap an existing stateful ONNX file into a bundle, without torch.",
    "quantize": "Make a smaller or faster bundle of a model.",
    "pack": "Write what a platform needs beside a bundle into one folder.",
    "bench": "Measure what bundles cost on this machine, in turns, and compare them with the "
    "first.",
    "report": "Measure how far a quantized bundle strays from full precision, over the horizon of "
    "a stream.",
    "upgrade": "Rewrite a bundle of format 1, which this version no longer opens, as format 2.",
    "store": "Look after a store: one file that holds the states of many streams, with their past.",
}
"""Each verb with the first sentence of its help, so that the list of them imports none."""

ROOMS = {"train": "dst.cli.training", "pack": "dst.cli.packing"}
"""Where a verb's module stands that is not in `dst.cli.verbs`."""


def help_text(text: str) -> str:
    r"""Join the lines of each paragraph for a terminal to break; keep those of indented blocks.

    Examples:
        >>> help_text("One\nparagraph.\n\n    dst demo\n    dst show")
        'One paragraph.\n\n\x08\ndst demo\ndst show'
    """
    parts = cleandoc(text).split("\n\n")
    return "\n\n".join(
        f"\b\n{dedent(part)}" if part.startswith("    ") else " ".join(part.split())
        for part in parts
    )


def later(verb: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """Have a verb wait until the command line is understood: typer has its own way with errors."""
    return wraps(verb)(lambda **options: partial(verb, **options))


class Verb(TyperCommand):
    """A verb whose module `dst.cli.verbs.NAME` is imported when the verb is called.

    The module has a function of that name, which takes the options and returns the exit code, or
    a typer app of that name with verbs of its own. A docstring is the help. What a verb works with
    is imported when it works, so that its help comes at once.
    """

    def load(self) -> Any:  # typer's own classes have no public names
        """Import the verb and return the command that typer makes of it."""
        room = ROOMS.get(str(self.name), "dst.cli.verbs")
        found = getattr(import_module(f"{room}.{self.name}"), str(self.name))
        group = found if isinstance(found, typer.Typer) else typer.Typer(**LOOK)
        if group is not found:
            group.command(self.name)(found)
        for part in (group.registered_callback, *group.registered_commands):
            if part is not None:
                part.help = help_text(getdoc(part.callback) or "")
        for command in group.registered_commands:
            if command.callback is not None:
                command.callback = later(unwrap(command.callback))  # it may have been loaded before
        return typer.main.get_command(group)

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """Parse what stands behind the verb."""
        return self.load().make_context(*arguments, **named)


class Verbs(TyperGroup):
    """All verbs, none of them imported."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        for name, told in VERBS.items():
            self.add_command(Verb(name, callback=None, short_help=told, help=told))


LOOK: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
}
app = typer.Typer(name="dst", help=help_text(ABOUT), cls=Verbs, **LOOK)


def _version(asked: bool) -> None:
    if asked:
        print(f"dst {dst.__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options that stand before a verb."""


def call(arguments: list[str]) -> int:
    """Run the command with these arguments and return its exit code.

    Examples:
        >>> call(["--version"])  # doctest: +ELLIPSIS
        dst ...
        0
    """

    def work() -> int:
        job = app(arguments or ["--help"], prog_name="dst", standalone_mode=False)
        if not callable(job):
            return job or 0
        import dst.runtime.session  # noqa: F401  before a Ctrl-C raises, see `end_at_ctrl_c`

        raise_ctrl_c()
        return int(job())

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
