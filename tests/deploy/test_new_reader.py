"""The vectors of a new reader are the likeliest ones, given their prior: against the closed form of a Gaussian."""

import torch

from gazelit.deploy import new_reader
from gazelit.models import EncoderSpec, ScanpathNetwork


def test_the_fit_ends_at_the_maximum_of_the_posterior(monkeypatch):
    torch.manual_seed(0)
    options = {"map_stride": 8, "width": 16, "layers": 1, "heads": 2, "longest": 4, "regions": 4}
    network = ScanpathNetwork(EncoderSpec("densenet-small"), readers=["a", "b", "c"], **options)
    grown = new_reader.with_reader(network, "d")
    with torch.no_grad():
        grown.offset.mean.weight[1:-1].normal_()
    tables = [table.weight for table in new_reader.tables_of(grown)]
    before = [table.detach().clone() for table in tables]
    wanted, certainty = [torch.randn(table.shape[1]) for table in tables], 40.0

    def likelihood(reader, all_factors):
        assert (reader, all_factors) == (4, True)
        away = [(table[reader] - target).square() for table, target in zip(tables, wanted, strict=True)]
        return -0.5 * certainty * torch.cat(away)

    monkeypatch.setattr(new_reader, "likelihood_of", lambda network, batch: likelihood)
    new_reader.fit_reader(grown, {})
    for table, was, target in zip(tables, before, wanted, strict=True):
        prior = 1 / was[1:4].std(correction=0) ** 2
        expected = (prior * was[0] + certainty * target) / (prior + certainty)
        assert torch.allclose(table[4], expected, atol=1e-4)
        assert torch.equal(table[:4], was[:4])
