"""`dst export`: load a torch module or make a network of ours, export it, say what was found."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dst.cli.errors import CHECK_FAILED, WrongUseError, needing
from dst.cli.options import (
    BundleName,
    Description,
    Json,
    License,
    Lookahead,
    Lookback,
    Out,
    Overwrite,
    Sizes,
    Tail,
    Tokenizer,
    Vocabulary,
    argument,
    flag,
    option,
    sizes_of,
)
from dst.cli.output import Output, check_folder, check_paths, foreign
from dst.words import counted

if TYPE_CHECKING:
    from dst.export.model import Network

EXAMPLE_T = 16  # items of the example chunk where nobody says how many
MAX_SEED = 2**64 - 1  # what torch takes
OF_MODULE = (
    "--chunk, --state, --weights, --args, --lookback, --lookahead, --non-causal, --tail and "
    "--vocabulary"
)
"""What describes a user's module."""


def export(
    out: Out,
    model: Annotated[
        str | None, argument("[FILE.py:NAME]", "A class, function or instance.")
    ] = None,
    chunk: Annotated[
        str | None, option("--chunk", "SHAPE", "Of an example: B,T,40 or 1,16:int64.")
    ] = None,
    state: Annotated[
        list[str] | None, option("--state", "SHAPE", "Of each state: 2,B,64; else zeros.")
    ] = None,
    t: Sizes = None,
    data: Annotated[
        str | None, option("--data", "FILE", "Real items to prove it on; else random.")
    ] = None,
    weights: Annotated[Path | None, option("--weights", "FILE.pt", "A state dict.")] = None,
    arguments: Annotated[str | None, option("--args", "JSON", "What to make NAME with.")] = None,
    lookback: Lookback = 0,
    lookahead: Lookahead = 0,
    non_causal: Annotated[
        bool, flag("--non-causal", "Later items may move earlier answers.")
    ] = False,
    tail: Tail = None,
    vocabulary: Vocabulary = None,
    tokenizer: Tokenizer = "none",
    from_hf: Annotated[
        Path | None, option("--from-hf", "DIR", "Instead: what save_pretrained wrote.")
    ] = None,
    size: Annotated[
        str | None, option("--size", "NAME", "Our network: tiny small base 130m.")
    ] = None,
    checkpoint: Annotated[
        Path | None, option("--checkpoint", "FILE", "Its trained weights, under 'model'.")
    ] = None,
    seed: Annotated[int, option("--seed", "N", "Of random weights; 0 by default.")] = 0,
    name: BundleName = None,
    description: Description = "",
    license: License = "",
    certify_steps: Annotated[
        int, option("--certify-steps", "N", "Steps per certificate; else 1000.", least=1)
    ] = 1000,
    bound: Annotated[
        float | None, option("--bound", "X", "Accept errors above 1e-5; recorded.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> int:
    """Export a torch module to a bundle, and prove that it does what torch does.

    The module takes (chunk, state) and returns (outputs, state); the rest is found by running
    it. NAME is a class, a function or an instance. FILE.py is run: export only what you trust.
    Weights are only read. Nothing is written unless all certificates hold. Needs the extra
    export; --from-hf (mamba, rwkv, xlstm …, tokenizer.json) needs hf too. docs/export.md tells
    all.

        dst export my_model.py:Model --chunk B,T,40 --t 1,16 --data a.csv --out mine
        dst export torch.nn:LSTM --args "[40, 64]" --chunk T,B,40 --t 1,16 --out lstm
        dst export --from-hf my-mamba --t 1,16 --out mamba
        dst export --size tiny --seed 0 --out tiny
    """
    output = Output.to(json)
    if not 0 <= seed <= MAX_SEED:
        raise WrongUseError(f"--seed {seed}: expected a whole number from 0 to {MAX_SEED}")
    check_folder("--out", out)
    read = {"--checkpoint": checkpoint, "--weights": weights, "--from-hf": from_hf}
    check_paths(output, {**read, "--data": data, "--out": out})
    if [model, from_hf, size].count(None) != 2:
        raise WrongUseError(
            "give one of these: your module as FILE.py:NAME, --from-hf DIR, or --size for a "
            "network of ours"
        )
    described = (chunk, state, weights, arguments, vocabulary, tail)
    of_module = any((*described, lookback, lookahead, non_causal))
    with needing("export", "export"):
        import torch

        from dst.cli.data import proof_items
        from dst.cli.inputs import user_module
        from dst.export import CertificateError, Step, export_bundle
        from dst.export.certify import BOUND
        from dst.export.infer.axes import Known
        from dst.export.infer.infer import infer
        from dst.runtime import TextTokenizer

    step: Step
    tokens: TextTokenizer | None = None
    if from_hf is not None and not user_module.is_network(from_hf):
        if of_module or checkpoint:
            raise WrongUseError(
                f"--from-hf has its own weights, chunk and state; {OF_MODULE} go with "
                "FILE.py:NAME, --checkpoint with --size"
            )
        step = language = user_module.hf_step(from_hf, sizes_of(t))
        if language.tokenizer is not None:
            tokens = TextTokenizer.read(language.tokenizer)
    elif model is None:
        if t or of_module or (from_hf and checkpoint):
            what = "--size makes" if from_hf is None else f"{from_hf} holds"
            knows = "chunk" if from_hf is None else "weights, chunk"
            more = "" if from_hf is None else ", --checkpoint with --size"
            raise WrongUseError(
                f"{what} a network of ours, which knows its {knows} and state; --t, "
                f"{OF_MODULE} go with FILE.py:NAME{more}"
            )
        step = _network(from_hf, size, seed, checkpoint)
    elif checkpoint is not None:
        raise WrongUseError("--checkpoint goes with --size; give --weights FILE.pt")
    elif chunk is None:
        raise WrongUseError("--chunk is missing: the shape of an example, such as --chunk B,T,40")
    else:
        spec = user_module.Spec.read("--chunk", chunk)
        axes = {letter: spec.shape.index(letter) for letter in ("B", "T") if letter in spec.shape}
        known = Known(
            t=sizes_of(t) or None,
            batch_axis=axes.get("B"),
            time_axis=axes.get("T"),
            lookback=lookback,
            lookahead=lookahead,
            causal=not non_causal,
            tail=tail,
            vocabulary=vocabulary,
            tokenizer=tokenizer,
        )
        torch.manual_seed(seed)
        states = user_module.states_of(tuple(state or ()))
        module = user_module.load_module(model, arguments, weights)
        around = lookback + lookahead
        example = spec.tensor(around + max(known.t or (EXAMPLE_T,)))
        step = infer(module, example, states, known)
    items, about = proof_items(data, step.contract.chunk, tokens)
    notes: list[str] = []
    try:
        with output.progress("export", 1.0) as bar:
            manifest = export_bundle(
                step,
                path=out,
                name=name or out.name,
                description=description,
                license=license,
                certify_steps=certify_steps,
                bound=BOUND if bound is None else bound,
                overwrite=overwrite,
                data=items,
                about_data=about,
                progress=bar.share,
                tell=notes.append,
            )
    except CertificateError as error:
        sys.stderr.write(f"dst: {error}\n")
        return CHECK_FAILED
    parameters = sum(p.numel() for p in step.parameters())
    made = output.wrote(out, manifest, f"{parameters:,} parameters, ")
    for note in notes:
        output.out.print(f"  {foreign(note)}")
    for g in manifest.graphs:
        sizes, rows = ", ".join(map(str, g.allowed_t)), "any B" if not g.batch else "B = 1"
        output.out.print(f"  {g.file}: {g.lowering}, T = {sizes}, {rows}")
    for c in manifest.certificates:
        raised = " (raised)" if c.bound > BOUND and c.bound == bound else ""
        output.out.print(
            f"  [green]✓[/] {foreign(c.name)}  [dim]worst {c.worst:.1e} of {c.bound:.0e}{raised} "
            f"over {counted(c.steps, 'step')} of {c.items_per_step}[/]"
        )
    output.write_json(
        {**made, "parameters": parameters, "certificates": manifest.certificates, "notes": notes}
    )
    return 0


def _network(saved: Path | None, size: str | None, seed: int, checkpoint: Path | None) -> "Network":
    """Load a network that was saved, or make one with random weights or those of a checkpoint."""
    import torch

    from dst.cli.inputs.user_module import fill, load_tensors
    from dst.export.model import Network, load_checkpoint, sized

    if saved is not None:
        return load_checkpoint(saved)
    try:
        config = sized(str(size))
    except ValueError as error:
        raise WrongUseError(f"--size: {error}") from None
    torch.manual_seed(seed)
    network = Network(config)
    if checkpoint is None:
        return network
    held = load_tensors(
        checkpoint,
        f"{checkpoint}: is no checkpoint; expected what torch.save writes of a dict with the "
        "weights under 'model', and in it tensors and plain values alone",
    )
    if not isinstance(held, dict) or not isinstance(held.get("model"), dict):
        raise WrongUseError(f"{checkpoint}: expected a dict with the weights under 'model'")
    fill(network, held["model"], f"{checkpoint}: does not fit --size {size}")
    return network
