"""The OpenAPI document is the committed one, and answers conform to it."""

import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.api.openapi import COMMITTED, written
from serving.app import create_app

DOCUMENT = json.loads(COMMITTED.read_text())
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]


def test_the_committed_document_is_the_applications() -> None:
    assert COMMITTED.read_text() == written(create_app()), (
        "write it anew: python -m serving.api.openapi > serving/api/openapi.json"
    )


def test_the_service_hands_the_document_out(url: str) -> None:
    assert httpx.get(f"{url}/openapi.json").json() == DOCUMENT


def test_every_refusal_is_documented_as_a_problem() -> None:
    refusals = {
        *("400", "401", "404", "408", "413", "415", "422", "429", "500", "503", "504")
    }
    assert set(DOCUMENT["paths"]["/v1/embed"]["post"]["requestBody"]["content"]) == {
        *("multipart/form-data", "image/*", "application/json"),
    }
    for path, negotiates in (("embed", True), ("score", True), ("embeddings", False)):
        responses = DOCUMENT["paths"][f"/v1/{path}"]["post"]["responses"]
        assert set(responses) == {"200"} | refusals | ({"406"} if negotiates else set())
        for status in set(responses) - {"200"}:
            assert list(responses[status]["content"]) == ["application/problem+json"]
    assert set(DOCUMENT["components"]["securitySchemes"]) == {"bearer", "key"}


def test_every_operation_and_parameter_is_explained() -> None:
    for operations in DOCUMENT["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            for parameter in operation.get("parameters", []):
                assert parameter["description"]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_whatever_is_sent_the_service_answers_as_documented(
    operation: schemathesis.APIOperation, mode: GenerationMode, url: str
) -> None:
    any_text = "{name}" in operation.path  # is a name, and one that nothing here has
    given_fields = operation.definition.raw.keys() & {"parameters", "requestBody"}
    if mode is GenerationMode.NEGATIVE and (any_text or not given_fields):
        return  # there is nothing to send wrongly
    statuses = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def send(case: schemathesis.Case) -> None:
        response = case.call(base_url=url)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    send()
    assert max(statuses) < 500
    assert {200, 404 if any_text else 200} & statuses or mode is GenerationMode.NEGATIVE
