"""`dst generate`: continue a prompt, and print the text as it is made."""

import codecs
import os
import sys
import time
from pathlib import Path
from typing import Annotated

from dst.cli.errors import WrongUseError
from dst.cli.options import BundleArgument, Json, Provider, State, Threads, option
from dst.cli.output import Output, check_paths, state_files
from dst.cli.signals import Interrupts
from dst.words import counted


def generate(
    bundle: BundleArgument,
    prompt: Annotated[str | None, option("--prompt", "TEXT", "What to continue.")] = None,
    prompt_file: Annotated[
        Path | None, option("--prompt-file", "FILE", "Continue this file instead.")
    ] = None,
    items: Annotated[int, option("--items", "N", "How many bytes at most; else 200.", 1)] = 200,
    seed: Annotated[int | None, option("--seed", "S", "Start of the random source.")] = None,
    temperature: Annotated[
        float, option("--temperature", "X", "Below 1 is bolder; 0 takes the likeliest; else 1.")
    ] = 1.0,
    top_k: Annotated[int, option("--top-k", "K", "Only the K likeliest; else 0, for all.")] = 0,
    top_p: Annotated[
        float, option("--top-p", "P", "Only the likeliest that reach P; else 1.")
    ] = 1.0,
    stop: Annotated[str, option("--stop", "TEXT", "End after this text.")] = "",
    state: State = None,
    provider: Provider = "cpu",
    threads: Threads = 1,
    json: Json = None,
) -> int:
    """Continue a prompt; the text is printed as it comes.

    The same seed gives the same text. Without a seed one is drawn, and --json tells it. With
    --state a stream goes on from where it was saved, and --prompt may be left out.

        dst generate text --prompt "import os" --items 300 --seed 1
        dst generate text --prompt-file start.py --temperature 0.5 --stop "def "
        dst generate text --prompt "class " --state s.state
        dst generate text --state s.state
    """
    from dst.cli.inputs.source import tokenizer_for
    from dst.runtime import Session, Stream
    from dst.runtime import generate as continued
    from dst.runtime.bundle.manifest import Tokens

    output = Output.to(json)
    if prompt is not None and prompt_file is not None:
        raise WrongUseError("--prompt and --prompt-file exclude each other; give one of them")
    text = prompt_file.read_bytes() if prompt_file is not None else os.fsencode(prompt or "")
    end = os.fsencode(stop)
    reads = {"BUNDLE": bundle, "--prompt-file": prompt_file}
    check_paths(output, reads, state_files("--state", state))
    session = Session.open(bundle, provider=provider, threads=threads)
    content = session.contract.chunk.content
    if not (isinstance(content, Tokens) and content.tokenizer != "none"):
        raise WrongUseError(f"{session.bundle.label}: reads no text; use dst.runtime.generation")
    tokenizer = tokenizer_for(session.bundle)
    decoder = None if tokenizer is None else tokenizer.decoder()
    known = state if state is not None and state.exists() else None
    stream = session.stream() if known is None else Stream.load(session, known)
    made, count, stopped = bytearray(), 0, False
    printer = _Printer(output)
    printer.prompt(text)
    began = time.perf_counter()
    with Interrupts() as interrupts:
        given = text if tokenizer is None else _text(text)
        tokens = continued(
            stream, given, items, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        )
        for token in tokens:
            piece = bytes([token]) if decoder is None else decoder.feed(token).encode()
            made += piece
            count += 1
            printer.piece(piece)
            tail = made[-len(end) - len(piece) :]  # the text may end within a token
            stopped = bool(end) and end in tail
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
    rate = count / max(seconds, 1e-9)
    if output.out.is_terminal and output.json != "-":
        made_of = "byte" if decoder is None else "token"
        output.err.print(f"[dim]{counted(count, made_of)}, {rate:,.0f}/s[/]")
    output.write_json(
        {
            "bundle": session.bundle.root.name,
            "prompt": text.decode("utf-8", "replace"),
            "text": made.decode("utf-8", "replace"),
            "items": count,
            "seed": None if stream.sampler is None else stream.sampler.seed,
            "stopped": stopped,
            "seconds": seconds,
            "items_per_second": rate,
            "state": None if state is None else str(state),
        }
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
        self._console = output.out if output.out.is_terminal and not self._quiet else None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def prompt(self, prompt: bytes) -> None:
        """Show the prompt, on a terminal only."""
        if self._console is not None:
            shown = _harmless(prompt.decode("utf-8", "replace"))
            self._console.print(shown, style="bold", end="", markup=False, soft_wrap=True)

    def piece(self, piece: bytes) -> None:
        """Show what came, once it completes a character."""
        if self._console is not None:
            sys.stdout.write(_harmless(self._decoder.decode(piece)))
        elif not self._quiet:
            sys.stdout.buffer.write(piece)
        sys.stdout.flush()

    def end(self) -> None:
        """End the line, on a terminal only."""
        if self._console is not None:
            sys.stdout.write(_harmless(self._decoder.decode(b"", final=True)) + "\n")
            sys.stdout.flush()


def _harmless(text: str) -> str:
    """Escape what could command a terminal; line ends and tabs stay."""
    from dst.cli.answers.lines import escape

    return "".join(c if c in "\n\t" else escape(c.encode("utf-8", "replace")) for c in text)
