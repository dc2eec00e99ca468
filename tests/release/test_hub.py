"""Uploads and downloads of packages on the Hugging Face Hub, against a server on loopback."""

import json

import huggingface_hub.constants
import numpy as np
import pytest

import gazelit
from gazelit import InputError
from gazelit.release.package import package
from gazelit.release.push import push
from tests.release.hub_server import local_hub
from tests.release.models import checkpoint


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Packages of a model of synthetic and one of real data."""
    folder = tmp_path_factory.mktemp("packages")
    package(checkpoint(folder / "made.ckpt"), folder / "made")
    package(checkpoint(folder / "real.ckpt", synthetic=False, source="egd-cxr"), folder / "real")
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server, in place of the real one and with an empty cache."""
    with local_hub() as (address, hub):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield hub


def test_a_package_goes_up_closed_and_comes_back_the_same(hub, packed):
    (packed / "made" / "notes.txt").write_text("patient p10000032")
    push(str(packed / "made"), "me/chest")
    commits = [event for event in hub.events if "/commit/" in event]
    # The repository is closed before a file is sent, not afterwards.
    assert len(commits) == 1
    assert "'private': True" in commits[0]
    assert "'gated': 'manual'" in commits[0]
    assert hub.settings["me/chest"] == {"private": True, "gated": "manual"}
    assert "notes.txt" not in hub.files["me/chest"]
    film = np.random.default_rng(0).random((90, 71), dtype=np.float32)
    expected = gazelit.load(packed / "made").predict(film)
    assert gazelit.load("hub:me/chest").predict(film).probabilities == expected.probabilities
    assert gazelit.load("hub:me/chest@main").predict(film).probabilities == expected.probabilities


def test_weights_of_real_patients_need_confirmation_and_the_gate_can_be_opened(hub, packed):
    with pytest.raises(InputError, match=r"trained on egd-cxr, and fall under that data's agreement; .*--agreement_a"):
        push(str(packed / "real"), "me/real")
    assert hub.events == []
    push(str(packed / "real"), "me/real", gated="auto", public=True, agreement_allows=True)
    assert hub.settings["me/real"] == {"private": False, "gated": "auto"}
    assert "'private': True" in next(event for event in hub.events if "/commit/" in event)


def test_files_that_were_changed_on_the_way_are_noticed(hub, packed):
    push(str(packed / "made"), "me/chest")
    config = json.loads(hub.files["me/chest"]["config.json"])
    hub.files["me/chest"]["config.json"] = json.dumps(config | {"temperature": [9.0] * 3}).encode()
    with pytest.raises(InputError, match=r"temperature is not that of"):
        gazelit.load("hub:me/chest")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:chest", "'chest' names no repository"),
        ("hub:me/none", r"hub:me/none: no such model, or a private one; log in"),
        ("hub:me/empty@absent", r"has no revision 'absent'"),
        ("hub:me/empty", r"is no package of gazelit"),
    ],
)
def test_a_missing_package_is_one_error(hub, name, message):
    hub.files["me/empty"] = {"README.md": b"nothing"}
    with pytest.raises(InputError, match=message):
        gazelit.load(name)


def test_a_closed_gate_a_refusal_and_no_hub_are_one_error(hub, packed, monkeypatch):
    hub.refuse, hub.error_code = 403, "GatedRepo"
    with pytest.raises(InputError, match="access has to be granted; ask for it on the model's page"):
        gazelit.load("hub:me/chest")
    hub.error_code = ""
    with pytest.raises(InputError, match=r"me/chest: the Hub refused \(403\); check that you are logged in"):
        push(str(packed / "made"), "me/chest")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"me/chest: the Hub cannot be reached"):
        push(str(packed / "made"), "me/chest")
    with pytest.raises(InputError, match=r"cannot be downloaded"):
        gazelit.load("hub:me/chest")


def test_a_folder_that_is_not_a_package_is_not_sent(hub, tmp_path):
    with pytest.raises(InputError, match=r"no package; make one with `gazelit package"):
        push(str(tmp_path), "me/chest")
    assert hub.events == []
