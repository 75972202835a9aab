"""FORMAT.md says what the code does: its example is a manifest, its tables name every field."""

import hashlib
import json
import re
from pathlib import Path

import msgspec

import dst
from dst.runtime.bundle import manifest as structs
from dst.runtime.bundle.encoding import canonical, decode

PAGE = (Path(dst.__file__).parent / "runtime" / "FORMAT.md").read_text("utf-8")
ROW = re.compile(r"\| `(?P<field>[\w.]+)` \| (?P<type>[^|]+) \|(?P<default>[^|]*)\|")
STRUCTS = {
    name: value
    for name, value in vars(structs).items()
    if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__struct_fields__
}
ALWAYS_WRITTEN = {"format", "format_version", "bundle_id", "state_hash", "files"}


def told() -> dict[str, str]:
    """What the tables say: `Struct.field` -> its default as it is printed there."""
    found: dict[str, str] = {}
    heading = ""
    for line in PAGE.partition("## 6.")[0].splitlines():
        if line.startswith("### "):
            heading = line.removeprefix("### ")
        row = ROW.match(line)
        if row is not None and heading:
            field = row["field"]
            found[field if "." in field else f"{heading}.{field}"] = row["default"].strip()
    return found


def default_of(field: msgspec.structs.FieldInfo) -> str:
    """How the tables print the default of a field; nothing where it has none."""
    if field.required or field.name in ALWAYS_WRITTEN:
        return ""
    if field.default_factory is not msgspec.NODEFAULT:
        return "`{}`"
    value = json.loads(msgspec.json.encode(field.default))
    if isinstance(value, dict):
        value = {name: held for name, held in value.items() if held is not None}
    return f"`{json.dumps(value)}`"


def test_the_tables_name_every_field_with_its_default() -> None:
    right = {
        f"{name}.{field.name}": default_of(field)
        for name, kind in STRUCTS.items()
        for field in msgspec.structs.fields(kind)
    }
    assert len(right) > 80
    assert told() == right


def test_the_example_is_a_manifest() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    manifest = decode(canonical(json.loads(block)))
    assert manifest.contract.chunk.time_axis == 1
    assert [output.per for output in manifest.contract.outputs] == ["item", "chunk"]


def test_the_hashed_list_of_the_example_gives_its_hash() -> None:
    (line,) = re.findall(r"^    (\[\{\"batch_axis\".*)$", PAGE, re.MULTILINE)
    digest = hashlib.sha256(line.encode()).hexdigest()
    assert f'"state_hash": "{digest}"' in PAGE
