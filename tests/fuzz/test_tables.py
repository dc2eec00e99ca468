"""A small part of the fuzzing of tables and JSON files; the whole is ``python -m tests.fuzz.tables``."""

import pytest

from tests.fuzz.driver import FAILURES, run
from tests.fuzz.tables import make_json, make_table, read


@pytest.mark.parametrize("make", [make_table, make_json])
def test_finding_g7_mutated_files_are_refused_or_read(make):
    failed = [outcome for outcome in run(make, read, 24, seed=7) if outcome.result in FAILURES]
    assert not failed
