"""Distillation against scipy's entropy, torch's own divergence, and the closed form of its gradient."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import entropy
from torch import nn

from gazelit.errors import InputError
from gazelit.losses import Distillation
from gazelit.losses.distillation import FrozenTeacher, softened_divergence
from gazelit.models.dual_unet import DualEncoderUNet
from gazelit.models.registry import EncoderSpec

SMALL = EncoderSpec("res-se", options={"widths": [4, 4, 4], "reduction": 2})
GAZE = EncoderSpec("res-se", options={"widths": [2, 2], "reduction": 2})


def dual(seed=0, **options):
    torch.manual_seed(seed)
    network = DualEncoderUNet(SMALL, GAZE, decoder_widths=[4, 4], dropout=0.5, **options)
    # BatchNorm statistics that differ between evaluation and training mode.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
    return network


def make_batch(**changes):
    torch.manual_seed(5)
    heatmap = torch.rand(4, 1, 32, 24) ** 6
    batch = {
        "image": torch.rand(4, 1, 32, 24),
        "heatmap": heatmap / heatmap.sum((2, 3), keepdim=True),
        "label": torch.tensor([0, 1, 2, 1]),
        "has_gaze": torch.ones(4, dtype=torch.bool),
    }
    return batch | changes


def taught_by(network, **options):
    objective = Distillation("teacher.ckpt", **options)
    objective.teacher = FrozenTeacher(network)
    return objective


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_exclusive_classes_have_the_divergence_of_softened_probabilities_times_t_squared(temperature):
    student, teacher = torch.randn(6, 3) * 3, torch.randn(6, 3) * 3
    soft = [softmax(logits.numpy().astype(float) / temperature, axis=1) for logits in (student, teacher)]
    expected = temperature**2 * np.mean([entropy(p, q) for p, q in zip(soft[1], soft[0], strict=True)])
    assert float(softened_divergence(student, teacher, temperature, several=False)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_several_labels_have_the_mean_of_two_class_divergences(temperature):
    student, teacher = torch.randn(5, 4) * 3, torch.randn(5, 4) * 3
    q, p = (expit(logits.numpy().astype(float) / temperature).ravel() for logits in (student, teacher))
    expected = temperature**2 * np.mean(entropy(np.stack([p, 1 - p]), np.stack([q, 1 - q])))
    assert float(softened_divergence(student, teacher, temperature, several=True)) == pytest.approx(expected, rel=1e-5)
    # A label is a choice between two classes with the logits z and 0.
    both = [torch.stack([logits[:, 0], torch.zeros(5)], 1) for logits in (student, teacher)]
    alone = softened_divergence(student[:, :1], teacher[:, :1], temperature, several=True)
    assert float(alone) == pytest.approx(float(softened_divergence(*both, temperature, several=False)), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_is_t_times_the_difference_of_softened_probabilities(temperature):
    student, teacher = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4)
    softened_divergence(student, teacher, temperature, several=False).backward()
    expected = temperature * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1)) / 3
    assert torch.allclose(student.grad, expected.double(), atol=1e-6)


def test_at_a_high_temperature_it_is_the_squared_distance_of_centred_logits():
    """Hinton, Vinyals and Dean 2015, equation 4."""
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = (centred**2).sum(1).mean() / (2 * 5)
    assert float(softened_divergence(student, teacher, 200.0, False)) == pytest.approx(float(expected), rel=0.02)


def test_saliency_has_the_divergence_of_the_densities_of_all_films():
    batch = make_batch(has_gaze=torch.tensor([True, False, True, False]))
    student, teacher = dual(0).eval(), dual(1)
    outputs = student(batch["image"])
    objective = taught_by(teacher, outputs=["saliency"])
    with torch.no_grad():
        maps = [network(batch["image"])["saliency_logits"].flatten(1).double() for network in (student, teacher)]
    expected = np.mean([entropy(softmax(p), softmax(q)) for q, p in zip(*(m.numpy() for m in maps), strict=True)])
    assert float(objective(outputs, batch).detach()) == pytest.approx(expected, rel=1e-3)
    by_torch = nn.KLDivLoss(reduction="batchmean")(maps[0].log_softmax(1), maps[1].softmax(1))
    assert float(objective(outputs, batch).detach()) == pytest.approx(float(by_torch), rel=1e-3)
    assert objective.counted(batch) == 4
    both = taught_by(teacher, outputs=["diagnosis", "saliency"])(outputs, batch)
    parts = [taught_by(teacher, outputs=[output])(outputs, batch) for output in ("diagnosis", "saliency")]
    assert torch.allclose(both, sum(parts))


@pytest.mark.parametrize("label", [torch.tensor([0, 1, 2, 1]), torch.full((4, 3), torch.nan)])
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(label):
    student = dual().eval()
    batch = make_batch(label=label)
    objective = taught_by(copy.deepcopy(student), outputs=["diagnosis", "saliency"], temperature=3.0)
    loss = objective(student(batch["image"]), batch)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert (
        max(float(parameter.grad.abs().max()) for parameter in student.parameters() if parameter.grad is not None)
        < 1e-5
    )


def test_a_teacher_that_sees_gaze_pools_by_the_readers_where_there_is_any():
    batch = make_batch()
    batch["heatmap"][1] = 0
    teacher = dual(2, classifier_pooling="gaze").eval()
    student = {"logits": torch.randn(4, 3)}
    with torch.no_grad():
        seeing = teacher(batch["image"], batch["heatmap"])["logits"]
        seeing[1] = teacher(batch["image"][1:2])["logits"][0]
        blind = teacher(batch["image"])["logits"]
    assert not torch.allclose(seeing[0], blind[0], atol=1e-4)
    for sees_gaze, logits in ((True, seeing), (False, blind)):
        expected = softened_divergence(student["logits"], logits, 1.0, several=False)
        loss = taught_by(teacher, sees_gaze=sees_gaze)(student, batch)
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_a_teacher_is_not_a_submodule_and_does_not_change():
    teacher = dual(3)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    objective = taught_by(teacher.train())
    holder = nn.ModuleList([objective, nn.Linear(1, 1)]).train()
    assert len(list(holder.parameters())) == 2
    assert all(key.startswith("1.") for key in holder.state_dict())
    assert not any(module.training or isinstance(module, DualEncoderUNet) for module in [*teacher.modules()][1:])
    assert copy.deepcopy(holder)[0].teacher is objective.teacher
    batch = make_batch()
    student = torch.randn(4, 3, requires_grad=True)
    torch.manual_seed(9)
    values = [objective({"logits": student}, batch) for _ in range(2)]
    # The teacher draws no dropout, so the student's random numbers are those of a training without a teacher.
    torch.manual_seed(9)
    drawn = torch.rand(3)
    torch.manual_seed(9)
    objective({"logits": student}, batch)
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(*values)
    values[0].backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_a_teacher_runs_in_the_precision_and_on_the_device_of_its_student():
    objective, batch = taught_by(dual(1)), make_batch()
    student = {"logits": torch.randn(4, 3)}
    plain = objective(student, batch)
    seen = []
    objective.teacher.network.encoder.register_forward_hook(lambda module, _, maps: seen.append(maps[-1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective(student, batch)
    assert rounded.dtype == torch.float32
    assert float(rounded) == pytest.approx(float(plain), rel=0.05)
    objective(student, batch | {"image": batch["image"].double()})
    assert seen == [torch.bfloat16, torch.float64]
    # Every machine has the meta device.
    assert objective.teacher(batch["image"].to("meta"), None)["logits"].is_meta


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": []}, "one or both of diagnosis, saliency"),
        ({"outputs": ["embedding"]}, "one or both of diagnosis, saliency"),
        ({"outputs": ["saliency", "saliency"]}, "each once"),
        ({"temperature": 0.0}, "temperature: must be above 0"),
        ({"weight": -1.0}, "weight: must be at least 0"),
        ({"outputs": ["saliency"], "sees_gaze": True}, "gaze changes the teacher's diagnosis alone"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Distillation("teacher.ckpt", **options)


def test_a_missing_teacher_is_an_error():
    with pytest.raises(InputError, match=r"teacher\.ckpt: the teacher was not loaded"):
        Distillation("teacher.ckpt")({}, make_batch())
