"""The voice detector of the silero-vad package in, a bundle out that answers as the package does.

    pip install torch==2.13.0 && pip install --no-deps silero-vad packaging
    python examples/adopt/silero.py

The package ships an ONNX file and a wrapper that drives it: 512 samples at a time, 64 past samples
in front, a state that it carries on, a sample rate that never changes. All of that is told to
`dst adopt`, and from then on the runtime drives it. A recording is made up (vowels, hiss, tones,
noise, silence) and read both ways; the largest difference between two probabilities is printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dst.runtime import Session, Stream

Signal = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]

BOUND = 1e-5
RATES = {16000: (512, 64), 8000: (256, 32)}
"""Sample rate in Hz -> samples per chunk, past samples in front of it."""
VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
)
"""The first three formants of five vowels, in Hz."""


def recording(seconds: float, rate: int, seed: int) -> Signal:
    """Make up a recording `[n]` in which talk, hiss, tones, noise and silence take turns."""
    random = np.random.default_rng(seed)
    parts: list[Wide] = []
    length = 0
    while length < seconds * rate:
        kind = random.choice(["talk", "talk", "tones", "noise", "silence"])
        lasting = random.uniform(1.0, 6.0)
        count = int(lasting * rate)
        if kind == "talk":
            part = _talk(lasting, rate, random)
        elif kind == "tones":
            time = np.arange(count) / rate
            pitches = random.uniform(200, 2000, 3)
            part = sum((np.sin(2 * np.pi * f * time) for f in pitches), np.zeros(count)) * 0.1
        else:
            part = random.normal(size=count) * (0.05 if kind == "noise" else 0.0)
        parts.append(part)
        length += len(part)
    whole = np.concatenate(parts)[: int(seconds * rate)]
    whole += random.normal(size=len(whole)) * 0.001
    return np.asarray(whole / np.abs(whole).max() * 0.9, np.float32)


def _talk(lasting: float, rate: int, random: np.random.Generator) -> Wide:
    """Syllables of a hiss and a vowel each, the pitch falling over the phrase."""
    syllables: list[Wide] = []
    done, pitch = 0.0, random.uniform(90, 240)
    while done < lasting:
        hiss, vowel, rest = random.uniform(0.03, 0.1), random.uniform(0.1, 0.3), 0.04
        syllables += [
            _hiss(int(hiss * rate), random),
            _vowel(int(vowel * rate), rate, pitch, random),
        ]
        syllables.append(np.zeros(int(rest * rate)))
        done += hiss + vowel + rest
        pitch *= random.uniform(0.93, 1.03)
    return np.concatenate(syllables)


def _vowel(count: int, rate: int, pitch: float, random: np.random.Generator) -> Wide:
    """Harmonics of a pitch that trembles, each as loud as the formants make it."""
    time = np.arange(count) / rate
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.02 * np.sin(2 * np.pi * 5 * time))) / rate
    formants = VOWELS[random.integers(len(VOWELS))]
    sound = np.zeros(count)
    for number in range(1, int(min(4000, rate / 2) / pitch)):
        gains = [
            1 / (1 + ((number * pitch - f) / 90) ** 2) / (i + 1) for i, f in enumerate(formants)
        ]
        sound += (sum(gains) + 0.02) / number**0.5 * np.sin(number * phase)
    return sound * np.hanning(count) * random.uniform(0.3, 1.0)


def _hiss(count: int, random: np.random.Generator) -> Wide:
    noise: Wide = np.diff(random.normal(size=count + 1), n=1)
    return noise * np.hanning(count) * 0.1


def adopt(model: Path, out: Path, rate: int) -> None:
    """Make the bundle, by the public command alone."""
    t, lookback = RATES[rate]
    dst(
        *("adopt", str(model), "--out", str(out), "--constant", f"sr={rate}", "--t", str(t)),
        *("--lookback", str(lookback), "--tail", "pad", "--sample-rate", str(rate)),
        *("--license", "MIT", "--description", "how likely somebody speaks, per chunk"),
    )


def dst(*arguments: str) -> None:
    """Call the command in a process of its own."""
    subprocess.run([sys.executable, "-m", "dst", *arguments], check=True)


def package_path(signal: Signal, rate: int) -> Wide:
    """What the package's own wrapper answers, chunk by chunk `[steps]`."""
    import torch
    from silero_vad import load_silero_vad  # type: ignore[import-not-found,unused-ignore]

    model = load_silero_vad(onnx=True)
    with torch.no_grad():
        probabilities = model.audio_forward(torch.from_numpy(signal), sr=rate)
    return np.asarray(probabilities.numpy(), np.float64).reshape(-1)


def runtime_path(bundle: Path, signal: Signal) -> Wide:
    """What the runtime answers, fed in bursts of any length `[steps]`."""
    stream = Session.open(bundle).stream()
    cuts = np.sort(np.random.default_rng(0).integers(0, len(signal), len(signal) // 3000))
    found = [stream.advance(burst)["output"] for burst in np.split(signal, cuts)]
    found.append(stream.flush()["output"])
    return np.concatenate(found).astype(np.float64).reshape(-1)


def resumed_path(bundle: Path, signal: Signal, folder: Path) -> Wide:
    """The second half alone, after `dst run` has read the first and saved its state."""
    half = len(signal) // 2
    np.save(folder / "first.npy", signal[:half])
    dst("run", str(bundle), str(folder / "first.npy"), "--state", str(folder / "state"))
    stream = Stream.load(Session.open(bundle), folder / "state")
    found = [stream.advance(signal[half:])["output"], stream.flush()["output"]]
    return np.concatenate(found).astype(np.float64).reshape(-1)


def main() -> int:
    """Adopt, read the recording in all ways, print how far they lie apart; 1 if too far."""
    parser = argparse.ArgumentParser(description="Adopt silero-vad and compare with its package.")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the recording")
    minutes: float = parser.parse_args().minutes
    missing = [name for name in ("torch", "packaging", "silero_vad") if find_spec(name) is None]
    if missing:
        print(
            f"needs {', '.join(missing)}: pip install torch==2.13.0 && "
            "pip install --no-deps silero-vad packaging"
        )
        return 2
    package = find_spec("silero_vad")
    model = Path(str(package.origin if package else "")).parent / "data" / "silero_vad.onnx"
    worst = 0.0
    for rate in RATES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            adopt(model, folder / "vad", rate)
            signal = recording(minutes * 60, rate, seed=rate)
            expected = package_path(signal, rate)
            found = runtime_path(folder / "vad", signal)
            resumed = resumed_path(folder / "vad", signal, folder)
        apart = float(np.abs(found - expected).max())
        later = float(np.abs(resumed - expected[-len(resumed) :]).max())
        worst = max(worst, apart, later)
        print(
            f"{rate} Hz, {minutes:g} minutes, {len(expected)} chunks, "
            f"{(expected > 0.5).mean():.0%} above one half, from {expected.min():.4f} to "
            f"{expected.max():.4f}\n"
            f"  largest difference, fed in bursts: {apart:.1e}\n"
            f"  largest difference, second half after `dst run --state`: {later:.1e}"
        )
        if len(found) != len(expected):
            print(f"  {len(found)} answers, the package gave {len(expected)}")
            return 1
    print(f"{'within' if worst <= BOUND else 'NOT within'} {BOUND:.0e}")
    return 0 if worst <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
