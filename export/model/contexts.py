"""Hashed context tables: a memory in the state of what followed each context of this stream.

For each of ``CONTEXTS`` kinds of context - the last 1 to 18 bytes, the word so far, the line so far
without its digits - a slot of a table holds the two symbols that came last and how often the
last one came in a row (the context models of PAQ, Mahoney 2005). So a network that has never seen a
stream knows its phrases from the second time on, by memory that is written exactly and at once.

All is whole-number arithmetic without any parameter: each slot is what it would be had the items
come one by one, however the stream is cut.

Shape letters: B batch, T items, C contexts, L recent items, N slots of a context.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ORDERS = (1, 2, 3, 4, 5, 6, 8, 12, 18)
"""Contexts that are the last n items; behind them come those of `_words`."""
CONTEXTS = len(ORDERS) + 3
RECENT = 24
"""L, items that contexts may look back; a longer word is hashed by its last ones."""
MOST = 15
"""A slot's run is counted so far."""
CHECK = 1 << 11
"""Values of the check that tells contexts of one slot apart."""
PIECE = 64
"""T of one look; longer chunks (in training) are taken in pieces."""
_PRIME = (1 << 31) - 1
_NEWLINE = 10

State = dict[str, Tensor]


class Seen(NamedTuple):
    """What the tables hold for the context behind each item, int64 ``[B, T, C]`` each."""

    last: Tensor
    """The symbol that came last in this context."""
    before: Tensor
    """The one before it that was another; ``last`` again where there is none."""
    run: Tensor
    """How often ``last`` came in a row, to ``MOST``; 0 where the context is new."""
    hit: Tensor
    """What the tables had said of this item itself: 0 nothing, 1 right, 2 wrong."""


def tables_state(batch: int, bits: int) -> State:
    """Empty tables of ``2^bits`` slots for each context."""
    return {
        "tables": torch.zeros(batch, CONTEXTS, 1 << bits, dtype=torch.int32),
        "recent": torch.zeros(batch, RECENT, dtype=torch.int32),
        "line": torch.zeros(batch, 3, dtype=torch.int64),  # fields, symbols and hash of this line
    }


def look(chunk: Tensor, state: State) -> tuple[Seen, State]:
    """Look up the context behind each item, after writing down what came before it.

    Args:
        chunk: bytes, int64 ``[B, T]``.
        state: as ``tables_state`` gives it.

    Returns:
        What is known of the next item at each item, and the tables that hold the chunk.
    """
    if chunk.shape[1] <= PIECE:
        return _look(chunk, state)
    pieces = []
    for piece in chunk.split(PIECE, 1):
        seen, state = _look(piece, state)
        pieces.append(seen)
    return Seen(*(torch.cat(parts, 1) for parts in zip(*pieces, strict=True))), state


def _look(chunk: Tensor, state: State) -> tuple[Seen, State]:
    items = chunk.shape[1]
    tables = state["tables"]
    text = torch.cat([state["recent"].long(), chunk], 1)  # (B, L+T)
    slot, check, line = _contexts(text, state["line"], tables.shape[2])  # (B, C, 1+T)
    # Context i was followed by item i of the chunk; the last one waits for the next chunk.
    stored = tables.gather(2, slot)  # (B, C, 1+T)
    held_run = stored & MOST
    held_last = (stored >> 4) & 255
    held_before = (stored >> 12) & 255
    held_check = stored >> 20
    known = (held_check == check) & (held_run > 0)
    # Writes within the chunk; float32 holds all these whole numbers, and compares fastest.
    place = torch.arange(items + 1, dtype=torch.float32)
    wrote = place[:items]
    own, other = slot.float()[..., None], slot.float()[:, :, None, :items]
    same = own == other  # (B, C, 1+T, T)
    earlier = same & (wrote < place[:, None])
    nothing = torch.tensor(-1.0)
    latest = torch.where(earlier, wrote, nothing).amax(-1)  # (B, C, 1+T)
    fresh = latest >= 0.0
    at = latest.clamp(min=0.0).long()
    symbols = chunk[:, None].expand(-1, CONTEXTS, -1)
    last = torch.where(fresh, symbols.gather(2, at), held_last.long())
    checks = check[:, :, :items]
    alien = (checks.float()[:, :, None] != check.float()[..., None]) | (
        symbols.float()[:, :, None] != last.float()[..., None]
    )
    broken = torch.where(earlier & alien, wrote, nothing).amax(-1)
    run = (earlier & (wrote > broken[..., None])).float().sum(-1).long()
    whole = broken < 0.0  # the run goes back to before the chunk
    at_break = broken.clamp(min=0.0).long()
    ours = (whole & known) | (~whole & (checks.gather(2, at_break) == check))
    symbol_at_break = torch.where(whole, held_last.long(), symbols.gather(2, at_break))
    agrees = symbol_at_break == last
    joined = whole & known & agrees
    before = torch.where(joined, held_before.long(), torch.where(ours, symbol_at_break, last))
    run = (run + torch.where(joined, held_run.long(), 0)).clamp(max=MOST)
    empty = (fresh & (checks.gather(2, at) != check)) | ~(fresh | known)
    run = torch.where(empty, 0, run)
    last, before = torch.where(empty, 0, last), torch.where(empty, 0, before)
    # What each item leaves in the slot of the context before it.
    right = symbols == last[..., :items]
    new = run[..., :items] == 0
    left_run = torch.where(new | ~right, 1, (run[..., :items] + 1).clamp(max=MOST))
    left_before = torch.where(
        new, symbols, torch.where(right, before[..., :items], last[..., :items])
    )
    left = ((checks * 256 + left_before) * 256 + symbols) * 16 + left_run
    # Of several writes to one slot the last one stays, so all of them write that one's value.
    final = torch.where(same[:, :, :items], wrote, nothing).amax(-1).long()
    written = tables.scatter(2, slot[..., :items], left.gather(2, final).to(torch.int32))
    hit = torch.where(new, 0, torch.where(right, 1, 2))
    following = {
        "tables": written,
        "recent": text[:, items:].to(torch.int32),
        "line": line,
    }
    last, before, run = (part[..., 1:].transpose(1, 2) for part in (last, before, run))
    return Seen(last, before, run, hit.transpose(1, 2)), following


def _contexts(text: Tensor, line: Tensor, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hash the contexts behind the item before the chunk and behind each of the chunk.

    Args:
        text: the recent items and the chunk, ``[B, L+T]``.
        line: fields, symbols and hash of the line that the recent items ended in, ``[B, 3]``.
        slots: N.

    Returns:
        Slot and check of each context, ``[B, C, 1+T]`` each, and ``line`` behind the chunk.
    """
    items = text.shape[1] - RECENT
    # newest first: column i of a row is the item i places back
    places = torch.arange(items + 1)[:, None] + (RECENT - 1 - torch.arange(RECENT))
    recent = text.index_select(1, places.flatten()).unflatten(1, (items + 1, RECENT))  # (B, 1+T, L)
    marked = (recent + 1) * _factors(RECENT, 1)
    letters = _is_letter(recent)
    # words behind which the context ends: those places whose count of separators so far is 0 or 1
    ended = (~letters).long().cumsum(2)
    in_word, in_words = ended == 0, ended <= 1
    fields, symbols, drawn = _lines(text, line)
    digit = _is_digit(recent[..., 0]).long()
    orders = marked.cumsum(2).index_select(2, torch.tensor(ORDERS) - 1)  # (B, 1+T, C-3)
    others = torch.stack(
        [
            (marked * in_word).sum(2) + fields * 40503,
            (marked * in_words).sum(2),
            drawn + symbols * 2654435 + digit,
        ],
        2,
    )
    # behind each its own number, so that equal sums of two kinds differ
    kinds = torch.cat([orders, others], 2).transpose(1, 2) + torch.arange(CONTEXTS)[:, None]
    # two rounds of multiplication modulo a prime: the sums above are linear
    mixed = (kinds % _PRIME) * 1597334677 % _PRIME
    mixed = (mixed + (mixed >> 15)) * 668265263 % _PRIME
    slot = mixed & (slots - 1)
    check = (mixed >> 20) & (CHECK - 1)
    following = torch.stack([fields[:, -1], symbols[:, -1], drawn[:, -1]], 1)
    return slot, check, following


def _lines(text: Tensor, line: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count fields and non-digits of the line so far, and hash these, ``[B, 1+T]`` each."""
    chunk = text[:, RECENT:]
    items = chunk.shape[1]
    place = torch.arange(items)
    newline = chunk == _NEWLINE
    # the last newline at or before each item; -1: the line began before the chunk
    upto = place <= place[:, None]
    start = torch.where(newline[:, None] & upto, place, -1).amax(2)  # (B, T)
    begun, at = start >= 0, start.clamp(min=0)
    drawn = ~_is_digit(chunk)
    separators = (~_is_letter(chunk)).long().cumsum(1)
    symbols = drawn.long().cumsum(1)

    def since(total: Tensor, kept: Tensor) -> Tensor:
        """What was counted since the line began."""
        return total - torch.where(begun, total.gather(1, at), -kept[:, None])

    fields = since(separators, line[:, 0])
    rank = since(symbols, line[:, 1])
    # a place's factor: its rank among the line's non-digits, spread over the range of the hash
    factor = (rank % 4096 * 1103515245 + 12345) % _PRIME
    marks = (chunk + 1) * factor * drawn % _PRIME
    hashes = since(marks.cumsum(1), line[:, 2]) % _PRIME
    return tuple(
        torch.cat([line[:, i : i + 1], part], 1) for i, part in enumerate((fields, rank, hashes))
    )  # type: ignore[return-value]


def _is_letter(items: Tensor) -> Tensor:
    """Tell letters, digits, underscores and bytes beyond ASCII."""
    lower = (items % 32 > 0) & (items % 32 < 27) & (items >= 64) & (items < 128)
    return lower | _is_digit(items) | (items == 95) | (items >= 128)


def _is_digit(items: Tensor) -> Tensor:
    return (items >= 48) & (items <= 57)


def _factors(count: int, seed: int) -> Tensor:
    """Odd numbers below 2^31 that spread the places of a context, int64 ``[count]``."""
    found, value = [], seed
    for _ in range(count):
        value = value * 48271 % _PRIME  # Park and Miller 1993
        found.append(value | 1)
    return torch.tensor(found)
