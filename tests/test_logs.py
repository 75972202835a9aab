"""Made-up programs write logs that a model cannot know; the judge plants and ranks as it says."""

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples/train"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "examples/evaluate/log"))

from baselines import GzipDelta, NewBigrams, RareTokens, baselines, masked
from log import UNSEEN, Pool, Streams, log_task
from logs.measure import measured
from logs.program import Program
from logs.real.collect import sources
from logs.words import invented, listed
from model import opened
from planting import CLOCK, KINDS, Planted, Planter

ROOT = Path(__file__).resolve().parents[1]
SEEDS = range(60)

# Made-up programs


@pytest.fixture(scope="module")
def texts() -> dict[int, bytes]:
    return {seed: Program(seed).read(30_000) for seed in SEEDS}


def test_a_seed_is_a_log_however_it_is_read(texts: dict[int, bytes]) -> None:
    for seed in (0, 1, 2, 3):
        program, source = Program(seed), random.Random(0)
        pieces = [program.read(source.randrange(1, 500)) for _ in range(40)]
        assert texts[seed].startswith(b"".join(pieces))


def test_a_log_is_text_and_does_not_end(texts: dict[int, bytes]) -> None:
    for text in texts.values():
        assert len(text) == 30_000
        assert text[: text.rfind(b"\n")].decode("utf-8").isprintable() is False  # it has line ends
        assert b"%s" not in text
        assert b"<any>" not in text
        assert b"<own>" not in text
        assert max(map(len, text.splitlines())) < 6_000


def test_programs_have_little_in_common(texts: dict[int, bytes]) -> None:
    seen: set[bytes] = set()
    for text in texts.values():
        lines = {line for line in text.splitlines() if len(line) > 30}
        assert len(lines & seen) <= 0.02 * len(lines)
        seen |= lines


def test_programs_are_as_real_logs_are(texts: dict[int, bytes]) -> None:
    figures = np.array([measured(text) for text in texts.values()])
    packed, length = figures[:, 0], figures[:, 1]
    # Real logs need 0.2 to 1.8 bits per byte (of 200 kB; more of the 30 kB here), in lines of
    # 45 to 220 bytes in the median.
    assert 0.2 < np.percentile(packed, 5) < 0.9
    assert 1.2 < np.percentile(packed, 95) < 2.4
    assert np.percentile(length, 10) < 60
    assert np.percentile(length, 90) > 180
    fronts = {text.splitlines()[50][:6] for text in texts.values()}
    assert len(fronts) > 45


def test_words_are_words() -> None:
    assert len(listed()) > 4_000
    assert all(word.isalpha() and word.islower() for word in listed())
    made = {invented(random.Random(seed)) for seed in range(200)}
    assert len(made) > 150
    assert all(3 <= len(word) <= 11 for word in made)


# Streams of the task


def test_streams_go_on_and_are_renewed() -> None:
    streams = Streams(count=6, rows=3, segment=64, short=200, long=600)
    batches = log_task(streams).batches(0, True)
    last: dict[int, int] = {}
    begun = {stream: 0 for stream in range(6)}
    for _ in range(60):
        batch = next(batches)
        chosen = batch.streams.tolist()
        assert len(set(chosen)) == 3
        assert batch.inputs.shape == batch.targets.shape == (3, 64)
        assert bool((batch.inputs[:, 1:] == batch.targets[:, :-1]).all())
        for row, stream in enumerate(chosen):
            if batch.fresh[row]:
                begun[stream] += 1
            else:
                assert last[stream] == int(batch.inputs[row, 0])
            last[stream] = int(batch.targets[row, -1])
    assert min(begun.values()) >= 2


def test_batches_are_the_same_by_seed_and_fresh_in_the_first_phase() -> None:
    task = log_task(Streams(count=6, rows=2, segment=32))
    for carried in (False, True):
        one, two = task.batches(3, carried), task.batches(3, carried)
        for _ in range(5):
            first, second = next(one), next(two)
            assert bool((first.inputs == second.inputs).all())
            assert carried or bool(first.fresh.all())


def test_real_logs_are_mixed_in_from_the_beginning_of_lines() -> None:
    log = b"".join(b"line %05d\n" % number for number in range(1000))
    streams = Streams(count=8, segment=200, short=50, long=60, real=(log,), share=1.0)
    pool = Pool(streams, 0)
    for _ in range(3):
        for stream in range(8):
            text, fresh = pool.row(stream)
            assert fresh
            assert text.startswith(b"line ")
            assert text in log + log
    assert UNSEEN == 10**9


# Planting


def tiny() -> list[bytes]:
    """Return a log of 600 lines: four kinds of messages in a fixed round, an id in one."""
    source, lines = random.Random(1), []
    for number in range(150):
        second = f"Nov 30 06:{number // 60 + 10}:{number % 60:02d} host app[71]:"
        code = source.choices((200, 304), (9, 1))[0]
        lines += [
            f"{second} request {source.getrandbits(64):016x} begins\n",
            f"{second} GET /page/{source.randrange(9)} {code} took {source.randrange(5, 90)} ms\n",
            f"{second} cache of shard {source.randrange(4)} has {source.randrange(9, 99)} keys\n",
            f"{second} request ends after {source.randrange(5, 90)} ms\n",
        ]
    return [line.encode() for line in lines]


OTHER = [b"*** Boot sector %c unreadable, halting zone\n" % (65 + n) for n in range(20)]


@pytest.fixture(scope="module", params=range(6))
def planted(request: pytest.FixtureRequest) -> tuple[list[bytes], dict[str, Planted]]:
    log, found = Planter(tiny(), OTHER).planted(request.param)
    return log, {one.kind: one for one in found}


def test_the_log_around_planted_lines_is_as_it_was(
    planted: tuple[list[bytes], dict[str, Planted]],
) -> None:
    log, found = planted
    assert [*found] == [*KINDS]
    places = {one.place for one in found.values()}
    assert [line for place, line in enumerate(log) if place not in places] == tiny()
    assert min(places) > len(tiny()) // 2
    assert all(log[one.place] == one.line and one.line.endswith(b"\n") for one in found.values())
    gaps = np.diff(sorted(places))
    assert gaps.min() > 3


def test_planted_lines_are_what_their_kinds_say(
    planted: tuple[list[bytes], dict[str, Planted]],
) -> None:
    log, found = planted
    known = set(tiny())
    kinds = {b" ".join(masked(line)) for line in tiny()}
    line = {kind: one.line for kind, one in found.items()}
    assert line["foreign"] in OTHER
    assert b" error: " in line["unseen-error"]
    assert line["unseen-error"].startswith(b"Nov 30")
    assert max(map(len, re.findall(rb"\d+", line["out-of-range"]))) >= 7
    like = {tuple(sorted(masked(line))) for line in known}
    assert tuple(sorted(masked(line["swapped"]))) in like
    assert b" ".join(masked(line["swapped"])) not in kinds
    assert any(one.startswith(line["truncated"].rstrip(b"\n")) for one in known)
    lengths = {len(one) for one in known}
    assert len(line["garbled"]) in lengths
    assert b" ".join(masked(line["garbled"])) not in kinds
    assert line["wrong-order"] in known
    before = b" ".join(masked(log[found["wrong-order"].place - 1]))
    pairs = {
        (b" ".join(masked(a)), b" ".join(masked(b)))
        for a, b in zip(tiny(), tiny()[1:], strict=False)
    }
    assert (before, b" ".join(masked(line["wrong-order"]))) not in pairs
    clock = CLOCK.search(line["time-jump"])
    assert clock is not None
    assert clock[1] != b"06"
    assert any(status in line["rare-status"].split() for status in (b"503", b"507"))
    ids = [part for part in line["duplicate-id"].split() if len(part) == 16]
    assert sum(ids[0] in one for one in known) == 1
    assert b" ".join(masked(line["duplicate-id"])) in kinds


def test_planting_is_the_same_by_seed() -> None:
    planter = Planter(tiny(), OTHER)
    assert planter.planted(4) == Planter(tiny(), OTHER).planted(4)
    assert planter.planted(4) != planter.planted(5)


def test_a_log_without_times_or_ids_gets_stand_ins() -> None:
    source = random.Random(0)
    verbs, things = ("read", "wrote"), ("disk", "pipe")
    words = [f"{verb} {a} of {thing}\n" for verb in verbs for a in "abc" for thing in things]
    lines = [source.choice(words).encode() for _ in range(400)]
    kinds = [one.kind for one in Planter(lines, OTHER).planted(0)[1]]
    assert kinds[7:] == [f"{kind} (stand-in)" for kind in KINDS[7:]]
    with pytest.raises(ValueError, match="too short"):
        Planter(lines[:100], OTHER).planted(0)


# Scorers


def ranks(name: str, log: list[bytes], found: list[Planted]) -> dict[str, int]:
    scorer = baselines(log)[name]
    scores = np.array([scorer(line) for line in log])[len(log) // 2 :]
    places = {one.kind: one.place - len(log) // 2 for one in found}
    return {kind: int((scores >= scores[place]).sum()) for kind, place in places.items()}


def test_baselines_find_the_coarse_kinds_in_a_plain_log() -> None:
    log, found = Planter(tiny(), OTHER).planted(0)
    for name in ("gzip delta, 16 KiB", "new bigrams", "rare tokens, online", "rare tokens, batch"):
        rank = ranks(name, log, found)
        assert rank["foreign"] <= 4, name
        assert rank["unseen-error"] <= 4, name
        assert rank["duplicate-id"] > 20, name


def test_baselines_know_only_what_came_before() -> None:
    makers: tuple[Callable[[], GzipDelta | RareTokens | NewBigrams], ...] = (
        GzipDelta,
        RareTokens,
        NewBigrams,
    )
    for make in makers:
        short, long = make(), make()
        first = [short(line) for line in tiny()[:50]]
        assert [long(line) for line in tiny()][:50] == first


def test_a_reader_gives_the_same_bits_in_pieces_and_in_a_fork() -> None:
    text = Program(5).read(1_500)
    whole = opened("text").read(text)
    assert whole[0] == pytest.approx(8.0)
    assert len(whole) == len(text)
    reader = opened("text")
    first = reader.read(text[:640])
    fork = reader.fork()
    rest = reader.read(text[640:])
    assert np.abs(np.concatenate([first, rest]) - whole).max() < 1e-3
    assert np.array_equal(fork.read(text[640:]), rest)


# Commands


def test_the_split_of_real_logs_is_fixed() -> None:
    found = {source.name: source.held_out for source in sources()}
    assert len(found) > 40
    assert sum(found.values()) >= 15
    assert (found["pytest"], found["nginx"], found["squid"]) == (True, False, True)


@pytest.mark.parametrize(
    "command", ["train/log.py", "train/logs", "train/logs/real/collect.py", "evaluate/log"]
)
def test_help_runs_nothing(command: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / command), "--help"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.startswith("usage: ")) == (0, True), done.stderr


def test_the_judge_prints_and_keeps_its_figures(tmp_path: Path) -> None:
    (tmp_path / "one.log").write_bytes(b"".join(tiny()))
    (tmp_path / "two.log").write_bytes(Program(3).read(60_000).rpartition(b"\n")[0] + b"\n")
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "examples/evaluate/log"), str(tmp_path)),
            *("--plantings", "1", "--json", str(tmp_path / "out.json")),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "gzip -9" in done.stdout
    assert "passes on" in done.stdout
    assert (tmp_path / "out.json").stat().st_size > 1000
