"""Objectives against the values of the reference implementation's own training code for the same tensors.

Recorded by running its ``NetLearn.eval_iterate`` (folder CL; a sum over triplets) and ``compute_loss`` (folders
Classfication, KL and Module) on the tensors below, with log σ = 0.3 for the diagnosis.
"""

import pytest
import torch

from gazelit.losses import BatchAllTripletLoss, DiagnosisLoss, KLDivergenceLoss, ReferenceWeighting
from tests.reference_files import filled

RECORDED = {
    "CL": 279.1438293457031,
    "Classfication": 1.1029289960861206,
    "KL": 0.5015457272529602,
    "Module": 2.4035754203796387,
}


def test_finding_a4_triplets_of_pooled_embeddings_have_the_references_loss():
    embedding = 2 * filled("embedding", (12, 32))
    label = torch.tensor([0, 0, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
    # torch's triplet loss, which the reference calls for every triplet, adds 1e-6 to each difference.
    assert BatchAllTripletLoss(reduction="sum")(embedding, label).item() == pytest.approx(RECORDED["CL"], rel=2e-6)


def test_finding_a4_stages_minimise_what_the_reference_minimises():
    target = filled("heatmap", (3, 1, 16, 12)).square()
    target = target / target.sum(dim=(-2, -1), keepdim=True)
    outputs = {"saliency_logits": 4 * filled("saliency_logits", (3, 1, 16, 12)), "logits": filled("logits", (3, 3))}
    batch = {"heatmap": target, "has_gaze": torch.ones(3, dtype=torch.bool), "label": torch.tensor([2, 0, 1])}
    saliency, diagnosis = KLDivergenceLoss()(outputs, batch), DiagnosisLoss()(outputs, batch)
    weighting = ReferenceWeighting()
    torch.nn.init.constant_(weighting.log_sigma, 0.3)
    # The reference's saliency training minimises only the KL divergence, its joint training the weighted sum.
    assert diagnosis.item() == pytest.approx(RECORDED["Classfication"], rel=1e-6)
    assert saliency.item() == pytest.approx(RECORDED["KL"], rel=1e-6)
    joint = weighting({"diagnosis": diagnosis, "saliency": saliency})
    assert joint.item() == pytest.approx(RECORDED["Module"], rel=1e-6)
