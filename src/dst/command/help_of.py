"""What `--help` says of the program and of each verb: paragraphs, then examples."""


def _flowing(text: str) -> str:
    """Join the lines of each paragraph, for a terminal to break; examples keep their lines."""
    parts = text.strip().split("\n\n")
    return "\n\n".join(p if p.startswith("\b") else " ".join(p.split()) for p in parts)


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
Show what this is: stream real text, survive a kill, write on.

Reads the held-out megabyte that comes with the package through the shipped text model and
compares its bits per byte with gzip, bzip2 and xz; kills a child process in mid-stream, resumes
from the state it saved and checks that every output is the same, bit for bit; continues a
prompt. Exit code 1 if the resumed run differs.

\b
dst demo
dst demo --bytes 100000 --json result.json
"""
)

RUN = _flowing(
    """
Stream a file or a pipe of any size through a bundle, in constant memory.

A model of bytes reports its surprise: bits = -log2 of the probability that the model gave to
what came. The first byte of a fresh stream has no prediction and counts log2(vocabulary) bits.
Lines go to standard output with their bits, bits per byte and text; the summary then goes to
stderr. A model of features reads .npy, raw float32 (.f32 .raw .bin) or CSV, one item per row,
and reports nats per item where its outputs are a mean and a log_std.

With --state the stream goes on from where an earlier run ended: the saved file is what came
before, FILE is the next input, and nothing of it is skipped. Two runs over two halves give the
same bits as one run over the whole. Ctrl-C and SIGTERM save and end with 130 and 143.

\b
dst run text server.log --top 20
tail -f server.log | dst run text - --per line
dst run text today.log --state memory.state --save-every 100000
cat big.txt | dst run text - --json -
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
dst show ./my-bundle --json -
"""
)

VERIFY = _flowing(
    """
Replay a bundle's golden vectors here and compare with what was recorded.

Every file is hashed first. Exit code 1 if a graph strays further than the bundle allows, 2 if
the bundle is broken or cannot be run here.

\b
dst verify text
dst verify ./my-bundle --provider cuda --graph fused
"""
)

EXPORT = _flowing(
    """
Export a network to a bundle and prove that its graphs do what torch does.

Needs torch: pip install "dst-edge\\[export]". Without a checkpoint the weights are random. Nothing
is written if a certificate does not hold.

\b
dst export --size tiny --seed 0 --out my-bundle
dst export --size small --checkpoint model.pt --out text --certify-steps 10000
"""
)
