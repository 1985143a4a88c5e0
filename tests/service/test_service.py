"""The service as a process, over HTTP: the contract with its clients."""

import json
import urllib.error
import urllib.request

import pytest

from service.bundle import Bundle
from service.process import Server
from training.registry import Version


def post(
    server: Server, body: bytes, content_type: str = "application/json", path: str = "/predict"
) -> tuple[int, str]:
    request = urllib.request.Request(server.url + path, body, {"content-type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_review_gets_a_label_a_probability_and_the_version(server: Server, champion: Version):
    praise = server.predict("A wonderful, moving film.")
    blame = server.predict("A dull waste of time.")

    assert praise == {"label": "positive", "positive": praise["positive"], "model_version": str(champion.number)}
    assert praise["positive"] > 0.9
    assert blame["label"] == "negative"
    assert blame["positive"] < 0.1


def test_it_answers_the_selfcheck_as_registered(server: Server, bundle: Bundle):
    for review in bundle.selfcheck[:200]:
        answer = server.predict(review.text)

        assert answer["positive"] == pytest.approx(review.positive, abs=1e-9)


def test_the_model_says_where_it_comes_from(server: Server, champion: Version):
    tags = champion.tags

    assert server.call("/model") == {
        "model_version": str(champion.number),
        **{key: tags[key] for key in ("scorer_sha256", "git_sha", "data_digest", "trained_at")},
    }


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/docs.json"])
def test_what_operators_need_is_there(server: Server, path: str):
    with urllib.request.urlopen(server.url + path, timeout=10) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "好きな映画", "\u0000", "<br />", "a\ud83d\ude00b"], ids=lambda t: ascii(t[:8])
)
def test_any_text_within_the_limits_is_answered(server: Server, text: str):
    status, body = post(server, json.dumps({"text": text}).encode())

    assert status == 200
    assert 0 <= json.loads(body)["positive"] <= 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"text": ""}', "the text is empty"),
        (b'{"text": " \\n "}', "the text is empty"),
        (b"{}", "Field required"),
        (b'{"text": 5}', "should be a valid string"),
        (b'{"text": null}', "should be a valid string"),
        (b'{"text": ["a"]}', "should be a valid string"),
        (json.dumps({"text": "x" * 10_001}).encode(), "at most 10000 characters"),
        (b"[]", "should be an object"),
        (b"null", "should be an object"),
        (b'{"text": ', "Invalid JSON"),
        (b'{"text": "\xff"}', "Invalid JSON"),
        (b'{"text": "\\ud800"}', "Invalid JSON"),
        (b"", "Invalid JSON"),
        (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "Invalid JSON"),
        (b'{"text": ' + b"9" * 100_000 + b"}", "Invalid JSON"),
    ],
)
def test_bad_input_is_refused_with_the_reason(server: Server, body: bytes, reason: str):
    status, answer = post(server, body)

    assert status == 400
    assert reason in json.loads(answer)["error"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_other_content_types_are_no_error_of_ours(server: Server, content_type: str):
    status, answer = post(server, b"text=fine", content_type)

    assert status == 415
    assert "expected is application/json" in json.loads(answer)["error"]


def test_a_batch_is_answered_in_order_as_one_by_one(server: Server, bundle: Bundle):
    texts = [review.text for review in bundle.selfcheck[:1_000]]

    answers = server.call("/predict_batch", {"texts": texts})

    assert answers[:50] == [server.predict(text) for text in texts[:50]]
    assert [a["positive"] for a in answers] == pytest.approx([r.positive for r in bundle.selfcheck[:1_000]], abs=1e-9)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ([], "at least 1 item"),
        (["fine"] * 1_001, "at most 1000 items"),
        (["fine", " "], "texts.1: the text is empty"),
        ("fine", "valid array"),
    ],
)
def test_a_bad_batch_is_refused_as_a_whole_with_the_place(server: Server, texts: object, reason: str):
    status, answer = post(server, json.dumps({"texts": texts}).encode(), path="/predict_batch")

    assert status == 400
    assert reason in json.loads(answer)["error"]


def test_an_explanation_is_the_prediction_and_what_it_is_made_of(server: Server):
    text = "Not bad at all, but the ending is a waste of a good cast."

    explained = server.call("/explain", {"text": text})

    assert {key: explained[key] for key in ("label", "positive", "model_version")} == server.predict(text)
    assert explained["log_odds"] == pytest.approx(
        explained["bias"] + sum(term["contribution"] for term in explained["terms"])
    )
    assert [
        text[start:end] for term in explained["terms"] if term["term"] == "waste" for start, end in term["spans"]
    ] == ["waste"]


def test_known_paths_want_their_own_method(server: Server):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}/predict", timeout=10)

    assert refused.value.code == 405
    assert refused.value.headers["allow"] == "POST"


def test_the_log_holds_neither_tracebacks_nor_reviews(server: Server):
    post(server, b'{"text": 5}')
    post(server, b'{"text": "a private review"}')

    log = server.log.read_text()

    assert "Traceback" not in log
    assert "private" not in log
