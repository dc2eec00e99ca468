"""The page of dependencies agrees with pyproject.toml, and no core dependency has a strong copyleft licence."""

import re
import runpy
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def test_every_requirement_stands_on_the_page_with_its_reason_and_no_licence_is_too_strong():
    script = runpy.run_path(str(ROOT / ".ci" / "dependencies.py"))
    assert script["problems"]() == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = {("core", text) for text in project["dependencies"]}
    required |= {(extra, text) for extra in extras.keys() - {"dev", "docs"} for text in extras[extra]}
    page = (ROOT / "docs" / "dependencies.md").read_text()
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (\w+) \| (\S+) \| (.+) \|$", page, re.MULTILINE)
    rows = [row for row in rows if row[0] != "package"]
    found = {(where, name, bounds.replace("\\", "")) for name, bounds, where, _, _ in rows}
    # tomllib is the oracle; the script reads line by line to keep the comments.
    assert found == {
        (where, (requirement := Requirement(text)).name, str(requirement.specifier)) for where, text in required
    }
    assert all(licence not in script["STRONG"] for _, _, where, licence, _ in rows if where == "core")


def test_licences_that_count_as_strong():
    script = runpy.run_path(str(ROOT / ".ci" / "dependencies.py"))
    known = script["_KNOWN"]

    def short(text):
        return next((name for name, pattern in known.items() if re.search(pattern, text, re.IGNORECASE)), None)

    # SPDX expressions and classifiers of the package index.
    assert short("AGPL-3.0-or-later") == "AGPL"
    assert short("License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)") == "LGPL"
    assert short("GPL-2.0-only") == "GPL"
    assert short("MPL-2.0 AND MIT") == "MPL-2.0"
    assert short("License :: OSI Approved :: BSD License") == "BSD"
