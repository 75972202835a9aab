"""The tasks of the suite: each writes an endless row of items, and asks for some of them.

Every task is one class with the same members. Its `endless` yields `(token, target)` for ever; the
target is -1 where nothing is asked. Training takes segments of it; `cases` are what is judged.

- `Recall`: multi-query associative recall (Arora et al. 2023, "Zoology").
- `Stream`: keys bound to new values for ever, and asked for.
- `Passkey`: five digits, told once, then noise, then asked for.
- `Words`: the product of all elements so far of a group: parity, S3, S5 (Merrill et al. 2024).
- `Copy`: data spread among noise, to be said in order (Gu and Dao 2023, selective copying).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, permutations
from random import Random
from typing import Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Item = tuple[int, int]
UNASKED = -1


@dataclass(frozen=True, slots=True)
class Case:
    """Something to be judged.

    Attributes:
        where: what the figure is told by, such as `{"pairs": 16}`; like ones are counted together.
        tokens: `[n]`.
        targets: `[n]`, -1 where nothing is asked.
        fresh: whether it begins from the initial state, or goes on where the case before it ended.
        whole: whether all its answers together count as one.
    """

    where: Mapping[str, float]
    tokens: Ids
    targets: Ids
    fresh: bool = True
    whole: bool = False


class Task(Protocol):
    """What the classes below have in common."""

    @property
    def name(self) -> str:
        """As results and plots call it."""
        ...

    @property
    def vocabulary(self) -> int:
        """Tokens are below it."""
        ...

    @property
    def chance(self) -> float:
        """Share of right answers of a guess."""
        ...

    @property
    def segment(self) -> int:
        """Items of a training row."""
        ...

    @property
    def tracks(self) -> bool:
        """Whether the state must be turned, not only written to: `beta_max` = 2."""
        ...

    def endless(self, random: Random) -> Iterator[Item]:
        """Items for training, for ever."""
        ...

    def cases(self, random: Random, share: float) -> Iterator[Case]:
        """What is judged; `share` of the usual amount, 1 for all."""
        ...


def case(
    items: list[Item], where: Mapping[str, float], *, fresh: bool = True, whole: bool = False
) -> Case:
    """Make a case of items."""
    tokens, targets = np.array(items, np.int64).T
    return Case(where, tokens, targets, fresh, whole)


def some(usual: int, share: float) -> int:
    """A share of a usual number, at least 1."""
    return max(1, round(usual * share))


@dataclass(frozen=True)
class Recall:
    """Pairs of key and value, then keys alone: the value of each is asked for."""

    name: str = "recall"
    keys: int = 64
    values: int = 64
    most: int = 40  # pairs of an episode of the training
    pairs: tuple[int, ...] = (4, 8, 12, 16, 24, 32, 40, 48, 64)  # judged
    segment: int = 128
    tracks: bool = False

    @property
    def vocabulary(self) -> int:
        return self.keys + self.values

    @property
    def chance(self) -> float:
        return 1 / self.values

    def episode(self, random: Random, pairs: int) -> list[Item]:
        """Bind so many keys, then ask for each once."""
        keys = random.sample(range(self.keys), pairs)
        bound = {key: self.keys + random.randrange(self.values) for key in keys}
        told = [token for pair in bound.items() for token in pair]
        random.shuffle(keys)
        return [(token, UNASKED) for token in told] + [(key, bound[key]) for key in keys]

    def endless(self, random: Random) -> Iterator[Item]:
        while True:
            yield from self.episode(random, random.randint(1, self.most))

    def cases(self, random: Random, share: float) -> Iterator[Case]:
        for pairs in self.pairs:
            for _ in range(some(1_600 // pairs, share)):
                yield case(self.episode(random, pairs), {"pairs": pairs})


@dataclass(frozen=True)
class Stream:
    """`key value` binds; `ask key` asks for the value that the key was bound to last."""

    name: str = "stream"
    keys: int = 16
    values: int = 64
    items: int = 1_000_000  # judged, in ten bins
    segment: int = 128
    tracks: bool = False

    @property
    def vocabulary(self) -> int:
        return 1 + self.keys + self.values

    @property
    def chance(self) -> float:
        return 1 / self.values

    def endless(self, random: Random) -> Iterator[Item]:
        bound: dict[int, int] = {}
        while True:
            key = 1 + random.randrange(self.keys)
            if key in bound and random.random() < 0.5:
                yield 0, UNASKED
                yield key, bound[key]
            else:
                bound[key] = 1 + self.keys + random.randrange(self.values)
                yield key, UNASKED
                yield bound[key], UNASKED

    def cases(self, random: Random, share: float) -> Iterator[Case]:
        items, pieces = self.endless(random), 100
        size = some(self.items, share) // pieces
        for piece in range(pieces):
            yield case(list(islice(items, size)), {"bin": piece // 10 + 1}, fresh=piece == 0)


@dataclass(frozen=True)
class Passkey:
    """Noise, a mark and five digits, noise, another mark: the digits are asked for."""

    name: str = "passkey"
    noise: int = 16
    digits: int = 5
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    lengths: tuple[int, ...] = (256, 1_024, 4_096, 16_384, 100_000)
    longest: int = 2_048  # of the training
    segment: int = 128
    tracks: bool = False

    @property
    def vocabulary(self) -> int:
        return 2 + 10 + self.noise

    @property
    def chance(self) -> float:
        return 0.1**self.digits

    def noisy(self, random: Random, count: int) -> list[Item]:
        """Items that tell nothing."""
        return [(12 + token, UNASKED) for token in random.choices(range(self.noise), k=count)]

    def told_and_asked(self, random: Random, before: int, between: int) -> list[Item]:
        """Noise, the passkey, noise, and the question with its answer."""
        key = [2 + random.randrange(10) for _ in range(self.digits)]
        told = [(token, UNASKED) for token in (0, *key)]
        asked = list(zip((1, *key), (*key, UNASKED), strict=True))
        return [*self.noisy(random, before), *told, *self.noisy(random, between), *asked]

    def endless(self, random: Random) -> Iterator[Item]:
        reach = np.log2(self.longest)
        while True:
            between = int(2 ** random.uniform(0, reach))
            yield from self.told_and_asked(random, random.randrange(8), between)

    def cases(self, random: Random, share: float) -> Iterator[Case]:
        for length in self.lengths:
            for depth in self.depths:
                before = round(depth * length)
                for _ in range(some(min(20, 80_000 // length + 1), share)):
                    items = self.told_and_asked(random, before, length - before)
                    yield case(items, {"length": length, "depth": depth}, whole=True)


@dataclass(frozen=True)
class Words:
    """Elements of the group of all orders of `letters`; the product of all so far is asked for.

    With two letters this is parity.
    """

    name: str
    letters: int
    only_swaps: bool = False  # items are the identity and the swaps of two letters
    longest: int = 4_096  # in bins, each twice as long as the one before
    far: int = 100_000
    segment: int = 64
    tracks: bool = True

    @cached_property
    def elements(self) -> list[tuple[int, ...]]:
        """Element 0 is the identity."""
        return list(permutations(range(self.letters)))

    @cached_property
    def read(self) -> list[int]:
        """The elements that may come as items."""

        def moved(element: tuple[int, ...]) -> int:
            return sum(a != b for a, b in enumerate(element))

        most = 2 if self.only_swaps else self.letters
        return [i for i, element in enumerate(self.elements) if moved(element) <= most]

    @property
    def vocabulary(self) -> int:
        return len(self.elements)

    @property
    def chance(self) -> float:
        return 1 / len(self.elements)

    @cached_property
    def products(self) -> list[list[int]]:
        """Number of `a` after `b`, by the numbers of both."""
        number = {element: i for i, element in enumerate(self.elements)}
        return [[number[tuple(a[i] for i in b)] for b in self.elements] for a in self.elements]

    def endless(self, random: Random) -> Iterator[Item]:
        so_far = 0
        while True:
            item = random.choice(self.read)
            so_far = self.products[item][so_far]
            yield item, so_far

    def cases(self, random: Random, share: float) -> Iterator[Case]:
        for _ in range(some(8, share)):
            items, end, fresh = self.endless(random), self.segment, True
            begin = 0
            while end <= self.longest:
                yield case(list(islice(items, end - begin)), {"length": end}, fresh=fresh)
                begin, end, fresh = end, 2 * end, False
        items, tenth = self.endless(random), some(self.far, share) // 10
        for piece in range(10):  # the last tenth stands for the whole length
            where = {"length": 10 * tenth if piece == 9 else 0}
            yield case(list(islice(items, tenth)), where, fresh=piece == 0)


@dataclass(frozen=True)
class Copy:
    """Data among noise, then as many marks: at each mark the next of the data is asked for."""

    name: str = "copy"
    data: int = 16  # kinds of data
    count: int = 16  # told in each episode
    longest: int = 112  # items before the marks, in training
    lengths: tuple[int, ...] = (64, 112, 256, 512, 1_024, 4_096)  # judged
    segment: int = 128
    tracks: bool = False

    @property
    def vocabulary(self) -> int:
        return 2 + self.data

    @property
    def chance(self) -> float:
        return 1 / self.data

    def episode(self, random: Random, length: int) -> list[Item]:
        """Data at random places of so many items of noise, and the marks."""
        told = [2 + random.randrange(self.data) for _ in range(self.count)]
        items = [(0, UNASKED)] * length
        for place, token in zip(
            sorted(random.sample(range(length), self.count)), told, strict=True
        ):
            items[place] = (token, UNASKED)
        return items + [(1, token) for token in told]

    def endless(self, random: Random) -> Iterator[Item]:
        while True:
            yield from self.episode(random, random.randint(self.count, self.longest))

    def cases(self, random: Random, share: float) -> Iterator[Case]:
        for length in self.lengths:
            for _ in range(some(min(60, 120_000 // length), share)):
                yield case(self.episode(random, length), {"length": length})


TASKS: tuple[Task, ...] = (
    Recall(),
    Stream(),
    Passkey(),
    Words("parity", 2),
    Words("s3", 3),
    Words("s5", 5),
    Words("s5-swaps", 5, only_swaps=True),
    Copy(),
)
