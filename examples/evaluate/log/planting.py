"""Plant strange lines into a log: ten of them, each of another kind, at seeded places.

Every planted line is made of lines of the same log (one comes from another log), and is put between
two lines of the second half. What a kind needs may be missing, as a time in the line or an
identifier; then the kind's stand-in is planted, and `Planted.kind` says so.

    foreign       a line of another program
    unseen-error  the front of a line of this log, then an error of a form it never has, about
                  words of this log
    out-of-range  a line with one number far larger than that place ever holds; stand-in: a number
                  inside a word
    swapped       a line with two different words exchanged
    truncated     a line cut somewhere in its middle
    garbled       a line with a third of its bytes, in one run, replaced by random letters and signs
    wrong-order   a kind of line where it never stood: its predecessor is another than ever before
    time-jump     a line whose clock shows another hour; stand-in: a number is far off
    rare-status   a line with another status than that kind of line ever has; stand-in: one word is
                  replaced by a word that is never there
    duplicate-id  a line whose identifier, new in each line, is one from long ago; stand-in: an old
                  line is repeated as it was
"""

import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

from baselines import masked

KINDS = (
    "foreign",
    "unseen-error",
    "out-of-range",
    "swapped",
    "truncated",
    "garbled",
    "wrong-order",
    "time-jump",
    "rare-status",
    "duplicate-id",
)
CLOCK = re.compile(rb"(?<!\d)([01]\d|2[0-3]):([0-5]\d)(?!\d)")
NUMBER = re.compile(rb"(?<![\w.:])\d+(?![\w.:])")
DIGITS = re.compile(rb"\d+")
WORD = re.compile(rb"(?<![0-9A-Za-z])[A-Za-z]{2,}(?![0-9A-Za-z])")
ID = re.compile(
    rb"(?<![0-9A-Za-z])(?=[a-fA-F-]*\d)[0-9a-fA-F-]{8,}(?![0-9A-Za-z])|(?<!\d)\d{6,}(?!\d)"
)
STATUSES = (
    (b"200", b"503"), (b"304", b"507"), (b"404", b"511"), (b"INFO", b"FATAL"),
    (b"info", b"panic"), (b"DEBUG", b"FATAL"), (b"debug", b"panic"), (b"true", b"maybe"),
    (b"NOERROR", b"SERVFAIL"), (b"NXDOMAIN", b"REFUSED"), (b"PASSED", b"ERROR"), (b"OK", b"BAD"),
    (b"ok", b"corrupt"), (b"succeeded", b"crashed"), (b"success", b"rollback"), (b"= 0", b"= -71"),
    (b"installed", b"half-broken"), (b"yes", b"unknown"), (b"TCP_MISS", b"TCP_DENIED"),
    (b"LOG:", b"PANIC:"),
)  # fmt: skip
"""What a line may say, and what is planted there, if this log has no such word."""
FAULTS = (
    b"checksum mismatch, expected 0x1f9c", b"giving up after 5 attempts", b"assertion failed",
    b"invariant violated, state is inconsistent", b"unexpected end of input", b"out of memory",
)  # fmt: skip
TRIES = 400


@dataclass(frozen=True, slots=True)
class Planted:
    """A line that was put into a log.

    Attributes:
        place: its index in the new log.
        kind: one of `KINDS`; with ` (stand-in)` behind it where that was planted.
        line: its bytes, with the end of the line.
    """

    place: int
    kind: str
    line: bytes


class Planter:
    """Makes strange lines for one log.

    Args:
        lines: of the log, each with its end; of the planted log these stay as they are.
        other: lines of another program's log.
    """

    def __init__(self, lines: list[bytes], other: list[bytes]) -> None:
        self.lines, self.other = lines, other
        self.kinds = [b" ".join(masked(line)) for line in lines]
        self.known = set(lines)
        self.words = Counter(word for line in lines for word in WORD.findall(line))
        self.common = [word for word, count in self.words.most_common(400) if len(word) > 3]
        self.pairs = set(pairwise(self.kinds))
        self.of_kind: dict[bytes, list[int]] = defaultdict(list)
        for place, kind in enumerate(self.kinds):
            self.of_kind[kind].append(place)

    def planted(self, seed: int) -> tuple[list[bytes], list[Planted]]:
        """Return the log with ten more lines, and these, in the order of `KINDS`.

        Raises:
            ValueError: the log is too short, or too poor for one of the kinds.
        """
        if len(self.lines) < 200:
            raise ValueError(f"a log of {len(self.lines)} lines is too short to plant in, need 200")
        source, half = random.Random(seed), len(self.lines) // 2
        gap = (len(self.lines) - half - 20) // len(KINDS)
        order = source.sample(range(len(KINDS)), len(KINDS))
        places = {
            KINDS[kind]: half + 10 + gap * number + source.randrange(gap * 3 // 4 + 1)
            for number, kind in enumerate(order)
        }
        made: list[tuple[int, str, bytes]] = []
        for kind in KINDS:
            name, line = kind, self._made(kind, places[kind], source)
            if line is None:
                name, line = f"{kind} (stand-in)", self._stand_in(kind, places[kind], source)
            made.append((places[kind], name, line))
        lines, found = list(self.lines), []
        for number, (place, name, line) in enumerate(sorted(made)):
            lines.insert(place + number, line)
            found.append(Planted(place + number, name, line))
        return lines, sorted(found, key=lambda one: KINDS.index(one.kind.split(" ")[0]))

    def _near(self, place: int, source: random.Random) -> bytes:
        """Return a line from shortly before a place, not an empty one."""
        for _ in range(TRIES):
            line = self.lines[max(0, place - 1 - int(60 * source.random()))]
            if len(line.strip()) > 7:
                return line
        raise ValueError(f"only short lines before line {place}")

    def _front(self, line: bytes) -> bytes:
        """Return what of a line stands before its message: its first words, at most half of it."""
        pieces = re.findall(rb"\s*\S+", line)
        keep = max(1, min(4, len(pieces) // 2)) if len(pieces) > 1 else 0
        return b"".join(pieces[:keep])

    def _made(self, kind: str, place: int, source: random.Random) -> bytes | None:
        for _ in range(TRIES):
            line = self._once(kind, place, source)
            fresh = line not in self.known or kind == "wrong-order"
            if line is not None and line.strip() and fresh:
                return line
        return None

    def _stand_in(self, kind: str, place: int, source: random.Random) -> bytes:
        if kind in ("time-jump", "out-of-range"):
            line = self._made("any-number", place, source)
        elif kind == "duplicate-id":
            line = self.lines[source.randrange(max(1, place // 2))]
        else:
            line = None
        for _ in range(TRIES):
            if line is not None and line.strip():
                return line
            line = self._once("other-word", place, source)
        raise ValueError(f"this log has nothing that `{kind}` could change before line {place}")

    def _once(self, kind: str, place: int, source: random.Random) -> bytes | None:
        """Try to make a line of a kind, once; None where the line at hand does not allow it."""
        line = self._near(place, source)
        end = line[len(line.rstrip(b"\r\n")) :]
        body = line.rstrip(b"\r\n")
        if kind == "foreign":
            return source.choice(self.other).rstrip(b"\r\n") + end
        if kind == "unseen-error":
            some = source.sample(self.common, 2) if len(self.common) > 1 else [b"state", b"input"]
            fault = source.choice(FAULTS)
            text = b" error: %b of %b failed: %b" % (some[0], some[1], fault)
            return self._front(body) + text + end
        if kind in ("out-of-range", "any-number"):
            number_of = NUMBER if kind == "out-of-range" else DIGITS
            numbers = [m for m in number_of.finditer(body) if m.start() > len(body) // 4]
            if not numbers:
                return None
            number = source.choice(numbers)
            huge = b"%d" % (int(number.group()[:6]) * 10**6 + source.randrange(10**6, 10**9))
            return body[: number.start()] + huge + body[number.end() :] + end
        if kind == "swapped":
            words = [*WORD.finditer(body)]
            if len(words) < 2:
                return None
            one, two = sorted(source.sample(words, 2), key=lambda match: match.start())
            middle = body[one.end() : two.start()]
            swapped = two.group() + middle + one.group()
            return body[: one.start()] + swapped + body[two.end() :] + end
        if kind == "truncated":
            return (
                body[: int(len(body) * source.uniform(0.3, 0.7))] + end if len(body) > 12 else None
            )
        if kind == "garbled":
            size = max(3, len(body) // 3)
            start = source.randrange(max(1, len(body) - size))
            noise = bytes(source.choices(range(33, 127), k=size))
            return body[:start] + noise + body[start + size :] + end
        if kind == "wrong-order":
            before = self.kinds[place - 1]
            old = source.randrange(max(1, place))
            if (before, self.kinds[old]) in self.pairs or not self.kinds[old]:
                return None
            candidates = self.of_kind[self.kinds[old]]
            return self.lines[max(p for p in candidates if p <= old)]
        if kind == "time-jump":
            clock = CLOCK.search(body[: len(body) // 2 + 10])
            if not clock:
                return None
            hour = b"%02d" % ((int(clock[1]) + source.randrange(5, 19)) % 24)
            return body[: clock.start()] + hour + body[clock.start() + 2 :] + end
        if kind == "rare-status":
            usable = [
                s for s in STATUSES if re.search(rb"(?<!\w)" + re.escape(s[0]) + rb"(?!\w)", body)
            ]
            usable = [s for s in usable if self.words[s[1]] == 0]
            if not usable:
                return None
            old_word, new_word = source.choice(usable)
            at = [
                m.start() for m in re.finditer(rb"(?<!\w)" + re.escape(old_word) + rb"(?!\w)", body)
            ]
            where = source.choice(at)
            return body[:where] + new_word + body[where + len(old_word) :] + end
        if kind == "duplicate-id":
            match = ID.search(body)
            if match is None or sum(match.group() in near for near in self.lines[:place]) > 1:
                return None
            like = [p for p in self.of_kind[b" ".join(masked(line))] if p < place // 2]
            olds = [ID.search(self.lines[p]) for p in source.sample(like, min(5, len(like)))]
            ids = [m.group() for m in olds if m is not None and m.group() != match.group()]
            if not ids:
                return None
            return body[: match.start()] + ids[0] + body[match.end() :] + end
        words = [*WORD.finditer(body)]
        if not words or not self.common:
            return None
        word, new = source.choice(words), source.choice(self.common)
        return None if new in body else body[: word.start()] + new + body[word.end() :] + end
