import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazelit.data.options import SplitOptions
from gazelit.data.splits.by_patient import load_split, make_split, save_split
from gazelit.errors import InputError


def table(patients):
    return pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(len(patients))],
            "patient_id": patients,
            "study_id": [f"s{n}" for n in range(len(patients))],
        }
    )


def classes(numbers):
    """Exclusive classes, a column each."""
    return pd.DataFrame({f"class {n}": [float(number == n) for number in numbers] for n in sorted(set(numbers))})


def split_by_patient(images, labels, val, test, seed):
    return make_split(images, labels, SplitOptions(seed=seed, val_fraction=val, test_fraction=test))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 80), max_size=100), st.integers(0, 1000))
def test_no_patient_is_in_two_splits_and_every_image_is_in_one(patients, seed):
    # Enough patients of each stratum that no split can be empty.
    patients = [*range(81), *patients]
    images = table(patients)
    split = split_by_patient(images, classes([patient % 3 for patient in patients]), 0.15, 0.25, seed)
    assert split.notna().all()
    assert (split.groupby(images["patient_id"]).nunique() == 1).all()
    assert set(split) == {"train", "val", "test"}


def test_classes_keep_their_shares():
    images = table(list(range(300)))
    strata = [n % 3 for n in range(300)]
    split = split_by_patient(images, classes(strata), 0.1, 0.2, 0)
    counts = pd.crosstab(pd.Series(strata), split)
    assert (counts["test"] == 20).all()
    assert (counts["val"] == 10).all()


def test_the_split_is_a_function_of_the_seed_and_not_of_the_files_order():
    images = table(list(range(60)))
    strata = [n % 3 for n in range(60)]
    labels = classes(strata)
    split = split_by_patient(images, labels, 0.2, 0.2, 5)
    order = images.sample(frac=1, random_state=1).index
    assert split.equals(split_by_patient(images.loc[order], labels.loc[order], 0.2, 0.2, 5).sort_index())
    assert not split.equals(split_by_patient(images, labels, 0.2, 0.2, 6))


def test_a_written_split_is_read_back(tmp_path):
    images = table([0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    split = split_by_patient(images, images[[]], 0.3, 0.3, 0)
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
        split_by_patient(table([1, 2, 3]), table([1, 2, 3])[[]], val, test, 0)


def test_too_few_cases_are_an_empty_split():
    with pytest.raises(InputError, match="'val' is empty"):
        split_by_patient(table([1, 2, 3]), classes([0, 1, 2]), 0.1, 0.4, 0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=60), st.integers(3, 6), st.integers(0, 50))
def test_over_all_folds_every_image_is_tested_and_validated_once(patients, folds, seed):
    patients = [*range(61), *patients]
    images = table(patients)
    labels = classes([patient % 3 for patient in patients])
    splits = [make_split(images, labels, SplitOptions(seed=seed, folds=folds, fold=fold)) for fold in range(folds)]
    for name in ("test", "val"):
        assert (sum((split == name).astype(int) for split in splits) == 1).all()
    for split in splits:
        assert (split.groupby(images["patient_id"]).nunique() == 1).all()
    if len(images) == 61:
        # Every patient has a single film here; otherwise folds must balance both patients and films.
        sizes = [split.eq("test").sum() for split in splits]
        assert max(sizes) - min(sizes) <= 1


def test_the_official_split_is_taken_as_it_is():
    images = table([0, 0, 1, 2, 3]).assign(official_split=["train", "train", "val", "test", None])
    split = make_split(images, images[[]], SplitOptions("official"))
    assert split.tolist()[:4] == ["train", "train", "val", "test"]
    assert split.isna().tolist() == [False] * 4 + [True]
    with pytest.raises(InputError, match="1 patient_id are in more than one split"):
        make_split(
            images.assign(official_split=["train", "test", "val", "test", None]), images[[]], SplitOptions("official")
        )
    with pytest.raises(InputError, match="no official split"):
        make_split(table([0, 1, 2]), table([0, 1, 2])[[]], SplitOptions("official"))


def test_the_references_split_is_of_images_and_warns(caplog):
    # 200 films of 100 patients: most patients fall into two splits.
    images = table([n // 2 for n in range(200)])
    strata = [n // 2 % 2 for n in range(200)]
    with caplog.at_level("WARNING", logger="gazelit"):
        split = make_split(images, classes(strata), SplitOptions("reference_image_level"))
    counts = pd.crosstab(pd.Series(strata), split)
    assert (counts["test"] == 20).all()
    assert (counts["val"] == 10).all()
    shared = (split.groupby(images["patient_id"]).nunique() > 1).sum()
    assert shared > 20
    assert f"{shared} patients are in more than one split" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SplitOptions(folds=2), "at least 3"),
        (SplitOptions(folds=5, fold=5), "fold: must be 0 to 4"),
        (SplitOptions("official", folds=5), "folds: goes with method patient"),
    ],
)
def test_impossible_folds(options, message):
    with pytest.raises(InputError, match=message):
        make_split(table(range(30)), table(range(30))[[]], options)


def test_overlap_anywhere_in_a_split_file_is_an_error(tmp_path):
    """The file may name images of another store: they must not leak either."""
    path = tmp_path / "split.csv"
    rows = ["i0,0,s0,train", "i1,1,s1,test", "i2,2,s2,val", "x8,8,t,train", "x9,8,u,test"]
    path.write_text("image_id,patient_id,study_id,split\n" + "\n".join(rows) + "\n")
    with pytest.raises(InputError, match="1 patient_id are in more than one split"):
        load_split(path, table([0, 1, 2]))
    path.write_text("image_id,patient_id,study_id,split\n" + "\n".join(rows[:4]) + "\n")
    assert load_split(path, table([0, 1, 2])).tolist() == ["train", "test", "val"]
    with pytest.raises(InputError, match="names none of the 3 images"):
        load_split(path, table([0, 1, 2]).assign(image_id=["p", "q", "r"]))


def test_several_stores_are_split_together(store, tmp_path, run_gazelit):
    from gazelit.data.store.store import Store

    out = tmp_path / "split.csv"
    command = ["split", str(store), str(store), "--out", str(out)]
    run_gazelit(*command, "--stratify", "[Normal, CHF, pneumonia]")
    written = load_split(out, Store.open(store).cases)
    assert written.notna().all()
    run_gazelit(*command[:2], *command[3:], "--folds", "3", "--seed", "4", "--allow_empty", "true")
    parts = [load_split(tmp_path / f"split-{fold}.csv", Store.open(store).cases) for fold in range(3)]
    assert (sum((part == "test").astype(int) for part in parts) == 1).all()
    assert "the stores have no label x" in run_gazelit(*command, "--stratify=[x]", code=2)


def test_finding_c1_counts_are_printed_and_kept_beside_the_split(store, tmp_path, run_gazelit, capfd):
    from gazelit.data.store.store import Store

    out = tmp_path / "split.csv"
    said = run_gazelit("split", str(store), "--out", str(out), "--stratify", "[Normal, CHF, pneumonia]")
    counts = pd.read_csv(tmp_path / "split.counts.csv", keep_default_na=False)
    assert counts.columns.tolist() == ["count", "label", "train", "val", "test"]
    cases = Store.open(store).cases
    split = load_split(out, cases)
    for _, row in counts.iterrows():
        for name in ("train", "val", "test"):
            inside = cases[split == name]
            expected = {
                "cases": len(inside),
                "patients": inside["patient_id"].nunique(),
                "positive": (inside.get(row["label"], pd.Series()) == 1).sum(),
                "negative": (inside.get(row["label"], pd.Series()) == 0).sum(),
            }
            assert row[name] == expected[row["count"]]
    assert "fewer than 5 positive cases of Normal (val 1, test " in said
    assert not any(image_id in (tmp_path / "split.counts.csv").read_text() for image_id in cases["image_id"])


def test_the_table_of_counts():
    from gazelit.data.splits.split_table import count_split, format_table

    images = table([0, 0, 1, 2, 3]).assign(patient_id=["0", "0.0", "1", "2", "3"])
    labels = pd.DataFrame({"Edema": [1.0, 0.0, np.nan, -1.0, 1.0]})
    split = pd.Series(["train", "train", "train", "val", "test"])
    assert format_table(count_split(images, split, labels)).splitlines() == [
        "                    train  val        test",
        "cases                   3    1           1",
        "patients                2    1           1",
        "Edema positive  1 (50.0%)    0  1 (100.0%)",
    ]


def test_finding_c1_a_class_without_a_positive_in_a_split_is_an_error_or_allowed(store, tmp_path, run_gazelit):
    out = tmp_path / "split.csv"
    command = ["split", str(store), "--out", str(out), "--stratify", "[Normal, support_devices__chx]"]
    said = run_gazelit(*command, code=2)
    assert "no positive case of support_devices__chx in " in said
    assert "--allow_empty" in said
    assert not list(tmp_path.glob("split*"))
    assert "no positive case of support_devices__chx" in run_gazelit(*command, "--allow_empty=true")
    assert out.is_file()


def test_labels_that_cannot_be_stratified(store):
    from gazelit.data.splits.by_patient import stratified_labels
    from gazelit.data.store.store import Store

    opened = Store.open(store)
    default = stratified_labels([opened], None, "patient")
    # The labels with a positive anywhere in the store, not those of a stage.
    positive = (opened.cases[opened.about["label_columns"]] == 1).any()
    assert default.columns.tolist() == positive.index[positive].tolist()
    with pytest.raises(InputError, match="stratify: the store has no label Cough; labels are Normal, "):
        stratified_labels([opened], ["Cough"], "patient")
    with pytest.raises(InputError, match="reference_image_level needs the exclusive classes by name"):
        stratified_labels([opened], None, "reference_image_level")
    opened.cases["CHF"] = 0.5
    with pytest.raises(InputError, match="stratify: CHF has values other than"):
        stratified_labels([opened], ["CHF"], "patient")
    assert "CHF" not in stratified_labels([opened], None, "patient")


def test_images_that_a_split_file_does_not_name_are_counted(tmp_path, caplog):
    path = tmp_path / "split.csv"
    path.write_text("image_id,split\ni0,train\ni1,test\ni2,val\ni3,\n")
    with caplog.at_level("WARNING", logger="gazelit"):
        assert load_split(path, table([0, 1, 2, 3, 4])).isna().tolist() == [False, False, False, True, True]
    assert "2 of the store's 5 images are in no split" in caplog.text
