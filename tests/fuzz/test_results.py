"""A small part of the fuzzing of what is handed on; the whole is ``python -m tests.fuzz.results``."""

from functools import partial

import pytest

from tests.fuzz.driver import FAILURES, run
from tests.fuzz.results import MEGABYTES, make, read


@pytest.mark.parametrize(("kind", "count"), [("checkpoints", 30), ("stores", 30), ("configs", 40)])
def test_mutated_results_are_refused_or_read(kind, count):
    outcomes = run(partial(make, kind), read, count, seed=7, megabytes=MEGABYTES)
    assert not [outcome for outcome in outcomes if outcome.result in FAILURES]
