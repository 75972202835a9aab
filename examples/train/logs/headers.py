"""Make the front of a program's lines: time, host, process, level, thread, logger.

A layout is either one that real programs use, or put together at random from the same parts. In a
layout `{t}` is the time, `{L}` the level, `{c}` the logger of the message, `{p}` the process with
what follows it, `{h}` the host, `{i}` the thread, `{n}` a running number, `{v}` some value.
"""

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from logs.names import Names
from logs.repeats import Slot, pool, sticky
from logs.values import Clock, Values

Stamp = Callable[[], str]

# In front of `|`: before the fraction of the second; its digits; and what follows it.
CALENDAR = (
    "%b %e %H:%M:%S",
    "%b %d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S|.3|Z",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%dT%H:%M:%S|.6|+00:00",
    "%Y-%m-%dT%H:%M:%S|.3|+0100",
    "%Y-%m-%dT%H:%M:%S-05:00",
    "%Y-%m-%dT%H:%M:%S|.9|Z",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M:%S|,3|",
    "%Y-%m-%d %H:%M:%S|.3|",
    "%Y-%m-%d %H:%M:%S|.6|",
    "%Y-%m-%d %H:%M:%S|.3| UTC",
    "%Y-%m-%d %H:%M:%S +0000",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M:%S|.6|",
    "%d/%b/%Y:%H:%M:%S +0000",
    "%d/%b/%Y %H:%M:%S",
    "%a %b %d %H:%M:%S %Y",
    "%a %b %d %H:%M:%S|.6| %Y",
    "%a, %d %b %Y %H:%M:%S GMT",
    "%H:%M:%S",
    "%H:%M:%S|.3|",
    "%H:%M:%S|,3|",
    "%H:%M:%S|.6|",
    "%H:%M",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %H:%M:%S|.3|",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M:%S|.3|",
    "%y%m%d %H:%M:%S",
    "%y/%m/%d %H:%M:%S",
    "%Y%m%d-%H:%M:%S|.3|",
    "%Y%m%dT%H%M%S",
    "%d-%b-%Y %H:%M:%S|.3|",
    "%d %b %Y %H:%M:%S|.3|",
    "%m-%d %H:%M:%S|.3|",
    "%m%d %H:%M:%S|.6|",
    "%d-%m-%Y %H:%M:%S",
    "%b %d, %Y %I:%M:%S %p",
    "%A %d %B %Y %H:%M:%S",
    "%Y-%m-%d",
    "%Y.%m.%d %H:%M:%S|.6|",
    "%M:%S|.3|",
)
COUNTED = (  # format, factor, from the start of the program
    ("%d", 1, False),
    ("%.3f", 1, False),
    ("%.6f", 1, False),
    ("%d", 1e3, False),
    ("%d", 1e6, False),
    ("%12.6f", 1, True),
    ("%5d.%06d", 0, True),
    ("%.3fs", 1, True),
    ("%.6f", 1, True),
    ("%.2f", 1, True),
    ("%dms", 1e3, True),
    ("+%d ms", 1e3, True),
    ("%8d", 1e3, True),
    ("%012d", 1e6, True),
)
LAYOUTS = (
    "{t} {h} {p}: ",
    "{t} {h} {p}: ",
    "{t} {h} {p}: {L}: ",
    "<{n}>{t} {h} {p}: ",
    "[{t}] ",
    "[{t}] [{L}] ",
    "[{t}] [{L}] [{c}] ",
    "[{t}][{L}][{i}] ",
    "[{t}] {p} {L}: ",
    "[{t}] [{c}:{L}] [pid {i}] ",
    "{t} {L} ",
    "{t} {L}: ",
    "{t} {L} {c}: ",
    "{t} {L} [{c}] ",
    "{t} [{L}] {c}: ",
    "{t} [{L}] {i}#0: ",
    "{t} - {c} - {L} - ",
    "{t} {L} [{i}] {c} - ",
    "{t} [{i}] {L} {c} - ",
    "{t} [{i}] {L} {c}: ",
    "{t}  {L} {i} --- [{c}] : ",
    "{t}|{L}|{i}|{c}|",
    "{t} | {L} | {c} | ",
    "{t} {p} {L} ",
    "{t} {i} {L} {c} ",
    "{t} {i} {n} {L} {c}: ",
    "{t}: ",
    "{t} ",
    "{t} ",
    "{t}\t{L}\t{c}\t",
    "{t}\t{L}\t",
    "{t},{L},{c},",
    "{L} {t} {c}: ",
    "{L}{t} {i} {c}] ",
    "{L} [{t}] ",
    "{L} [{c}] ",
    "{L}: ",
    "{L}:{c}:",
    "[{L}] ",
    "[{L}] {c}: ",
    "{c}: ",
    "[{c}] ",
    "{c}| ",
    "{p}: ",
    "{i}:{t} {L} ",
    "{i}:{c} {t} * ",
    "{v} - - [{t}] ",
    "{v} - {v} [{t}] ",
    "{v} {t} {v} ",
    "[{i}] {t} {L} ",
    "({i}) {t}: ",
    "[pid {i}] ",
    "{n}: ",
    "{n} {t} {c} ",
    "{t} {n} [{L}] ",
)
LEVELS = ("debug", "info", "notice", "warning", "error", "critical")
SHORT = {"warning": "warn", "critical": "fatal", "notice": "note", "error": "err"}


@dataclass(slots=True)
class Message:
    """What the header needs to know of the message behind it.

    Attributes:
        level: place in `LEVELS`.
        logger: name of the part of the program that writes it.
        process: name of the process that writes it.
    """

    level: int = 1
    logger: str = ""
    process: str = ""


@dataclass(slots=True)
class Header:
    """A layout, ready to be filled.

    Attributes:
        form: a `%` format.
        parts: its values.
    """

    form: str = ""
    parts: list[Callable[[Message], str]] = field(default_factory=list)

    def __call__(self, message: Message) -> str:
        """Write the front of a message's line."""
        return self.form % tuple([part(message) for part in self.parts])


def stamp(source: random.Random, clock: Clock) -> Stamp:
    """Choose how the time is written."""
    if source.random() < 0.22:
        return counted(source, clock)
    front, _, rest = source.choice(CALENDAR).partition("|")
    fraction, _, back = rest.partition("|")
    shown, before, after = -1, "", ""
    joint, digits = (fraction[0], int(fraction[1:])) if fraction else ("", 0)
    scale, width = 10**digits, digits

    def next_value() -> str:
        nonlocal shown, before, after
        second = int(clock.now)
        if second != shown:  # formatting a date costs more than all else here
            shown, parts = second, time.gmtime(second)
            before, after = time.strftime(front, parts), time.strftime(back, parts) if back else ""
        if not width:
            return before + after
        return f"{before}{joint}{int((clock.now - second) * scale):0{width}d}{after}"

    return next_value


def counted(source: random.Random, clock: Clock) -> Stamp:
    """Write the time as a number: seconds or less since 1970 or since the start."""
    form, factor, relative = source.choice(COUNTED)
    start = clock.started if relative else 0.0
    if factor == 0:
        return lambda: form % divmod(int((clock.now - start) * 1e6), 10**6)
    return lambda: form % ((clock.now - start) * factor)


def level_names(source: random.Random) -> list[str]:
    """Choose how the levels are written."""
    names = [SHORT.get(n, n) if source.random() < 0.5 else n for n in LEVELS]
    if source.random() < 0.15:
        names = [name[0] for name in names]
    elif source.random() < 0.1:
        names = [(name + "   ")[:3] for name in names]
    names = [
        source.choice((str.upper, str.upper, str.lower, str.capitalize))(n) for n in names[:1]
    ] + [n for n in names[1:]]
    turn = (
        str.upper if names[0].isupper() else str.capitalize if names[0][0].isupper() else str.lower
    )
    names = [turn(name) for name in names]
    draw = source.random()
    if draw < 0.3:
        width = max(map(len, names[:5]))
        names = [name.ljust(width) if draw < 0.2 else name.rjust(width) for name in names]
    return names


def random_layout(source: random.Random) -> str:
    """Put a layout together from parts."""
    parts = [p for p in "tLcphinv" if source.random() < {"t": 0.8, "L": 0.6, "c": 0.5}.get(p, 0.2)]
    if source.random() < 0.6:
        source.shuffle(parts)
    left, right = source.choice((("", ""), ("[", "]"), ("(", ")"), ("<", ">")))
    some = source.random()
    joint = source.choice((" ", " ", " ", "", "|", " | ", "\t", ": ", " - ", ";"))
    dressed = [f"{left}{{{p}}}{right}" if source.random() < some else f"{{{p}}}" for p in parts]
    return joint.join(dressed) + source.choice((" ", ": ", " - ", "] ", joint)) if parts else ""


def header(source: random.Random, names: Names, values: Values, clock: Clock) -> tuple[Header, str]:
    """Choose the layout of a program.

    Returns:
        The header, and the style of the messages behind it: `text`, `pairs`, `json` or `table`.
    """
    made, style, draw = Header(), "text", source.random()
    if draw < 0.22:
        return made, style
    if draw < 0.32:
        key, level, quote = source.choice(
            (("time", "level", '"'), ("ts", "lvl", ""), ("t", "level", ""))
        )
        layout, style = f"{key}={quote}{{t}}{quote} {level}={{L}} ", "pairs"
        if source.random() < 0.4:
            layout += source.choice(("logger={c} ", "caller={c} ", "module={c} ", "component={c} "))
    elif draw < 0.43:
        space = source.choice(("", " "))
        keys = source.choice(
            ("time level logger", "ts severity caller", "@timestamp level logger_name")
        )
        keys = keys if source.random() < 0.7 else "t s c"
        pairs = zip(keys.split(), "tLc", strict=True)
        shown = [f'"{k}":{space}"{{{p}}}"' for k, p in pairs if p != "c" or source.random() < 0.5]
        source.shuffle(shown)
        layout, style = "{" + f",{space}".join(shown) + f",{space}", "json"
    elif draw < 0.48:
        joint = source.choice((",", "\t", ";", "|", " "))
        layout, style = f"{{t}}{joint}", "table" + joint
    elif draw < 0.85:
        layout = source.choice(LAYOUTS)
    else:
        layout = random_layout(source)
    if source.random() < 0.03:
        layout = f"\x1b[3{source.randint(1, 7)}m{layout}\x1b[0m"
    for piece in re.split(r"(\{\w\})", layout):
        if re.fullmatch(r"\{\w\}", piece):
            made.form += "%s"
            made.parts.append(_part(piece[1], source, names, values, clock))
        else:
            made.form += piece.replace("%", "%%")
    return made, style


def _part(
    kind: str, source: random.Random, names: Names, values: Values, clock: Clock
) -> Callable[[Message], str]:
    """Build what fills one place of a layout."""
    if kind == "t":
        write = stamp(source, clock)
        return lambda message: write()
    if kind == "L":
        levels = level_names(source)
        return lambda message: levels[message.level]
    if kind == "c":
        width = source.choice((0, 0, 0, 0, 20, 30, -24))
        return lambda message: f"{message.logger:<{width}}" if width > 0 else message.logger[width:]
    if kind == "p":
        pids: dict[str, Slot] = {}
        form = source.choice(("%s[%s]", "%s[%s]", "%s[%s]", "%s", "%s(%s)", "%s/%s", "%s-%s"))
        steady = source.choice((1, 1, 4, 30))

        def process(message: Message) -> str:
            if message.process not in pids:
                pids[message.process] = pool(source, values.make("port"), steady, 0.0)
            return form.replace("%s", message.process, 1).replace("%s", pids[message.process](), 1)

        return process
    if kind == "h":
        hosts = names.host() if source.random() < 0.8 else ""
        several = pool(source, names.host, 6, 0.0)
        return lambda message: hosts or several()
    if kind == "i":
        return thread(source, names)
    if kind == "n":
        numbers = values.make(source.choice(("counter", "number", "counter")))
        return lambda message: numbers()
    some = values.drawn(source.choice(("ip", "user", "address", "hex", "status", "host", "word")))
    return lambda message: some()


def thread(source: random.Random, names: Names) -> Callable[[Message], str]:
    """Choose how threads are named; the same one often writes again."""
    stem = source.choice(
        (names.snake(), "main", "pool-1-thread", "Thread", "worker", "http-nio-8080-exec")
    )
    low, many = source.choice((1, 1, 100, 4000, 140_000)), source.choice((1, 2, 8, 32))
    form = source.choice(
        ("%d", "%d", "%7d", "%d:%d", f"{stem}-%d", f"{stem}-%d", f"{stem}%d", "tid=%d")
    )
    if form == "%d:%d":
        form = f"{low}:%d"
    again = sticky(
        source, lambda: form % (low + int(many * source.random())), source.choice((0.0, 0.6, 0.9))
    )
    return lambda message: again()
