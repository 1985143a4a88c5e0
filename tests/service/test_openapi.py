"""The API's document says what the service does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.process import Server

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
HERE = Path(__file__).parent


def test_every_endpoint_is_in_it_with_an_example(server: Server):
    document = server.call("/docs.json")

    assert set(document["paths"]) == {
        "/predict", "/predict_batch", "/explain", "/stream", "/model", "/livez", "/readyz", "/metrics",
    }  # fmt: skip
    for path in ("/predict", "/predict_batch", "/explain"):
        (body,) = document["paths"][path]["post"]["requestBody"]["content"].values()
        ((name, schema),) = body["schema"]["properties"].items()

        assert server.call(path, {name: schema["examples"][0]})


def test_it_speaks_of_this_service_alone(server: Server):
    text = json.dumps(server.call("/docs.json"))

    assert "://" not in text
    assert "BentoML" not in text


def test_every_reference_in_it_leads_somewhere(server: Server):
    document = server.call("/docs.json")

    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))

    assert named == set(document["components"]["schemas"])


def test_it_asks_for_a_key_only_where_one_is_needed(in_process):
    document = json.loads(in_process(frozenset({b"x" * 32})).app._pages["/docs.json"].body)

    assert document["security"] == [{"key": []}]
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert {p: i["get"].get("security") for p, i in document["paths"].items() if "get" in i} == {
        "/model": None,
        "/livez": [],
        "/readyz": [],
        "/metrics": [],
    }


@pytest.mark.slow
def test_thousands_of_requests_made_from_it_are_answered_as_it_says(server: Server, tmp_path: Path):
    """Valid ones are accepted, invalid ones refused, answers have the documented codes, types and shapes: no 5xx."""
    command = [
        SCHEMATHESIS, "run", f"{server.url}/docs.json", "--max-examples=700", "--phases=examples,coverage,fuzzing",
        "--seed=1", "--no-color", "--workers=2",
    ]  # fmt: skip

    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "lines", "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout[-5000:]
    generated = re.search(r"([\d,]+) generated", result.stdout)
    assert generated
    assert int(generated[1].replace(",", "")) >= 2_000
    assert "Traceback" not in server.log.read_text()
