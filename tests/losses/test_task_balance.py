"""FAMO and ExcessMTL against their authors' published code, closed forms, and on several processes."""

import math

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from gazelit.errors import InputError
from gazelit.losses import FAMO, ExcessMTL, FixedWeighting, GradientSurgery
from gazelit.losses.weighting import weigh
from gazelit.stages.task_schedule import leave_out_paused
from tests.ranks import on_ranks


def quadratics(x):
    return {
        "diagnosis": 2 * (x - torch.tensor([1.0, 0.0])).square().sum() + 0.5,
        "saliency": 0.1 * (x - torch.tensor([0.0, 2.0])).square().sum() + 0.2,
    }


#: What the authors' code gives for these two quadratics from x = (2, −1) with SGD at rate 0.05: after a step of x the
#: weights (of FAMO z, with γ = 0.01 and rate 0.025; of ExcessMTL with step size 0.3) and x. Recorded with `famo.py` of
#: github.com/Cranial-XIX/FAMO at 0a6ad06 and `LibMTL/LibMTL/weighting/ExcessMTL.py` of github.com/yifei-he/ExcessMTL at
#: b179956, torch 2, float32.
FAMO_BY_ITS_AUTHORS = {
    1: ([0.487503, 0.512497], [1.935, -0.9275]),
    2: ([0.475016, 0.524984], [1.872826, -0.858319]),
    3: ([0.462555, 0.537445], [1.813364, -0.792337]),
    5: ([0.437769, 0.562231], [1.70221, -0.669572]),
    10: ([0.377602, 0.622398], [1.46697, -0.413251]),
    20: ([0.282963, 0.717037], [1.166914, -0.095216]),
    30: ([0.256865, 0.743136], [1.02908, 0.053259]),
}
EXCESS_MTL_BY_ITS_AUTHORS = {
    1: ([1.0, 1.0], [1.78, -0.77]),
    2: ([0.97934, 1.02066], [1.609055, -0.590909]),
    3: ([0.951433, 1.048567], [1.476288, -0.4513]),
    5: ([0.8911, 1.1089], [1.290979, -0.254838]),
    10: ([0.761596, 1.238404], [1.069055, -0.012296]),
    20: ([0.60019, 1.39981], [0.93882, 0.148217]),
    30: ([0.506438, 1.493562], [0.895523, 0.21587]),
}


def descend(weighting, steps, x=None):
    """Weights and parameters after each step; the authors' code computes its weights from the next batch."""
    x = nn.Parameter(torch.tensor([2.0, -1.0])) if x is None else x
    optimizer = torch.optim.SGD([x], lr=0.05)
    places, weights = [], []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        weighting(quadratics(x), [x]).backward()
        weights.append(torch.stack(list(weighting.learned().values())).tolist())
        optimizer.step()
        places.append(x.tolist())
    return weights, places


def test_famo_equals_its_authors_code_if_the_next_batch_is_the_same():
    weights, places = descend(FAMO(), 30)
    for step, (expected, place) in FAMO_BY_ITS_AUTHORS.items():
        # The next batch measures the effect of the step.
        assert weights[step] == pytest.approx(expected, abs=2e-6)
        assert places[step - 1] == pytest.approx(place, abs=2e-6)


def test_excess_mtl_equals_its_authors_code():
    weights, places = descend(ExcessMTL(step_size=0.3), 30)
    for step, (expected, place) in EXCESS_MTL_BY_ITS_AUTHORS.items():
        assert weights[step - 1] == pytest.approx(expected, abs=2e-6)
        assert places[step - 1] == pytest.approx(place, abs=2e-6)


def scalar(value):
    return torch.tensor(value, requires_grad=True)


def gradients(weighting, diagnosis, saliency):
    """The weight of each loss in a step, from the gradient, and the value."""
    losses = {"diagnosis": diagnosis, "saliency": saliency}
    leaves = [loss for loss in losses.values() if loss.requires_grad]
    for leaf in leaves:
        leaf.grad = None
    total = weighting({task: 1.0 * loss if loss.requires_grad else loss for task, loss in losses.items()}, leaves)
    total.backward()
    return [None if loss.grad is None else loss.grad.item() for loss in losses.values()], total.item()


def test_famo_in_closed_form():
    weighting = FAMO(decay=0.0)
    weights, total = gradients(weighting, scalar(4.0), scalar(1.0))
    # z = (1/2, 1/2), weights z/ℓ scaled to sum 1.
    assert weights == pytest.approx([0.2, 0.8])
    assert total == pytest.approx(1.6)
    # The diagnosis halved, the gaze stayed: Adam's first step moves ξ by the rate, towards the gaze.
    weights, _ = gradients(weighting, scalar(2.0), scalar(1.0))
    z = 1 / (1 + math.exp(0.05))
    assert [state.item() for state in weighting.learned().values()] == pytest.approx([z, 1 - z])
    assert weights == pytest.approx([z / 2 / (z / 2 + 1 - z), (1 - z) / (z / 2 + 1 - z)])


def test_famo_makes_log_losses_fall_alike():
    def falls(weighting):
        x, y = (nn.Parameter(torch.ones(())) for _ in range(2))
        optimizer = torch.optim.SGD([x, y], lr=0.02)
        for _ in range(400):
            optimizer.zero_grad()
            weighting({"diagnosis": x.square(), "saliency": 0.05 * y.square()}).backward()
            optimizer.step()
        return -2 * x.abs().log().item(), -2 * y.abs().log().item()

    fast, slow = falls(FixedWeighting())
    assert fast > 10 * slow
    fast, slow = falls(FAMO(decay=0.0))
    assert fast == pytest.approx(slow, rel=0.15)


def test_excess_mtl_in_closed_form():
    weighting = ExcessMTL(step_size=0.5)
    x, y = (nn.Parameter(torch.tensor(value)) for value in (3.0, 1.0))

    def step():
        x.grad = y.grad = None
        weighting({"diagnosis": x.square() / 2, "saliency": 10 * y}, [x, y]).backward()
        return x.grad.item() / x.item(), y.grad.item() / 10

    # |g| is the first estimate g²/√g², and the unit of each task.
    assert step() == pytest.approx((1, 1))
    assert weighting.units.tolist() == pytest.approx([3, 10])
    with torch.no_grad():
        x.fill_(0.3)
    # The diagnosis has come near its optimum: 0.3²/√(3² + 0.3²) of 3; the gaze's gradient is as before: 1/√2.
    grown = [math.exp(0.5 * 0.09 / math.sqrt(9.09) / 3), math.exp(0.5 / math.sqrt(2))]
    expected = [2 * excess / sum(grown) for excess in grown]
    assert step() == pytest.approx(expected, rel=1e-5)
    assert [state.item() for state in weighting.learned().values()] == pytest.approx(expected, rel=1e-5)
    # In evaluation nothing is learned.
    value = weighting({"diagnosis": torch.tensor(1.0), "saliency": torch.tensor(2.0)}).item()
    assert value == pytest.approx(expected[0] + 2 * expected[1], rel=1e-5)


def test_excess_mtl_takes_the_mean_of_the_first_batches_for_its_unit():
    weighting = ExcessMTL(step_size=0.5, warmup=2)
    for size in (3.0, 4.0):
        x = nn.Parameter(torch.ones(()))
        weighting({"diagnosis": size * x, "saliency": 2 * size * x}, [x])
    assert weighting.units.tolist() == pytest.approx([(3 + 16 / 5) / 2, 3 + 16 / 5])
    assert [state.item() for state in weighting.learned().values()] == [1, 1]


@pytest.mark.parametrize("make", [FAMO, lambda: ExcessMTL(step_size=0.5)], ids=["famo", "excess"])
def test_a_task_that_pauses_or_has_no_target_leaves_the_other_alone(make):
    weighting = make()
    for diagnosis, saliency in ((4.0, 1.0), (2.0, 1.0)):
        gradients(weighting, scalar(diagnosis), scalar(saliency))
    before = weighting.logits.clone()
    # The task pauses, so its loss has no graph.
    weights, _ = gradients(weighting, scalar(5.0), torch.tensor(1.0))
    assert weights == [pytest.approx(1), None]
    # No film of the batch has gaze, so the loss and its gradient are zero.
    nothing = torch.zeros((), requires_grad=True)
    losses = {"diagnosis": 1.0 * (leaf := scalar(5.0)), "saliency": 0.0 * nothing}
    weighting(losses, [leaf, nothing]).backward()
    assert (leaf.grad.item(), nothing.grad.item()) == (pytest.approx(1), 0)
    assert torch.equal(weighting.logits, before)


def test_famo_does_not_compare_across_a_pause():
    weighting = FAMO()
    gradients(weighting, scalar(4.0), scalar(1.0))
    gradients(weighting, scalar(4.0), torch.tensor(1.0))
    # Changes of a loss while the gaze task pauses do not change the weights.
    gradients(weighting, scalar(1.0), scalar(1.0))
    assert weighting.logits.tolist() == [0, 0]
    gradients(weighting, scalar(0.5), scalar(1.0))
    assert weighting.logits[1] > weighting.logits[0]


def test_famo_takes_logarithms_above_floors():
    with pytest.raises(InputError, match=r"FAMO takes logarithms .* saliency -1; set lower --model.weighting.floors"):
        FAMO()({"diagnosis": scalar(1.0), "saliency": scalar(-1.0)})
    weights, _ = gradients(FAMO(floors={"saliency": -3.0}), scalar(4.0), scalar(-2.0))
    assert weights == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FAMO(learning_rate=-1), "learning_rate: must be at least 0"),
        (lambda: FAMO(decay=math.nan), "decay: must be at least 0"),
        (lambda: FAMO(floors={"gaze": 0.0}), "floors: no task gaze"),
        (lambda: ExcessMTL(step_size=0), "step_size: must be above 0"),
        (lambda: ExcessMTL(warmup=0), "warmup: must be above 0"),
        (lambda: FAMO()({"gaze": torch.ones(())}), "tasks: diagnosis, saliency were configured"),
        (lambda: ExcessMTL()({"gaze": torch.ones(())}), "tasks: diagnosis, saliency were configured"),
    ],
)
def test_wrong_options_and_tasks(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("make", [FAMO, ExcessMTL])
def test_a_state_dict_holds_everything(make):
    straight = descend(make(), 9)
    first, again = make(), make()
    x = nn.Parameter(torch.tensor([2.0, -1.0]))
    before = descend(first, 4, x)
    again.load_state_dict(first.state_dict())
    after = descend(again, 4, x)
    assert [earlier + later for earlier, later in zip(before, after, strict=True)] == list(straight)


IMAGES = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
MAKES = {"famo": FAMO, "excess": lambda: ExcessMTL(step_size=0.5), "surgery": GradientSurgery}


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.trunk, self.diagnosis, self.saliency = nn.Linear(5, 4), nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, images):
        features = self.trunk(images).tanh()
        return {
            "diagnosis": (self.diagnosis(features) - 1).square().mean(),
            "saliency": (self.saliency(features) + 2).square().mean(),
        }


def train(make, model, images):
    """Four steps, in the last two of which the gaze pauses."""
    weighting = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    for step in range(4):
        active = ["diagnosis", "saliency"][: 2 if step < 2 else 1]
        optimizer.zero_grad()
        weigh(weighting, model(images), list(model.parameters()), active).backward()
        if len(active) < 2:
            leave_out_paused(model.parameters())
        optimizer.step()
        yield [tensor.detach().clone() for tensor in (*weighting.learned().values(), *model.parameters())]


def train_share(rank, world, folder):
    share = IMAGES[rank * 4 : rank * 4 + 4]
    results = {name: list(train(make, DistributedDataParallel(TwoHeads()), share)) for name, make in MAKES.items()}
    mesh = init_device_mesh("cpu", (world,))
    sharded = nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
    with pytest.raises(InputError, match="which sharded parameters do not have in one piece"):
        GradientSurgery()({"diagnosis": torch.ones(())}, [sharded])
    torch.save(results, folder / f"{rank}.pt")


def test_two_processes_train_as_one_with_the_whole_batch_and_a_paused_head_stays(tmp_path):
    on_ranks(train_share, 2, tmp_path)
    for name, make in MAKES.items():
        expected = list(train(make, TwoHeads(), IMAGES))
        for rank in range(2):
            found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)[name]
            for alone, together in zip(expected, found, strict=True):
                assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(alone, together, strict=True))
            # Neither momentum nor weight decay moves parameters that only the gaze task trains; the trunk trains on.
            for before, after in ((found[1], found[2]), (found[2], found[3])):
                assert all(torch.equal(a, b) for a, b in zip(before[-2:], after[-2:], strict=True))
                assert not torch.equal(before[-6], after[-6])
