"""The scripts of the conformance suite, without the results, which `make.py` records."""

from typing import Any

import numpy as np
from tests.conformance.calls import Script, call, eighths, ids, new, rough
from tests.steps import Array


def tokens() -> Script:
    arrays = {"first": ids(6, 1), "second": ids(5, 2), "one": ids(1, 3)[None], "two": ids(2, 4)}
    arrays |= {"none": ids(0, 5), "long": ids(23, 6), "chunk": ids(4, 7)[None]}
    arrays |= {"three": ids(3, 8)[None], "bad": np.array([3, 16, 2]), "below": np.array([[-1]])}
    arrays |= {"narrow": ids(3, 8).astype(np.int32), "floats": eighths(3, seed=1)}
    calls = [
        new(),
        call("look"),
        rough("advance", items="first"),
        call("look"),
        call("step", chunk="chunk", error="items-pending"),
        call("advance", items="bad", error="token-out-of-range"),
        call("advance", items="narrow", error="chunk-type"),
        call("advance", items="floats", error="chunk-type"),
        call("look"),
        rough("flush"),
        call("look"),
        rough("step", chunk="one"),
        rough("step", chunk="chunk", last=True),
        call("step", chunk="three", error="chunk-shape"),
        call("step", chunk="below", error="token-out-of-range"),
        call("look"),
        rough("advance", items="none"),
        rough("flush"),
        rough("advance", items="long", last=True),
        call("snapshot", **{"as": "s"}),
        call("fork", **{"as": "b"}),
        rough("advance", items="second"),
        rough("flush"),
        call("look"),
        rough("advance", items="two", stream="b"),
        call("look", "b"),
        call("restore", **{"from": "s"}),
        call("look"),
        call("save", "b", **{"as": "b.state"}),
        {"call": "load", "as": "c", "from": "b.state"},
        call("look", "c"),
        call("reset"),
        call("look"),
        {"call": "load", "as": "d", "from": "never.state", "error": "state-not-found"},
    ]
    return {"bundle": "tokens", "open": {"chunk_sizes": [1, 4]}, "calls": calls}, arrays


def grid() -> Script:
    """The same items in other pieces: the same chunks, so the same bits."""
    arrays = {"whole": ids(11, 9), "p1": ids(11, 9)[:1], "p2": ids(11, 9)[1:9]}
    arrays |= {"p3": ids(11, 9)[9:]}
    calls = [
        *(new(), rough("advance", items="whole"), rough("flush"), call("look")),
        new("b"),
        *(rough("advance", stream="b", items=f"p{n}") for n in (1, 2, 3)),
        rough("flush", stream="b"),
        call("look", "b"),
        call("flush", "b"),
    ]
    return {"bundle": "tokens", "open": {}, "calls": calls}, arrays


def generating() -> Script:
    arrays = {"prompt": ids(7, 10), "none": ids(0, 5), "more": ids(2, 12)}
    sample: dict[str, Any] = {"temperature": 0.9, "top_k": 9, "top_p": 0.95}
    calls = [
        new(),
        call("generate", prompt="none", items=2, error="generate"),
        call("generate", prompt="prompt", items=6, temperature=0.0, seed="5"),
        call("look"),
        call("generate", prompt="none", items=8, seed="18446744073709551615", **sample),
        call("look"),
        call("save", **{"as": "middle"}),
        call("generate", prompt="none", items=8, **sample),
        {"call": "load", "as": "b", "from": "middle"},
        call("generate", "b", prompt="none", items=8, **sample),
        call("generate", "b", prompt="more", items=40, seed="7", stop=[3]),
        call("look", "b"),
        call("generate", "b", prompt="more", items=1, temperature=-1.0, error="generate"),
        call("generate", "b", prompt="more", items=1, top_p=0.0, error="generate"),
    ]
    return {"bundle": "tokens", "calls": calls}, arrays


def level() -> Script:
    arrays = {"first": eighths(9, 2, seed=1), "one": eighths(1, 1, 2, seed=2)}
    arrays |= {"three": eighths(1, 3, 2, seed=3), "flat": eighths(4, seed=4)}
    arrays["nan"] = np.array([[0, np.nan]], np.float32)
    arrays["inf"] = np.full((1, 1, 2), np.inf, np.float32)
    arrays["wide"] = eighths(2, 2, seed=5, dtype="float64")
    calls = [
        new(),
        call("look"),
        call("advance", items="first"),
        call("look"),
        call("advance", items="nan", error="input-not-finite"),
        call("advance", items="flat", error="chunk-shape"),
        call("advance", items="wide", error="chunk-type"),
        call("flush"),
        call("step", chunk="three"),
        call("step", chunk="one", last=True),
        call("step", chunk="inf", error="input-not-finite"),
        call("look"),
        call("bytes", **{"as": "b"}),
        call("step", "b", chunk="one"),
        call("look", "b"),
        call("generate", "b", prompt="first", items=1, error="generate"),
    ]
    return {"bundle": "level", "calls": calls}, arrays


def sized() -> Script:
    """A session that does not run the T that a tail needs."""
    arrays = {"five": eighths(5, 2, seed=1), "three": eighths(1, 3, 2, seed=3)}
    calls = [
        new(),
        call("step", chunk="three", error="chunk-shape"),
        call("advance", items="five"),
        call("flush", error="chunk-size"),
        call("look"),
    ]
    return {"bundle": "level", "open": {"chunk_sizes": [4]}, "calls": calls}, arrays


def windows(bundle: str, item: tuple[int, ...], chunk: tuple[int, ...]) -> Script:
    """Lookback, look-ahead and the tail rule `pad`."""
    arrays = {f"n{n}": eighths(n, *item, seed=n) for n in (1, 2, 7, 10)}
    arrays["chunk"] = eighths(*chunk, seed=20)
    arrays["short"] = eighths(*(1 if size == max(chunk) else size for size in chunk), seed=21)
    calls = [
        new(),
        call("look"),
        call("advance", items="n1"),
        call("flush"),
        call("look"),
        call("advance", items="n7"),
        call("flush"),
        call("flush"),
        call("look"),
        call("save", **{"as": "f"}),
        {"call": "load", "as": "b", "from": "f"},
        call("advance", "b", items="n10"),
        call("look", "b"),
        call("flush", "b"),
        call("step", "b", chunk="chunk", error="items-pending"),
        call("reset", "b"),
        call("step", "b", chunk="chunk"),
        call("step", "b", chunk="chunk", last=True),
        call("step", "b", chunk="short", error="chunk-shape"),
        call("look", "b"),
        call("advance", items="n2", last=True),
        call("advance", items="n10", last=True),
        call("look"),
    ]
    return {"bundle": bundle, "calls": calls}, arrays


def refuse() -> Script:
    arrays: dict[str, Array] = {f"n{n}": ids(n, n, 256).astype(np.uint8) for n in (3, 4, 6)}
    calls = [
        new(),
        call("advance", items="n6"),
        call("look"),
        call("flush", error="partial-chunk"),
        call("advance", items="n6"),
        call("flush"),
        call("advance", items="n3"),
        call("look"),
        call("bytes", **{"as": "b"}),
        call("advance", "b", items="n4"),
        call("look", "b"),
    ]
    return {"bundle": "refuse", "calls": calls}, arrays


def given() -> Script:
    arrays: dict[str, Array] = {"speaker": np.array([[1.5, -2]], np.float32)}
    arrays |= {"flat": np.array([0.25, 7], np.float32), "mode": np.array([3], np.int64)}
    arrays |= {"items": eighths(5, seed=1, dtype="float64"), "mode32": np.array([3], np.int32)}
    arrays |= {"nan": np.array([[np.nan, 0]], np.float32), "three": np.zeros((1, 3), np.float32)}
    both = {"speaker": "speaker", "mode": "mode"}
    calls = [
        new(error="stream-input-missing"),
        new(inputs={"speaker": "speaker"}, error="stream-input-missing"),
        new(inputs={**both, "who": "mode"}, error="stream-input-unknown"),
        new(inputs={**both, "mode": "mode32"}, error="stream-input-type"),
        new(inputs={**both, "speaker": "three"}, error="stream-input-shape"),
        new(inputs={**both, "speaker": "nan"}, error="stream-input-not-finite"),
        new(inputs=both),
        new("b", inputs={"speaker": "flat", "mode": "mode"}),
        call("advance", items="items"),
        call("advance", "b", items="items"),
        call("flush"),
        call("save", "b", **{"as": "f"}),
        {"call": "load", "as": "c", "from": "f"},
        call("flush", "b"),
        call("flush", "c"),
        call("look", "c"),
        call("reset", "c"),
        call("advance", "c", items="items"),
        call("fork", "a", **{"as": "d"}),
        call("advance", "d", items="items"),
        call("look", "d"),
    ]
    return {"bundle": "given", "calls": calls}, arrays


def half() -> Script:
    arrays = {"items": eighths(5, 2, seed=1, dtype="float16")}
    arrays["large"] = np.full((1, 1, 2), 60000, np.float16)
    arrays["far"] = np.array([[[0.5, 65504]]], np.float16)
    calls = [
        new(),
        call("look"),
        call("advance", items="items"),
        call("flush"),
        call("look"),
        call("step", chunk="large", error="input-not-finite"),
        call("step", chunk="far"),  # its distance from the mean exceeds float16
        call("look"),
    ]
    return {"bundle": "half", "calls": calls}, arrays


def growth(every: int) -> Script:
    """A state that becomes infinite at the fourth step, and outputs that do so at once."""
    arrays = {"x": eighths(1, 1, 1, seed=1), "many": eighths(6, 1, seed=2)}
    arrays["large"] = np.full((1, 1, 1), 1e30, np.float32)
    arrays["two"] = np.array([[1.0], [1e30]], np.float32)
    calls = [
        new(),
        call("step", chunk="large", error="output-not-finite"),
        call("advance", items="two", error="output-not-finite"),
        call("look"),
        *(call("step", chunk="x") for _ in range(3)),
        call("snapshot", **{"as": "s"}),
        *(
            call("step", chunk="x", **({"error": "state-not-finite"} if n == at else {}))
            for n, at in ((4, every * (4 // every)), (5, -1), (6, 6 if every == 3 else -1))
            if every == 3 or n == 4
        ),
        call("look"),
        call("reset"),
        call("advance", items="many", error="state-not-finite"),
        call("look"),
        call("restore", **{"from": "s"}),
        call("look"),
    ]
    options = {"check_state_every": every}
    return {"bundle": "growth", "open": options, "calls": calls}, arrays


def late() -> Script:
    """A bad state that is found when the stream is saved."""
    arrays = {"many": eighths(6, 1, seed=2)}
    calls = [
        new(),
        call("advance", items="many"),
        call("save", **{"as": "f"}, error="state-not-finite"),
        call("look"),
        call("save", **{"as": "f"}),
    ]
    return {"bundle": "growth", "calls": calls}, arrays


def precision() -> Script:
    arrays = {"items": ids(6, 1), "chunk": ids(4, 7)[None]}
    state = {"as": "b", "file": "states/{language}/tokens.state"}
    calls = [
        new(),
        rough("advance", items="items"),
        rough("flush"),
        call("look"),
        {"call": "load", **state, "error": "other-precision"},
        {"call": "load", **state, "allow_precision": True},
        rough("flush", stream="b"),
        rough("step", stream="b", chunk="chunk", last=True),
        call("look", "b"),
    ]
    return {"bundle": "int8", "each_language": True, "calls": calls}, arrays


def marks() -> Script:
    """Go on from a state whose marks an older version has spelled in other ways."""
    calls = [
        new(),
        call("advance", items="items"),
        call("bytes", **{"as": "b", "same_as": "saved/marks.state"}),
    ]
    for old in ("numpy", "javascript"):
        calls += [
            {"call": "load", "as": old, "file": f"saved/marks-{old}.state"},
            call("bytes", old, **{"as": "b", "same_as": "saved/marks.state"}),
        ]
    other = {"as": "b", "file": "saved/marks-other.state"}
    calls.append({"call": "load", **other, "error": "other-constant"})
    return {"bundle": "marks", "calls": calls}, {"items": eighths(3, seed=1)}


def counters() -> Script:
    """The largest counters load and come back; past them nothing is written."""
    path = "saved/counters.state"
    calls = [
        {"call": "load", "as": "a", "file": path},
        call("bytes", **{"as": "b", "same_as": path}),
        call("generate", prompt="none", items=2),
        call("save", **{"as": "f"}, error="state-numbers"),
        call("bytes", **{"as": "b"}, error="state-numbers"),
        call("reset"),
        call("save", **{"as": "f"}),
    ]
    return {"bundle": "tokens", "calls": calls}, {"none": ids(0, 5)}


def loading(bundle: str, more: Array, exact: bool = True) -> Script:
    """Load what each language has saved, and go on with it."""
    path = f"states/{{language}}/{bundle}.state"
    calls = [
        {"call": "load", "as": "a", "file": path},
        call("look"),
        call("bytes", **{"as": "b", "same_as": path}),
        call("advance", "b", items="more", exact=exact),
        call("look", "b"),
    ]
    return {"bundle": bundle, "each_language": True, "calls": calls}, {"more": more}


def saving() -> dict[str, Script]:
    """The scripts whose stream `a` every language saves as `states/<language>/<name>.state`."""
    arrays: dict[str, Array] = {"speaker": np.array([[1.5, -2]], np.float32)}
    arrays["mode"] = np.array([3], np.int64)
    arrays["items"] = eighths(5, seed=1, dtype="float64")
    inputs = {"speaker": "speaker", "mode": "mode"}
    look = call("advance", items="items")
    made: dict[str, Script] = {
        "given": ({"bundle": "given", "calls": [new(inputs=inputs), look]}, arrays)
    }
    items: dict[str, Array] = {
        "level": eighths(9, 2, seed=1),
        "lookback": eighths(9, 3, seed=2),
        "lookahead": eighths(9, 2, seed=3),
        "refuse": ids(7, 3, 256).astype(np.uint8),
        "half": eighths(3, 2, seed=4, dtype="float16"),
    }
    for name, value in items.items():
        made[name] = ({"bundle": name, "calls": [new(), look]}, {"items": value})
    start = call("generate", prompt="items", items=5, seed="12345678901234567890")
    made["tokens"] = ({"bundle": "tokens", "calls": [new(), start]}, {"items": ids(6, 1)})
    return made


def scripts() -> dict[str, Script]:
    """Return every script by its group and name."""
    made = {
        "tokens": tokens(),
        "grid": grid(),
        "generate": generating(),
        "level": level(),
        "level-sizes": sized(),
        "lookback": windows("lookback", (3,), (1, 3, 4)),
        "lookahead": windows("lookahead", (2,), (5, 1, 2)),
        "refuse": refuse(),
        "given": given(),
        "half": half(),
        "marks": marks(),
        "counters": counters(),
        "growth-at-once": growth(1),
        "growth-late": growth(3),
        "growth-saved": late(),
        "precision": precision(),
    }
    grouped = {f"{_group(name)}/{name}": script for name, script in made.items()}
    for name, script in saving().items():
        grouped[f"load/{name}"] = loading(name, script[1]["items"], exact=name != "tokens")
        grouped[f"save/{name}"] = script
    return grouped


def _group(name: str) -> str:
    return "state" if name.startswith(("growth", "precision", "generate")) else "steps"
