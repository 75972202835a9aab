"""Spell numbers of bytes and of things for people."""


def mib(count: float) -> str:
    """Write a number of bytes in a unit that reads well."""
    if count < 10_000:
        return f"{count:.0f} B"
    if count < 1 << 20:
        return f"{count / 1024:.1f} KiB"
    return f"{count / (1 << 20):.1f} MiB"


def counted(count: int, what: str) -> str:
    """Say how many there are: `1 round`, `2 rounds`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
