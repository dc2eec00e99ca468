"""The law of scanpaths is normalised and causal, equal step by step and in one pass, and draws follow it."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from gazelit.errors import InputError
from gazelit.losses import ScanpathLikelihood
from gazelit.models import EncoderSpec, ScanpathNetwork, rebuild
from gazelit.models.density_grid import at_positions, density_on, drawn
from gazelit.models.scanpath_decoding import Readings, _Path, likeliest, sample
from gazelit.models.sequences import Sequences

STRIDE = 8


@pytest.fixture(scope="module", params=[False, True], ids=["not followed", "offset followed"])
def network(request):
    torch.manual_seed(0)
    follow_offset = request.param
    options = {"map_stride": STRIDE, "width": 16, "layers": 2, "heads": 2, "longest": 12}
    options |= {"regions": 6, "follow_offset": follow_offset}
    made = ScanpathNetwork(EncoderSpec("densenet-small"), readers=["a", "b"], findings=["nodule"], **options).eval()
    with torch.no_grad():
        # All weights differ from their neutral start, as after a training.
        parts = (made.timing, made.revisits, made.regions, made.inhibition)
        for part in (*parts, *([made.offset] if follow_offset else [])):
            for parameter in part.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
        if follow_offset:
            # Errors of several pixels.
            made.offset.log_spread.add_(3.0)
        # Past fixations have about a third of the weight, in this one as in the regions.
        made.revisits.lag.weight.add_(3.0)
        made.timing.stop.bias.fill_(-1.0)
    return made


def paths(count=3, length=6, seed=0, size=(64, 96)):
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(count, length, 2, generator=generator) * torch.tensor([size[1], size[0]]) - 0.5
    seconds = 0.1 + torch.rand(count, length, generator=generator)
    reader, finding = torch.tensor([1, 2, 0])[:count], torch.tensor([0, 1, 1])[:count]
    return Sequences.alone(xy, seconds, reader, finding)


def in_one_pass(network, features, whole):
    """The looks of some readings, and the log-chances of the cells before each of them."""
    maps = network.regions(features).rows(whole.film)
    looks, _ = network.looks(maps, whole)
    state, _ = network.states(features, looks)
    at = network.regions.at(maps, looks.position)
    log_region = network.region_log_weights(maps, state[:, :-1], looks, at)
    return looks, network.log_chances(maps, log_region, state[:, :-1], state[:, 1:], looks)


def grid(seed=0, count=2):
    return (
        torch.rand(count, 3, 4, generator=torch.Generator().manual_seed(seed)).flatten(1).softmax(1).view(count, 3, 4)
    )


def interpolated(chance, rows, columns):
    """SciPy's quadratic spline of an (h, w) map at pixels, reflected at the borders, coefficients as they are."""
    cells = [((axis + 0.5) / STRIDE - 0.5).numpy() for axis in (rows, columns)]
    where = np.stack(np.meshgrid(*cells, indexing="ij"))
    return ndimage.map_coordinates(chance.numpy().astype(float), where, order=2, mode="reflect", prefilter=False)


def test_the_density_is_scipys_spline_and_its_integral_is_one():
    chance = grid()
    rows, columns = torch.arange(24.0), torch.arange(32.0)
    density = density_on(chance, rows, columns, STRIDE)
    for found, each in zip(density, chance, strict=True):
        assert found.numpy() == pytest.approx(interpolated(each, rows, columns) / STRIDE**2, abs=1e-8)
    assert torch.allclose(density.sum((1, 2)), torch.ones(2), atol=1e-5)
    # It is a single density between the pixels and up to the border.
    fine = (torch.arange(32 * 10) + 0.5) / 10 - 0.5
    density = density_on(chance, fine[: 24 * 10], fine, STRIDE)
    assert (density.mean((1, 2)) * 32 * 24).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_features_at_positions_are_scipys_spline():
    maps, film = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True), torch.tensor([1, 0, 1])
    xy = (torch.rand(3, 7, 2, dtype=torch.float64) * torch.tensor([32.0, 24.0]) - 0.5).requires_grad_()
    found = at_positions(maps, xy, STRIDE, film)
    for row, number in enumerate(film):
        for channel, plane in enumerate(maps.detach()[number]):
            x, y = xy.detach()[row].unbind(-1)
            expected = np.diag(interpolated(plane, y, x))
            assert found[row, :, channel].detach().numpy() == pytest.approx(expected, abs=1e-9)
    assert torch.autograd.gradcheck(lambda *inputs: at_positions(*inputs, STRIDE, film), (maps, xy))


def test_draws_follow_the_density_at_the_border_too():
    chance = grid(3, 1)
    xy = drawn(chance.expand(60000, -1, -1), STRIDE, torch.Generator().manual_seed(1)).numpy()
    counts = np.histogram2d(xy[:, 1], xy[:, 0], bins=(12, 16), range=((-0.5, 23.5), (-0.5, 31.5)))[0]
    density = density_on(chance, torch.arange(24.0), torch.arange(32.0), STRIDE)
    expected = density[0].reshape(12, 2, 16, 2).sum((1, 3)).numpy()
    # Averages of a density over two pixels equal its integral only to second order.
    expected = expected.ravel().astype(np.float64)
    assert stats.chisquare(counts.ravel(), counts.sum() * expected / expected.sum()).pvalue > 1e-3


def test_every_step_is_a_law(network):
    image, whole = torch.rand(3, 1, 64, 96), paths()
    outputs = network(image, whole)
    median, spread = (outputs[name].detach().exp().numpy() for name in ("log_median", "log_spread"))
    expected = stats.lognorm.logpdf(paths().duration.numpy(), s=spread, scale=median)
    assert outputs["duration"].detach().numpy() == pytest.approx(expected, abs=1e-4)
    # None of these readings ends at this fixation.
    assert torch.allclose(outputs["stop"], (1 - outputs["stop_chance"]).log(), atol=1e-5)
    ended = network(torch.rand(3, 1, 64, 96), paths()._replace(ends=torch.tensor([True, True, True])))
    assert torch.allclose(ended["stop"][:, -1], ended["stop_chance"][:, -1].log(), atol=1e-5)
    assert torch.equal(ended["stop"][:, :-1] < 0, torch.ones(3, 5, dtype=torch.bool))


def test_the_density_of_places_is_a_law_and_that_of_the_likelihood(network):
    image, whole = torch.rand(3, 1, 64, 96), paths()
    features = network.film_features(image)
    log_place = network.of_features(features, whole)["place"]
    # Fixations in the middle of pixels, where both forms must agree; the path before them changes, too.
    middles = whole._replace(position=whole.position.round())
    density = network.next_density(features, middles)
    columns, rows = middles.position.long().unbind(-1)
    series, steps = torch.meshgrid(torch.arange(3), torch.arange(6), indexing="ij")
    expected = density[series, steps, rows.clamp(max=63), columns.clamp(max=95)]
    assert torch.allclose(network.of_features(features, middles)["place"], expected.log(), atol=1e-4)
    # The integral by quadrature of the likelihood itself, for the last fixation of the second reading.
    total, side = 0.0, 0.5
    for y in torch.arange(-0.25, 63.5, side):
        x = torch.arange(-0.25, 95.5, side)
        grid_row = torch.stack([x, y.expand_as(x)], -1)
        rest = whole.position[1, :5].expand(len(x), -1, -1)
        unknown = torch.full((len(x),), 0)
        series = Sequences.alone(
            torch.cat([rest, grid_row[:, None]], 1), whole.duration[1:2].expand(len(x), -1),
            unknown + whole.reader[1], unknown + whole.finding[1],
        )._replace(film=unknown + 1)  # fmt: skip
        with torch.no_grad():
            total += network.of_features(features, series)["place"][:, 5].exp().sum().item() * side**2
    assert total == pytest.approx(1, abs=2e-3)
    assert torch.isfinite(log_place).all()


def test_densities_on_pixels_are_in_full_precision_under_autocast(network):
    features, whole = network.film_features(torch.rand(3, 1, 64, 96)), paths()
    maps = network.regions(features).rows(whole.film)
    plain = density_on(maps.chance, torch.arange(64.0), torch.arange(96.0), STRIDE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(density_on(maps.chance, torch.arange(64.0), torch.arange(96.0), STRIDE), plain)
        assert network.next_density(features, whole).dtype == torch.float32


def test_a_reading_is_scored_alone_as_beside_others(network):
    image, whole = torch.rand(2, 1, 64, 96), paths()._replace(film=torch.tensor([1, 0, 1]))
    features = network.film_features(image)
    together = network.next_density(features, whole)
    for row in range(3):
        alone = Sequences(*(part[row : row + 1] for part in whole))
        assert torch.allclose(network.next_density(features, alone)[0], together[row], atol=1e-8)
        of_its_film = network(image[whole.film[row : row + 1]], alone._replace(film=torch.tensor([0])))
        assert torch.allclose(of_its_film["place"][0], network(image, whole)["place"][row], atol=1e-5)


def test_no_fixation_depends_on_later_ones(network):
    image = torch.rand(3, 1, 64, 96)
    first = paths()
    position, duration = first.position.clone(), first.duration.clone()
    position[:, 3], duration[:, 3] = position[:, 3].flip(0) + 1.5, 2.0
    outputs, changed = network(image, first), network(image, first._replace(position=position, duration=duration))
    before = torch.arange(6) <= 3
    densities = [network.next_density(network.film_features(image), each) for each in (
        first, first._replace(position=position, duration=duration))]  # fmt: skip
    same = (densities[0] - densities[1]).abs().amax((0, 2, 3)) < 1e-7
    assert same.tolist() == before.tolist()
    # A duration depends on its fixation's position, and not on itself.
    longer = network(image, first._replace(duration=duration))
    assert torch.allclose(longer["log_median"][:, :4], outputs["log_median"][:, :4], atol=1e-5)
    assert not torch.allclose(changed["log_median"][:, 3], outputs["log_median"][:, 3], atol=1e-3)


def test_step_by_step_equals_one_pass(network):
    image, whole = torch.rand(3, 1, 64, 96), paths()
    outputs = network(image, whole)
    features = network.film_features(image)
    looks, one_pass = in_one_pass(network, features, whole)
    assert torch.allclose(one_pass.exp().sum((2, 3)), torch.ones(3, 6), atol=1e-5)
    path = _Path(network, features, Readings(torch.arange(3), whole.reader, whole.finding))
    for step in range(6):
        log_chance, stop = path.ahead()
        assert torch.allclose(log_chance, one_pass[:, step], atol=1e-4)
        assert torch.allclose(path.recorded(looks.position[:, step]), whole.position[:, step], atol=1e-3)
        if step:
            assert torch.allclose(stop, outputs["stop_chance"][:, step - 1], atol=1e-5)
        mean, _ = path.duration(whole.position[:, step])
        assert torch.allclose(mean, outputs["log_median"][:, step], atol=1e-5)
        path.add(whole.position[:, step], whole.duration[:, step])


def test_padding_and_other_readings_change_nothing(network):
    image, whole = torch.rand(3, 1, 64, 96), paths()
    shorter = whole.valid.clone()
    shorter[1, 4:] = False
    position = torch.where(shorter[..., None], whole.position, 0.0)
    padded = whole._replace(position=position, duration=torch.where(shorter, whole.duration, 0.0), valid=shorter)
    outputs, alone = network(image, whole), network(image, padded)
    for name in ("place", "duration", "static"):
        assert torch.allclose(outputs[name][1, :4], alone[name][1, :4], atol=1e-5)
        assert torch.allclose(outputs[name][[0, 2]], alone[name][[0, 2]], atol=1e-5)
    nothing = Sequences(*(value[:0] for value in whole))
    loss = ScanpathLikelihood()(network(image, nothing), {})
    assert loss == 0


def test_readers_and_findings_change_the_law(network):
    image, whole = torch.rand(3, 1, 64, 96), paths()
    known = network(image, whole)
    for name in ("reader", "finding"):
        withheld = network(image, whole._replace(**{name: torch.zeros(3, dtype=torch.int64)}))
        differs = (known["place"] - withheld["place"]).abs().amax(1) > 1e-6
        assert torch.equal(differs, getattr(whole, name) > 0)


def test_in_training_a_fifth_of_the_readers_and_findings_are_withheld():
    history = ScanpathNetwork(EncoderSpec("densenet-small"), map_stride=STRIDE, width=16, readers=["a"]).history
    many = torch.ones(20000, dtype=torch.int64)
    sequences = Sequences.alone(torch.zeros(20000, 1, 2), torch.zeros(20000, 1), many, many)
    withheld = history.withheld(sequences)
    # They are withheld apart from each other.
    for kept, share in ((withheld.reader, 0.8), (withheld.finding, 0.8), (withheld.reader * withheld.finding, 0.64)):
        assert kept.float().mean().item() == pytest.approx(share, abs=0.02)
    assert history.eval().withheld(sequences) is sequences


def test_batches_are_unfolded_reading_by_reading():
    events = torch.arange(24.0).view(1, 6, 4).repeat(2, 1, 1)
    batch = {
        "events": events,
        "reading": torch.tensor([[0, 0, 0, 1, 1, -1], [-1, -1, -1, -1, -1, -1]]),
        "reader": torch.tensor([[2, 2, 2, -1, -1, -1], [-1] * 6]),
        "finding": torch.full((2, 6), -1),
    }
    found = Sequences.of(batch, torch.tensor([0, 0, 7, 0]), torch.tensor([0]), longest=2)
    assert found.film.tolist() == [0, 0]
    assert found.position[0].tolist() == [[0, 1], [4, 5]]
    assert found.duration.tolist() == [[3, 7], [15, 19]]
    assert found.reader.tolist() == [7, 0]
    # The first reading has a third fixation, which the network does not see, so its end is not known.
    assert found.ends.tolist() == [False, True]


def test_paths_repeat_with_their_seed_and_end_with_the_predicted_chance(network):
    image = torch.rand(1, 1, 64, 96)
    features = network.film_features(image)
    readings = Readings.of(features)
    first, again = (sample(network, features, readings, draws=400, seed=3) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(first[0], sample(network, features, readings, seed=4)[0])
    # The share of paths that end at once equals their mean chance of an end after the first fixation.
    starts = torch.stack([path[0] for path in first])
    unknown = torch.zeros(400, dtype=torch.int64)
    begun = Sequences.alone(starts[:, None, :2], starts[:, None, 2], unknown, unknown)
    chance = network(image.expand(400, -1, -1, -1), begun)["stop_chance"][:, 0].detach()
    ended = np.mean([len(path) == 1 for path in first])
    assert ended == pytest.approx(chance.mean().item(), abs=4 * np.sqrt(0.25 / 400))


def test_beams_find_a_path_at_least_as_likely_as_the_greedy_one(network):
    image = torch.rand(1, 1, 64, 96)

    def likelihood(path):
        unknown = torch.zeros(1, dtype=torch.int64)
        whole = Sequences.alone(path[None, :, :2], path[None, :, 2], unknown, unknown)
        looks, log_chance = in_one_pass(network, of_film, whole)
        columns, rows = ((looks.position[0] + 0.5) / STRIDE - 0.5).round().long().T
        return log_chance[0, torch.arange(len(path)), rows, columns].sum().item()

    of_film = network.film_features(image)
    greedy, wide = (likeliest(network, of_film, length=4, beams=count) for count in (1, 16))
    assert len(greedy) == len(wide) == 4
    assert likelihood(wide) >= likelihood(greedy) - 1e-5
    assert 1 <= len(likeliest(network, of_film, reader=2)) <= 12
    with pytest.raises(InputError, match="length: must be 1 to 12"):
        likeliest(network, of_film, length=13)
    with pytest.raises(InputError, match="features: must be of one film, not of 2"):
        likeliest(network, of_film.repeat(2, 1, 1, 1))


def test_it_is_rebuilt_from_primitives_and_its_map_depends_only_on_the_film(network):
    again = rebuild(network.config).eval()
    again.load_state_dict(network.state_dict())
    image = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        outputs, rebuilt = network(image), again(image)
    assert outputs["saliency_logits"].shape == (1, 1, 64, 96)
    assert all(torch.equal(outputs[name], rebuilt[name]) for name in outputs)
    with pytest.raises(InputError, match="map_stride: the encoder has no map at stride 3; it has 2, 4, 8"):
        ScanpathNetwork(EncoderSpec("densenet-small"), map_stride=3)
