"""A step and real items in, a bundle out: traced, packed, proved, then written at once."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from dst import __version__
from dst.export.cost import multiply_adds
from dst.export.errors import ExportError
from dst.export.step import Step, check_step
from dst.export.trace import Traced, trace_fused, trace_portable
from dst.export.verify import (
    Chunks,
    Form,
    Progress,
    certify,
    initial_state,
    onnx_form,
    torch_form,
)
from dst.export.weights import FILE as WEIGHTS_FILE
from dst.export.weights import model_id, pack
from dst.runtime.bundle import check_target, write_bundle
from dst.runtime.golden import golden_tensors
from dst.runtime.manifest import (
    Certificate,
    Contract,
    Golden,
    Graph,
    Horizon,
    Manifest,
    Producer,
    Stored,
)

Array = npt.NDArray[np.generic]

WHOLE_ITEMS = 2048
"""Items that torch takes in one call where it is the whole that the chunks are held against."""
GOLDEN_ITEMS = 64
GOLDEN_TOLERANCE = 1e-4
"""Ten times the certificate's bound: another CPU orders its sums differently."""
GOLDEN_FILE = "golden.safetensors"


def export_bundle(
    step: Step,
    path: str | Path,
    *,
    name: str,
    data: Array,
    about_data: str = "items given by the caller",
    description: str = "",
    license: str = "",
    certify_steps: int = 1000,
    portable_t: Sequence[int] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Export a step to a bundle with fused and portable graphs, golden vectors and certificates.

    Args:
        step: A torch module that signed the contract, with its trained weights.
        path: Directory to make.
        name: The bundle's name.
        data: Real items to prove the graphs on, ``[n]`` or ``[n, F]``; read round and round.
        about_data: What ``data`` is, for the manifest.
        description: What the model does, in a sentence.
        license: SPDX expression of the weights' licence.
        certify_steps: Carried steps each certificate runs.
        portable_t: Chunk sizes of the portable graphs; the nominal T and 1 by default.
        overwrite: Replace a bundle that stands at ``path``.
        progress: Called with a label and the share done.

    Returns:
        The manifest that was written.

    Raises:
        ExportError: ``data`` is empty, or a T of ``portable_t`` is not allowed.
        StepContractError: the step does not keep its contract.
        LoweringError: a graph could not be made.
        CertificateError: two forms differ too much; nothing was written.
        BundleExistsError: ``path`` exists and ``overwrite`` is False, or it is no bundle.
    """
    if len(data) == 0:
        raise ExportError("export: data is empty; give real items to prove the graphs on")
    check_target(Path(path), overwrite)
    allowed = step.contract.chunk.allowed_t
    if portable_t is None:
        portable_t = [t for t in dict.fromkeys((step.contract.chunk.nominal_t, 1)) if t in allowed]
    for t in portable_t:
        if t not in allowed:
            raise ExportError(f"export: portable T = {t} is not in the contract's {list(allowed)}")
    step = step.eval()
    check_step(step)
    graphs = _trace(step, portable_t, progress)
    files = dict(step.files()) | pack({g.file: g.model for g in graphs})
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            (Path(folder) / file).write_bytes(content)
        forms = {g.file: onnx_form(Path(folder) / g.file, step.contract) for g in graphs}
        certificates = _certificates(step, graphs, forms, data, about_data, certify_steps, progress)
    certificates = [*step.own_certificates(data, about_data, certify_steps), *certificates]
    golden, golden_bytes = _golden(step, graphs, data)
    files[GOLDEN_FILE] = golden_bytes
    stored = _stored_initial_state(step)
    if stored:
        files["init.safetensors"] = safetensors.numpy.save(stored)
    manifest = Manifest(
        name=name,
        description=description,
        license=license,
        model_id=model_id(step, files[graphs[0].file]),
        precision="float32",
        recipe=None,
        producer=Producer(name="dst-edge", version=__version__),
        contract=step.contract,
        graphs=tuple(_graph(g, step.contract) for g in graphs),
        golden=golden,
        certificates=tuple(certificates),
        horizon=Horizon(half_life_items=step.half_life_items),
        weights_bytes=len(files[WEIGHTS_FILE]),
    )
    return write_bundle(path, manifest, files, overwrite=overwrite)


def _trace(step: Step, portable_t: Sequence[int], progress: Progress | None) -> list[Traced]:
    graphs: list[Traced] = []
    for done, t in enumerate((None, *portable_t)):
        if progress is not None:
            progress("tracing", done / (1 + len(portable_t)))
        graphs.append(trace_fused(step) if t is None else trace_portable(step, t))
    return graphs


def _certificates(
    step: Step,
    graphs: Sequence[Traced],
    forms: dict[str, Form],
    data: Array,
    about: str,
    steps: int,
    progress: Progress | None,
) -> list[Certificate]:
    contract = step.contract
    t = contract.chunk.nominal_t
    torch_step, fused = torch_form(step), forms[graphs[0].file]
    pairs = [("torch-vs-fused", torch_step, fused, t, t)]
    if contract.chunk.tail == "exact":  # then the contract says that the cut does not matter
        whole = max(WHOLE_ITEMS // t, 1) * t
        pairs.insert(0, ("torch-whole-vs-chunked", torch_step, torch_step, t, whole))
    for graph in graphs[1:]:
        size = graph.allowed_t[0]
        pairs.append((f"fused-vs-portable-t{size}", fused, forms[graph.file], size, size))
    return [
        certify(
            name,
            reference,
            other,
            contract,
            initial_state(step),
            data,
            about,
            steps=steps,
            t=size,
            reference_t=reference_t,
            progress=progress,
        )
        for name, reference, other, size, reference_t in pairs
    ]


def _golden(step: Step, graphs: Sequence[Traced], data: Array) -> tuple[tuple[Golden, ...], bytes]:
    """Record torch over the first items: once if the cut does not matter, else for every T."""
    chunk = step.contract.chunk
    sizes = {chunk.nominal_t}
    if chunk.tail != "exact":
        sizes |= {g.allowed_t[0] for g in graphs if g.batch}
    run = torch_form(step)
    tensors: dict[str, Array] = {}
    runs: list[Golden] = []
    for t in sorted(sizes):
        steps = max(GOLDEN_ITEMS // t, 2)
        source = Chunks(step.contract, data, t)
        state = initial_state(step)
        outputs: dict[str, list[Array]] = {o.name: [] for o in step.contract.outputs}
        for i in range(steps):
            found, state = run(source[i], state)
            for key, value in found.items():
                outputs[key].append(value)
        tensors |= golden_tensors(t, [source.fresh(i) for i in range(steps)], outputs, state)
        runs.append(Golden(file=GOLDEN_FILE, t=t, steps=steps))
    return tuple(runs), safetensors.numpy.save(
        {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    )


def _stored_initial_state(step: Step) -> dict[str, Array]:
    state = initial_state(step)
    return {
        s.init.tensor: np.ascontiguousarray(state[s.input])
        for s in step.contract.state
        if isinstance(s.init, Stored)
    }


def _graph(traced: Traced, contract: Contract) -> Graph:
    return Graph(
        file=traced.file,
        lowering=traced.lowering,
        allowed_t=traced.allowed_t,
        batch=traced.batch,
        opsets=traced.opsets,
        domains=traced.domains,
        min_ort=traced.min_ort,
        golden_tolerance=GOLDEN_TOLERANCE,
        multiply_adds=multiply_adds(traced.model, contract, traced.allowed_t, traced.batch),
    )
