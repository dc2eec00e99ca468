"""Inputs guided by coverage: ``python -m tests.fuzz.guided KIND --seed 0 --seconds 60 --out FOLDER`` (atheris).

libFuzzer changes the inputs, by itself and with the mutations of the other fuzzers, and keeps inputs that reach new
lines of gazelit's readers or of pydicom's. An input is the number of a target (two bytes) and the bytes to put there.
The fuzzer runs in one process and judges roughly; the inputs that it calls failures are in ``FOLDER/finds``, to be read
again one by one (:mod:`tests.fuzz.__main__`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import struct
import sys
import time
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["gazelit", "pydicom"]):
    # Imports everything that the readers import, so that it is instrumented.
    import gazelit.checkpoints.stamps
    import gazelit.configs
    import gazelit.data.images.dicom
    import gazelit.data.sources
    import gazelit.data.store.store
    import gazelit.data.store.verify

    if {"checkpoints", "packages"} & set(sys.argv):
        # These imports need torch.
        import gazelit.deploy.inference
        import gazelit.deploy.packages  # noqa: F401

from tests.fuzz.driver import FAILURES, Tally, judge
from tests.fuzz.kinds import LONGEST, guided_targets, kind, named_target
from tests.fuzz.targets import UnfitError

#: Number of inputs with one mutation with which the first run begins, for each target.
SEEDS = 4


class Fuzzer:
    """The functions that libFuzzer calls.

    Args:
        name: The kind.
        out: Folder of the corpus, finds and counts.
        folder: Folder where inputs are put.
        seconds: Time after which it ends.
    """

    def __init__(self, name: str, out: Path, folder: Path, seconds: float) -> None:
        self._kind, self._out = kind(name), out
        self.targets = guided_targets(name, folder)
        self.corpus = out / "corpus"
        self._progress = out / "slice.json"
        self._tallies: dict[str, Tally] = {}
        self._found: set[str] = set()
        self._seen: set[bytes] = set()
        self._end, self._flush = time.monotonic() + seconds, 0.0

    def seed_corpus(self) -> None:
        """Writes the first inputs, unless there is a corpus, whose inputs an earlier run counted."""
        if not self.corpus.is_dir():
            self.corpus.mkdir(parents=True)
            rng = random.Random(0)
            for number, target in enumerate(self.targets):
                mutated = [rng.choice(target.mutations)(target.content, rng) for _ in range(SEEDS)]
                for content in (target.content, *mutated):
                    self._save(self.corpus, struct.pack("<H", number) + content[: LONGEST - 2])
            return
        self._seen = {_digest(path.read_bytes()) for path in self.corpus.iterdir()}

    def test(self, data: bytes) -> None:
        """Reads an input, and counts it if it is new."""
        if len(data) < 2 or (digest := _digest(data)) in self._seen:
            return
        self._seen.add(digest)
        target = named_target(self.targets, data)
        try:
            path = target.put(data[2:])
        except UnfitError:
            return
        result, detail, seconds, megabytes = judge(self._kind.read, path)
        if result in FAILURES and (key := f"{result} {detail.rpartition('(')[2]}") not in self._found:
            self._found.add(key)
            self._save(self._out / "finds", data)
        self._tallies.setdefault(target.name, Tally()).add(result, seconds, megabytes)
        now = time.monotonic()
        if now > self._flush or now > self._end:
            self._flush = now + 2
            rows = {name: tally.primitives() for name, tally in self._tallies.items()}
            _replace(self._progress, json.dumps(rows))
            if now > self._end:
                # libFuzzer would end with a report and a code of its own.
                os._exit(0)

    def mutate(self, data: bytes, longest: int, seed: int) -> bytes:
        """Changes an input, half of the times as the other fuzzers do."""
        rng = random.Random(seed)
        if len(data) < 3 or rng.random() < 0.5:
            changed: bytes = atheris.Mutate(data, longest)
            return changed
        target = named_target(self.targets, data)
        try:
            content = rng.choice(target.mutations)(data[2:], rng)
        except Exception:
            # The mutations need more of a whole input than is left of this input.
            content = target.mutations[0](target.content, rng)
        return (data[:2] + content)[:longest]

    @staticmethod
    def _save(folder: Path, data: bytes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / hashlib.sha256(data).hexdigest()[:20], data)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


def _replace(path: Path, content: bytes | str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
    temporary.replace(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True, help="folder of this run's own, in which inputs are put")
    options = parser.parse_args()
    fuzzer = Fuzzer(options.kind, options.out, options.scratch, options.seconds)
    fuzzer.seed_corpus()
    finds = options.out / "finds"
    finds.mkdir(parents=True, exist_ok=True)
    arguments: list[Any] = [
        sys.argv[0], str(fuzzer.corpus), f"-seed={options.seed + 1}", f"-max_len={LONGEST}", "-timeout=60",
        "-rss_limit_mb=6000", f"-artifact_prefix={finds}/", "-verbosity=0", "-len_control=0",
    ]  # fmt: skip
    atheris.Setup(arguments, fuzzer.test, custom_mutator=fuzzer.mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
