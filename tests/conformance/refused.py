"""Make the malformed bundles and states of the suite, and say by which code each is refused."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.conformance.runner import Call
from tests.steps import Array

from dst.runtime import DstError, Session, Stream

NO_ERROR = "no error"


def edit(place: Path, edits: list[Call], files: Mapping[str, Array]) -> None:
    """Do to the files of a folder what a malformed case says."""
    for what in edits:
        file = place / what["file"]
        if what["edit"] == "put":
            file.write_bytes(files[what["from"]].tobytes())
        elif what["edit"] == "remove":
            file.unlink()
        elif what["edit"] == "append":
            file.write_bytes(
                (file.read_bytes() if file.exists() else b"") + bytes.fromhex(what["hex"])
            )
        elif what["edit"] == "truncate":
            file.write_bytes(file.read_bytes()[: what["size"]])
        elif what["edit"] == "flip":
            data = bytearray(file.read_bytes())
            data[what["at"]] ^= 1 << what["bit"]
            file.write_bytes(data)
        elif what["edit"] == "link":
            file.symlink_to(what["to"])
        elif what["edit"] == "folder":
            file.mkdir()
        elif what["edit"] == "pipe":
            os.mkfifo(file)
        else:
            raise ValueError(f"no such edit: {what['edit']}")


def possible(case: Call, browser: bool = False) -> bool:
    """Say whether this system, or a browser's memory, can make what a case needs."""
    edits = {edit["edit"] for edit in case["edits"]}
    if browser:
        return not edits & {"link", "pipe", "folder"}
    return os.name != "nt" or not edits & {"link", "pipe"}


def code_of_bundle(case: Call, files: Mapping[str, Array], work: Path, root: Path) -> str:
    """Return the code by which the malformed bundle of a case is refused."""
    bundle = work / "bundle"
    shutil.copytree(root / "bundles" / case["bundle"], bundle)
    edit(bundle, case["edits"], files)
    try:
        session = Session.open(bundle)
        if case.get("after") == "step":
            session.report()
    except DstError as error:
        return error.code
    return NO_ERROR


def code_of_state(case: Call, files: Mapping[str, Array], work: Path, root: Path) -> str:
    """Return the code by which the malformed saved state of a case is refused."""
    if "state" in case:
        shutil.copyfile(root / f"states/python/{case['state']}.state", work / "state")
    edit(work, case["edits"], files)
    session = Session.open(root / "bundles" / case["bundle"])
    try:
        Stream.load(session, work / "state")
    except DstError as error:
        return error.code
    return NO_ERROR
