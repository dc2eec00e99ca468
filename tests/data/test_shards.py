"""A store in shards has the same bytes as without shards, whatever was interrupted, missing or damaged."""

import shutil
import threading
import time

import pandas as pd
import pytest

from gazelit.data.sources import EGDCXR
from gazelit.data.store.prepare import Options, prepare
from gazelit.data.store.shards import Shard, merge_shards, prepare_shard
from gazelit.data.store.wide import prepare_wide
from gazelit.errors import InputError

OPTIONS = Options((64, 64), 8, None, False, 1, 4096**2)


def source(cohort):
    return EGDCXR(cohort / "egd-cxr", cohort / "mimic-cxr")


def files(store):
    return {
        path.name: path.read_bytes() for path in sorted(store.iterdir()) if not path.name.startswith("pixel-hashes")
    }


def interrupt(folder, lines):
    """Reduces a finished shard to the files that a kill after ``lines`` films leaves."""
    partial = folder.with_name(f".{folder.name}-partial")
    folder.replace(partial)
    (partial / "shard.json").unlink()
    journal = partial / "work" / "images.journal"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:lines]) + '{"film": "torn')


def test_shards_are_merged_into_the_bytes_of_one_process(cohort, store, tmp_path, caplog):
    out = tmp_path / "store"
    options = Options((64, 64), 8, None, False, 1, prepare.__defaults__[-1])
    second = prepare_shard(source(cohort), out, Shard(2, 2), options)
    with pytest.raises(InputError, match=r"shards 1/2 are missing"):
        merge_shards(source(cohort), out, options)
    interrupt(second, 5)
    caplog.set_level("INFO", "gazelit")
    for number in (2, 1):
        prepare_shard(source(cohort), out, Shard(number, 2), options)
    assert "going on after 5 of 12 cases" in caplog.text
    images = second / "images.npy"
    whole = images.read_bytes()
    images.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=r"images\.npy: is not what was written; remove .* --shard 2/2 again"):
        merge_shards(source(cohort), out, options)
    images.write_bytes(whole)
    merged = merge_shards(source(cohort), out, options)
    assert files(merged.path) == files(store)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    # A process that comes late finds the store.
    prepare_shard(source(cohort), out, Shard(1, 2), options)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_shard_lists_undecodable_films_and_reuses_unchanged_films(cohort, tmp_path, caplog):
    tree = tmp_path / "tree"
    shutil.copytree(cohort, tree)
    broken, *_ = sorted((tree / "mimic-cxr").rglob("*.dcm"))
    sound = broken.read_bytes()
    broken.write_bytes(sound[:-5000])
    prepare_shard(source(tree), tmp_path / "store", Shard(1, 1), OPTIONS)
    caplog.set_level("INFO", "gazelit")
    merged = merge_shards(source(tree), tmp_path / "store", OPTIONS)
    assert pd.read_csv(merged.path / "skipped.csv")["image_id"].tolist() == [broken.stem]
    shutil.rmtree(merged.path)
    prepare_shard(source(tree), tmp_path / "store", Shard(1, 1), OPTIONS)
    broken.write_bytes(sound)
    with pytest.raises(InputError, match=r"shard 1/1 is of other data or options; run it again with --shard 1/1"):
        merge_shards(source(tree), tmp_path / "store", OPTIONS)
    prepare_shard(source(tree), tmp_path / "store", Shard(1, 1), OPTIONS)
    assert "23 films are taken over from an earlier run" in caplog.text
    assert merge_shards(source(tree), tmp_path / "store", OPTIONS).about["counts"]["cases"] == 24


@pytest.mark.parametrize(("films", "count"), [(10, 3), (2, 5), (0, 2)])
def test_every_film_is_in_one_shard(films, count):
    shares = [list(range(films))[Shard(number, count).share(films)] for number in range(1, count + 1)]
    assert [film for share in shares for film in share] == list(range(films))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "1/4/8"])
def test_invalid_shards_are_refused(text):
    with pytest.raises(InputError, match="write number/count, such as 3/16"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge": True, "shard": "1/2"}, "merge: goes without --shard"),
        ({"merge": True}, "has no shards to merge"),
        ({"engine": "ray", "workers": 2}, "leave out --shard and --workers"),
        ({"shards": 4}, "shards: goes with --engine ray"),
        ({"engine": "ray", "shards": 0}, "shards: must be at least 1"),
        ({"engine": "ray"}, "name it in RAY_ADDRESS"),
    ],
)
def test_options_that_do_not_go_together(options, message, cohort, tmp_path):
    with pytest.raises(InputError, match=message):
        prepare_wide(source(cohort), tmp_path / "store", size=(64, 64), **options)


def test_ray_loses_a_machine_and_the_store_has_the_same_bytes(cohort, store, tmp_path, monkeypatch):
    """Two nodes run on this machine; one is killed after the shards have begun."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Unless a file in the home folder forbids it, a head node sends usage reports, and even reports being forbidden.
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_REPORT_URL", "http://127.0.0.1:9")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)

    def kill():
        while not any((tmp_path / "out").glob(".store-shards/*")):
            time.sleep(0.02)
        cluster.remove_node(lost, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        prepare_wide(source(cohort), tmp_path / "out" / "store", size=(64, 64), engine="ray", shards=6)
    finally:
        killer.join()
        ray.shutdown()
        cluster.shutdown()
    assert files(tmp_path / "out" / "store") == files(store)
