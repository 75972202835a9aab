"""`dst upgrade`: rewrite a bundle of format 1 as format 2."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dst.cli.options import Json
from dst.cli.output import Output, check_paths, foreign


class Upgraded(msgspec.Struct, frozen=True):
    """The new bundle, the id that it had before, and how many golden runs it reproduced."""

    bundle: str
    bundle_id: str
    upgraded_from: str | None
    golden_runs: int


def upgrade(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A bundle of format 1.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The directory to make.")],
    json: Json = None,
) -> Callable[[], int]:
    """Rewrite a bundle of format 1, which this version no longer opens, as format 2.

    OLD stays as it is. Its golden runs must pass here before NEW is written. Graphs and weights
    are copied byte for byte, and states that were saved before load in NEW.

        dst upgrade ./old-bundle ./new-bundle
        dst upgrade ./old-bundle ./new-bundle --json -
    """
    output = Output.to(json)
    check_paths(output, {"OLD": old}, {"NEW": new})
    from dst.upgrade import upgrade_bundle

    def work() -> int:
        with output.progress(f"upgrade {old}", None):
            bundle, checks = upgrade_bundle(old, new)
        manifest = bundle.manifest
        made = Upgraded(bundle.root.name, manifest.bundle_id, manifest.upgraded_from, len(checks))
        output.out.print(
            f"[bold]{foreign(made.bundle)}[/] [dim]{made.bundle_id[:16]}… was "
            f"{(made.upgraded_from or '')[:16]}…[/]\n{made.golden_runs} golden runs reproduced"
        )
        output.write_json(made)
        return 0

    return work
