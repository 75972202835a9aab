"""What `--help` says of the program and of each verb: paragraphs, then examples."""

from collections.abc import Callable
from inspect import cleandoc
from textwrap import dedent


def _flowing(text: str) -> str:
    """Join the lines of each paragraph, for a terminal to break; examples keep their lines."""
    parts = text.strip().split("\n\n")
    return "\n\n".join(p if p.startswith("\b") else " ".join(p.split()) for p in parts)


def told(verb: Callable[..., object]) -> str:
    """Return the help that a verb's docstring is: paragraphs, and examples that are indented."""
    parts = cleandoc(verb.__doc__ or "").split("\n\n")
    return _flowing("\n\n".join(f"\b\n{dedent(p)}" if p.startswith(" ") else p for p in parts))


TOP = _flowing(
    """
Run, make and check stateful models that read endless input in fixed memory.

\b
dst demo                          see it work, without any file of yours
dst run text notes.txt --top 5    the five most surprising lines of a file
dst generate text --prompt "def " continue a text
"""
)

DEMO = _flowing(
    """
Show what this is: stream real text, survive a kill, fit smaller places, write on.

Reads the held-out megabyte that comes with the package through the shipped text model and
compares its bits per byte with gzip, bzip2 and xz; kills a child process in mid-stream, resumes
from the state it saved and checks that every output is the same, bit for bit; reads on in every
precision of the model that ships, side by side; continues a prompt. Exit code 1 if the resumed
run differs.

\b
dst demo
dst demo --bytes 100000 --json result.json
"""
)

RUN = _flowing(
    """
Stream a file or a pipe of any size through a bundle, in constant memory.

A model that predicts its input reports its surprise: bits = -log2 of the probability that it gave
to what came; nats or quantile loss for numbers. --top ranks lines by bits per byte, or items. A
model of bytes reads any file; others read CSV, JSON lines, WAV, .npy, .npz or raw samples, an item
per row. --state goes on where an earlier run ended. docs/run.md tells all.

\b
dst run text server.log --top 20
tail -f server.log | dst run text - --per line --state memory.state
dst run ./sensor feed.csv --time when --gap hold --out answers.csv
arecord -t raw -f S16_LE -r 16000 | dst run ./vad - --format s16 --out -
"""
)

GENERATE = _flowing(
    """
Continue a prompt; the text is printed as it comes.

The same seed gives the same text. Without a seed one is drawn, and --json tells it. With --state
a stream goes on from where it was saved, and --prompt may be left out.

\b
dst generate text --prompt "import os" --items 300 --seed 1
dst generate text --prompt-file start.py --temperature 0.5 --stop "def "
dst generate text --prompt "class " --state s.state
dst generate text --state s.state
"""
)

SHOW = _flowing(
    """
Print what a bundle is: contract, state, graphs, memory, certificates.

Without BUNDLE: the bundles that come with the package.

\b
dst show
dst show text
dst show text --memory --slots 64 --measure
dst show text --provider openvino
dst show ./my-bundle --json -
"""
)

SOAK = _flowing(
    """
Run a bundle for very many steps: is memory flat, is every step in time, is the state sound?

The input goes round and round: FILE, or the held-out text, or random items. Memory and state are
looked at 4,000 times. After the first tenth of the run memory may rise by 1 MiB at most; from 10
million steps on the upper 95 % bound of its slope may also be 0.1 byte per step at most. Exit
code 1 if memory is not flat or the state not finite. Steps over the deadline are counted and not
cut short. Ctrl-C ends early with a report of what was done, and 130.

\b
dst soak text --steps 10000 --deadline-ms 20
dst soak ./my-bundle --steps 10000000 --t 1 --json soak.json
"""
)

VERIFY = _flowing(
    """
Replay a bundle's golden vectors here and compare with what was recorded.

Every file is hashed first. Exit code 1 if a graph strays further than the bundle allows, 2 if
the bundle is broken or cannot be run here. A provider that would leave work to the CPU is refused.
With --time the golden chunks are stepped on the provider and on the CPU in turn as well.

\b
dst verify text
dst verify text --provider openvino --time
dst verify ./my-bundle --provider cuda --graph fused
"""
)

EXPORT = _flowing(
    """
Export a torch module to a bundle, and prove that it does what torch does.

The module takes (chunk, state) and returns (outputs, state); the rest is found by running it. NAME
is a class, a function or an instance. FILE.py is run: export only what you trust. Weights are only
read. Nothing is written unless all certificates hold. Needs the extra export; --from-hf (mamba,
rwkv, xlstm …, tokenizer.json) needs hf too. docs/export.md tells all.

\b
dst export my_model.py:Model --chunk B,T,40 --t 1,16 --data a.csv --out mine
dst export torch.nn:LSTM --args "[40, 64]" --chunk T,B,40 --t 1,16 --out lstm
dst export --from-hf my-mamba --t 1,16 --out mamba
dst export --size tiny --seed 0 --out tiny
"""
)

ADOPT = _flowing(
    """
Wrap an existing stateful ONNX file into a bundle, without torch.

What the graph does not tell is asked in one message, with the options that answer; they also set a
wrong guess right. The file is run before anything is written. Exit code 1: a check failed; 2: a
question is open. Lines with ! deserve a second look. Needs the extra onnx. docs/adopt.md tells all.

\b
dst adopt gru.onnx --out gru --t 1,16
dst adopt vad.onnx --out vad --constant sr=16000 --t 512 --tail pad
dst adopt lstm.onnx --out lstm --state h0=h1 --init c0=start.npy --t 1,32
"""
)

QUANTIZE = _flowing(
    """
Make a smaller or faster bundle of a model; a saved state loads in both.

State, decay, gates, norms and softmax stay float32; what else does, and why, is printed. Patterns
are shell patterns for the names printed; forms are float32, float16, int8-dynamic, int8-static,
int8-rows, int8-block, int4-block, int8-stored. --auto takes the fastest (--goal size: smallest)
recipe that keeps the gates and the budget. Exit code 1: nothing is gained and nothing written.
Needs the extra onnx. docs/quantization.md tells all.

\b
int8-rows     8 bits, a scale per item: causal, any T, fast chunks
int8-dynamic  8 bits, a scale per chunk: fastest chunks; T fixed, not causal
int8-static   8 bits, scales from --calibrate: for NPUs
int8-weights  8-bit blocks of 64: closest to float32, fast single steps
int4-weights  4-bit blocks of 32: smallest, fastest single steps
int4-mixed    the same, but 8 bits where a product feeds the state
fp16          half precision, for GPU, WebGPU, Core ML; no gain on CPU

\b
dst quantize text --auto --budget "nats<0.005" --input my.txt --out text-fast
dst quantize text --recipe int4-weights --keep 'val_845' --out text-int4
"""
)

BENCH = _flowing(
    """
Measure what bundles cost on this machine, in turns, and compare them with the first.

Per bundle and T: items per second with its ratio to the first bundle (median of all rounds and its
95 % interval), p50 and p99 of a step. Per bundle: files, load time, time to the first output and
peak memory, each in fresh processes; energy where the machine tells; and the quality that the
bundle's horizon report found. A T that a bundle does not run shows as –. Other work on the
machine makes times worse, and ratios only less sure.

\b
dst bench text ./text-int8 ./text-int4
dst bench text ./text-int8 --t 1,32 --rounds 30 --json - --html bench.html --png bench.png
"""
)

REPORT = _flowing(
    """
Measure how far a quantized bundle strays from full precision, over the horizon of a stream.

Both read DATA side by side, each with its own state. Per range of positions: KL (or relative
error), added loss, distance of the state, and how much of the error has accumulated, against full
precision's own drift. DATA is what `dst run` reads, by default the held-out text for models of
bytes; where it is shorter than --items it is read again. The gates need 1,000,000 items; a
shorter run can fail them, and says what it did not judge. Exit code 1 if a gate failed. Needs the
extra onnx.

\b
dst report text ./text-int8 --items 1000000 --attach --png text-int8.png
dst report text ./text-int4 notes.txt --items 100000 --budget 0.02 --json -
"""
)

STORE = _flowing(
    """
Look after a store: one file that holds the states of many streams, with their past.

\b
dst store list memory.db          what is in it
dst store show memory.db alice    the kept states of one stream
dst store wipe memory.db          leave nothing behind
"""
)

STORE_LIST = _flowing(
    """
List the streams of a store with their newest states.

Needs no key: the names in an encrypted store are readable.

\b
dst store list memory.db
dst store list memory.db --json -
"""
)

STORE_SHOW = _flowing(
    """
List the kept states of a stream, the newest first.

States that are set aside do not lead up to the newest one: the stream was put back since.

\b
dst store show memory.db alice
"""
)

STORE_EXPORT = _flowing(
    """
Write a state of a stream to a file, which --state of the other verbs and Stream.load read.

The newest one, unless --item or --record names another. The file is not encrypted. One that
stood there is kept as FILE.previous.

\b
dst store export memory.db alice alice.state
dst store export memory.db alice before.state --item 100000
"""
)

STORE_IMPORT = _flowing(
    """
Store a saved state as the newest of a stream; a store that does not exist is made.

With --key-file a new store is encrypted.

\b
dst store import memory.db alice alice.state
"""
)

STORE_REWIND = _flowing(
    """
Make the nearest kept state at or before ITEM the newest of its stream.

What was stored beyond it is set aside, not deleted: --record brings it back.

\b
dst store rewind memory.db alice 100000
dst store rewind memory.db alice --record 17
"""
)

STORE_DELETE = _flowing(
    """
Delete a stream with its history, and leave no copy of it in the store's files.

\b
dst store delete memory.db alice
"""
)

STORE_WIPE = _flowing(
    """
Delete all that a store holds, and leave no byte of it in its files.

Backups and blocks that the disk has set aside are out of reach. Needs no key.

\b
dst store wipe memory.db --yes
"""
)
