"""Laws of generation: a seed is a text, and a save between two tokens changes nothing."""

from pathlib import Path

import numpy as np
import pytest
from tests.raising import refused

from dst.runtime import Sampler, Session, Stream, generate
from dst.runtime.errors import StepError
from dst.runtime.state.sampler import Choice


def test_a_seed_is_a_text(text: Session) -> None:
    first = list(generate(text.stream(), "abcdefghij", 30, seed=5))
    assert first == list(generate(text.stream(), b"abcdefghij", 30, seed=5))
    assert first != list(generate(text.stream(), "abcdefghij", 30, seed=6))
    assert len(first) == 30


def test_a_seed_of_numpy_is_saved_as_a_number(text: Session, tmp_path: Path) -> None:
    for seed in (np.uint64(2**64 - 1), True):
        stream = text.stream()
        list(generate(stream, "abc", 2, seed=seed))  # type: ignore[arg-type]
        stream.save(tmp_path / "a.state")
        assert Stream.load(text, tmp_path / "a.state").sampler == Sampler(int(seed), 2)


@pytest.mark.parametrize("at", [1, 7, 8, 16])
def test_a_save_between_tokens_changes_nothing(text: Session, tmp_path: Path, at: int) -> None:
    whole = list(generate(text.stream(), "abcdef", 20, seed=5, temperature=4.0))
    stream = text.stream()
    tokens = generate(stream, "abcdef", 20, seed=5, temperature=4.0)
    first = [next(tokens) for _ in range(at)]
    stream.save(tmp_path / "a.state")
    loaded = Stream.load(text, tmp_path / "a.state")
    assert (loaded.pending, loaded.items_consumed) == (1, 6 + at - 1)
    rest = list(generate(loaded, "", 20 - at, temperature=4.0))
    assert first + rest == whole


def test_the_tokens_are_those_of_the_logits(text: Session) -> None:
    stream, by_hand = text.stream(), text.stream()
    prompt = np.frombuffer(b"abcdefghijk", np.uint8).astype(np.int64)
    tokens = list(generate(stream, prompt, 4, temperature=0))
    by_hand.advance(prompt)
    logits = by_hand.flush()["logits"][0, -1]
    for token in tokens:
        assert token == int(np.argmax(logits))
        logits = by_hand.step(np.array([[token]]))["logits"][0, -1]


def test_generation_stops_after_a_stop_token(text: Session) -> None:
    free = list(generate(text.stream(), "abc", 20, seed=5))
    stop = free[6]
    cut = list(generate(text.stream(), "abc", 20, seed=5, stop=[stop]))
    assert cut == free[: free.index(stop) + 1]


def test_what_waits_can_be_continued(text: Session) -> None:
    stream, other = text.stream(), text.stream()
    stream.advance(b"abcdefghijk")
    assert list(generate(stream, "", 5, seed=1)) == list(generate(other, "abcdefghijk", 5, seed=1))


def test_what_cannot_be_generated(text: Session, sensor: Session) -> None:
    stream = text.stream()
    with refused(StepError, "generate", match="nothing to continue"):
        generate(stream, "", 5)
    with refused(StepError, "generate", match="features"):
        generate(sensor.stream(), np.zeros((1, 2), np.float32), 5)
    with refused(StepError, "generate", match="seed is -1"):
        generate(stream, "a", 5, seed=-1)
    with refused(StepError, "generate", match=r"seed is 1\.5"):
        generate(stream, "a", 5, seed=1.5)  # type: ignore[arg-type]
    with refused(StepError, "generate", match="half a character at place 1"):
        generate(stream, "a\ud800", 5)
    with refused(StepError, "chunk-shape"):
        next(generate(stream, np.array(5), 5))
    with refused(StepError, "generate", match="items is -1"):
        generate(stream, "a", -1)
    for temperature in (-1.0, float("nan"), float("inf")):
        with refused(StepError, "generate", match="temperature"):
            generate(stream, "a", 5, temperature=temperature)
    for top_p in (0.0, 1.1, float("nan")):
        with refused(StepError, "generate", match="top_p"):
            generate(stream, "a", 5, top_p=top_p)
    with refused(StepError, "generate", match="top_k"):
        generate(stream, "a", 5, top_k=-1)
    with refused(StepError, "token-out-of-range"):
        next(generate(stream, np.array([999]), 5))
    with refused(StepError, "chunk-type"):
        next(generate(stream, np.array([1.5]), 5))
    assert (stream.pending, stream.items_consumed, stream.sampler) == (0, 0, None)


@pytest.mark.filterwarnings("error")
def test_the_least_temperature_takes_the_likeliest() -> None:
    logits = np.array([0.0, 3.0, -1.0], np.float32)
    assert Choice(1e-320, 0, 1.0).pick(logits, Sampler.seeded(0))[0] == 1


def frequencies(choice: Choice, logits: list[float], count: int = 4000) -> list[float]:
    sampler, seen = Sampler(7), np.zeros(len(logits))
    for _ in range(count):
        token, sampler = choice.pick(np.array(logits), sampler)
        seen[token] += 1
    assert sampler == Sampler(7, count)
    return list(seen / count)


def test_samples_follow_the_softmax() -> None:
    logits = [0.0, 1.0, 2.0, -50.0]
    for temperature in (1.0, 2.0):
        shares = np.exp(np.array(logits) / temperature)
        shares /= shares.sum()
        found = frequencies(Choice(temperature, 0, 1.0), logits)
        assert np.abs(np.array(found) - shares).max() < 4 * 0.5 / np.sqrt(4000)


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    logits = [0.0, 3.0, 2.9, 1.0]
    assert frequencies(Choice(1.0, 1, 1.0), logits) == [0, 1, 0, 0]
    two = frequencies(Choice(1.0, 2, 1.0), logits)
    assert two[0] == two[3] == 0
    assert min(two[1], two[2]) > 0.4
    assert frequencies(Choice(1.0, 0, 0.4), logits) == [0, 1, 0, 0]
    half = frequencies(Choice(1.0, 0, 0.6), logits)
    assert half[0] == half[3] == 0
    assert half[2] > 0


def test_draws_are_counted_numbers_below_one() -> None:
    sampler = Sampler(3)
    numbers = []
    for _ in range(1000):
        number, sampler = sampler.draw()
        numbers.append(number)
    assert sampler.draws == 1000
    assert Sampler(3, 500).draw()[0] == numbers[500]
    assert 0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
    assert len(set(numbers)) == 1000
