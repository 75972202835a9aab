"""`dst pack`: write what a platform needs beside a bundle into one folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from dst.cli.errors import CHECK_FAILED, needing
from dst.cli.options import BundleArgument, Json, option
from dst.cli.output import Output, check_folder, check_paths, foreign, table
from dst.words import mib

if TYPE_CHECKING:
    from dst.export.pack import Packed

TargetName = Literal["android", "ios", "desktop", "web", "triton"]
VERDICTS = {"yes": "worth it", "maybe": "try it", "no": "not worth it", None: "no verdict"}


def pack(
    bundle: BundleArgument,
    target: Annotated[TargetName, option("--target", "NAME", "The platform.")],
    out: Annotated[Path, option("--out", "DIR", "The folder to make.")],
    json: Json = None,
) -> int:
    """Write what a platform needs beside a bundle into one folder.

    NAME is android, ios, desktop, web or triton. Every folder has the bundle in its place, its
    sizes, and a README.md with the steps. For android, ios and desktop come the graphs in ONNX
    Runtime's own form and the list of their operators, for a build with nothing else; for
    android and ios also what NNAPI, Core ML and XNNPACK would take of the graphs. For triton it
    is a model repository. The new graphs replay the golden runs here: exit code 1 if one
    strays, 2 if the bundle is broken or the folder is there already. Needs the extra onnx.
    docs/platforms.md tells more.

        dst pack text --target android --out text-android
        dst pack text-int8 --target triton --out models
        dst pack log --target desktop --out log-desktop --json -
    """
    output = Output.to(json)
    check_folder("--out", out)
    check_paths(output, {"BUNDLE": bundle}, {"--out": out})
    with needing("pack", "onnx"):
        from dst.export.pack import pack_bundle
        from dst.export.pack.packed import told
    with output.progress(f"pack {bundle}", 1.0) as bar:
        packed = pack_bundle(bundle, target, out, bar.share)
    _show(packed, out, output)
    output.write_json({"path": str(out), **told(packed)})
    return 0 if packed.passed else CHECK_FAILED


def _show(packed: "Packed", out: Path, output: Output) -> None:
    """Print what was written and what was found."""
    total = sum(packed.sizes.values())
    output.out.print(
        f"[green]✓[/] wrote [bold]{foreign(str(out))}[/] for {packed.target}: "
        f"{len(packed.sizes)} files, {mib(total)}; README.md has the steps"
    )
    for model in packed.models:
        many = f"up to {model.batch} sequences in a step" if model.batch else "one sequence a step"
        output.out.print(
            f"  model {foreign(model.name)} of {foreign(model.graph.file)}: {many}, "
            f"needs ONNX Runtime {model.graph.min_ort}"
        )
    if packed.providers:
        found = table("graph", "provider", ">takes", ">of nodes", ">groups", "")
        for use in packed.providers:
            counts = str(use.taken), str(use.nodes), str(len(use.partitions))
            found.add_row(foreign(use.graph), use.provider, *counts, VERDICTS[use.verdict])
        output.out.print(found)
    for check in packed.checks:
        mark = "[green]✓[/]" if check.passed else "[bold red]✗[/]"
        worst = max(check.errors.values())
        output.out.print(
            f"  {mark} {foreign(check.graph)} replays the golden run of T = {check.t}: "
            f"{worst:.1e} of {check.tolerance:.2g}"
        )
    for note in packed.notes:
        output.err.print(f"dst: {foreign(note)}", soft_wrap=True)
