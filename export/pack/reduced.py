"""Write the graphs of a bundle in ONNX Runtime's own form, for a build with few operators.

A build of ONNX Runtime for one model is a tenth of the usual one. It reads `.ort` files alone, and
has the operators that a configuration lists. Both are made here by ONNX Runtime's converter; the
result is a bundle like any other, which every runtime opens and whose saved states are those of the
bundle that it was made from.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import onnx
import onnxruntime as ort
from msgspec.structs import replace
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnxruntime.tools.convert_onnx_models_to_ort import (
    OptimizationStyle,
    convert_onnx_models_to_ort,
)

from dst.graphs.walk import all_tensors
from dst.runtime.bundle.manifest import Graph, Manifest
from dst.runtime.bundle.reader import Bundle, open_bundle
from dst.runtime.bundle.validation import INIT_FILE, TOKENIZER_FILE
from dst.runtime.bundle.writer import write_bundle
from dst.runtime.errors import SessionError
from dst.runtime.execution.engine import first_line

CONFIG = "required_operators_and_types.config"
"""What the converter calls the list of operators; ONNX Runtime's build script reads it."""
_QUIET, _USUAL = 3, 2  # levels of ONNX Runtime's log


def static_graphs(manifest: Manifest) -> tuple[Graph, ...]:
    """Return the graphs with fixed shapes: B = 1, one T, ONNX's own operators."""
    return tuple(
        graph
        for graph in manifest.graphs
        if graph.lowering == "portable" and graph.batch == (1,) and len(graph.allowed_t) == 1
    )


def write_reduced(bundle: Bundle, to: Path, platform: Literal["arm"] | None) -> Bundle:
    """Write a bundle whose graphs are `.ort` files, and beside it the list of their operators.

    Args:
        bundle: what to convert. Of its graphs those with fixed shapes are taken, or all of them
            where none has.
        to: a folder that exists; it gets `bundle` and the list of operators.
        platform: of which the converter may make use; None for none.

    Raises:
        BundleError: the new bundle breaks the format, or the disk refused.
        SessionError: `graph`: ONNX Runtime cannot convert a graph.
    """
    manifest = bundle.manifest
    graphs = static_graphs(manifest) or manifest.graphs
    with tempfile.TemporaryDirectory(dir=to) as folder:
        work = Path(folder)
        files = [work / graph.file for graph in graphs]
        try:
            weights = external_files(bundle, graphs)
            for name in {*(file.name for file in files), *weights}:
                shutil.copyfile(bundle.root / name, work / name)
            with _quiet():
                convert_onnx_models_to_ort(
                    work,
                    output_dir=to,
                    optimization_styles=[OptimizationStyle.Fixed],
                    target_platform=platform,
                    enable_type_reduction=True,
                )
        except OSError:
            raise
        except Exception as error:  # ONNX Runtime raises a class for each of its own codes
            raise SessionError(
                f"{bundle.label}: ONNX Runtime {ort.__version__} cannot convert its graphs: "
                f"{first_line(error)}",
                code="graph",
            ) from error
    config = (to / CONFIG).read_text("utf-8").replace(f"{to.resolve()}{os.sep}", "bundle/")
    (to / CONFIG).write_text(config, "utf-8")  # without the place where it was made
    made = [to / Path(graph.file).with_suffix(".ort") for graph in graphs]
    opsets = opsets_in(config)
    allowed = sorted({t for graph in graphs for t in graph.allowed_t})
    contract = manifest.contract
    kept = {INIT_FILE, TOKENIZER_FILE, *(golden.file for golden in manifest.golden)}
    reduced = replace(
        manifest,
        contract=replace(contract, chunk=replace(contract.chunk, allowed_t=tuple(allowed))),
        graphs=tuple(
            replace(
                graph,
                file=file.name,
                lowering="other",  # the converter puts in operators of ONNX Runtime's own
                opsets=opsets,
                domains=tuple(sorted(opsets)),
                min_ort=".".join(ort.__version__.split(".")[:2]),
                multiply_adds={},
            )
            for graph, file in zip(graphs, made, strict=True)
        ),
        golden=tuple(golden for golden in manifest.golden if golden.t in allowed),
        certificates=(),
        quality=None,  # both were measured with the other graphs
        upgraded_from=None,
    )
    held = {name: bundle.root / name for name in kept & manifest.files.keys()}
    write_bundle(to / "bundle", reduced, {**held, **{file.name: file for file in made}})
    for file in made:
        file.unlink()
    return open_bundle(to / "bundle")


def opsets_in(config: str) -> dict[str, int]:
    r"""Read the versions of the operator sets from a list of operators, the greatest by domain.

    Examples:
        >>> opsets_in("# of a model\nai.onnx;13;Add,Mul\nai.onnx;18;Split\ncom.microsoft;1;Gelu")
        {'ai.onnx': 18, 'com.microsoft': 1}
    """
    found: dict[str, int] = {}
    for line in config.splitlines():
        if line and not line.startswith(("#", "!")):
            domain, version, _ = line.split(";", 2)
            found[domain] = max(int(version), found.get(domain, 0))
    return found


def external_files(bundle: Bundle, graphs: Sequence[Graph]) -> set[str]:
    """Name the files that hold the weights of some graphs."""
    models = (onnx.load(bundle.root / graph.file, load_external_data=False) for graph in graphs)
    return {
        ExternalDataInfo(tensor).location
        for model in models
        for tensor in all_tensors(model.graph)
        if uses_external_data(tensor)
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter from printing, and ONNX Runtime from warning of what it is asked for."""
    ort.set_default_logger_severity(_QUIET)
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
        ort.set_default_logger_severity(_USUAL)
