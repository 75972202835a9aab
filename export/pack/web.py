"""Write a page that opens a bundle in a browser and reads a first chunk, without a build step."""

from __future__ import annotations

import html
import json
import math

from dst.runtime.bundle.layout import fixed, sized
from dst.runtime.bundle.manifest import Chunk, Manifest, StreamInput, Tokens

_ARRAYS = {
    "float16": "Uint16Array",
    "float32": "Float32Array",
    "float64": "Float64Array",
    "int8": "Int8Array",
    "int32": "Int32Array",
    "int64": "BigInt64Array",
    "uint8": "Uint8Array",
    "bool": "Uint8Array",
}
"""The typed arrays that hold the values of a dtype in JavaScript."""
_TEXT = "A text that the model reads. "
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>@TITLE@</title>
<link rel="icon" href="data:,">
<script type="importmap">
{ "imports": {
  "dst-edge": "./node_modules/dst-edge/dist/index.js",
  "hash-wasm": "./node_modules/hash-wasm/dist/index.esm.min.js",
  "onnxruntime-web/wasm": "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs"
} }
</script>
<h1>@TITLE@</h1>
<pre id="told" role="status">Not running: README.md has the steps.</pre>
<script type="module">
import * as ort from "onnxruntime-web/wasm";
import { encodeBytes, fetchSource, Session, verify } from "dst-edge";

const tell = (text) => { document.getElementById("told").textContent = text; };

async function open(source) {
  try {
    return await Session.open(ort, source);
  } catch (error) {
    if (error.code !== "onnxruntime-too-old") throw error;
    // The graphs ask for a newer ONNX Runtime than this one: the golden runs say whether it does.
    const options = { olderRuntime: true };
    const checks = await verify(ort, source, options);
    if (!checks.every(({ passed }) => passed)) throw error;
    return Session.open(ort, source, options);
  }
}

tell("Loading …");
try {
  const session = await open(fetchSource("bundle"));
  const stream = session.stream(@INPUTS@);
  const outputs = await stream.advance(@ITEMS@); // your items
  const shapes = Object.entries(outputs).map(([name, { shape }]) => `${name} [${shape}]`);
  tell(`Ready. Items read: ${stream.itemsConsumed}; answers: ${shapes.join("; ")}`);
} catch (error) {
  tell(`${error.code ?? error.name}: ${error.message}`);
}
</script>
</html>
"""


def page(manifest: Manifest) -> str:
    """Return the page, with items and stream inputs of the shape that the model reads."""
    contract = manifest.contract
    given = {one.input: _input(one) for one in contract.stream_inputs}
    inputs = ", ".join(f"{_quoted(name)}: {value}" for name, value in given.items())
    return (
        _PAGE.replace("@INPUTS@", f"{{ inputs: {{ {inputs} }} }}" if inputs else "")
        .replace("@ITEMS@", _items(contract.chunk))
        .replace("@TITLE@", html.escape(manifest.name))
    )


def _items(chunk: Chunk) -> str:
    """Return an expression for the items of one chunk of the nominal T."""
    count = chunk.nominal_t + chunk.lookahead
    if isinstance(chunk.content, Tokens):
        if chunk.content.tokenizer == "bytes":
            return f'encodeBytes("{_TEXT}".repeat({math.ceil(count / len(_TEXT))}))'
        return f"new Array({count}).fill(0)"
    return f"new {_ARRAYS[chunk.dtype]}({' * '.join(map(str, (count, *fixed(chunk.shape))))})"


def _input(one: StreamInput) -> str:
    """Return an expression for a stream input of zeros."""
    shape = sized(one.shape, 0)
    data = f"new {_ARRAYS[one.dtype]}({math.prod(shape)})"
    return f'{{ dtype: "{one.dtype}", shape: {list(shape)}, data: {data} }}'


def _quoted(text: str) -> str:
    """Quote a text for a script in a page, which ends at the first tag that closes it."""
    return json.dumps(text).replace("<", "\\u003c")
