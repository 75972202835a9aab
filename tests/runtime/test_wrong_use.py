"""What people give by mistake: each is refused with the cure in one line, and nothing is read."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from tests.raising import refused
from tests.runtime.conftest import text_contract, text_files, text_manifest

from dst.runtime import Session, SlotError, StateStore, StreamPool, generate, write_bundle
from dst.runtime.bundle.manifest import Tokens
from dst.runtime.errors import SessionError, StateError, StepError
from dst.runtime.state.record import pack


@pytest.fixture(scope="module")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The text model with a tokenizer that is not known here."""
    root = tmp_path_factory.mktemp("ids") / "b"
    contract = text_contract()
    chunk = replace(contract.chunk, content=Tokens(vocabulary=256))
    manifest = replace(text_manifest(), contract=replace(contract, chunk=chunk))
    write_bundle(root, manifest, text_files())
    return Session.open(root)


FLOATS = np.zeros((8, 2))


class Tensor:
    """Stands in for one of torch, which the runtime does not know."""

    def detach(self) -> "Tensor":
        return self


@pytest.mark.parametrize(
    ("model", "items", "words"),
    [
        ("text", "abc", r"is a str, .*; encode it first: text\.encode\(\)"),
        ("ids", "abc", "is a str, .* encode the text with its tokenizer first"),
        ("ids", b"abc", "are bytes, .*; encode them with its tokenizer first"),
        ("sensor", "abc", "is a str, expected a numpy array of float32$"),
        ("sensor", b"abc", "are bytes, this model reads float32 arrays; use np.frombuffer first"),
        ("text", [1, 2, 3], r"is a list, .*; use np\.asarray\(items, 'int64'\)"),
        ("sensor", [[1.0, 2.0]], r"is a list, .*; use np\.asarray\(items, 'float32'\)"),
        ("sensor", Tensor(), r"is a Tensor, .*; use \.detach\(\)\.cpu\(\)\.numpy\(\)"),
        ("sensor", FLOATS, r"has dtype float64, expected float32; use \.astype\('float32'\)"),
        ("sensor", FLOATS.astype(np.int64), r"has dtype int64, .*\.astype\('float32'\)"),
        ("text", np.zeros(3), r"has dtype float64, expected int64; use \.astype\('int64'\)"),
        ("sensor", None, r"is a NoneType, expected a numpy array of float32"),
    ],
)
def test_items_of_another_type(
    text: Session, ids: Session, sensor: Session, model: str, items: object, words: str
) -> None:
    stream = {"text": text, "ids": ids, "sensor": sensor}[model].stream()
    before = pack(stream.saved())
    with refused(StepError, "chunk-type", match=f"^items {words}"):
        stream.advance(items)  # type: ignore[arg-type]
    assert pack(stream.saved()) == before


def test_a_chunk_given_as_items_and_items_given_as_a_chunk(text: Session, sensor: Session) -> None:
    with refused(
        StepError, "chunk-shape", match=r"\[1, 8\], expected \[n\].*axis off by \.squeeze\(0\)"
    ):
        text.stream().advance(np.zeros((1, 8), np.int64))
    with refused(StepError, "chunk-shape", match=r"expected \[n, 2\].*step\(\) takes chunks"):
        sensor.stream().advance(np.zeros((1, 4, 2), np.float32))
    with refused(
        StepError, "chunk-shape", match=r"\[4, 2\], expected \[1, T, 2\]; advance\(\) takes"
    ):
        sensor.stream().step(np.zeros((4, 2), np.float32))
    with refused(StepError, "chunk-type", match=r"chunk is a str.*advance\(\) reads text as bytes"):
        text.stream().step("abc")  # type: ignore[arg-type]
    with refused(StepError, "chunk-type", match=r"chunk is a bytes.*advance\(\) reads bytes"):
        text.stream().step(b"abc")  # type: ignore[arg-type]


def test_a_prompt_of_text_for_tokens_that_are_not_bytes(ids: Session) -> None:
    with refused(StepError, "generate", match="encode it with its tokenizer first"):
        next(generate(ids.stream(), "abc", 1))


@pytest.mark.parametrize("path", [None, 3, b"text", ["text"]])
def test_what_is_no_path_of_a_bundle(path: object) -> None:
    words = r"expected a path or the name of a shipped bundle, such as Session\.open\('text'\)"
    with refused(SessionError, "argument", match=f"^path is a {type(path).__name__}, {words}$"):
        Session.open(path)  # type: ignore[arg-type]


def test_a_pool_wants_slots(text: Session) -> None:
    pool = StreamPool(text, 2)
    for wrong in (b"abc", [b"abc"], np.zeros(3, np.int64)):
        with refused(
            StepError, "chunk-type", match=r"expected a dict: pool\.advance\(\{slot: items"
        ):
            pool.advance(wrong)  # type: ignore[arg-type]
        with refused(StepError, "chunk-type", match=r"expected a dict: pool\.step\(\{slot: chunk"):
            pool.step(wrong)  # type: ignore[arg-type]
    with pytest.raises(SlotError, match=r"encode it first: text\.encode\(\)"):
        pool.advance({0: "abc"})  # type: ignore[dict-item]


def test_what_is_no_record(text: Session, tmp_path: Path) -> None:
    stream = text.stream()
    for wrong, cure in (
        ("a.state", r"Stream\.load\(session, path\)"),
        (b"bytes", r"Saved\.from_bytes\(data\)"),
        (stream, r"stream\.saved\(\)"),
        (3, r"stream\.saved\(\)"),
    ):
        with pytest.raises(StateError, match=f"expected a Saved record; .*{cure}"):
            text.stream(wrong)  # type: ignore[arg-type]
        with (
            StateStore(tmp_path / "memory.db") as store,
            pytest.raises(StateError, match=f"'ann': is a .*{cure}"),
        ):
            store.put("ann", wrong)  # type: ignore[arg-type]
        with pytest.raises(StateError, match=f"snapshot: is a .*expected a Saved record; .*{cure}"):
            stream.restore(wrong)  # type: ignore[arg-type]


def test_a_snapshot_and_a_saved_record_are_one_and_the_same(text: Session, tmp_path: Path) -> None:
    stream = text.stream()
    stream.advance(b"some bytes that fill chunks")
    kept = stream.snapshot()
    assert pack(kept) == pack(stream.saved())
    assert pack(text.stream(kept).saved()) == pack(kept)
    with StateStore(tmp_path / "memory.db") as store:
        store.put("ann", kept)
        assert pack(store.get("ann")) == pack(kept)
    saved = stream.saved()
    stream.advance(b"and more")
    stream.restore(saved)
    assert pack(stream.saved()) == pack(saved)
