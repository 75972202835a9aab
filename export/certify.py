"""Compare two forms of the same step over many carried steps, and certify that they agree.

A form is anything that maps ``(chunk, state) -> (outputs, state)`` on numpy arrays. Each form
carries its own state; nothing is reset in between. See ``dst.export.curves`` for what is measured.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import ArrayLike

from dst.export.curves import DECILE_RATIO_BOUND, Distances, decile_ratio
from dst.export.errors import CertificateError, ExportError
from dst.export.step import Step
from dst.graphs.weights import EXTERNAL_FOLDER
from dst.runtime.bundle.constants import constant_array
from dst.runtime.bundle.layout import Array, laid_out
from dst.runtime.bundle.manifest import Certificate, Contract, Features, Tokens

Tensors = dict[str, Array]
Form = Callable[[Array, Tensors], tuple[Tensors, Tensors]]
"""``(chunk, state) -> (outputs, state)`` for B = 1."""
Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done."""

RANDOM_ITEMS = 4096
"""Items that are drawn where no data is given."""
BOUND = 1e-5
"""Largest error of an output at any step, and of a state tensor against its peak."""


def torch_form(step: Step) -> Form:
    """The torch module itself."""

    def run(chunk: Array, state: Tensors) -> tuple[Tensors, Tensors]:
        tensors = {name: torch.from_numpy(array) for name, array in state.items()}
        with torch.no_grad():
            outputs, after = step(torch.from_numpy(chunk), tensors)
        return _arrays(outputs), _arrays(after)

    return run


def onnx_form(
    graph: Path | bytes,
    contract: Contract,
    folder: Path | None = None,
    answers: str | None = None,
) -> Form:
    """A traced graph, a file or its bytes, on ONNX Runtime's CPU provider, one thread.

    Args:
        graph: The file, or its bytes.
        contract: What the graph keeps.
        folder: Where the external data lies that bytes refer to.
        answers: The input that says which items are answered for; all are.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    if folder is not None:
        options.add_session_config_entry(EXTERNAL_FOLDER, str(folder))
    source = graph if isinstance(graph, bytes) else str(graph)
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in contract.outputs] + [s.output for s in contract.state]
    constants = {c.input: constant_array(c) for c in contract.constants}

    def run(chunk: Array, state: Tensors) -> tuple[Tensors, Tensors]:
        feeds = {contract.chunk.input: chunk, **constants, **state}
        if answers is not None:
            feeds[answers] = np.arange(chunk.shape[contract.chunk.time_axis], dtype=np.int64)
        found = session.run(names, feeds)
        outputs, after = found[: len(contract.outputs)], found[len(contract.outputs) :]
        return (
            {o.name: value for o, value in zip(contract.outputs, outputs, strict=True)},
            {s.input: value for s, value in zip(contract.state, after, strict=True)},
        )

    return run


def initial_state(step: Step, batch: int = 1) -> Tensors:
    """The step's initial state for so many rows."""
    return _arrays(step.initial_state(batch))


RANDOM = "random items: no data was given"
_ON_RANDOM = (
    "It ran on random items: give real ones by `data=` (`--data`), above all where the module "
    "normalizes its items itself. "
)


def items_for(step: Step, data: ArrayLike | None, about: str | None) -> tuple[Array, str]:
    """Return the items to run on, ``[n, ...]`` in the chunk's dtype, and what they are.

    Raises:
        ExportError: ``data`` is empty, or holds no items of this step.
    """
    chunk = step.contract.chunk
    item = tuple(size for size in chunk.shape if not isinstance(size, str))
    if data is None:
        return _random_items(step, (RANDOM_ITEMS, *item)), about or RANDOM
    items = np.asarray(data)
    if len(items) == 0:
        raise ExportError("export: data is empty; give real items to prove the graphs on")
    if items.shape[1:] != item:
        shape = ", ".join(["n", *map(str, item)])
        raise ExportError(
            f"export: data has the shape {list(items.shape)}; expected one row for each item, "
            f"[{shape}], without a batch axis"
        )
    items = items.astype(chunk.dtype)
    if isinstance(chunk.content, Tokens):
        worst = items.min() if items.min() < 0 else items.max()
        if not 0 <= worst < chunk.content.vocabulary:
            raise ExportError(
                f"export: data holds the id {worst}; expected 0 to {chunk.content.vocabulary - 1}"
            )
    elif not np.isfinite(items).all():
        raise ExportError("export: data holds a NaN or an infinity; the runtime refuses such items")
    return items, about or "items given by the caller"


def _random_items(step: Step, shape: tuple[int, ...]) -> Array:
    chunk, source = step.contract.chunk, np.random.default_rng(0)
    if isinstance(chunk.content, Tokens):
        return source.integers(chunk.content.vocabulary, size=shape).astype(chunk.dtype)
    if step.example is not None:
        return source.choice(step.example.flatten().numpy(), shape)
    return source.normal(size=shape).astype(chunk.dtype)


class Chunks:
    """Endless chunks cut from one array of items ``[n, ...]``, read round and round."""

    def __init__(self, contract: Contract, data: Array, t: int) -> None:
        self._chunk = contract.chunk
        self._data = np.asarray(data, dtype=contract.chunk.dtype)
        self._t = t

    def fresh(self, number: int) -> Array:
        """Chunk ``number`` as ``Stream.step`` takes it: T and the look-ahead along time, B = 1."""
        return laid_out(self._chunk, self._items(number * self._t, self._end(number)))

    def __getitem__(self, number: int) -> Array:
        """Chunk ``number`` as the graph sees it: normalised, lookback and look-ahead too, B = 1."""
        first = number * self._t - self._chunk.lookback
        items = self._items(first, self._end(number))
        content = self._chunk.content
        if isinstance(content, Features) and content.normalisation is not None:
            mean = np.asarray(content.normalisation.mean).astype(items.dtype)
            std = np.asarray(content.normalisation.std).astype(items.dtype)
            rows = items.reshape(len(items), -1)
            items = np.divide(np.subtract(rows, mean), std).reshape(items.shape)
        return laid_out(self._chunk, items)

    def _end(self, number: int) -> int:
        return (number + 1) * self._t + self._chunk.lookahead

    def _items(self, first: int, end: int) -> Array:
        """Items ``first`` to ``end`` of the stream; before it stands the contract's fill."""
        places = np.arange(first, end)
        items = self._data[places % len(self._data)]
        items[places < 0] = self._chunk.lookback_fill or 0
        return items


def certify(
    name: str,
    reference: Form,
    other: Form,
    contract: Contract,
    state: Tensors,
    data: Array,
    about: str,
    *,
    steps: int,
    t: int,
    reference_t: int | None = None,
    bound: float = BOUND,
    progress: Progress | None = None,
) -> Certificate:
    """Run two forms side by side and record their distance as a curve over steps.

    Args:
        name: Which two forms these are.
        reference: The form taken as right; steps by ``reference_t`` items (default ``t``).
        other: The form held against it; takes ``steps`` steps of ``t`` items.
        contract: What both keep.
        state: Initial state, B = 1.
        data: Real items, ``[n, ...]``; read again from the start when used up.
        about: What the data is, for the manifest.
        steps: Steps of ``other``, at least; rounded up to whole steps of ``reference``.
        t: Items per step of ``other``.
        reference_t: Items per step of ``reference``, a multiple of ``t``. Outputs that have one
            value for a chunk are compared where the two are equal, or the tail rule is ``exact``.
        bound: Largest error that passes; the certificate records it.
        progress: Told of the share done.

    Raises:
        CertificateError: an error exceeds ``bound``, or grows beyond ``DECILE_RATIO_BOUND``.
    """
    group = (reference_t or t) // t
    rounds = -(-steps // group)
    wide, narrow = Chunks(contract, data, group * t), Chunks(contract, data, t)
    left, right = state, state
    errors = Distances(
        [output.name for output in contract.outputs], [part.input for part in contract.state]
    )
    for number in range(rounds):
        expected, left = reference(wide[number], left)
        parts = []
        for i in range(number * group, (number + 1) * group):
            outputs, right = other(narrow[i], right)
            parts.append(outputs)
        for output in contract.outputs:
            if output.time_axis is None and group > 1 and contract.chunk.tail != "exact":
                continue
            found = [p[output.name] for p in parts]
            joined = (
                found[-1] if output.time_axis is None else np.concatenate(found, output.time_axis)
            )
            errors.add_output(output.name, joined, expected[output.name])
        for key, value in left.items():
            errors.add_state(key, right[key], value)
        if progress is not None and number % max(rounds // 100, 1) == 0:
            progress(name, number / rounds)
    certificate = errors.certificate(name, about, t=t, bound=bound, group=group)
    if not certificate.passed:
        raise CertificateError(_why(certificate, errors))
    return certificate


def _why(certificate: Certificate, errors: Distances) -> str:
    """Name the tensor that is furthest off and the one that grew most."""
    bound, bounded = certificate.bound, errors.bounded
    tensor, worst, of = errors.worst
    rounds = bounded[tensor.split("`")[1]]
    grown = max(bounded, key=lambda key: decile_ratio(bounded[key], bound))
    return (
        f"certificate {certificate.name}: expected errors of at most {bound:g} and a last tenth of "
        f"at most {DECILE_RATIO_BOUND:g} x the first; came: {tensor} {worst:.2g} of {of} in round "
        f"{int(np.argmax(rounds))}, `{grown}` ratio {certificate.decile_ratio:.3g}; nothing was "
        f"written. {_ON_RANDOM if certificate.data == RANDOM else ''}Where the model is right and "
        "only its rounding is larger, accept the error and its growth by `bound=` (`--bound`)"
    )


def _arrays(tensors: dict[str, torch.Tensor]) -> Tensors:
    return {name: tensor.detach().contiguous().numpy() for name, tensor in tensors.items()}
