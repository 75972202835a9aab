"""The texts of a packed folder: a page of steps, the report of providers, files of a C project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import dst
from dst.export.pack.packed import Packed
from dst.export.pack.reduced import CONFIG
from dst.export.pack.triton import IDLE_S
from dst.export.pack.usability import Usability
from dst.runtime.bundle.manifest import Features, Manifest

CMAKE = """\
# A program on this bundle: cmake -S . -B build -DDST_EDGE=CHECKOUT -DONNXRUNTIME_ROOT=FOLDER
cmake_minimum_required(VERSION 3.18)
project(app LANGUAGES C CXX)
set(DST_EDGE "" CACHE PATH "A checkout of DST Edge")
set(DST_TESTS OFF CACHE BOOL "")
list(APPEND CMAKE_MODULE_PATH "${DST_EDGE}/runtime/native/cmake")
add_subdirectory("${DST_EDGE}/runtime/native" dst_native)
add_executable(app main.c)
target_link_libraries(app PRIVATE dst_native)
target_compile_definitions(app PRIVATE BUNDLE="${CMAKE_CURRENT_SOURCE_DIR}/bundle")
"""
LEAST_OF_THE_RUNTIME = "1.17"
"""What `runtime/native` asks ONNX Runtime for (`kOrtApi`), and with it Kotlin and Swift."""
MAIN_C = """\
/* Open the bundle, load its graphs and start a stream. */
#include <stdio.h>

#include "dst.h"

static int failed(dst_status status) {
  if (status != DST_OK) fprintf(stderr, "%s: %s\\n", dst_last_code(), dst_last_message());
  return status != DST_OK;
}

int main(int argc, char** argv) {
  dst_session* session = NULL;
  dst_stream* stream = NULL;
  dst_session_info info;
  if (failed(dst_session_open(argc > 1 ? argv[1] : BUNDLE, NULL, &session))) return 1;
  if (failed(dst_session_load_graphs(session))) return 1;
  if (failed(dst_session_describe(session, &info))) return 1;
  if (failed(dst_stream_new(session, NULL, 0, &stream))) return 1; /* NULL: no stream inputs */
  printf("%s is ready\\n", info.name);
  dst_stream_free(stream);
  dst_session_close(session);
  return 0;
}
"""

_STEPS = {
    "android": """\
1. Take `onnxruntime-android` {ort}, and the library of `runtime/kotlin`, whose sample
   app shows the whole project.
2. Put `app` over the folder of that name of your project: the bundle is an asset.
3. At the first start copy the asset `bundle` to the app's own files, since a bundle is opened by
   its path, and open it there.
4. Keep its files as they are in the package:
   `androidResources {{ noCompress += listOf("onnx", "bin", "safetensors") }}`.
""",
    "ios": """\
1. Take `onnxruntime-c` {ort}, and the package of `runtime/swift`, whose sample app
   shows the whole project.
2. Add `Resources/bundle` to the app's target as a folder reference, so that it stays a folder.
3. Open it where it lies: `Bundle.main.url(forResource: "bundle", withExtension: nil)`. Save states
   to the app's own documents.
""",
    "desktop": """\
1. Take ONNX Runtime {ort}, and a checkout of DST Edge; `docs/native.md` tells what
   else is needed.
2. `cmake -S . -B build -DDST_EDGE=CHECKOUT -DONNXRUNTIME_ROOT=FOLDER && cmake --build build`
3. `build/app` opens the bundle; `main.c` is where your program begins.
""",
    "web": """\
1. Make the npm package `dst-edge` in a checkout of DST Edge:
   `cd DST-EDGE/runtime/js && npm install --ignore-scripts && npm pack`
2. Come back to this folder, install it here, and serve the folder by any web server:

   ```sh
   npm init --yes
   npm install DST-EDGE/runtime/js/dst-edge-{version}.tgz onnxruntime-web
   npx --yes http-server -a 127.0.0.1 -p 8000 -c-1
   ```

3. `http://127.0.0.1:8000/` opens the bundle and reads a first chunk; the script in `index.html` is
   where your program begins. `runtime/js/README.md` tells what a worker needs in place of the
   import map, and `examples/web` is a whole page.
4. The files of `bundle` may be cached for ever under the hashes in `bundle/manifest.json`.
5. For more than one thread of WebAssembly answer with these headers:
   `Cross-Origin-Opener-Policy: same-origin`, `Cross-Origin-Embedder-Policy: require-corp`.
""",
    "triton": """\
1. Take a Triton whose ONNX Runtime backend has the release that `config.pbtxt` names, and start it
   with the folder `models` as its `--model-repository`.
2. Send each chunk with the `sequence_id` of its stream, the first one with `sequence_start`. Triton
   keeps the state; a sequence that was idle for {idle} seconds, or whose server was started anew,
   begins again. Such a state is not saved to any file.
3. A model with `max_batch_size: 0` takes one sequence at a time: its graph was made for one, or a
   tensor has no axis but the batch. Elsewhere the batch is the first axis of every tensor, wherever
   the bundle has it. T, the number of items of a chunk, is one of {allowed_t}, as far as the shapes
   in `config.pbtxt` leave it open.
""",
}
_REDUCED = """
## A smaller ONNX Runtime

`reduced/bundle` is the same model with graphs in ONNX Runtime's own form. Beside it,
`{config}` lists the operators and types that they use. A build of
ONNX Runtime with only these reads no `.onnx` file:

    ./build.sh --config MinSizeRel --build_shared_lib --minimal_build --disable_exceptions \\
      --include_ops_by_config reduced/{config} \\
      --enable_reduced_operator_type_support

It opens with every runtime, and takes the states that the bundle saved. Each graph has its own copy
of the weights.
"""


def readme(packed: Packed, manifest: Manifest) -> str:
    """Return the page of steps of a packed folder."""
    chunk = manifest.contract.chunk
    steps = _STEPS[packed.target].format(
        ort=onnxruntimes(packed.target, manifest),
        idle=IDLE_S,
        version=dst.__version__,
        allowed_t=", ".join(map(str, chunk.allowed_t)),
    )
    parts = [f"# {manifest.name} for {packed.target}\n", *(f"{note}.\n" for note in packed.notes)]
    parts += [f"Made by `dst pack` of bundle `{packed.bundle_id[:16]}…`.\n", steps]
    if packed.target == "triton":
        parts.append("".join(f"{line}\n" for line in _of_the_client(manifest)))
    if any(name.startswith("reduced/") for name in packed.sizes):
        parts.append(_REDUCED.format(config=CONFIG))
    if packed.providers:
        parts.append("`providers.txt` tells which nodes the providers of phones would take.\n")
    rows = [f"| `{name}` | {size:,} |" for name, size in packed.sizes.items()]
    parts += ["\n## Sizes\n", "| file | bytes |", "|---|---|", *rows, ""]
    memory = packed.memory
    parts.append(
        f"One open graph and one stream hold {memory.total_bytes:,} bytes, apart from ONNX "
        f"Runtime's own: {memory.weights_bytes:,} for weights, {memory.state_bytes:,} for the "
        f"state before and after a step, {memory.guard_bytes:,} for two copies to go back to, "
        f"{memory.waiting_bytes:,} for items that wait, and {memory.scratch_bytes:,} for the chunk "
        "and the answers of a step."
    )
    return "\n".join(parts) + "\n"


def onnxruntimes(target: str, manifest: Manifest) -> str:
    """Say which releases of ONNX Runtime run all graphs of a bundle, and which at least one."""
    least = LEAST_OF_THE_RUNTIME if target in ("android", "ios", "desktop") else "1.0"
    needed = [max(graph.min_ort, least, key=_release) for graph in manifest.graphs]
    all_of_it, a_part = max(needed, key=_release), min(needed, key=_release)
    if a_part == all_of_it:
        return f"{all_of_it} or newer"
    return f"{all_of_it} or newer ({a_part} runs a part of the graphs)"


def _release(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _of_the_client(manifest: Manifest) -> Iterator[str]:
    """Say what a client of Triton does that a runtime would do."""
    chunk = manifest.contract.chunk
    if chunk.lookback or chunk.lookahead:
        yield (
            f"- Send {chunk.lookback} items before each chunk and {chunk.lookahead} behind it, "
            f"along with it; before the first item of a stream stands {chunk.lookback_fill}."
        )
    content = chunk.content
    if isinstance(content, Features) and content.normalisation is not None:
        mean, std = content.normalisation.mean, content.normalisation.std
        yield (
            f"- Send `(x - mean) / std`, with mean {list(mean)} and std {list(std)} for the values "
            "of an item."
        )
    if manifest.contract.stream_inputs:
        names = ", ".join(f"`{given.input}`" for given in manifest.contract.stream_inputs)
        yield f"- Send {names} with every chunk, the same for a whole stream."
    yield (
        f"- The tail rule is `{chunk.tail}`: what is done with items that fill no chunk when an "
        "input ends."
    )


def providers(found: Sequence[Usability], notes: Sequence[str]) -> str:
    """Return the report of providers for people."""
    parts = [
        "Which nodes the providers of phones would take, by ONNX Runtime's own checker.",
        "For XNNPACK the checker has no table: its operators are those of its documentation.",
        *(f"{note}." for note in notes),
    ]
    for use in found:
        verdict = {"yes": "worth it", "maybe": "try it", "no": "not worth it"}.get(
            str(use.verdict), "no verdict"
        )
        groups = len(use.partitions)
        parts += [
            "",
            f"{use.graph}, {use.provider}: {use.taken} of {use.nodes} nodes in {groups} groups; "
            f"{verdict}",
        ]
        if groups:
            sizes = sorted(map(len, use.partitions), reverse=True)
            parts.append(f"  largest groups: {', '.join(map(str, sizes[:8]))}")
        for reason in dict.fromkeys(use.reasons.values()):
            names = [
                f"{count} {operator.removeprefix('ai.onnx:')}"
                for operator, count in use.left.items()
                if use.reasons[operator] == reason
            ]
            parts.append(f"  left to the CPU, {reason}: {', '.join(names)}")
        parts += [f"  not checked: {caveat}" for caveat in use.caveats]
    return "\n".join(parts) + "\n"
