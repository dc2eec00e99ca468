import pytest
import torch
from sklearn.metrics import roc_auc_score

from gazelit.metrics.localisation import equal_area_iou, localisation_values, mass_inside, pointing_game

REGION = torch.zeros(2, 12, 10, dtype=torch.bool)
REGION[0, 2:5, 3:7] = True
REGION[1, 6:, :5] = True
MASK = torch.ones_like(REGION)


def test_the_region_itself_is_perfect_and_its_complement_is_worst():
    best = localisation_values(REGION.float(), REGION, MASK)
    worst = localisation_values((~REGION).float(), REGION, MASK)
    for name in ("pointing", "mass", "iou", "auc"):
        assert best[name].tolist() == [1, 1], name
        assert worst[name].tolist() == [0, 0], name
    assert best["area"].tolist() == pytest.approx([12 / 120, 30 / 120])


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_a_map_without_information_scores_the_regions_share_of_the_image(level):
    values = localisation_values(torch.full(REGION.shape, level), REGION, MASK)
    assert torch.allclose(values["pointing"], values["area"])
    assert torch.allclose(values["mass"], values["area"])
    assert values["auc"].tolist() == [0.5, 0.5]
    # If as many pixels are drawn at random, a share of area² is common.
    shared = values["area"] ** 2
    assert torch.allclose(values["iou"], shared / (2 * values["area"] - shared))


def test_values_of_random_maps_are_their_definitions():
    maps = torch.rand(2, 12, 10, generator=torch.Generator().manual_seed(0)).double()
    values = localisation_values(maps, REGION, MASK)
    for number, (map_, inside) in enumerate(zip(maps, REGION, strict=True)):
        flat, within = map_.flatten(), inside.flatten()
        assert values["pointing"][number] == float(within[flat.argmax()])
        assert values["mass"][number].item() == pytest.approx((flat[within].sum() / flat.sum()).item())
        assert values["auc"][number].item() == pytest.approx(roc_auc_score(within, flat))
        top = torch.zeros_like(within)
        top[flat.argsort(descending=True)[: within.sum()]] = True
        expected = (top & within).sum() / (top | within).sum()
        assert values["iou"][number].item() == pytest.approx(expected.item())


def test_padding_does_not_count_and_a_region_within_it_is_undefined():
    mask = MASK.clone()
    mask[:, :, 5:] = False
    maps = torch.rand(2, 12, 10)
    loud = maps.clone()
    loud[:, :, 5:] = 100.0
    for metric in (pointing_game, mass_inside, equal_area_iou):
        assert torch.equal(metric(maps, REGION, mask), metric(loud, REGION, mask))
        assert metric(maps, REGION & ~mask, mask).isnan().all()
