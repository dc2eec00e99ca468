"""From an empty folder to a tested model and a report by the commands of a new user, mistakes included."""

import pytest

from tests import newcomer


@pytest.mark.usefixtures("steps_here")
def test_an_empty_folder_becomes_a_tested_model_and_a_report(run_gazelit, tmp_path):
    (tmp_path / "mine.yaml").write_text(newcomer.PIPELINE)
    for arguments, said in newcomer.commands():
        if said is None:
            run_gazelit(*arguments)
        else:
            newcomer.check_mistake(2, run_gazelit(*arguments, code=2), said)
    for result in newcomer.RESULTS:
        assert (tmp_path / result).is_file()
