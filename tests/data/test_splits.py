import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazelit.data.splits import load_split, save_split, split_by_patient
from gazelit.errors import InputError


def table(patients):
    return pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(len(patients))],
            "patient_id": patients,
            "study_id": [f"s{n}" for n in range(len(patients))],
        }
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 80), max_size=100), st.integers(0, 1000))
def test_no_patient_is_in_two_splits_and_every_image_is_in_one(patients, seed):
    # Enough patients of each stratum that no split can be empty.
    patients = [*range(81), *patients]
    images = table(patients)
    split = split_by_patient(images, [one % 3 for one in patients], 0.15, 0.25, seed)
    assert split.notna().all()
    assert (split.groupby(images["patient_id"]).nunique() == 1).all()
    assert set(split) == {"train", "val", "test"}


def test_classes_keep_their_shares():
    images = table(list(range(300)))
    strata = [n % 3 for n in range(300)]
    split = split_by_patient(images, strata, 0.1, 0.2, 0)
    counts = pd.crosstab(pd.Series(strata), split)
    assert (counts["test"] == 20).all()
    assert (counts["val"] == 10).all()


def test_the_split_is_a_function_of_the_seed_and_not_of_the_files_order():
    images = table(list(range(60)))
    strata = [n % 3 for n in range(60)]
    one = split_by_patient(images, strata, 0.2, 0.2, 5)
    order = images.sample(frac=1, random_state=1).index
    other = split_by_patient(images.loc[order], [strata[n] for n in order], 0.2, 0.2, 5)
    assert one.equals(other.sort_index())
    assert not one.equals(split_by_patient(images, strata, 0.2, 0.2, 6))


def test_a_written_split_is_read_back(tmp_path):
    images = table([0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    split = split_by_patient(images, [0] * 10, 0.3, 0.3, 0)
    save_split(tmp_path / "split.csv", images, split)
    assert load_split(tmp_path / "split.csv", images).tolist() == split.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image_id,split\ni0,train\ni1,test\ni2,val\n", "1 patient_id are in more than one split"),
        ("image_id,split\ni0,train\ni1,train\ni2,val\n", "'test' is empty"),
        ("image_id,split\ni0,train\ni1,train\ni2,holdout\n", "1 names are none of"),
        ("image_id,split\ni0,train\ni0,test\n", "named more than once"),
        ("id,split\ni0,train\n", "column image_id is missing"),
        ("", "cannot be read as a split file"),
    ],
)
def test_split_files_that_leak_or_do_not_fit_are_refused(tmp_path, content, message):
    path = tmp_path / "split.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"split\.csv: .*{message}"):
        load_split(path, table([0, 0, 1]))


@pytest.mark.parametrize(("val", "test"), [(0, 0.2), (0.6, 0.5), (0.2, 1.0)])
def test_impossible_shares(val, test):
    with pytest.raises(InputError, match="val_fraction"):
        split_by_patient(table([1, 2, 3]), [0, 0, 0], val, test, 0)


def test_too_few_cases_are_an_empty_split():
    with pytest.raises(InputError, match="'val' is empty"):
        split_by_patient(table([1, 2, 3]), [0, 1, 2], 0.1, 0.4, 0)
