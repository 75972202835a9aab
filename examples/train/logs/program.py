"""Make up programs and let them write their logs, endlessly.

`Program(seed)` is one program: its vocabulary, its layout of lines, its messages, and its habits.
The same seed gives the same log on every machine. Its habits are a few activities which take turns:
a chain of messages with likely successors, rounds of work over things, sessions that run side by
side, heartbeats, and rare events. From time to time the program changes its ways.
"""

import random
from collections.abc import Iterator
from itertools import accumulate, islice

from logs.blocks import block
from logs.headers import header
from logs.messages import Messages, Template
from logs.names import Names
from logs.repeats import Slot
from logs.values import Clock, Values

Activity = Iterator[Template]


class Program:
    """One program that writes a log.

    Args:
        seed: of everything about it.

    Attributes:
        clock: its time.
    """

    def __init__(self, seed: int) -> None:
        source = self.random = random.Random(seed)
        self.clock = Clock(source)
        self.names = Names(source)
        self.values = Values(source, self.names, self.clock)
        self.header, style = header(source, self.names, self.values, self.clock)
        self.messages = Messages(source, self.names, self.values, style)
        count = int(80 ** source.random() ** 0.8)
        self.blocks = source.choice((0.0, 0.0, 0.02, 0.1, 0.3)) if style == "text" else 0.0
        self.templates = [self._template() for _ in range(1 + count)]
        self.pace = 10 ** source.uniform(-4, 1.5)  # mean seconds between two lines
        self.bursts = source.choice((0.0, 0.5, 0.9, 0.99))
        self.repeats = source.choice((0.0, 0.0, 0.0, 0.02, 0.2))
        self.ending = "\r\n" if source.random() < 0.02 else "\n"
        self._left = b""
        self._blocks = self._written()

    def _template(self) -> Template:
        made = self.messages.template()
        if self.random.random() < self.blocks:
            made.block = block(self.random, self.messages)
        return made

    def lines(self) -> Iterator[str]:
        """Yield its lines without their ends, for ever."""
        source, clock = self.random, self.clock
        draw = source.random
        for template in self._turns():
            mean = template.quiet or (self.pace * 0.01 if draw() < self.bursts else self.pace)
            clock.now += source.expovariate(1.0) * mean
            times = 1 + int(template.times * draw()) if template.times > 1 else 1
            if draw() < self.repeats:
                times += int(1 / (draw() + 0.02))
            line = self.header(template) + template.text()
            for _ in range(times):
                yield line
                if template.block is not None:
                    yield from template.block()
                if times > 1 and self.repeats < 0.1:  # other values under the same words
                    line = self.header(template) + template.text()

    def read(self, size: int) -> bytes:
        """Return the next bytes of its log."""
        while len(self._left) < size:
            self._left += next(self._blocks)
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def _written(self) -> Iterator[bytes]:
        lines = self.lines()
        while True:
            some = [line + self.ending for line in islice(lines, 64)]
            yield "".join(some).encode("utf-8", "replace")

    # Its habits

    def _turns(self) -> Activity:
        """Let the activities take turns, in shares that change now and then."""
        source = self.random
        banner = [self.messages.template(1) for _ in range(source.choice((0, 0, 3, 8, 25)))]
        yield from banner
        kinds = [self._chain, self._rounds, self._sessions, self._rare]
        activities = [source.choice(kinds)() for _ in range(source.choice((1, 1, 2, 3, 4)))]
        if source.random() < 0.4:
            activities.append(self._rare())
        heartbeat = self.random.choice(self.templates) if source.random() < 0.25 else None
        every, beaten = source.choice((5.0, 10.0, 60.0, 300.0)), self.clock.now
        steady = source.choice(
            (1, 1, 5, 30, 200)
        )  # lines of one activity before the next has its turn
        while True:
            edges = list(accumulate(source.random() ** 3 + 0.001 for _ in activities))
            for _ in range(int(10 ** source.uniform(1.5, 4))):
                activity = source.choices(activities, cum_weights=edges)[0]
                for _ in range(1 + int(2 * steady * source.random()) if steady > 1 else 1):
                    yield next(activity)
                    if heartbeat is not None and self.clock.now - beaten >= every:
                        beaten += every * int((self.clock.now - beaten) / every)
                        yield heartbeat
            if source.random() < 0.15:
                yield from banner
            if source.random() < 0.3:  # a part of the program that was silent until now
                activities[source.randrange(len(activities))] = source.choice(kinds)()
                self.templates.append(self._template())

    def _some(self, most: int) -> list[Template]:
        """Choose templates, each at most once."""
        return self.random.sample(
            self.templates, min(len(self.templates), self.random.randint(1, most))
        )

    def _chain(self) -> Activity:
        """Go from message to message, each with few and likely successors."""
        source, used = self.random, self._some(40)
        power = source.choice((0.0, 1.0, 2.0))
        successors: list[tuple[list[int], list[float]]] = []
        for _ in used:
            count = min(len(used), source.choice((1, 1, 2, 3, 6, 20)))
            places = source.sample(range(len(used)), count)
            edges = list(accumulate((source.random() + 0.01) ** (1 + power) for _ in places))
            successors.append((places, edges))
        stray, place = source.choice((0.005, 0.02, 0.1, 0.3)), 0
        common = list(accumulate((rank + 1) ** -1.2 for rank in range(len(used))))
        while True:
            yield used[place]
            if source.random() < stray:
                place = source.choices(range(len(used)), cum_weights=common)[0]
            else:
                places, edges = successors[place]
                place = source.choices(places, cum_weights=edges)[0]

    def _rounds(self) -> Activity:
        """Work over one thing after another: the same few messages for each."""
        source, script = self.random, self._some(6)
        skipped = [source.choice((0.0, 0.0, 0.1, 0.6)) for _ in script]
        if source.random() < 0.5:  # the messages of a round share what it works on
            kind = source.choice(
                ("path", "identifier", "file", "url", "counter", "handle", "package", "hex")
            )
            slot, now = self.values.drawn(kind), [""]
            script = [self._about(lambda: now[0]) for _ in script]
        else:
            slot, now = (lambda: ""), [""]
        pause = source.choice((0.0, 0.0, 60.0, 3600.0))
        length = source.choice((1, 20, 300))
        while True:
            for _ in range(length):
                now[0] = slot()
                for template, skip in zip(script, skipped, strict=True):
                    if not skip or source.random() >= skip:
                        yield template
            self.clock.now += pause * source.random()

    def _about(self, slot: Slot) -> Template:
        """Make a template in which one value is the given slot."""
        made = self._template()
        if made.slots:
            made.slots[self.random.randrange(len(made.slots))] = slot
        return made

    def _sessions(self) -> Activity:
        """Run sessions side by side; each has values of its own that its messages share."""
        source, messages = self.random, self.messages
        kinds = source.choices(
            ("hex", "uuid", "address", "user", "counter", "request", "handle"), k=3
        )
        slots = [self.values.drawn(kind) for kind in kinds]
        messages.session_share = source.uniform(0.4, 1.0)
        scripts = [
            [self._template() for _ in range(source.randint(2, 9))]
            for _ in range(source.randint(1, 4))
        ]
        messages.session_share = 0.0
        inner = source.choice(
            (0, 0, 1, 5)
        )  # how often the middle of a session is repeated, at most
        side = source.choice((1, 2, 8, 40))
        failing = source.choice((0.0, 0.02, 0.2))
        live: list[tuple[list[str], Activity]] = []
        weights = list(accumulate((rank + 1) ** -1.5 for rank in range(len(scripts))))

        def session(script: list[Template]) -> Activity:
            yield script[0]
            for _ in range(1 + int(inner * source.random())):
                yield from script[1:-1]
                if source.random() < failing:
                    return
            yield script[-1]

        while True:
            while len(live) < side:
                script = source.choices(scripts, cum_weights=weights)[0]
                live.append(([slot() for slot in slots], session(script)))
            place = int(len(live) * source.random())
            held, activity = live[place]
            template = next(activity, None)
            if template is None:
                del live[place]
                continue
            messages.session = held
            yield template

    def _rare(self) -> Activity:
        """Write messages by Zipf's law, among them some for the first time, late in the log."""
        source, used = self.random, self._some(80)
        power = source.choice((0.8, 1.3, 2.0))
        edges = list(accumulate((rank + 1) ** -power for rank in range(len(used))))
        new = source.choice((0.0, 0.001, 0.01))
        while True:
            if new and source.random() < new and len(used) < 400:
                used.append(self._template())
                edges.append(edges[-1] + edges[-1] / 200)
                yield used[-1]
            yield source.choices(used, cum_weights=edges)[0]
