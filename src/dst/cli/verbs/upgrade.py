"""`dst upgrade`: rewrite a bundle of format 1 as format 2."""

from pathlib import Path
from typing import Annotated

from dst.cli.options import Json, argument
from dst.cli.output import Output, check_paths, foreign


def upgrade(
    old: Annotated[str, argument("OLD", "A bundle of format 1.")],
    new: Annotated[Path, argument("NEW", "The directory to make.")],
    json: Json = None,
) -> int:
    """Rewrite a bundle of format 1, which this version no longer opens, as format 2.

    OLD stays as it is. Its golden runs must pass here before NEW is written. Graphs and weights
    are copied byte for byte, and states that were saved before load in NEW.

        dst upgrade ./old-bundle ./new-bundle
        dst upgrade ./old-bundle ./new-bundle --json -
    """
    from dst.upgrade import upgrade_bundle

    output = Output.to(json)
    check_paths(output, {"OLD": old}, {"NEW": new})
    with output.progress(f"upgrade {old}", None):
        bundle, checks = upgrade_bundle(old, new)
    name, made = bundle.root.name, bundle.manifest
    output.out.print(
        f"[bold]{foreign(name)}[/] [dim]{made.bundle_id[:16]}… was "
        f"{(made.upgraded_from or '')[:16]}…[/]\n{len(checks)} golden runs reproduced"
    )
    output.write_json(
        {
            "bundle": name,
            "bundle_id": made.bundle_id,
            "upgraded_from": made.upgraded_from,
            "golden_runs": len(checks),
        }
    )
    return 0
