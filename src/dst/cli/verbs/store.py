"""`dst store`: the command line of its verbs goes in, calls of `dst.cli.verbs.stored` come out."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dst.cli import help as help_of
from dst.cli.errors import WrongUseError
from dst.cli.options import Json
from dst.cli.output import Output

Job = Callable[[], int]

app = typer.Typer(name="store", help=help_of.STORE, rich_markup_mode="rich")

Database = Annotated[Path, typer.Argument(metavar="DB", help="The store's file.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A stream in it.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help="The key of an encrypted store: 32 bytes, or 64 hexadecimal digits.",
    ),
]
Record = Annotated[
    int | None,
    typer.Option("--record", metavar="N", min=1, help="Take this record; dst store show has them."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command("list", help=help_of.STORE_LIST)
def list_streams(database: Database, json: Json = None) -> Job:
    """Prepare `dst.cli.verbs.stored.list_streams`."""
    output = Output.to(json)
    from dst.cli.verbs import stored

    return lambda: stored.list_streams(database, output)


@app.command(help=help_of.STORE_SHOW)
def show(database: Database, name: Name, json: Json = None) -> Job:
    """Prepare `dst.cli.verbs.stored.show`."""
    output = Output.to(json)
    from dst.cli.verbs import stored

    return lambda: stored.show(database, name, output)


@app.command(help=help_of.STORE_EXPORT)
def export(
    database: Database,
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The saved state to write.")],
    item: Annotated[
        int | None,
        typer.Option("--item", metavar="ITEM", min=0, help="Take the nearest kept at or before."),
    ] = None,
    record: Record = None,
    key_file: KeyFile = None,
    json: Json = None,
) -> Job:
    """Prepare `dst.cli.verbs.stored.export`."""
    output = Output.to(json)
    if item is not None and record is not None:
        raise WrongUseError("--item and --record exclude each other; give one of them, or none")
    from dst.cli.verbs import stored

    return lambda: stored.export(database, name, file, stored.At(item, record), key_file, output)


@app.command("import", help=help_of.STORE_IMPORT)
def import_state(
    database: Database,
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A saved state.")],
    key_file: KeyFile = None,
    json: Json = None,
) -> Job:
    """Prepare `dst.cli.verbs.stored.import_state`."""
    output = Output.to(json)
    from dst.cli.verbs import stored

    return lambda: stored.import_state(database, name, file, key_file, output)


@app.command(help=help_of.STORE_REWIND)
def rewind(
    database: Database,
    name: Name,
    item: Annotated[
        int | None, typer.Argument(metavar="[ITEM]", min=0, help="How far back to go.")
    ] = None,
    record: Record = None,
    key_file: KeyFile = None,
    json: Json = None,
) -> Job:
    """Prepare `dst.cli.verbs.stored.rewind`."""
    output = Output.to(json)
    if (item is None) == (record is None):
        raise WrongUseError("give either ITEM or --record N; dst store show lists both")
    from dst.cli.verbs import stored

    return lambda: stored.rewind(database, name, stored.At(item, record), key_file, output)


@app.command(help=help_of.STORE_DELETE)
def delete(database: Database, name: Name, yes: Yes = False, json: Json = None) -> Job:
    """Prepare `dst.cli.verbs.stored.delete`."""
    output = Output.to(json)
    from dst.cli.verbs import stored

    return lambda: stored.delete(database, name, yes, output)


@app.command(help=help_of.STORE_WIPE)
def wipe(database: Database, yes: Yes = False, json: Json = None) -> Job:
    """Prepare `dst.cli.verbs.stored.wipe`."""
    output = Output.to(json)
    from dst.cli.verbs import stored

    return lambda: stored.wipe(database, yes, output)
