"""A small part of the fuzzing; the whole is ``make fuzz``."""

import pytest

from tests.fuzz.driver import FAILURES, run, table
from tests.fuzz.kinds import fuzzer

COUNTS = {
    "films": 250,
    "bombs": 4,
    "tables": 60,
    "json": 40,
    "configs": 60,
    "stores": 60,
    "checkpoints": 30,
    "packages": 15,
}


@pytest.mark.parametrize("kind", COUNTS)
def test_findings_g2_and_g7_mutated_inputs_are_refused_or_read(kind):
    outcomes = list(run(*fuzzer(kind), COUNTS[kind], seed=7))
    assert len(outcomes) == COUNTS[kind]
    assert not [outcome for outcome in outcomes if outcome.result in FAILURES], table(outcomes)
    assert "refused" in {outcome.result for outcome in outcomes}
