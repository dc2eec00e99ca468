"""Writes docs/dependencies.md from pyproject.toml and the installed packages' metadata, and checks licences.

``python .ci/dependencies.py`` writes the page; ``--check`` says what is wrong and writes nothing. What a package is
for, and why a release is excluded, stands in the comment above it in pyproject.toml.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "dependencies.md"
#: Names of licences in metadata, by what they mean; the first that is found counts.
_KNOWN = {
    "AGPL": r"AGPL|Affero",
    "LGPL": r"LGPL|Lesser General Public|Library or Lesser",
    "GPL": r"\bGPL|GNU General Public",
    "EUPL": r"EUPL",
    "MPL-2.0": r"MPL|Mozilla",
    "Apache-2.0": r"Apache",
    "BSD": r"BSD",
    "MIT": r"\bMIT\b|Expat",
    "PSF": r"PSF|Python Software Foundation|Python-2\.0|CNRI",
    "ISC": r"\bISC\b",
    "Zlib": r"zlib",
    "Unlicense": r"Unlicense|Public Domain|CC0|0BSD",
    "HPND": r"HPND|MIT-CMU|PIL",
    "Boost": r"BSL-1\.0|Boost",
    "proprietary": r"NVIDIA|Proprietary",
}
#: May not be in what everybody installs.
STRONG = ("AGPL", "GPL", "LGPL", "EUPL")
#: Packages whose metadata says less, or more, than their licence file; read there.
_READ = {
    # "MPL-2.0 AND MIT": the stronger of the two
    "tqdm": "MPL-2.0",
    # the metadata hold the licences of what its wheels bundle, such as gfortran's runtime with its linking exception
    "numpy": "BSD",
    "scipy": "BSD",
    "torch": "BSD",
    "matplotlib": "PSF",
    "scikit-learn": "BSD",
    "pandas": "BSD",
    "opencv-python-headless": "Apache-2.0",
    # NVIDIA's libraries, which torch's wheels for Linux ask for
    "cuda-toolkit": "proprietary",
}


def licence(name: str) -> str | None:
    """A package's licence as a short name; None if it is not installed, ``?`` if its metadata do not tell."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    if canonicalize_name(name) in _READ:
        return _READ[canonicalize_name(name)]
    classifiers = [text for text in about.get_all("Classifier") or [] if text.startswith("License ::")]
    stated = (about.get("License") or "").strip().splitlines()[:1]
    for text in (about.get("License-Expression"), " ".join(classifiers), *stated):
        for short, pattern in _KNOWN.items():
            if text and re.search(pattern, text, re.IGNORECASE):
                return short
    return "?"


def requirements() -> Iterator[tuple[str, Requirement, str]]:
    """Where each requirement belongs (``core`` or the extra's name), itself, and the comment above it."""
    where, comment = "", ""
    for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"(\w+) = \[$", line):
            where, comment = ("core" if found[1] == "dependencies" else found[1]), ""
        elif line.startswith("]"):
            where = ""
        elif where and (found := re.match(r"\s*# (.*)", line)):
            comment = found[1]
        elif where and (found := re.match(r'\s*"([^"]+)",?$', line)) and _is_requirement(found[1]):
            yield where, Requirement(found[1]), comment
            comment = ""
        if line.startswith("[tool."):
            return


def _is_requirement(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9._-]+(\[\w+\])?\s*([<>=!~][^\s]*)?", text)) and "::" not in text


def closure(names: list[str]) -> list[str]:
    """All that these packages install, themselves among it; names as the index writes them."""
    found: dict[str, None] = {}
    pending = [(canonicalize_name(name), "") for name in names]
    while pending:
        name, extra = pending.pop()
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found[name] = None
        for line in lines:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                child = canonicalize_name(requirement.name)
                if child not in found:
                    pending += [(child, more) for more in ("", *requirement.extras)]
    return sorted(found)


def problems() -> list[str]:
    """What may not be so: strong or unknown licences in core, requirements without a reason."""
    wrong = []
    core = [requirement.name for where, requirement, _ in requirements() if where == "core"]
    for name in closure(core):
        found = licence(name)
        if found in STRONG or found == "?":
            wrong.append(f"{name}: its licence is {found}; core takes nothing stronger than MPL-2.0")
    wrong += [
        f"{requirement.name}: pyproject.toml does not say what it is for"
        for where, requirement, comment in requirements()
        if where == "core" and not comment
    ]
    return wrong


def page() -> str:
    """The page, of the versions that are installed here."""
    rows, excluded = [], []
    for where, requirement, comment in requirements():
        if where in ("dev", "docs"):
            continue
        bounds = str(requirement.specifier).replace("<", r"\<")
        rows.append(
            f"| {requirement.name} | {bounds} | {where} | {licence(requirement.name) or '–'} | {comment or '–'} |"
        )
        excluded += [
            f"| {requirement.name} | {clause.version} | {comment} |"
            for clause in sorted(requirement.specifier, key=str)
            if clause.operator == "!="
        ]
    core = [requirement.name for where, requirement, _ in requirements() if where == "core"]
    counts: dict[str, list[str]] = {}
    for name in closure(core):
        counts.setdefault(licence(name) or "?", []).append(name)
    shares = [f"| {short} | {len(names)} | {_some(names)} |" for short, names in sorted(counts.items())]
    return _TEXT.format(
        rows="\n".join(rows),
        excluded="\n".join(excluded),
        shares="\n".join(shares),
        number=sum(map(len, counts.values())),
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


_TEXT = """# Dependencies

Made by `make dependencies` from `pyproject.toml` and the metadata of the installed packages; `make lint` fails where
core would install something under a licence stronger than MPL-2.0, or where a requirement has no reason. `make sbom`
writes a bill of materials (CycloneDX, JSON) of what is installed.

## What is asked for

The number in a reason is the lower bound: what that release brought. *core* is what `pip install gazelit` takes; the
others are extras. A licence is given of what is installed where the page is made.

| package | versions | where | licence | what for, and why these versions |
|---|---|---|---|---|
{rows}

## Releases that are excluded

| package | release | reason |
|---|---|---|
{excluded}

Upper bounds exclude what is known to break (the reason stands above) or, of a next major version, what was not tried.

## What core installs in all

{number} packages, with all that they ask for in turn:

| licence | packages | such as |
|---|---|---|
{shares}

## Exactly what was tested

`constraints.txt` has the version of every package that the tests run with. With hashes, so that no other file is
installed under these names:

```console
uv pip compile pyproject.toml --constraint constraints.txt --generate-hashes --output-file locked.txt
uv pip install --require-hashes --requirement locked.txt
uv pip install --no-deps gazelit
```

`make test-min` runs the tests with the lowest versions of every bound. `import gazelit` and every command reach no
network unasked: a guard in the tests fails on any attempt (`tests/network_guard`).
"""


def main() -> int:
    """Writes or checks the page; 1 if something is wrong."""
    wrong = problems()
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    sys.stderr.write("".join(f"{line}\n" for line in wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
