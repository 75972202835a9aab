"""Make the values that stand in the slots of messages: numbers, addresses, paths, ids and so on.

A slot is a function without arguments that returns the next value as text. `Values.make` builds one
of a kind with ranges and formats of its own; `Values.drawn` decides how its values repeat.
"""

import random
import time

from logs.names import Names
from logs.repeats import Slot, iter_of, pool, ring, sticky, walk

NUMBERS = ("number", "counter", "gauge", "float", "duration", "size", "percent", "status")
IDS = ("hex", "uuid", "pointer", "request", "base64", "digits", "handle")
NETWORK = ("ip", "address", "port", "host", "mac", "url", "ip6")
THINGS = ("path", "file", "line_of", "directory", "package", "class", "function", "identifier")
WORDS = ("word", "flag", "reason", "user", "version", "text", "choice", "date", "list")
KINDS = (*NUMBERS, *IDS, *NETWORK, *THINGS, *WORDS)
STATUSES = (
    "200",
    "201",
    "204",
    "206",
    "301",
    "302",
    "304",
    "400",
    "401",
    "403",
    "404",
    "409",
    "500",
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
HEX = "0123456789abcdef"


class Clock:
    """The time of a program, in seconds since 1970; `started` is when it began."""

    def __init__(self, source: random.Random) -> None:
        self.now = source.uniform(1.0e9, 1.95e9)
        self.started = self.now - source.choice((0.0, 0.0, source.uniform(0, 1e5), 1e6))


class Values:
    """Makes the slots of one program."""

    def __init__(self, source: random.Random, names: Names, clock: Clock) -> None:
        self.random, self.names, self.clock = source, names, clock
        self.kinds = source.sample(KINDS, source.randint(2, len(KINDS)))
        self.fresh = source.choice((0.1, 0.6, 1.0, 1.0, 1.3))  # how often values are new ones
        self.subnets = [
            f"{source.choice((10, 172, 192, source.randint(11, 220)))}.{source.randint(0, 255)}"
            for _ in range(source.randint(1, 4))
        ]
        self.unit = source.choice(
            ("ms", "ms", " ms", "s", " s", "us", "µs", " seconds", "sec", "ns")
        )
        self.byte = source.choice(("", " bytes", "B", " KiB", "kB", "K", " MB", "MiB", "M"))
        self.base = source.getrandbits(28) << 12
        self.upper = source.random() < 0.15

    def make(self, kind: str) -> Slot:
        """Build a slot of a kind.

        Raises:
            AttributeError: there is no such kind.
        """
        slot: Slot = getattr(self, f"_{kind}")()
        return slot

    def any(self) -> Slot:
        """Build a slot of one of the kinds that this program likes, repeating in some way."""
        return self.drawn(self.random.choice(self.kinds))

    def drawn(self, kind: str) -> Slot:
        """Build a slot of a kind whose values repeat in one of several ways."""
        slot, draw = self.make(kind), self.random.random()
        if kind in ("counter", "gauge", "date", "choice", "flag", "reason"):
            return slot
        fresh = self.fresh * (0.25 if kind in THINGS or kind in WORDS else 0.5)
        if draw < fresh:
            return slot
        if draw < fresh + 0.1:
            return sticky(self.random, slot, self.random.choice((0.5, 0.9, 0.98)))
        if draw < fresh + 0.2:
            return ring(self.random, slot, self.random.randint(2, 60))
        size = self.random.choice((1, 2, 4, 8, 16, 50, 200))
        return pool(
            self.random, slot, size, self.fresh * self.random.choice((0.0, 0.0, 0.01, 0.1, 0.3))
        )

    # Numbers

    def _number(self) -> Slot:
        draw = self.random.random
        low = self.random.choice((0, 0, 1, 1, self.random.randint(0, 5000)))
        span = self.random.choice((2, 4, 10, 32, 100, 1000, 65536, 10**6, 10**9))
        steep = self.random.choice((1.0, 1.0, 2.0, 4.0))
        width = self.random.choice((0, 0, 0, 0, 0, 3, 4, 5, 8))
        if width:
            form = f"%{self.random.choice(('0', ''))}{width}d"
            return lambda: form % (low + int(span * draw() ** steep))
        return lambda: str(low + int(span * draw() ** steep))

    def _counter(self) -> Slot:
        draw = self.random.random
        step = self.random.choice((1, 1, 1, 2, 10, 64, 4096))
        jumps = self.random.choice((0.0, 0.0, 0.1, 0.5))
        most = self.random.choice((2, 20, 5000))
        value = self.random.choice((0, 0, 1, self.random.randint(0, 10**6)))
        form = self.random.choice(("%d", "%d", "%d", "%d", "%d", "%x", "%06d", "0x%08x"))

        def next_value() -> str:
            nonlocal value
            value += step if draw() >= jumps else step * int(1 + most * draw())
            return form % value

        return next_value

    def _gauge(self) -> Slot:
        draw = self.random.random
        value = 10 ** self.random.uniform(0, 5)
        drift = self.random.choice((0.001, 0.01, 0.1))
        form = self.random.choice(("%d", "%d", "%.1f", "%.2f", "%.3f"))

        def next_value() -> str:
            nonlocal value
            value *= 1 + drift * (2 * draw() - 1)
            return form % value

        return next_value

    def _float(self) -> Slot:
        draw, form = (
            self.random.random,
            self.random.choice(("%.1f", "%.2f", "%.3f", "%.6f", "%g", "%.2e")),
        )
        span = 10 ** self.random.uniform(-2, 4)
        low = self.random.choice((0.0, 0.0, -span, 1.0))
        return lambda: form % (low + span * draw())

    def _duration(self) -> Slot:
        draw, unit = self.random.random, self.unit if self.random.random() < 0.8 else "s"
        middle, spread = self.random.uniform(-1, 4), self.random.uniform(0.05, 1.2)
        style = self.random.choice(("d", "d", ".1f", ".2f", ".3f", "clock", "mixed"))
        if style == "clock":
            return lambda: f"{int(3 * draw()):02d}:{int(60 * draw()):02d}:{int(60 * draw()):02d}"
        if style == "mixed":
            return lambda: f"{int(draw() * 10)}m{draw() * 60:.3f}s"
        form = f"%{style}{unit}"
        return lambda: form % 10 ** (middle + spread * (2 * draw() - 1))

    def _size(self) -> Slot:
        draw, unit = self.random.random, self.byte
        few = self.random.random() < 0.3
        top = self.random.uniform(1, 7 if unit in ("", "B", " bytes") else 3)
        form = (
            "%d" if unit in ("", "B", " bytes") else self.random.choice(("%d", "%.1f", "%.2f"))
        ) + unit
        if few:
            sizes = [form % 10 ** (top * draw()) for _ in range(self.random.randint(1, 12))]
            return lambda: sizes[int(len(sizes) * draw() ** 2)]
        return lambda: form % 10 ** (top * draw())

    def _percent(self) -> Slot:
        draw = self.random.random
        form = self.random.choice(("%d%%", "%3d%%", "%.1f%%", "%.2f%%", "%.2f"))
        return lambda: form % (100 * draw())

    def _status(self) -> Slot:
        some = self.random.sample(STATUSES, self.random.randint(2, 7))
        return pool(self.random, iter_of(some), len(some), 0.0, steep=True)

    # Ids

    def _hex(self) -> Slot:
        bits, digits = (
            self.random.getrandbits,
            self.random.choice((4, 6, 8, 8, 12, 16, 16, 24, 32, 40, 64)),
        )
        form = f"%0{digits}{'X' if self.upper else 'x'}"
        return lambda: form % bits(4 * digits)

    def _uuid(self) -> Slot:
        bits = self.random.getrandbits

        def next_value() -> str:
            text = f"{bits(128):032x}"
            return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{text[16:20]}-{text[20:]}"

        return next_value

    def _pointer(self) -> Slot:
        bits, base = self.random.getrandbits, self.base
        few, align = self.random.choice((8, 16, 24)), self.random.choice((0, 3, 4))
        form = self.random.choice(("0x%x", "0x%x", "0x%016x", "%x", "0x%X"))
        return lambda: form % (base + (bits(few) << align))

    def _request(self) -> Slot:
        bits, lead = (
            self.random.getrandbits,
            self.random.choice(("req-", "", "r", "job_", "tx-", "#", "T-")),
        )
        digits = self.random.choice((5, 8, 10, 16))
        return lambda: f"{lead}{bits(4 * digits):0{digits}x}"

    def _base64(self) -> Slot:
        choices, length = self.random.choices, self.random.choice((6, 11, 16, 22, 43))
        tail = self.random.choice(("", "", "=", "=="))
        return lambda: "".join(choices(LETTERS, k=length)) + tail

    def _digits(self) -> Slot:
        draw, length = self.random.random, self.random.randint(4, 19)
        lead = self.random.randint(1, 9) * 10**length
        few = self.random.choice((2, 4, length))
        return lambda: str(lead + int(10**few * draw()))

    def _handle(self) -> Slot:
        names, draw = self.names, self.random.random
        stem = names.snake()
        joint, span = (
            self.random.choice(("-", "_", "#", "/", ":", "")),
            self.random.choice((4, 20, 500)),
        )
        tail = self.random.random() < 0.3
        if tail:
            return lambda: f"{stem}{joint}{names.word()}{joint}{int(span * draw())}"
        return lambda: f"{stem}{joint}{int(span * draw())}"

    # Network

    def _ip(self) -> Slot:
        draw, nets = self.random.random, self.subnets
        wide = self.random.choice((1, 4, 256))
        return lambda: (
            f"{nets[int(len(nets) * draw() ** 2)]}.{int(wide * draw())}.{int(1 + 254 * draw())}"
        )

    def _address(self) -> Slot:
        draw, ips = self.random.random, pool(self.random, self._ip(), 30, 0.05)
        ports = [str(self.random.randint(20, 9999)) for _ in range(3)]
        if self.random.random() < 0.5:
            return lambda: f"{ips()}:{ports[int(3 * draw() ** 2)]}"
        return lambda: f"{ips()}:{int(32768 + 28000 * draw())}"

    def _port(self) -> Slot:
        draw = self.random.random
        return lambda: str(int(32768 + 28000 * draw()))

    def _host(self) -> Slot:
        return pool(self.random, self.names.host, self.random.choice((1, 3, 12, 60)), 0.01)

    def _mac(self) -> Slot:
        bits, lead = self.random.getrandbits, f"{self.random.getrandbits(24):06x}"
        return lambda: ":".join(f"{lead}{bits(24):06x}"[i : i + 2] for i in range(0, 12, 2))

    def _ip6(self) -> Slot:
        bits, net = self.random.getrandbits, self.random.choice(("fe80::", "2001:db8::", "::ffff:"))
        return lambda: f"{net}{bits(16):x}:{bits(16):x}"

    def _url(self) -> Slot:
        return pool(self.random, self.names.url, self.random.choice((5, 20, 100)), 0.05)

    # Things

    def _path(self) -> Slot:
        if self.random.random() < 0.4:
            return walk(self.random, self.names)
        return pool(self.random, self.names.path, self.random.choice((5, 50, 400)), 0.05)

    def _file(self) -> Slot:
        return pool(self.random, self.names.file, self.random.choice((5, 50, 400)), 0.1)

    def _line_of(self) -> Slot:
        draw, files = self.random.random, pool(self.random, self.names.file, 20, 0.01)
        form = self.random.choice(("%s:%d", "%s:%d:1", "%s(%d)", "%s line %d", "%s:%d:in"))
        return lambda: form % (files(), 1 + int(900 * draw() ** 2))

    def _directory(self) -> Slot:
        return pool(self.random, self.names.directory, self.random.choice((3, 30)), 0.05)

    def _package(self) -> Slot:
        return pool(self.random, self.names.package, self.random.choice((5, 60)), 0.02)

    def _class(self) -> Slot:
        return pool(self.random, self.names.camel, self.random.choice((5, 60)), 0.02)

    def _function(self) -> Slot:
        tail, names = self.random.choice(("", "()", "()", "(...)")), self.names
        make = names.snake if self.random.random() < 0.5 else lambda: names.camel(False)
        return pool(self.random, lambda: make() + tail, self.random.choice((5, 60)), 0.02)

    def _identifier(self) -> Slot:
        return pool(self.random, self.names.identifier, self.random.choice((3, 12, 80)), 0.03)

    # Words

    def _word(self) -> Slot:
        return pool(self.random, self.names.word, self.random.choice((2, 5, 30)), 0.0)

    def _flag(self) -> Slot:
        pair = self.random.choice(
            (
                ("true", "false"),
                ("yes", "no"),
                ("on", "off"),
                ("0", "1"),
                ("True", "False"),
                ("ok", "-"),
            )
        )
        share, draw = self.random.choice((0.02, 0.2, 0.5)), self.random.random
        return lambda: pair[draw() < share]

    def _reason(self) -> Slot:
        return pool(
            self.random, iter_of(self.names.reasons), len(self.names.reasons), 0.0, steep=True
        )

    def _user(self) -> Slot:
        return pool(self.random, self.names.user, self.random.choice((1, 6, 80)), 0.02)

    def _version(self) -> Slot:
        return pool(self.random, self.names.version, self.random.choice((1, 6, 80)), 0.02)

    def _text(self) -> Slot:
        names, draw, most = self.names, self.random.random, self.random.choice((2, 4, 9))
        fresh = lambda: names.text(1 + int(most * draw()))  # noqa: E731
        return pool(
            self.random, fresh, self.random.choice((4, 40)), self.random.choice((0.0, 0.2, 1.0))
        )

    def _choice(self) -> Slot:
        some = [self.names.word() for _ in range(self.random.randint(2, 7))]
        turn = self.random.choice((str, str.upper, str.upper, str.capitalize))
        return pool(self.random, iter_of([turn(word) for word in some]), len(some), 0.0, steep=True)

    def _date(self) -> Slot:
        clock, form = (
            self.clock,
            self.random.choice(("%Y-%m-%d", "%Y%m%d", "%Y-%m-%dT%H:%M:%SZ", "%H:%M:%S")),
        )
        return lambda: time.strftime(form, time.gmtime(clock.now))

    def _list(self) -> Slot:
        one, draw = (
            self.make(self.random.choice(("number", "word", "identifier", "hex"))),
            self.random.random,
        )
        joint, most = self.random.choice((", ", ",", " ", ";")), self.random.choice((2, 4, 8))
        left, right = self.random.choice((("[", "]"), ("[", "]"), ("(", ")"), ("{", "}"), ("", "")))
        return lambda: left + joint.join([one() for _ in range(1 + int(most * draw()))]) + right
