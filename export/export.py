"""Export a torch module: find its contract, check it, trace it, compare it, write the bundle."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike
from torch import Tensor, nn

from dst import __version__
from dst.export.certify import (
    BOUND,
    Form,
    Progress,
    certify,
    initial_state,
    items_for,
    onnx_form,
    torch_form,
)
from dst.export.checks.forgets import check_carried
from dst.export.checks.recurrence import check_recurrence
from dst.export.errors import CertificateError, ExportError, StepFaultError
from dst.export.golden import GOLDEN_FILE, record_golden
from dst.export.infer.axes import Known
from dst.export.infer.infer import infer
from dst.export.infer.inferred import Inferred
from dst.export.lowering.graph_set import Tell, silent, trace_all
from dst.export.lowering.trace import Traced
from dst.export.step import Step
from dst.graphs.cost import multiply_adds
from dst.graphs.versions import domains, min_ort, opsets
from dst.graphs.weights import FILE as WEIGHTS_FILE
from dst.graphs.weights import WeightsFile, pack
from dst.runtime.bundle.layout import Array
from dst.runtime.bundle.manifest import (
    Certificate,
    Contract,
    Graph,
    Horizon,
    Manifest,
    Producer,
    Stored,
    Tail,
)
from dst.runtime.bundle.writer import check_target, write_bundle

WHOLE = "torch-whole-vs-chunked"
"""Name of the certificate that compares torch with itself at two T."""
GOLDEN_TOLERANCE = 1e-4
"""Ten times the certificate's bound: another CPU orders its sums differently."""


def export_bundle(
    module: nn.Module,
    path: str | Path,
    *,
    chunk: Tensor | None = None,
    state: object = None,
    t: int | Sequence[int] | None = None,
    data: ArrayLike | None = None,
    name: str | None = None,
    batch_axis: int | None = None,
    time_axis: int | None = None,
    lookback: int = 0,
    lookback_fill: float = 0.0,
    lookahead: int = 0,
    causal: bool = True,
    tail: Tail | None = None,
    pad_value: float = 0.0,
    vocabulary: int | None = None,
    tokenizer: Literal["bytes", "none"] = "none",
    features: Sequence[str] = (),
    sample_rate_hz: float | None = None,
    meanings: Mapping[str, Literal["logits", "gaussian", "custom"]] | None = None,
    about_data: str | None = None,
    description: str = "",
    license: str = "",
    certify_steps: int = 1000,
    bound: float = BOUND,
    portable_t: Sequence[int] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Manifest:
    """Export a torch module to a bundle: graphs, golden vectors and certificates.

    The module takes ``(chunk, state)`` and returns ``(outputs, state)``. Its contract is found by
    running it on the example. The module itself is not touched: a copy runs, in evaluation mode.

    ```python
    lstm = torch.nn.LSTM(40, 64, batch_first=True)
    export_bundle(lstm, "my-lstm", chunk=torch.randn(1, 16, 40), t=(1, 16))
    ```

    A module that is a ``Step`` with a ``contract`` says all this by itself: give ``data`` alone.

    Args:
        module: The module, with its trained weights.
        path: Directory to make.
        chunk: An example chunk as the module takes it, e.g. ``[1, 16, 40]``; with ``lookback``
            items in front.
        state: The state at the start of a stream, nested as the module has it: a tensor, tuple,
            list, dict, named tuple or dataclass. None where the module makes its own; ``()``
            where it has none and each chunk is to be judged alone.
        t: The numbers of items that a chunk may have, or the only one; by default that of the
            example, and 1 where that gives the same.
        data: Real items to prove the graphs on, ``[n]`` or ``[n, F]``; read round and round.
            Random ones by default.
        name: The bundle's name; that of the directory by default.
        batch_axis: Which axis of ``chunk`` counts the streams; found by default.
        time_axis: Which axis of ``chunk`` counts the items; found by default.
        lookback: Past items that the module wants in front of each chunk.
        lookback_fill: What stands there before the first item.
        lookahead: Items behind each chunk that the module reads as well.
        causal: False for a module whose answers for earlier items depend on later ones of the
            chunk; it takes one T.
        tail: What is done with items that fill no chunk: ``exact`` (by default where T = 1 runs),
            ``pad`` or ``refuse``.
        pad_value: What fills the last chunk, with the tail ``pad``.
        vocabulary: Number of token ids; by default that of the embedding that reads the chunk.
        tokenizer: ``bytes`` where an id is the value of a byte.
        features: A name for each feature.
        sample_rate_hz: Items per second.
        meanings: Output name -> what it is: ``logits``, ``gaussian`` or ``custom``.
        about_data: What ``data`` is, for the manifest.
        description: What the model does, in a sentence.
        license: SPDX expression of the weights' licence.
        certify_steps: Carried steps each certificate runs.
        bound: Largest error that a certificate accepts; a larger one than the default is written
            into the certificates and told.
        portable_t: Chunk sizes of the portable graphs; by default the nominal T and 1, where
            torch can write them.
        overwrite: Replace a bundle that stands at ``path``.
        progress: Called with a label and the share done.
        tell: Called with a sentence for each thing that was found or decided; e.g. ``print``.

    Returns:
        The manifest that was written.

    Raises:
        ExportError: an example, ``data``, ``bound`` or ``portable_t`` does not fit; or a question
            is open, and the message names the argument that answers it.
        ExportError: `step-contract`: the module does not return ``(outputs, state)`` as it should,
            or does not keep the contract it has signed.
        StepFaultError: the module cannot be stepped as a stream must be; ``code`` names the fault.
        LoweringError: a graph could not be made.
        CertificateError: two forms differ too much; nothing was written.
        BundleExistsError: ``path`` exists and ``overwrite`` is False, or it is no bundle.
    """
    path = Path(path)
    check_target(path, overwrite)
    if not BOUND <= bound < 1:
        raise ExportError(
            f"export: bound is {bound:g}; expected {BOUND:g} (the default) to below 1"
        )
    if certify_steps < 1:
        raise ExportError(f"export: certify_steps is {certify_steps}; expected 1 or more")
    known = Known(
        t=(t,) if isinstance(t, int) else None if t is None else tuple(t),
        batch_axis=batch_axis,
        time_axis=time_axis,
        lookback=lookback,
        lookback_fill=lookback_fill,
        lookahead=lookahead,
        causal=causal,
        tail=tail,
        pad_value=pad_value,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        features=tuple(features),
        sample_rate_hz=sample_rate_hz,
        meanings=tuple((meanings or {}).items()),
    )
    step = _step(module, chunk, state, known)
    tell = tell or silent
    for note in step.notes:
        tell(note)
    if bound > BOUND:
        tell(f"! certificates accept errors up to {bound:g}, more than the default of {BOUND:g}")
    contract = step.contract
    items, about = items_for(step, data, about_data)
    for size in portable_t or ():
        if size not in contract.chunk.allowed_t:
            raise ExportError(
                f"export: portable T = {size} is not in the contract's "
                f"{list(contract.chunk.allowed_t)}"
            )
    training = [part for part in step.modules() if part.training]
    try:
        step.eval()
        batches = () if step.any_batch else (1,)
        try:
            findings = check_recurrence(
                step, items, batches=batches, bound=bound, progress=progress
            )
        except StepFaultError as error:
            if error.code == "cut-matters" and isinstance(step, Inferred):
                check_carried(step)  # it names the layer that forgets, where it finds one
            raise
        if isinstance(step, Inferred):
            check_carried(step)
        for finding in findings:
            tell(finding.text)
        own = step.own_certificates(items, about, certify_steps)
        with tempfile.TemporaryDirectory() as folder:
            store = WeightsFile(Path(folder) / "traced.bin")
            graphs = trace_all(step, items, store, portable_t, tell, progress)
            entries = tuple(_graph(g, contract, bound) for g in graphs)
            packed = pack({g.file: g.model for g in graphs}, Path(folder), Path(folder))
            store.path.unlink()
            certificates = _certificates(step, graphs, items, about, certify_steps, bound, progress)
            files = {**step.files(), **packed}
            golden, files[GOLDEN_FILE] = record_golden(step, graphs, items)
            stored = _stored_initial_state(step)
            if stored:
                files["init.safetensors"] = safetensors.numpy.save(stored)
            weights = packed.get(WEIGHTS_FILE)
            manifest = Manifest(
                name=name or path.name,
                description=description,
                license=license,
                model_id=model_id(step, _serialized(graphs[0])),
                precision="float32",
                recipe=None,
                producer=Producer(name="dst-edge", version=__version__),
                contract=contract,
                graphs=entries,
                golden=golden,
                certificates=(*own, *certificates),
                horizon=Horizon(half_life_items=step.half_life_items),
                weights_bytes=weights.stat().st_size if isinstance(weights, Path) else 0,
            )
            return write_bundle(path, manifest, files, overwrite=overwrite)
    finally:
        for part in training:
            part.training = True


def _step(module: nn.Module, chunk: object, state: object, known: Known) -> Step:
    """Take a module that has signed a contract as it is, and find the contract of any other."""
    if not isinstance(getattr(module, "contract", None), Contract):
        return infer(module, chunk, state, known)
    if chunk is not None or state is not None or known != Known():
        raise ExportError(
            f"{type(module).__name__} has a `contract`, which says all about chunk and state; give "
            "neither chunk nor state nor what describes them"
        )
    return cast(Step, module)


def _certificates(
    step: Step,
    graphs: Sequence[Traced],
    data: Array,
    about: str,
    steps: int,
    bound: float,
    progress: Progress | None,
) -> list[Certificate]:
    contract = step.contract
    t = contract.chunk.nominal_t
    torch_step = torch_form(step)

    def form(graph: Traced | None) -> Form:
        """Open a graph only when its turn comes: large ones share no memory; None is torch."""
        if graph is None:
            return torch_step
        return onnx_form(_serialized(graph), contract, graph.folder, graph.answers)

    pairs: list[tuple[str, Traced | None, Traced | None, int, int]] = []
    if (cut := _cut(contract)) is not None:
        pairs.append((WHOLE, None, None, *cut))
    free = [g for g in graphs if len(g.allowed_t) == len(contract.chunk.allowed_t)]
    for graph in graphs:
        size = t if t in graph.allowed_t else graph.allowed_t[0]
        if free and graph is free[0]:
            pairs.append(("torch-vs-fused", None, graph, size, size))
        elif free:
            kind = "single" if graph.lowering == "fused" else "portable"
            pairs.append((f"fused-vs-{kind}-t{size}", free[0], graph, size, size))
        else:
            pairs.append((f"torch-vs-{graph.lowering}-t{size}", None, graph, size, size))
    certificates = []
    for name, reference, other, size, reference_t in pairs:
        try:
            certificate = certify(
                name,
                form(reference),
                form(other),
                contract,
                initial_state(step),
                data,
                about,
                steps=steps,
                t=size,
                reference_t=reference_t,
                bound=bound,
                progress=progress,
            )
        except CertificateError as error:
            if name != WHOLE:
                raise
            raise StepFaultError(
                f"the cut matters: torch itself answers otherwise in chunks of T = {reference_t} "
                f"than of T = {size}; {error}",
                code="cut-matters",
            ) from error
        certificates.append(certificate)
    return certificates


def _cut(contract: Contract) -> tuple[int, int] | None:
    """Two allowed T that torch is compared at, the smaller dividing the larger; None without two.

    The nominal T is one of them where it can be.
    """
    chunk = contract.chunk
    pairs = [(s, b) for b in chunk.allowed_t for s in chunk.allowed_t if s < b and b % s == 0]
    if not pairs or not chunk.causal:
        return None
    t = chunk.nominal_t
    return max(pairs, key=lambda p: (p[0] == t, p[1] == t, p[1] // p[0]))


def _stored_initial_state(step: Step) -> dict[str, Array]:
    state = initial_state(step)
    return {
        s.init.tensor: np.asarray(state[s.input], order="C")
        for s in step.contract.state
        if isinstance(s.init, Stored)
    }


def _serialized(traced: Traced) -> bytes:
    content: bytes = traced.model.SerializeToString(deterministic=True)
    return content


def _graph(traced: Traced, contract: Contract, bound: float) -> Graph:
    return Graph(
        file=traced.file,
        lowering=traced.lowering,
        allowed_t=traced.allowed_t,
        batch=traced.batch,
        opsets=opsets(traced.model),
        domains=domains(traced.model),
        min_ort=min_ort(traced.model),
        golden_tolerance=max(GOLDEN_TOLERANCE, GOLDEN_TOLERANCE / BOUND * bound),
        multiply_adds=multiply_adds(traced.model, contract, traced.allowed_t, traced.batch),
        answers=traced.answers,
    )


def model_id(module: nn.Module, graph: bytes) -> str:
    """SHA-256 (hex) of a module's parameters and saved buffers: names, shapes, float32 bytes.

    A module that has none is told from others by the bytes of its graph.
    """
    digest = hashlib.sha256(b"" if module.state_dict() else graph)
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().float().cpu().contiguous().numpy()
        digest.update(f"{name} {list(array.shape)}\n".encode())
        digest.update(array.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()
