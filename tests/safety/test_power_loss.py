"""Laws of a save under a loss of power: every prefix of its calls, on a disk that loses at will.

SIGKILL proves nothing here: what a killed process wrote is in the system's memory and gets to the
disk. So the calls are recorded and replayed on the model of `disk.py`.
"""

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
from tests.safety.conftest import sum_files, sum_manifest
from tests.safety.disk import Image, Recorder, crashes, kept
from tests.safety.writer import synthetic

from dst.runtime import files, open_bundle, write_bundle
from dst.runtime.errors import BundleError, StateError, StateNotFoundError
from dst.runtime.state.file import previous_of, read_record, write_record
from dst.runtime.state.record import pack

NAME = "a.state"
Parts = Iterable[files.Bytes]
Write = Callable[[Path, Parts, Path, bool], None]


def record(root: Path, numbers: range, links: bool = True) -> Recorder:
    """Save the states of these numbers to one path under `root`, recorded."""
    recorder = Recorder(root, links)
    with recorder.watching():
        for number in numbers:
            recorder.mark("begun", number)
            write_record(root / NAME, synthetic(number, 40))
            recorder.mark("acknowledged", number)
    return recorder


class Judge:
    """Reads what a crash left with the runtime's own reader, each different disk once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[bytes | None, bytes | None], tuple[int | str, int | str]] = {}

    def __call__(self, image: Image) -> tuple[int | str, int | str]:
        """Return the number of the state at the path and of the copy before; or what was said."""
        held = {name: image.contents[node] for name, node in image.names}
        pair = (held.get(NAME), held.get(f"{NAME}.previous"))
        if pair not in self._known:
            root = self._folder / str(len(self._known))
            root.mkdir()
            image.lay_out(root)
            path = root / NAME
            self._known[pair] = (self._number(path), self._number(previous_of(path)))
        return self._known[pair]

    @staticmethod
    def _number(path: Path) -> int | str:
        try:
            saved = read_record(path)
        except StateNotFoundError:
            return "none"
        except StateError as error:
            return str(error)
        assert pack(saved) == pack(synthetic(saved.items_consumed, 40))
        return saved.items_consumed


def violations(
    start: Image, recorder: Recorder, judge: Judge, before: int | str = "none"
) -> list[str]:
    """Return every crash after which the state is not the newest acknowledged or a newer one.

    Args:
        start: the disk at the beginning.
        recorder: what was asked of it.
        judge: reads a disk.
        before: the number of the state that stands there, if one does.
    """
    found = []
    for made, image in crashes(start, recorder.calls):
        marks = recorder.calls[:made]
        begun = [call.number for call in marks if call.kind == "begun"]
        done = [call.number for call in marks if call.kind == "acknowledged"]
        newest: int | str = done[-1] if done else before
        state, copy = judge(image)
        if state not in {newest, *begun[len(done) :]}:
            found.append(f"after {made} calls: state {state}, acknowledged {newest}, {image.names}")
        older = {newest, done[-2] if len(done) > 1 else "none"}
        if before == "none" and copy not in older:
            found.append(f"after {made} calls: copy {copy}, expected one of {older}")
        if isinstance(copy, str) and copy != "none":
            found.append(f"after {made} calls: copy: {copy}")
    return found


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_every_crash_leaves_the_newest_or_the_one_before(tmp_path: Path, links: bool) -> None:
    root = tmp_path / "saved"
    root.mkdir()
    start = Image.read(root)
    recorder = record(root, range(1, 4), links)
    assert kept(start, recorder.calls) == Image.read(root), "a call went by unrecorded"
    asked = {call.kind for call in recorder.calls}
    assert {"make", "remove", "write", "sync", "sync directory"} <= asked
    assert violations(start, recorder, Judge(tmp_path)) == []
    print(f"\n3 saves: {len(list(crashes(start, recorder.calls)))} disks after a crash")


def test_a_save_after_every_crash_is_as_safe_and_leaves_nothing_over(tmp_path: Path) -> None:
    root = tmp_path / "saved"
    root.mkdir()
    start = Image.read(root)
    first = record(root, range(1, 4))
    judge = Judge(tmp_path)
    left = {image for _, image in crashes(start, first.calls)}
    assert any(len(image.names) > len(image.contents) for image in left)  # hard links are among it
    disks = 0
    for number, image in enumerate(sorted(left, key=lambda image: image.names)):
        again = tmp_path / f"again-{number}"
        again.mkdir()
        image.lay_out(again)
        second = record(again, range(9, 10))
        assert kept(image, second.calls) == Image.read(again)
        assert violations(image, second, judge, judge(image)[0]) == []
        names = {path.name for path in again.iterdir()}
        assert names <= {NAME, f"{NAME}.previous"}
        assert read_record(again / NAME).items_consumed == 9
        disks += len(list(crashes(image, second.calls)))
    print(f"\na save on each of {len(left)} of them: {disks} disks after a second crash")


def _in_one_go(path: Path, parts: Parts, previous: Path, durable: bool) -> None:
    path.unlink(missing_ok=True)
    files.write_synced(path, parts)
    files.sync_directory(path.parent)


def _unsynced_file(path: Path, parts: Parts, previous: Path, durable: bool) -> None:
    fresh = path.with_name("fresh")
    with files.open(fresh, "xb") as file:  # type: ignore[attr-defined]
        file.writelines(parts)
    os.replace(fresh, path)
    files.sync_directory(path.parent)


def _unsynced_directory(path: Path, parts: Parts, previous: Path, durable: bool) -> None:
    fresh = path.with_name("fresh")
    files.write_synced(fresh, parts)
    os.replace(fresh, path)


def _copy_moved_away(path: Path, parts: Parts, previous: Path, durable: bool) -> None:
    fresh = path.with_name("fresh")
    files.write_synced(fresh, parts)
    if path.exists():
        os.replace(path, previous)
    os.replace(fresh, path)
    files.sync_directory(path.parent)


@pytest.mark.parametrize(
    "write", [_in_one_go, _unsynced_file, _unsynced_directory, _copy_moved_away]
)
def test_the_model_finds_what_is_wrong_with_other_ways_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    monkeypatch.setattr("dst.runtime.state.file.replace_keeping_previous", write)
    root = tmp_path / "saved"
    root.mkdir()
    start = Image.read(root)
    recorder = record(root, range(1, 4))
    assert kept(start, recorder.calls) == Image.read(root)
    assert violations(start, recorder, Judge(tmp_path)) != []


@pytest.mark.parametrize("stays", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_any_call_may_fail_and_the_message_is_true(
    tmp_path: Path, stays: bool, reason: int
) -> None:
    number, in_place = 0, 0
    while True:
        root = tmp_path / f"at-{number}"
        root.mkdir()
        record(root, range(1, 3))
        recorder = Recorder(root)
        recorder.fails, recorder.stays = number, stays
        recorder.error = OSError(reason, os.strerror(reason))
        with recorder.watching():
            try:
                write_record(root / NAME, synthetic(3, 40))
            except StateError as error:
                said = str(error)
            else:
                if recorder.asked > number and not stays:
                    continue_with = read_record(root / NAME).items_consumed
                    assert continue_with == 3  # it went another way: a copy where no link was made
                    number += 1
                    continue
                break
        assert os.strerror(reason) in said
        there = read_record(root / NAME).items_consumed
        if "is in place, but its directory cannot be synced" in said:
            assert there == 3
            in_place += 1
        else:
            assert "cannot be written" in said
            assert there == 2
        assert read_record(previous_of(root / NAME)).items_consumed in (1, 2)
        write_record(root / NAME, synthetic(4, 40))
        assert read_record(root / NAME).items_consumed == 4
        assert {path.name for path in root.iterdir()} == {NAME, f"{NAME}.previous"}
        number += 1
    assert number >= 7
    assert in_place == 1


def test_a_directory_that_cannot_be_synced_at_all_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refuse(handle: int) -> None:
        if os.path.samestat(os.fstat(handle), os.stat(tmp_path)):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    write_record(tmp_path / NAME, synthetic(1, 40))
    assert read_record(tmp_path / NAME).items_consumed == 1


def test_a_bundle_whose_directory_cannot_be_synced_is_said_to_be_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    write_bundle(tmp_path / "b", sum_manifest(), sum_files())

    def refuse(handle: int) -> None:
        if os.path.samestat(os.fstat(handle), os.stat(tmp_path)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(handle)

    newer = msgspec.structs.replace(sum_manifest(), description="newer")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(
            BundleError, match=r"is in place, but .* the one before is kept as"
        ) as said:
            write_bundle(tmp_path / "b", newer, sum_files(), overwrite=True)
    assert open_bundle(tmp_path / "b").manifest.description == "newer"
    kept_as = str(said.value).rpartition(" ")[2]
    assert open_bundle(tmp_path / kept_as).manifest.description == sum_manifest().description


def test_a_link_left_for_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("mine")
    for name in (f".{NAME}.tmp", f".{NAME}.previous.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "diary")
    for number in (1, 2):
        write_record(tmp_path / NAME, synthetic(number, 40))
    assert (tmp_path / "diary").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == [NAME, f"{NAME}.previous", "diary"]
