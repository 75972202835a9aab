"""Read a prompt and continue it, one sampled token after another.

Shape letters: `n` items, `V` vocabulary.
"""

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.manifest import Contract, Tokens
from dst.runtime.errors import StepError
from dst.runtime.execution.inputs import Items
from dst.runtime.state.sampler import Choice, Sampler
from dst.runtime.stream import Stream
from dst.runtime.tokenizer import TextTokenizer


def generate(
    stream: Stream,
    prompt: str | Items,
    items: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: Collection[int] = (),
) -> Iterator[int]:
    """Continue a stream: read the prompt, then yield up to `items` sampled tokens.

    A token waits as pending from the moment it is yielded and is stepped when the next one is
    asked for. So the stream may be saved between any two tokens, and the loaded stream goes
    on to the same text with an empty prompt and no seed.

    Args:
        stream: of a token model with logits per item, T = 1 and the tail rule `exact`.
        prompt: a text where the model has a tokenizer, bytes where that is `bytes`, or ids
            `[n]`; may be empty where items wait in the stream.
        items: how many tokens at most.
        temperature: divides the logits; 0 always takes the most likely token.
        top_k: sample from the k most likely tokens; 0 for all.
        top_p: sample from the most likely tokens that together reach this probability.
        seed: start a new random source; None goes on with the stream's own, or makes one.
        stop: tokens after which generation ends; the token itself is still yielded.

    Raises:
        StepError: `generate`: the model cannot generate, an argument is out of its range, or there
            is nothing to continue. Another code: the package `tokenizers` is missing, the prompt
            does not fit the contract, or a step failed.

    Examples:
        >>> from dst.runtime import Session, decode_bytes
        >>> stream = Session.open("text").stream()
        >>> text = decode_bytes(generate(stream, "The quick brown ", 8, seed=0))
        >>> len(text), stream.sampler
        (8, Sampler(seed=0, draws=8))
    """
    logits_name = _logits(stream.engine.contract)
    choice = Choice(temperature, top_k, top_p)
    start = None if seed is None else Sampler.seeded(seed)
    if items < 0:
        raise StepError(f"items is {items}, expected 0 or more", code="generate")
    first: Items = _encoded(stream, prompt) if isinstance(prompt, str) else prompt
    empty = first.size == 0 if isinstance(first, np.ndarray) else len(first) == 0
    if empty and stream.pending == 0:
        raise StepError(
            "the prompt is empty and no item waits in the stream: there is nothing to continue; "
            "give a prompt",
            code="generate",
        )
    return _continue(stream, first, items, start, frozenset(stop), logits_name, choice)


def _continue(
    stream: Stream,
    prompt: Items,
    items: int,
    start: Sampler | None,
    stop: frozenset[int],
    logits_name: str,
    choice: Choice,
) -> Iterator[int]:
    def choose(
        outputs: dict[str, npt.NDArray[np.generic]], sampler: Sampler | None
    ) -> tuple[int, Sampler]:
        source = start or sampler or Sampler.fresh()
        return choice.pick(outputs[logits_name][0, -1].astype(np.float64), source)

    for _ in range(items):
        token = stream.predict(prompt, choose)
        prompt, start = np.zeros(0, stream.engine.contract.chunk.dtype), None
        yield token
        if token in stop:
            return


def _encoded(stream: Stream, prompt: str) -> Items:
    chunk = stream.engine.contract.chunk
    tokenizer = chunk.content.tokenizer if isinstance(chunk.content, Tokens) else "bytes"
    if tokenizer == "tokenizers":
        return TextTokenizer.of(stream.engine.bundle).encode(prompt).astype(chunk.dtype)
    if tokenizer != "bytes":
        raise StepError(
            "the prompt is a text, and this model's tokens are not bytes: encode it with its "
            "tokenizer first, and give the ids as an array",
            code="generate",
        )
    try:
        return prompt.encode()
    except UnicodeEncodeError as error:
        raise StepError(
            f"the prompt holds half a character at place {error.start} (a lone surrogate), which "
            "UTF-8 cannot write; give its bytes",
            code="generate",
        ) from None


def _logits(contract: Contract) -> str:
    """Name the output to sample from."""
    chunk = contract.chunk
    if not isinstance(chunk.content, Tokens):
        why = "this model reads features, and only a token model can generate"
    elif chunk.lookahead:
        why = (
            f"this model looks {chunk.lookahead} items ahead: it answers for a token when those "
            "behind it are known, and so cannot choose the next one"
        )
    elif chunk.tail != "exact":
        why = f"this model's tail rule is `{chunk.tail}`: it cannot step one token at a time"
    else:
        shape = ("B", "T", chunk.content.vocabulary)
        for output in contract.outputs:
            if output.meaning == "logits" and output.shape == shape:
                return output.name
        why = "this model has no logits per item over its vocabulary"
    raise StepError(why, code="generate")
