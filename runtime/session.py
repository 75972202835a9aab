"""Open a bundle on an execution provider, and start streams.

Shape letters: `T` items per chunk.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.reader import open_bundle
from dst.runtime.errors import SessionError
from dst.runtime.execution.engine import Engine, select
from dst.runtime.execution.providers import Lowering, Options, Provider
from dst.runtime.execution.threads import Threads, available_cores, cache_folder, fastest
from dst.runtime.state.record import Saved
from dst.runtime.stream import Stream

Array = npt.NDArray[np.generic]


class Session(Engine):
    """A bundle open on one provider. Threads may share it; each stream is one thread's.

    Examples:
        >>> session = Session.open("text")
        >>> stream = session.stream()
        >>> stream.advance(b"any number of bytes, such as these")["logits"].shape
        (1, 32, 256)
        >>> stream.pending
        2
    """

    @staticmethod
    def open(
        path: str | Path,
        provider: Provider = "cpu",
        threads: int | Literal["measured"] = 1,
        lowering: Lowering | None = None,
        chunk_sizes: Sequence[int] | None = None,
        verify: Literal["full", "size"] = "full",
        check_state_every: int = 64,
        provider_options: Options | None = None,
        strict: bool = True,
        prepack: bool = True,
        huge_pages: bool = False,
    ) -> "Session":
        """Open a bundle.

        Args:
            path: a bundle's directory, or the name of a shipped bundle.
            provider: `cpu`, `cuda`, `tensorrt`, `directml`, `coreml` or `openvino`; what is asked
                for runs, or an error says why not.
            threads: threads inside one operator, at most 1,024. `measured` tries 1, 2, 4 … up to
                the cores it may use for some tenths of a second and takes more only where they are
                a tenth faster; the choice is remembered in the user's cache folder, and `report()`
                tells it. CPU only.
            lowering: run only graphs of this lowering; None takes the best for the provider.
            chunk_sizes: the T to run; None for all that the chosen graphs allow.
            verify: `full` hashes every file, `size` only compares sizes.
            check_state_every: steps between two checks of a stream's state for NaN.
            provider_options: passed to the provider as they are, e.g. `{"device_id": "1"}`.
            strict: refuse a graph if more than a hundredth of its multiply-adds would run
                elsewhere than on `provider`, or if nobody can tell; False runs it, and
                `report()` says what runs where.
            prepack: copy the weights into the form that is read fastest. False leaves float32 or
                int8 weights in their mapped file: a twelfth of the memory, slower chunks
                (docs/memory.md has the figures). Not for 4-bit weights.
            huge_pages: move the memory of each graph onto pages of 2 MiB when it is opened: faster
                single steps where the weights come from memory and not from a cache. Opening takes
                longer. Linux 6.1 and newer, elsewhere nothing happens; `report()` tells the bytes.

        Raises:
            BundleError: the bundle is broken; a subclass names the clause.
            ProviderError: the provider is unknown, not installed, or did not take the graph.
            SessionError: `onnxruntime-too-old`: the graphs need a newer onnxruntime.
            SessionError: `chunk-size`: no graph runs a T that was asked for.
            SessionError: `argument`: `path` is neither text nor a path, or a number is out of its
                range; no such lowering.

        Examples:
            >>> Session.open("text", chunk_sizes=[1, 8]).chunk_sizes
            (1, 8)
        """
        if not isinstance(path, str | os.PathLike):
            raise SessionError(
                f"path is a {type(path).__name__}, expected a path or the name of a shipped "
                "bundle, such as Session.open('text')",
                code="argument",
            )
        bundle = open_bundle(path, verify)
        graphs = select(bundle, lowering, provider)
        able = {t for g in graphs if not g.batch or 1 in g.batch for t in g.allowed_t}

        def session(chosen: Threads) -> Session:
            return Session(
                bundle,
                provider=provider,
                threads=chosen.number,
                spin=chosen.spin,
                graphs=graphs,
                chunk_sizes=sorted(able) if chunk_sizes is None else chunk_sizes,
                check_state_every=check_state_every,
                provider_options=provider_options,
                strict=strict,
                prepack=prepack,
                huge_pages=huge_pages,
            )

        if isinstance(threads, int | np.integer):
            return session(Threads(int(threads)))
        if threads != "measured":
            raise SessionError(
                f"threads is {threads!r}; expected a number or 'measured'", code="argument"
            )
        if provider != "cpu":
            raise SessionError(
                f"threads='measured' is for the CPU; give a number for provider {provider!r}",
                code="argument",
            )
        return session(fastest(session, available_cores(), cache_folder()))

    def stream(
        self,
        saved: Saved | None = None,
        *,
        inputs: Mapping[str, Array] | None = None,
        allow_precision: bool = False,
    ) -> Stream:
        """Start a stream: at the initial state, or where a saved one stood.

        Args:
            saved: what `Stream.saved` returned, or a store gave back. It brings its inputs.
            inputs: what the model takes once per stream, such as a speaker's embedding: input
                name -> array in the contract's dtype and shape, with B = 1 or without the batch
                axis. They are copied, saved with the state, and stay the stream's for good.
            allow_precision: take a state that another precision of the model has made.

        Raises:
            SessionError: an input is missing, unknown or does not fit the contract, or
                inputs come with a saved state.
            StateCorruptError: `saved` does not fit the contract.
            StateMismatchError: `other-model`, `other-state-layout`, `other-precision`: it belongs
                to another bundle.

        Examples:
            >>> session = Session.open("text")
            >>> stream = session.stream()
            >>> outputs = stream.advance(b"The quick brown fox")
            >>> session.stream(stream.saved()).items_consumed == stream.items_consumed
            True
        """
        if saved is None:
            return Stream(self, inputs)
        if inputs is not None:
            raise SessionError(
                "a saved state brings the inputs that its stream was started with; give no others, "
                "or start a new stream with session.stream(inputs=...)",
                code="stream-input-saved",
            )
        return Stream.resume(self, saved, allow_precision)
