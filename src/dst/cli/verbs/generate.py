"""`dst generate`: a bundle and a prompt go in, text comes out as it is made."""

import codecs
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dst.cli.answers.lines import escape
from dst.cli.errors import WrongUseError
from dst.cli.inputs.token_text import tokenizer_for
from dst.cli.output import Output, check_folder
from dst.cli.paths import check_apart, state_files
from dst.cli.signals import Interrupts
from dst.runtime import Session, Stream, generate
from dst.runtime.bundle.manifest import Tokens
from dst.runtime.execution.providers import Provider
from dst.words import counted


@dataclass(frozen=True, slots=True)
class Manner:
    """How to continue: see the options of `dst generate`."""

    items: int
    seed: int | None
    temperature: float
    top_k: int
    top_p: float
    stop: bytes


class Generated(msgspec.Struct, frozen=True):
    """What was generated; `text` has invalid UTF-8 replaced."""

    bundle: str
    prompt: str
    text: str
    items: int
    seed: int | None
    stopped: bool
    seconds: float
    items_per_second: float
    state: str | None


def write(
    bundle: str,
    prompt: bytes,
    prompt_file: Path | None,
    provider: Provider,
    threads: int,
    state: Path | None,
    manner: Manner,
    output: Output,
) -> int:
    """Continue a prompt, print the text as it comes, and return the exit code.

    Raises:
        DstError: the bundle or the state cannot be used, or the model cannot generate.
        WrongUseError: the model reads no text, the state's folder cannot be written to, or the
            prompt's file or the bundle would be overwritten.
    """
    check_folder("--state", state)
    reads = {"BUNDLE": bundle, "--prompt-file": prompt_file}
    check_apart(output, reads, state_files("--state", state))
    session = Session.open(bundle, provider=provider, threads=threads)
    content = session.contract.chunk.content
    if not (isinstance(content, Tokens) and content.tokenizer != "none"):
        raise WrongUseError(f"{session.bundle.label}: reads no text; use dst.runtime.generation")
    tokenizer = tokenizer_for(session.bundle)
    decoder = None if tokenizer is None else tokenizer.decoder()
    known = state is not None and state.exists()
    stream = Stream.load(session, state) if state is not None and known else session.stream()
    made, items = bytearray(), 0
    stopped = False
    printer = _Printer(output)
    printer.prompt(prompt)
    began = time.perf_counter()
    with Interrupts() as interrupts:
        for token in generate(
            stream,
            prompt if tokenizer is None else _text(prompt),
            manner.items,
            temperature=manner.temperature,
            top_k=manner.top_k,
            top_p=manner.top_p,
            seed=manner.seed,
        ):
            piece = bytes([token]) if decoder is None else decoder.feed(token).encode()
            made += piece
            items += 1
            printer.piece(piece)
            tail = made[-len(manner.stop) - len(piece) :]  # the text may end within a token
            stopped = bool(manner.stop) and manner.stop in tail
            if stopped or interrupts.signal:
                break
        if decoder is not None:
            rest = decoder.end().encode()
            made += rest
            printer.piece(rest)
        seconds = time.perf_counter() - began
        printer.end()
        if state is not None:
            stream.save(state)
    rate = items / max(seconds, 1e-9)
    if output.out.is_terminal and output.json != "-":
        made_of = "byte" if decoder is None else "token"
        output.err.print(f"[dim]{counted(items, made_of)}, {rate:,.0f}/s[/]")
    output.write_json(
        Generated(
            bundle=session.bundle.root.name,
            prompt=prompt.decode("utf-8", "replace"),
            text=made.decode("utf-8", "replace"),
            items=items,
            seed=None if stream.sampler is None else stream.sampler.seed,
            stopped=stopped,
            seconds=seconds,
            items_per_second=rate,
            state=None if state is None else str(state),
        )
    )
    return interrupts.exit_code


def _text(prompt: bytes) -> str:
    try:
        return prompt.decode()
    except UnicodeDecodeError as error:
        raise WrongUseError(
            f"the prompt is no UTF-8 text at byte {error.start}, and this model reads text"
        ) from None


class _Printer:
    """Prints bytes as text: as they are into a file, harmless on a terminal."""

    def __init__(self, output: Output) -> None:
        self._quiet = output.json == "-"
        self._console = output.out if output.out.is_terminal else None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def prompt(self, prompt: bytes) -> None:
        """Show the prompt, on a terminal only."""
        if self._console is not None and not self._quiet:
            shown = _harmless(prompt.decode("utf-8", "replace"))
            self._console.print(shown, style="bold", end="", markup=False, soft_wrap=True)

    def piece(self, piece: bytes) -> None:
        """Show what came, once it completes a character."""
        if self._quiet:
            return
        if self._console is None:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        else:
            sys.stdout.write(_harmless(self._decoder.decode(piece)))
            sys.stdout.flush()

    def end(self) -> None:
        """End the line, on a terminal only."""
        if self._console is not None and not self._quiet:
            sys.stdout.write(_harmless(self._decoder.decode(b"", final=True)) + "\n")
            sys.stdout.flush()


def _harmless(text: str) -> str:
    """Escape what could command a terminal; line ends and tabs stay."""
    return "".join(c if c in "\n\t" else escape(c.encode("utf-8", "replace")) for c in text)
