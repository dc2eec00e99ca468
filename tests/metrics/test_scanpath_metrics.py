"""Scanpath metrics against independent libraries, brute force and closed forms."""

import itertools
import math
import pickle

import multimatch_gaze
import numpy as np
import pytest
import rapidfuzz
import torch
from Bio.Align import PairwiseAligner, substitution_matrices
from scipy.spatial.distance import cdist, directed_hausdorff
from similaritymeasures import dtw as other_dtw
from similaritymeasures import frechet_dist
from sklearn.cluster import MeanShift
from torchmetrics import MetricCollection

from gazelit.errors import InputError
from gazelit.metrics.scanpath import (
    Clusters,
    LabelMap,
    Paths,
    ScanpathMetric,
    Simplification,
    cross_recurrence,
    dtw,
    every_pair,
    eyenalysis,
    frechet,
    hausdorff,
    load_clusters,
    multimatch,
    save_clusters,
    scanmatch,
    sed,
    sequence_score,
    stde,
    tde,
)

SIZE = (320, 224)


def random_paths(seed, count=40, shortest=1, longest=12, size=SIZE):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(shortest, longest + 1, count)
    return [
        np.column_stack([generator.uniform(0, size, (length, 2)), generator.gamma(2, 0.15, length)])
        for length in lengths
    ]


A, B = random_paths(1), random_paths(2)


def letters(path, bins, time_bin=None):
    """Cells as (column, row) of one fixation after another, with time in milliseconds as in ScanMatch's own code."""
    result = []
    for x, y, seconds in path:
        cell = (min(int(x * bins[0] / SIZE[0]), bins[0] - 1), min(int(y * bins[1] / SIZE[1]), bins[1] - 1))
        times = 1 if time_bin is None else int(1000 * seconds / (1000 * time_bin) + 0.5)
        result += [cell] * times
    return result


def alignment_score(first, second, bins, threshold, gap):
    """The score of Biopython's Needleman–Wunsch alignment."""
    cells = list(itertools.product(range(bins[0]), range(bins[1])))
    alphabet = "".join(chr(0x100 + number) for number in range(len(cells)))
    matrix = substitution_matrices.Array(alphabet=alphabet, dims=2)
    matrix[:, :] = threshold - cdist(cells, cells)
    aligner = PairwiseAligner(mode="global", open_gap_score=gap, extend_gap_score=gap, substitution_matrix=matrix)
    strings = ["".join(alphabet[cells.index(cell)] for cell in string) for string in (first, second)]
    return aligner.score(*strings)


@pytest.mark.parametrize(
    ("bins", "time_bin", "threshold", "gap"),
    [((16, 12), None, 3.5, 0), ((8, 6), None, 3.5, 0), ((16, 12), 0.05, 3.5, 0), ((12, 8), 0.1, 2.0, -0.5)],
)
def test_scanmatch_is_the_alignment_of_biopython(bins, time_bin, threshold, gap):
    scores = scanmatch(A, B, size=SIZE, bins=bins, time_bin=time_bin, threshold=threshold, gap=gap)
    for a, b, value in zip(A, B, scores, strict=True):
        first, second = letters(a, bins, time_bin), letters(b, bins, time_bin)
        expected = alignment_score(first, second, bins, threshold, gap) if first and second else 0.0
        assert value == pytest.approx(expected / (threshold * max(len(first), len(second))), abs=1e-9)


def test_scanmatch_is_the_best_of_all_alignments():
    for a, b in zip(random_paths(3, longest=5), random_paths(4, longest=5), strict=True):
        pairs = 3.5 - cdist(letters(a, (16, 12)), letters(b, (16, 12)))
        best = max(
            sum(pairs[i, j] for i, j in zip(rows, columns, strict=True))
            for count in range(min(len(a), len(b)) + 1)
            for rows in itertools.combinations(range(len(a)), count)
            for columns in itertools.combinations(range(len(b)), count)
        )
        assert scanmatch(a, b, size=SIZE) == pytest.approx(best / (3.5 * max(len(a), len(b))), abs=1e-9)


def test_scanmatch_of_one_fixation_each_is_a_closed_form():
    # Cells (0, 0) and (3, 1) of 16 × 12: a column has 20 pixels, a row 18 2/3.
    a, b = np.array([[0.0, 0.0, 0.2]]), np.array([[79.9, 18.7, 0.2]])
    assert scanmatch(a, b, size=SIZE) == pytest.approx((3.5 - math.sqrt(10)) / 3.5, abs=1e-12)
    # Further apart than the threshold, a gap on either side is better.
    assert scanmatch(a, np.array([[300.0, 200.0, 0.2]]), size=SIZE) == 0
    # 0.075 s are 1.5 bins of 50 ms and become two letters; 0.02 s vanish.
    longer = np.array([[0.0, 0.0, 0.075], [300.0, 200.0, 0.02]])
    assert scanmatch(longer, np.array([[0.0, 0.0, 0.1]]), size=SIZE, time_bin=0.05) == 1


@pytest.mark.parametrize("bins", [5, (8, 6)])
def test_sed_is_the_distance_of_rapidfuzz(bins):
    grid = (bins, bins) if isinstance(bins, int) else bins
    raw, share = sed(A, B, size=SIZE, bins=bins), sed(A, B, size=SIZE, bins=bins, normalise=True)
    for a, b, edits, part in zip(A, B, raw, share, strict=True):
        expected = rapidfuzz.distance.Levenshtein.distance(letters(a, grid), letters(b, grid))
        assert edits == expected
        assert part == expected / max(len(a), len(b))


def test_fixations_too_short_for_a_letter_count_alone_as_in_a_batch():
    short, long = [[10, 10, 0.01]], [[10, 10, 0.2]]
    settings = {"size": SIZE, "time_bin": 0.05}
    # No letter of four has a partner; two strings without a letter have no score.
    assert scanmatch(short, long, **settings) == scanmatch([short, long], [long, long], **settings)[0] == 0
    assert math.isnan(scanmatch(short, short, **settings))
    assert sequence_score(short, long, regions=Clusters.fit([long]), time_bin=0.05) == 0


def test_the_right_and_lower_edge_belong_to_the_last_cells():
    # Published copies of the code step by 224 // 5 = 44 pixels, which makes a sixth column from 220 on.
    edge, inside = np.array([[223.5, 223.5, 0.2]]), np.array([[181.0, 181.0, 0.2]])
    assert sed(edge, inside, size=(224, 224)) == 0
    corner = np.array([[224.0, 224.0, 0.2]])
    assert scanmatch(corner, edge, size=(224, 224)) == 1
    assert sed(inside, np.array([[179.0, 181.0, 0.2]]), size=(224, 224)) == 1


def test_sequence_score_is_the_longest_common_subsequence():
    clusters = Clusters.fit(A + B, bandwidth=60)
    again = MeanShift(bandwidth=60).fit(np.concatenate(A + B)[:, :2])
    assert len(clusters.centres) == len(again.cluster_centers_) > 3
    scores = sequence_score(A, B, regions=clusters)
    for a, b, value in zip(A, B, scores, strict=True):
        strings = [again.predict(path[:, :2]).tolist() for path in (a, b)]
        expected = rapidfuzz.distance.LCSseq.similarity(*strings) / max(map(len, strings))
        assert value == pytest.approx(expected, abs=1e-12)
    assert "bandwidth 60" in str(scores.settings)


def test_semantic_sequence_score_reads_the_labels_under_the_fixations():
    labels = np.zeros((224, 320), int)
    labels[:, 160:] = 1
    a = np.array([[10, 10, 0.2], [300, 10, 0.2], [20, 200, 0.2]])
    b = np.array([[30, 100, 0.2], [159.9, 10, 0.2], [320, 224, 0.2]])
    # 0 1 0 against 0 0 1.
    assert sequence_score(a, b, regions=LabelMap(labels)) == pytest.approx(2 / 3)
    assert sequence_score([a, b], [a, b], regions=[LabelMap(labels), Clusters.fit([a])]).mean() == 1
    with pytest.raises(InputError, match="regions: are 1 for 2 pairs"):
        sequence_score([a, b], [a, b], regions=[LabelMap(labels)])
    # Half a pixel beside the film still is on it, as for the grids.
    beside = np.array([[-0.5, 224.5, 0.2]])
    assert sequence_score(beside, a[:1], regions=LabelMap(labels)) == 1
    with pytest.raises(InputError, match="b: path 2, fixation 3 lies off the label map of 320 × 224 pixels"):
        sequence_score([a, a], [a, np.vstack([a[:2], [[321, 10, 0.2]]])], regions=LabelMap(labels))


def test_clusters_are_kept(tmp_path):
    clusters = Clusters.fit(A)
    save_clusters(tmp_path / "clusters.json", {"film": clusters})
    again = load_clusters(tmp_path / "clusters.json")["film"]
    assert sequence_score(A, B, regions=again).values.tolist() == sequence_score(A, B, regions=clusters).values.tolist()
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(InputError, match="holds no clusters"):
        load_clusters(tmp_path / "other.json")


def as_records(path):
    records = np.zeros(len(path), [("start_x", float), ("start_y", float), ("duration", float)])
    records["start_x"], records["start_y"], records["duration"] = path.T
    return records


def test_multimatch_is_that_of_multimatch_gaze():
    a, b = random_paths(5, 60, shortest=3, longest=15), random_paths(6, 60, shortest=3, longest=15)
    expected = [multimatch_gaze.docomparison(as_records(x), as_records(y), SIZE) for x, y in zip(a, b, strict=True)]
    values = np.array(multimatch(a, b, size=SIZE)).T
    assert values == pytest.approx(np.array([np.ravel(row) for row in expected]), abs=1e-9)


def test_multimatch_simplifies_as_multimatch_gaze_does():
    a, b = random_paths(7, 80, shortest=4, longest=20), random_paths(8, 80, shortest=4, longest=20)
    simplify = Simplification(amplitude=90, direction=45, duration=0.3)
    values = np.array(multimatch(a, b, size=SIZE, simplify=simplify)).T
    compared = 0
    for x, y, row in zip(a, b, values, strict=True):
        assert np.isfinite(row).all()
        try:
            expected = multimatch_gaze.docomparison(as_records(x), as_records(y), SIZE, True, 45.0, 0.3, 90.0)
        except (IndexError, ValueError):
            # multimatch_gaze looks for a saccade before the only saccade.
            continue
        assert row == pytest.approx(np.ravel(expected), abs=1e-9)
        compared += 1
    assert compared > 60
    assert np.abs(values - np.array(multimatch(a, b, size=SIZE)).T).max() > 0.1


def test_multimatch_of_two_saccades_is_a_closed_form():
    a = np.array([[0, 0, 0.2], [100, 0, 0.4], [200, 0, 0.1]])
    b = np.array([[0, 20, 0.4], [0, 120, 0.4], [0, 220, 0.3]])
    diagonal = math.hypot(*SIZE)
    shape, direction, length, position, duration = multimatch(a, b, size=SIZE)
    assert shape == pytest.approx(1 - 100 * math.sqrt(2) / (2 * diagonal))
    assert direction == pytest.approx(0.5)
    assert length == 1
    # First saccades with first and second with second: 20 apart, then (100, −120).
    assert position == pytest.approx(1 - (20 + math.hypot(100, 120)) / 2 / diagonal)
    assert duration == pytest.approx(1 - (0.5 + 0.0) / 2)
    assert multimatch(a, b, size=SIZE).mean == pytest.approx((shape + direction + length + position + duration) / 5)


def test_multimatch_of_duplicate_fixations_and_of_too_short_paths():
    still = np.array([[50, 50, 0.2], [50, 50, 0.0], [50, 50, 0.0]])
    assert list(multimatch(still, still, size=SIZE)) == [1, 1, 1, 1, 1]
    assert np.isnan(list(multimatch(still[:2], still, size=SIZE))).all()
    batch = multimatch([still, still[:2]], [still, still], size=SIZE)
    assert batch.shape.undefined == 1
    assert batch.shape.mean() == 1


def test_dtw_frechet_and_hausdorff_are_those_of_libraries():
    for a, b, warped, leash, farthest in zip(A, B, dtw(A, B), frechet(A, B), hausdorff(A, B), strict=True):
        first, second = a[:, :2], b[:, :2]
        assert warped == pytest.approx(other_dtw(first, second)[0], abs=1e-9)
        assert leash == pytest.approx(frechet_dist(first, second), abs=1e-9)
        both = max(directed_hausdorff(first, second)[0], directed_hausdorff(second, first)[0])
        assert farthest == pytest.approx(both, abs=1e-9)


def test_eyenalysis_is_the_sum_of_the_nearest_distances():
    longer, both = eyenalysis(A, B), eyenalysis(A, B, normalise="both")
    for a, b, value, mean in zip(A, B, longer, both, strict=True):
        distances = cdist(a[:, :2], b[:, :2])
        total = distances.min(axis=0).sum() + distances.min(axis=1).sum()
        assert value == pytest.approx(total / max(len(a), len(b)), abs=1e-9)
        assert mean == pytest.approx(total / (len(a) + len(b)), abs=1e-9)


def window_distances(a, b, k):
    windows = [np.lib.stride_tricks.sliding_window_view(path[:, :2], k, axis=0) for path in (a, b)]
    return np.linalg.norm(windows[0][:, None] - windows[1][None], axis=2).mean(axis=-1).min(axis=1)


def test_tde_and_stde_are_what_their_windows_give():
    for a, b, mean, largest, scaled in zip(
        A, B, tde(A, B, k=2), tde(A, B, k=2, reduce="hausdorff"), stde(A, B, size=SIZE), strict=True
    ):
        if min(len(a), len(b)) < 2:
            assert math.isnan(mean)
        else:
            assert mean == pytest.approx(window_distances(a, b, 2).mean(), abs=1e-9)
            assert largest == pytest.approx(window_distances(a, b, 2).max(), abs=1e-9)
        lengths = range(1, min(len(a), len(b)) + 1)
        expected = np.mean([np.exp(-window_distances(a / 320, b / 320, k).mean()) for k in lengths])
        assert scaled == pytest.approx(expected, abs=1e-9)


def runs(line):
    return sum(len(run) for run in "".join("x" if value else " " for value in line).split() if len(run) >= 2)


@pytest.mark.parametrize("truncate", [False, True])
def test_cross_recurrence_is_counted_on_the_matrix(truncate):
    a, b = random_paths(9, 60, 2, 14, (100, 80)), random_paths(10, 60, 2, 14, (100, 80))
    values = np.array(cross_recurrence(a, b, radius=35, truncate=truncate)).T
    for first, second, row in zip(a, b, values, strict=True):
        if truncate:
            first, second = first[: len(second)], second[: len(first)]
        near = cdist(first[:, :2], second[:, :2]) <= 35
        total = near.sum()
        assert row[0] == pytest.approx(100 * near.mean(), abs=1e-9)
        if not total:
            assert np.isnan(row[1:]).all()
            continue
        diagonals = sum(runs(near.diagonal(offset)) for offset in range(-len(first) + 1, len(second)))
        straight = sum(runs(line) for line in near) + sum(runs(line) for line in near.T)
        lag = np.subtract(*np.indices(near.shape)[::-1])[near].mean()
        expected = [100 * diagonals / total, 50 * straight / total, 100 * lag / (max(near.shape) - 1)]
        assert row[1:] == pytest.approx(expected, abs=1e-9)


def test_cross_recurrence_of_known_paths():
    a = np.array([[0, 0, 0.2], [100, 0, 0.2], [200, 0, 0.2]])
    same = cross_recurrence(a, a, radius=10)
    assert tuple(same) == pytest.approx((100 / 3, 100, 0, 0))
    # b is a, one step later; its first fixation is elsewhere.
    late = np.array([[300, 200, 0.2], [0, 0, 0.2], [100, 0, 0.2]])
    assert tuple(cross_recurrence(a, late, radius=10)) == pytest.approx((200 / 9, 100, 0, 50))
    resting = np.repeat(a[:1], 3, axis=0)
    assert cross_recurrence(a, resting, radius=10).lam == pytest.approx(50)


SCALARS = [
    (scanmatch, {"size": SIZE}, 1, True),
    (scanmatch, {"size": SIZE, "time_bin": 0.05}, 1, True),
    (sed, {"size": SIZE}, 0, True),
    (sed, {"size": SIZE, "normalise": True}, 0, True),
    (tde, {"k": 1}, 0, False),
    (stde, {"size": SIZE}, 1, False),
    (dtw, {}, 0, True),
    (frechet, {}, 0, True),
    (hausdorff, {}, 0, True),
    (eyenalysis, {}, 0, True),
]


@pytest.mark.parametrize(("metric", "settings", "perfect", "symmetric"), SCALARS)
def test_a_path_is_most_like_itself_and_order_of_a_pair_counts_where_it_should(metric, settings, perfect, symmetric):
    own = metric(A, A, **settings)
    assert own.values == pytest.approx(np.full(len(A), perfect), abs=1e-12)
    forward, backward = metric(A, B, **settings).values, metric(B, A, **settings).values
    assert np.allclose(forward, backward, atol=1e-9) == symmetric
    # A batch is its pairs, whatever the order of the readers.
    assert [metric(a, b, **settings) for a, b in zip(A, B, strict=True)] == forward.tolist()
    assert metric(A[::-1], B[::-1], **settings).values[::-1].tolist() == forward.tolist()


@pytest.mark.parametrize(
    ("metric", "settings", "value"),
    [
        (scanmatch, {"size": SIZE}, math.nan),
        (sed, {"size": SIZE}, 0),
        (sed, {"size": SIZE, "normalise": True}, math.nan),
        (dtw, {}, math.nan),
        (frechet, {}, math.nan),
        (hausdorff, {}, math.nan),
        (eyenalysis, {}, math.nan),
        (stde, {"size": SIZE}, math.nan),
    ],
)
def test_empty_paths_have_no_value(metric, settings, value):
    assert metric(np.empty((0, 3)), np.empty((0, 3)), **settings) == pytest.approx(value, nan_ok=True)
    assert len(metric([], [], **settings)) == 0
    assert np.isnan(metric([], [], **settings).mean())


def test_scores_carry_what_they_depend_on():
    score = scanmatch(A[0], B[0], size=SIZE, time_bin=0.05)
    settings = score.settings
    assert (settings.grid, settings.time_bin, settings.gap, settings.length_rule) == (
        (16, 12),
        0.05,
        0,
        "over the longer",
    )
    assert str(settings) == "ScanMatch (16 × 12, 50 ms, gap 0, threshold 3.5, over the longer, of 320 × 224 px)"
    assert pickle.loads(pickle.dumps(score)).settings == settings
    scores = sed(A, B, size=SIZE)
    assert scores[3].settings == scores.mean().settings == scores.settings
    assert scores.settings != sed(A, B, size=SIZE, normalise=True).settings
    assert "simplified no" in str(multimatch(A, B, size=SIZE).settings)
    assert cross_recurrence(A[0], B[0], radius=30).settings.length_rule == "whole paths"


def test_a_matrix_of_scores_is_its_pairs():
    rows, columns = Paths.of(A[:4]), Paths.of(B[:5])
    matrix = sed(*every_pair(rows, columns), size=SIZE).values.reshape(4, 5)
    assert matrix[2, 3] == sed(A[2], B[3], size=SIZE)


def test_lists_and_tensors_are_paths_too():
    expected = scanmatch(A[0], B[0], size=SIZE)
    assert scanmatch(A[0].tolist(), torch.from_numpy(B[0]), size=SIZE) == expected
    assert scanmatch([A[0].tolist()], [torch.from_numpy(B[0])], size=SIZE)[0] == expected
    whole = [[16, 32, 0.25], [64, 128, 0.5]]
    half = torch.tensor(whole, dtype=torch.bfloat16, requires_grad=True)
    assert dtw([half], [whole])[0] == dtw(half, whole) == 0
    # Empty paths come first, too.
    assert np.isnan(scanmatch([[], []], [[], []], size=SIZE).values).tolist() == [True, True]
    assert scanmatch([[], A[0].tolist()], [B[0], B[0]], size=SIZE).values.tolist() == [0, expected]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.zeros((3, 2))}, r"a: path 1 has shape \(3, 2\); give \(n, 3\) arrays"),
        ({"a": [[1, 2, "x"]]}, "a: holds what is no scanpath"),
        ({"a": np.array([[1, 2, 0.2], [np.nan, 2, 0.2]])}, "a: path 1, fixation 2 holds a value that is not finite"),
        ({"b": np.array([[1, 2, -0.2]])}, "b: path 1, fixation 1 has a negative duration"),
        ({"b": np.array([[1, 2, 283.0]])}, "durations are in seconds, not in milliseconds"),
        ({"time_bin": 50}, "time_bin: 50 is no time bin in seconds; for 50 ms give 0.05"),
        ({"a": np.array([[1, 300.0, 0.2]])}, r"lies off the image of 320 × 224 pixels \(size is width, height\)"),
        ({"size": (0, 5)}, "size: width and height must be above 0"),
        ({"size": 5}, "size: must be the image's width and height"),
        ({"bins": (16, 0)}, "bins: must be columns and rows"),
        ({"bins": "ab"}, "bins: must be columns and rows"),
        ({"bins": None}, "bins: must be columns and rows"),
        ({"bins": (np.nan, 3)}, "bins: must be columns and rows"),
        ({"bins": 7.5}, "bins: must be columns and rows"),
        ({"threshold": 0}, "threshold: must be above 0"),
        ({"gap": 1}, "gap: is added"),
        ({"a": A}, "must both be one scanpath or both a list"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    arguments = {"a": A[0], "b": B[0], "size": SIZE, **change}
    with pytest.raises(InputError, match=message):
        scanmatch(arguments.pop("a"), arguments.pop("b"), **arguments)


def test_other_options_are_checked():
    with pytest.raises(InputError, match="hold 2 and 3 scanpaths"):
        dtw(A[:2], B[:3])
    for metric, settings, message in [
        (tde, {"k": 0}, "k: must be"),
        (tde, {"reduce": "max"}, "reduce: must be"),
        (eyenalysis, {"normalise": "none"}, "normalise: must be"),
        (cross_recurrence, {"radius": -1}, "radius: must be"),
        (cross_recurrence, {"radius": 1, "shortest_line": 1}, "shortest_line: must be"),
        (multimatch, {"size": SIZE, "simplify": Simplification(-1, 45, 0.3)}, "simplify: amplitude"),
        (multimatch, {"size": (320, 10)}, "a: path 1, fixation 1 lies off the image of 320 × 10 pixels"),
    ]:
        with pytest.raises(InputError, match=message):
            metric(A[0], B[0], **settings)


def test_the_metric_is_the_mean_over_pairs_and_batches():
    metric = ScanpathMetric("scanmatch", {"size": SIZE, "bins": [8, 6]})
    for start in (0, 15):
        metric.update([torch.from_numpy(path) for path in A[start : start + 15]], B[start : start + 15])
    expected = scanmatch(A[:30], B[:30], size=SIZE, bins=(8, 6))
    assert metric.compute().item() == pytest.approx(expected.mean(), abs=1e-12)
    assert metric.settings == expected.settings
    assert metric.higher_is_better
    many = ScanpathMetric("multimatch", {"size": SIZE})
    many.update(A, B)
    values = multimatch(A, B, size=SIZE)
    assert many.compute()["direction"].item() == pytest.approx(values.direction.mean(), abs=1e-12)
    assert many.undefined == values.shape.undefined > 0
    assert not ScanpathMetric("dtw").higher_is_better
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert math.isnan(ScanpathMetric("dtw").compute())
    regions = ScanpathMetric("sequence_score", {"regions": [Clusters.fit(A)]})
    regions.update(A[:1], B[:1])
    assert regions.compute() == sequence_score(A[0], B[0], regions=Clusters.fit(A))
    with pytest.raises(InputError, match="no scanpath metric scanmach"):
        ScanpathMetric("scanmach")
    with pytest.raises(InputError, match="unexpected keyword argument 'grid'"):
        ScanpathMetric("sed", {"grid": 5})


def test_a_collection_keeps_metrics_of_different_settings_apart():
    pixels = np.arange(224 * 320).reshape(224, 320)
    together = MetricCollection(
        {
            "dtw": ScanpathMetric("dtw"),
            "frechet": ScanpathMetric("frechet"),
            "coarse": ScanpathMetric("scanmatch", {"size": SIZE, "bins": [8, 6]}),
            "fine": ScanpathMetric("scanmatch", {"size": SIZE}),
            "halves": ScanpathMetric("sequence_score", {"regions": LabelMap(pixels % 2)}),
            "thirds": ScanpathMetric("sequence_score", {"regions": LabelMap(pixels % 3)}),
        }
    )
    alone = {name: metric.clone() for name, metric in together.items()}
    # Of a first batch of equal paths all distances are 0 and all similarities 1.
    for batch in ((A[:1], A[:1]), (A, B)):
        together.update(*batch)
        for metric in alone.values():
            metric.update(*batch)
    assert together.compute() == {name: metric.compute() for name, metric in alone.items()}
    # Processes add up states by name.
    assert ScanpathMetric("dtw").metric_state.keys() == alone["dtw"].metric_state.keys()
