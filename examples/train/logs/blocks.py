"""Make the lines that follow a message without a header: traces, tables, dumps, source code."""

import random
from collections.abc import Callable

from logs.messages import Messages
from logs.repeats import Slot

Block = Callable[[], list[str]]


def block(source: random.Random, messages: Messages) -> Block:
    """Make one kind of block; the same program writes it with other values each time."""
    kind = source.choice(
        (java, python, goroutine, native, pairs, table, dump, excerpt, nested, listing)
    )
    if kind in (java, python, goroutine, native):  # a program fails in few places
        known = [kind(source, messages) for _ in range(source.randint(1, 6))]
        return lambda: known[int(len(known) * source.random() ** 2)]()
    return kind(source, messages)


def java(source: random.Random, messages: Messages) -> Block:
    """Make a trace of the Java machine."""
    names = messages.names
    head = f"{names.package()}Exception: "
    reason = messages.values.make(source.choice(("reason", "text", "path", "number")))
    frames = [
        f"\tat {names.package()}.{names.snake()}({names.camel()}.java:{source.randint(9, 999)})"
        for _ in range(source.choice((2, 5, 12, 30)))
    ]
    if source.random() < 0.5:
        frames += [f"\t... {source.randint(2, 60)} more"]
    return lambda: [head + reason(), *frames]


def python(source: random.Random, messages: Messages) -> Block:
    """Make a trace of Python."""
    names, lines = messages.names, ["Traceback (most recent call last):"]
    for _ in range(source.randint(1, 9)):
        lines.append(f'  File "{names.path()}", line {source.randint(1, 900)}, in {names.snake()}')
        lines.append(f"    {names.snake()} = {names.camel(False)}({names.word()}.{names.snake()})")
    head = f"{source.choice(('Value', 'Key', 'Runtime', 'OS', 'Type', names.camel()))}Error: "
    reason = messages.values.make(source.choice(("reason", "text", "path", "identifier")))
    return lambda: [*lines, head + reason()]


def goroutine(source: random.Random, messages: Messages) -> Block:
    """Make a trace of Go."""
    names, pointer = messages.names, messages.values.make("pointer")
    number = messages.values.make("number")
    frames = [
        (
            f"{names.domain}/{names.word()}.{names.camel()}(",
            f"\t{names.path()}:{source.randint(9, 900)} +0x",
        )
        for _ in range(source.randint(2, 9))
    ]

    def lines() -> list[str]:
        made = [f"goroutine {number()} [running]:"]
        for call, place in frames:
            made += [f"{call}{pointer()})", place + pointer()[-3:]]
        return made

    return lines


def native(source: random.Random, messages: Messages) -> Block:
    """Make a trace with addresses, as kernels and C programs write it."""
    names, pointer = messages.names, messages.values.make("pointer")
    lead = source.choice((" ", "    ", "#", "[<", " ? "))
    calls = [f"{names.snake()}+0x{source.getrandbits(9):x}" for _ in range(source.randint(3, 14))]
    return lambda: [
        "Call Trace:",
        *(f"{lead}{place} {pointer()} in {call}" for place, call in enumerate(calls)),
    ]


def pairs(source: random.Random, messages: Messages) -> Block:
    """Make an indented list of keys and values."""
    names, indent = messages.names, source.choice(("  ", "    ", "\t", " | ", "> "))
    joint = source.choice((": ", " = ", "=", " -> ", "\t"))
    keys = [names.snake() for _ in range(source.randint(2, 16))]
    width = source.choice((0, max(map(len, keys))))
    slots = [messages.value("any") for _ in keys]
    return lambda: [
        f"{indent}{k:<{width}}{joint}{slot()}" for k, slot in zip(keys, slots, strict=True)
    ]


def table(source: random.Random, messages: Messages) -> Block:
    """Make a table with a head."""
    names, columns = messages.names, source.randint(2, 7)
    width = source.choice((8, 10, 14, 18))
    joint = source.choice((" ", " ", " | ", "  "))
    slots: list[Slot] = [messages.value("any") for _ in range(columns)]
    heads = joint.join(f"{names.word().upper():<{width}}" for _ in slots)
    rule = source.choice(("-", "=")) * len(heads)
    most, ruled, right = source.choice((3, 8, 25)), source.random() < 0.5, source.random() < 0.5

    def lines() -> list[str]:
        rows = [heads, rule] if ruled else [heads]
        for _ in range(1 + int(most * source.random())):
            cells = [slot()[: width + 12] for slot in slots]
            rows.append(joint.join(c.rjust(width) if right else c.ljust(width) for c in cells))
        return rows

    return lines


def dump(source: random.Random, messages: Messages) -> Block:
    """Make a dump of bytes in hexadecimal, some of them the same in every dump."""
    steady = source.choice((0, 8, 12, 16))
    letters, most = source.random() < 0.5, source.choice((2, 4, 12))
    lead = source.choice(("    0x%04x:  ", "%08x  ", "%04x - ", "\t%06x: "))
    known = [source.randbytes(steady) for _ in range(most)]

    def lines() -> list[str]:
        rows = []
        for row in range(1 + int(most * source.random())):
            data = known[row] + source.randbytes(16 - steady)
            shown = data.hex(" ")
            if letters:
                shown += "  " + "".join(chr(b) if 32 <= b < 127 else "." for b in data)
            rows.append(lead % (16 * row) + shown)
        return rows

    return lines


def excerpt(source: random.Random, messages: Messages) -> Block:
    """Make a line of source code with a mark under it, as compilers print it."""
    names = messages.names
    codes = [
        f"{names.camel()} *{names.word()} = {names.snake()}({source.randint(0, 99)});"
        for _ in range(source.randint(1, 9))
    ]

    def lines() -> list[str]:
        code = source.choice(codes)
        place = source.randrange(len(code))
        number = source.randint(1, 3000)
        return [
            f"{number:>5} |     {code}",
            f"      |     {' ' * place}^{'~' * source.randint(0, 9)}",
        ]

    return lines


def nested(source: random.Random, messages: Messages) -> Block:
    """Make a nested structure in the manner of JSON or YAML."""
    names, braces = messages.names, source.random() < 0.6
    keys = [names.snake() for _ in range(source.randint(2, 8))]
    slots = [messages.value("any") for _ in keys]
    depth = [source.randint(1, 3) for _ in keys]

    def lines() -> list[str]:
        rows = ["{"] if braces else []
        for key, slot, indent in zip(keys, slots, depth, strict=True):
            value = slot().replace('"', "'")
            pair = f'"{key}": "{value}",' if braces else f"{key}: {value}"
            rows.append("  " * indent + pair)
        return [*rows, "}"] if braces else rows

    return lines


def listing(source: random.Random, messages: Messages) -> Block:
    """Make a list of things, one a line."""
    slot, most = messages.value("any"), source.choice((2, 6, 20))
    lead = source.choice(("  ", "    ", " - ", "\t", "  * ", "+ ", "-> "))
    return lambda: [lead + slot() for _ in range(1 + int(most * source.random()))]
