"""Make the names that one program uses: words, identifiers, paths, packages, hosts, users.

Every program has a small vocabulary of its own, drawn from the listed words, partly invented. All
names are put together from it, so that they repeat inside the program and differ between programs.
"""

import random

from logs.words import going, invented, listed, lists, past


def zipfed(source: random.Random, size: int) -> int:
    """Return a rank below `size`, small ranks more often."""
    return int(size ** source.random()) - 1 if size > 1 else 0


class Names:
    """The vocabulary of one program.

    Attributes:
        verbs, nouns, adjectives, reasons: those it uses, the most used first.
        product: its own name.
    """

    def __init__(self, source: random.Random) -> None:
        self.random, ours = source, lists()
        self.steep = source.choice((0.0, 1.0, 1.0, 2.0))  # how much the first words are preferred
        made_up = source.choice((0.0, 0.02, 0.1, 0.3))
        rank = source.choice((400, 1500, 5000))
        pool = [*source.sample(ours["nouns"], source.randint(6, 70))]
        pool += source.sample(listed()[:rank], source.randint(2, 150))
        source.shuffle(pool)
        self.nouns = [invented(source) if source.random() < made_up else word for word in pool]
        self.verbs = source.sample(ours["verbs"], source.randint(5, 60))
        self.adjectives = source.sample(ours["adjectives"], source.randint(4, 30))
        self.reasons = source.sample(ours["reasons"], source.randint(2, 14))
        self.reasons += [self.phrase() for _ in range(source.randint(0, 6))]
        self.product = self._product()
        self.join = source.choice(("-", "_", "-", "_", "", "."))
        self.slash = "\\" if source.random() < 0.06 else "/"
        self.endings = source.sample(ours["endings"], source.randint(1, 9))
        self.roots = source.sample(ours["roots"], source.randint(1, 4))
        self.domain = f"{self.word()}.{source.choice(ours['domains'])}"
        self.deep = source.choice((0.3, 0.5, 0.7))
        lead = source.choice(("com", "org", "io", "net", "dev"))
        self.package_root = f"{lead}.{self.word()}.{self.product}".replace("-", "")
        self.prose = [*listed()[: source.choice((300, 1200, 4000))]]

    def _product(self) -> str:
        base = (
            invented(self.random) if self.random.random() < 0.5 else self.random.choice(self.nouns)
        )
        if self.random.random() < 0.5:
            base += self.random.choice(lists()["services"])
        return base

    def word(self) -> str:
        """Return a noun of this program."""
        if self.steep == 2.0:
            return self.nouns[zipfed(self.random, len(self.nouns))]
        return self.nouns[int(len(self.nouns) * self.random.random() ** (1 + self.steep))]

    def verb(self) -> str:
        """Return a verb in its base form."""
        return self.verbs[zipfed(self.random, len(self.verbs))]

    def phrase(self) -> str:
        """Return a noun with or without something in front of it."""
        draw = self.random.random()
        if draw < 0.4:
            return self.word()
        if draw < 0.7:
            return f"{self.random.choice(self.adjectives)} {self.word()}"
        return f"{self.word()} {self.word()}"

    def clause(self) -> str:
        """Return a few words that read like a message without values."""
        draw = self.random.random()
        if draw < 0.25:
            return f"{going(self.verb())} {self.phrase()}"
        if draw < 0.45:
            return f"{self.phrase()} {past(self.verb())}"
        if draw < 0.6:
            return f"{self.verb()} {self.phrase()}"
        if draw < 0.7:
            return f"failed to {self.verb()} {self.phrase()}"
        if draw < 0.8:
            return f"{self.phrase()} is {self.random.choice(self.adjectives)}"
        if draw < 0.9:
            return f"no {self.phrase()} for {self.phrase()}"
        return f"{self.phrase()} {self.verb()} {self.phrase()} {self.word()}"

    def text(self, words: int) -> str:
        """Return words of general prose, as users' data holds them."""
        prose, source = self.prose, self.random
        return " ".join(prose[zipfed(source, len(prose))] for _ in range(words))

    def camel(self, first: bool = True) -> str:
        """Return `SomeName`, or `someName`."""
        words = [self.word() for _ in range(self.random.choice((1, 2, 2, 2, 3)))]
        if self.random.random() < 0.3:
            words.insert(0, self.verb())
        name = "".join(word.capitalize() for word in words)
        return name if first else name[0].lower() + name[1:]

    def snake(self) -> str:
        """Return `some_name` with this program's own joint."""
        words = [self.word() for _ in range(self.random.choice((1, 1, 2, 2, 3)))]
        return (self.join or "_").join(words)

    def identifier(self) -> str:
        """Return a name in any style."""
        draw = self.random.random()
        if draw < 0.35:
            return self.snake()
        if draw < 0.5:
            return self.camel()
        if draw < 0.6:
            return self.camel(False)
        if draw < 0.7:
            return self.snake().upper()
        if draw < 0.9:
            return f"{self.snake()}{self.random.choice('-_./:')}{self.random.randint(0, 40)}"
        return f"{self.word()}/{self.word()}"

    def directory(self) -> str:
        """Return a folder's path."""
        parts = [self.random.choice(self.roots)]
        while len(parts) < 7 and (len(parts) < 2 or self.random.random() < self.deep):
            parts.append(self.snake() if self.random.random() < 0.8 else self.version())
        return self.slash.join(parts)

    def file(self) -> str:
        """Return a file's name."""
        stem = self.snake() if self.random.random() < 0.7 else self.camel()
        if self.random.random() < 0.15:
            stem += f"-{self.random.randint(0, 99999)}"
        return f"{stem}.{self.random.choice(self.endings)}"

    def path(self) -> str:
        """Return a file's path."""
        return f"{self.directory()}{self.slash}{self.file()}"

    def version(self) -> str:
        """Return a version."""
        draw, some = self.random.random(), self.random.randint
        if draw < 0.6:
            return f"{some(0, 12)}.{some(0, 30)}.{some(0, 20)}"
        if draw < 0.8:
            return f"{some(0, 9)}.{some(0, 40)}"
        if draw < 0.9:
            stage = self.random.choice(("rc1", "beta", "dev"))
            return f"v{some(0, 9)}.{some(0, 30)}.{some(0, 9)}-{stage}"
        return f"{some(0, 9)}.{some(0, 99)}.{some(0, 9)}-{some(1, 9)}+deb{some(9, 13)}u{some(1, 9)}"

    def package(self) -> str:
        """Return a dotted class or module."""
        parts = [self.package_root, *(self.word() for _ in range(self.random.randint(0, 2)))]
        return ".".join([*parts, self.camel()])

    def host(self) -> str:
        """Return a host's name."""
        draw, number = self.random.random(), self.random.randint(1, 24)
        short = f"{self.word()}{self.random.choice(('', '-', '0'))}{number}"
        if draw < 0.6:
            return short
        return (
            f"{short}.{self.domain}" if draw < 0.9 else f"ip-10-{number}-{number * 7}-{number * 3}"
        )

    def user(self) -> str:
        """Return a user's name."""
        draw = self.random.random()
        if draw < 0.5:
            return invented(self.random)
        if draw < 0.7:
            return f"{invented(self.random)}.{invented(self.random)}"
        if draw < 0.85:
            return f"{self.word()}{self.random.randint(1, 99)}"
        return f"{invented(self.random)}@{self.domain}"

    def url(self) -> str:
        """Return a path of a URL, or a whole URL."""
        parts = [self.snake() for _ in range(self.random.randint(1, 4))]
        if self.random.random() < 0.5:
            parts.insert(self.random.randint(0, len(parts)), str(self.random.randint(1, 9999)))
        if self.random.random() < 0.2:
            parts[-1] += f".{self.random.choice(self.endings)}"
        tail = "/" + "/".join(parts)
        if self.random.random() < 0.25:
            tail += f"?{self.word()}={self.random.randint(0, 500)}&{self.word()}={self.word()}"
        if self.random.random() < 0.3:
            return f"http{self.random.choice(('', 's'))}://{self.host()}{tail}"
        return tail
