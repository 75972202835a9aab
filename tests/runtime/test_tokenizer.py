"""Laws of a bundle's tokenizer: text goes in and comes out whole, however it is cut."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.raising import refused
from tests.runtime.conftest import text_files, text_manifest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dst.cli.inputs.source import token_blocks
from dst.runtime import Session, TextTokenizer, generate, write_bundle
from dst.runtime.bundle.manifest import Tokens
from dst.runtime.bundle.validation import TOKENIZER_FILE
from dst.runtime.errors import BundleError, StepError
from dst.runtime.install import install_line

TEXT = "the rain, déjà vu, 日本語 and 😀😀 in Spain\r\nend"


def trained(vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 5, trainer)
    return tokenizer


def written(folder: Path, *, with_file: bool = True) -> Path:
    """Write the small text model with a tokenizer of 256 ids."""
    files = text_files()
    if with_file:
        files[TOKENIZER_FILE] = trained(256).to_str().encode()
    manifest = text_manifest()
    chunk = msgspec.structs.replace(
        manifest.contract.chunk, content=Tokens(vocabulary=256, tokenizer="tokenizers")
    )
    contract = msgspec.structs.replace(manifest.contract, chunk=chunk)
    write_bundle(folder, msgspec.structs.replace(manifest, contract=contract), files)
    return folder


@pytest.mark.parametrize("vocabulary", [256, 290])
def test_text_comes_back_whole_token_by_token(vocabulary: int) -> None:
    tokenizer = TextTokenizer.read(trained(vocabulary).to_str().encode())
    assert tokenizer.vocabulary == vocabulary
    ids = tokenizer.encode(TEXT)
    assert len(ids) < len(TEXT.encode()) or vocabulary == 256
    decoder = tokenizer.decoder()
    pieces = [decoder.feed(token) for token in ids.tolist()]
    assert "".join(pieces) == TEXT == tokenizer.decode(ids)
    assert decoder.end() == ""
    assert "" in pieces  # a character of several tokens waits until it is complete
    assert all("\ufffd" not in piece for piece in pieces)


def test_half_a_character_is_told_at_the_end() -> None:
    tokenizer = TextTokenizer.read(trained(256).to_str().encode())
    decoder = tokenizer.decoder()
    whole = [decoder.feed(token) for token in tokenizer.encode("a😀").tolist()[:-1]]
    assert "".join(whole) == "a"
    assert decoder.end() == "\ufffd"
    assert decoder.end() == ""


def test_a_prompt_is_read_by_the_tokenizer(tmp_path: Path) -> None:
    session = Session.open(written(tmp_path / "b"))
    tokenizer = TextTokenizer.of(session.bundle)
    assert TextTokenizer.of(session.bundle) is tokenizer  # read once
    first = list(generate(session.stream(), "déjà", 8, seed=1))
    assert first == list(generate(session.stream(), tokenizer.encode("déjà"), 8, seed=1))


def test_a_bundle_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    with refused(BundleError, "contract", match=r"tokenizer\.json is not listed"):
        written(tmp_path / "b", with_file=False)


def test_a_missing_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: Session
) -> None:
    session = Session.open(written(tmp_path / "b"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(StepError, match=re.escape(install_line("tokenizers"))) as caught:
        generate(session.stream(), "abc", 3)
    assert caught.value.code == "tokenizers-not-installed"
    assert len(list(generate(session.stream(), np.array([1, 2]), 3, seed=1))) == 3
    with pytest.raises(StepError, match="has no tokenizer") as caught:
        TextTokenizer.of(text.bundle)
    assert caught.value.code == "no-tokenizer"


def test_what_is_no_tokenizer_is_refused() -> None:
    for content in (b"{}", b"\xff", b"[1"):
        with refused(StepError, "tokenizer-unreadable", match="cannot read it") as caught:
            TextTokenizer.read(content)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lines", [1, 40, 900])
def test_how_a_file_is_cut_does_not_change_its_ids(tmp_path: Path, lines: int) -> None:
    tokenizer = TextTokenizer.read(trained(290).to_str().encode())
    path = tmp_path / "a.txt"
    path.write_bytes((TEXT + "\n").encode() * lines + "日本".encode())
    found = list(token_blocks(str(path), tokenizer, "int64", lambda: False))
    assert all(len(block) for block in found)
    by_line = path.read_bytes().decode().split("\n")
    expected = [tokenizer.encode(line + "\n") for line in by_line[:-1]]
    expected.append(tokenizer.encode(by_line[-1]))
    assert np.array_equal(np.concatenate(found), np.concatenate(expected))


def test_a_line_without_end_is_cut_between_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dst.cli.inputs.source.LINE_BYTES", 1000)
    tokenizer = TextTokenizer.read(trained(256).to_str().encode())
    path = tmp_path / "a.txt"
    text = "😀" * 3000
    path.write_text(text)
    found = np.concatenate(list(token_blocks(str(path), tokenizer, "int64", lambda: False)))
    assert tokenizer.decode(found) == text
