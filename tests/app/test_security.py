"""Access to the page, what a browser may do with an answer, and what no answer may hold."""

import io
import json
import tempfile

import pandas as pd
import pytest
from starlette.testclient import TestClient

from gazelit.deploy.app import server
from tests.app.conftest import KEY, TOKEN, film, png
from tests.data.film_writers import film as dicom_film

PAGES = ["/", "/static/main.js", "/api/about", "/api/cases", "/api/cases/0", "/api/survey", "/api/reports"]


@pytest.fixture
def stranger(make_page):
    """A client without the key."""
    return TestClient(make_page(), follow_redirects=False)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1]:80:80"])
def test_another_host_name_is_refused(client, host):
    for path in PAGES:
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 400, path
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_port_of_a_tunnel_does_not_matter(client):
    assert client.get("/api/about", headers={"host": "127.0.0.1:9000"}).status_code == 200


def test_without_the_key_nothing_is_answered(stranger):
    for path in [*PAGES, "/?key=wrong", "/?key=", "/?key=k%FFy", "/nothing"]:
        answer = stranger.get(path)
        assert answer.status_code == 403, path
        assert "the address that `gazelit app` printed" in answer.text
    assert stranger.get("/", headers={"cookie": "gazelit-8750=wrong"}).status_code == 403
    # The key of another app, on another port of the same machine.
    assert stranger.get("/", headers={"cookie": f"gazelit-8751={KEY}"}).status_code == 403


def test_the_key_becomes_a_cookie_that_other_sites_and_scripts_cannot_use(stranger):
    answer = stranger.get("/", params={"key": KEY})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    assert stranger.get("/").status_code == 200


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1]])
def test_writing_needs_the_token(make_page, token):
    client = TestClient(make_page(), cookies={"gazelit-8750": KEY})
    headers = {} if token is None else {"x-gazelit-token": token}
    for method, path in [("POST", "/api/readings"), ("POST", "/api/examples/0"), ("POST", "/api/survey")]:
        assert client.request(method, path, headers=headers).status_code == 403
    assert client.delete("/api/survey", headers=headers).status_code == 403
    assert client.get("/api/survey").json()["read"] == 0


def test_every_answer_forbids_what_the_page_does_not_need(client):
    for path in [*PAGES, "/nothing", "/api/cases?low=x"]:
        headers = client.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_report_may_run_no_script(client):
    listed = client.get("/api/reports").json()
    answer = client.get(f"/reports/{listed[0]['name']}")
    assert answer.status_code == 200
    assert "A report" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "script-src" not in policy
    assert policy.startswith("default-src 'none'")
    assert "sandbox" in policy


@pytest.mark.parametrize(
    "path", ["/reports/../report.html", "/reports/..%2f..%2fetc%2fpasswd", "/static/..%2fserver.py"]
)
def test_no_other_file_is_served(client, path):
    assert client.get(path).status_code == 404


def test_a_film_that_is_too_large_is_refused_before_it_is_in_memory(client, monkeypatch):
    monkeypatch.setattr(server, "MAX_UPLOAD", 1000)
    assert client.post("/api/readings", content=b"x" * 1001).status_code == 413
    read = []

    def parts():
        for _ in range(50):
            read.append(1)
            yield b"x" * 100

    # Without a length, as a stream.
    answer = client.post("/api/readings", content=parts())
    assert answer.status_code == 413
    assert "larger than" in answer.json()["error"]


@pytest.mark.parametrize(
    "content", [b"", b"no film", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(128) + b"DICM" + b"\xff" * 90]
)
def test_a_file_that_is_not_a_film_gives_one_line(client, content):
    answer = client.post("/api/readings", content=content)
    assert answer.status_code == 422
    line = answer.json()["error"]
    assert "\n" not in line
    assert line


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("low=x", "low: must be a number of 0 to 1"),
        ("high=2", "high: must be a number of 0 to 1"),
        ("cc=nan", "cc: must be a number of -1 to 1"),
        ("page=-1", "page: must be a number"),
        ("sort=name", "sort: 'name' is none of row,"),
        ("label=nothing", "label: 'nothing' is none of Normal,"),
        ("split=holdout", "split: 'holdout' is none of train, val, test"),
        ("class=nothing", "class: 'nothing' is none of Normal,"),
    ],
)
def test_a_wrong_query_is_reported(client, query, words):
    answer = client.get(f"/api/cases?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(words)


def test_missing_objects_and_impossible_requests_are_refused(client):
    assert client.get("/api/cases/99").status_code == 400
    assert client.get("/api/cases/0?reading=99").status_code == 400
    assert client.get("/api/cases/0?reading=x").status_code == 400
    assert client.get("/api/readings/unknown/overlay.png").status_code == 404
    assert client.post("/api/examples/99").status_code == 404
    assert client.put("/api/survey").status_code == 405


def test_without_a_model_or_a_store_their_parts_of_the_page_are_absent(make_page):
    client = TestClient(make_page(with_model=False), cookies={"gazelit-8750": KEY}, headers={"x-gazelit-token": TOKEN})
    about = client.get("/api/about").json()
    assert about["model"] is None
    assert client.post("/api/readings", content=b"x").status_code == 404
    case = client.get("/api/cases/0").json()
    assert case["prediction"] is None
    assert case["maps"]["readers"]
    client = TestClient(make_page(with_store=False), cookies={"gazelit-8750": KEY})
    assert client.get("/api/about").json()["store"] is None
    assert client.get("/api/cases").status_code == 404


def test_no_answer_holds_a_path_or_an_id(client, store, report_folder):
    """No answer holds ids of images, patients, studies, readings or readers, planted names, or paths."""
    cases = pd.read_parquet(store / "cases.parquet")
    gaze = pd.read_parquet(store / "gaze.parquet")
    secret = {str(value) for name in ("image_id", "patient_id", "study_id") for value in cases[name]}
    secret |= {str(value) for name in ("reading_id", "reader_id") for value in gaze[name].unique()}
    secret |= {str(store), str(report_folder), str(store.parent), tempfile.gettempdir()}
    # The letters of the simulated panel's readers occur in every word, so they are left out.
    secret = {value for value in secret if len(value) > 1}
    secret |= {"Doe^Jane", "ID-4711", "1234567890", "Sanatorium"}
    header = {
        "PatientName": "Doe^Jane",
        "PatientID": "ID-4711",
        "AccessionNumber": "1234567890",
        "InstitutionName": "Sanatorium",
        "BodyPartExamined": "HIP",
    }
    file = io.BytesIO()
    dicom_film(**header).save_as(file, enforce_file_format=True)
    answers = [client.get(path) for path in [*PAGES, "/api/cases/1?reading=0", "/api/cases/99", "/nothing"]]
    answers += [client.post("/api/readings", content=content) for content in (file.getvalue(), file.getvalue()[:300])]
    assert answers[-2].status_code == 200
    assert answers[-2].json()["prediction"]["warnings"]
    for answer in answers:
        text = answer.text + json.dumps(dict(answer.headers))
        assert not [value for value in secret if value in text], answer.url


def test_uploads_leave_no_file(client, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    reading = client.post("/api/readings", content=png(film())).json()
    assert client.get(f"/api/readings/{reading['id']}/overlay.png").status_code == 200
    assert not list(tmp_path.iterdir())
