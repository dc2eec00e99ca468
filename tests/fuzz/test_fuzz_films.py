"""A small part of the fuzzing of films; `make fuzz` runs the whole."""

from tests.fuzz.driver import FAILURES, run, table
from tests.fuzz.films import make, read


def test_finding_g2_mutated_films_end_in_pixels_or_in_one_error():
    outcomes = list(run(make, read, 150, seed=7))
    assert len(outcomes) == 150
    assert not [outcome for outcome in outcomes if outcome.result in FAILURES], table(outcomes)
    assert {outcome.result for outcome in outcomes} == {"accepted", "refused"}
