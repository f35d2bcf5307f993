"""The OpenAPI document is what is served, and what is served keeps to it."""

import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
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
schema = schemathesis.openapi.from_dict(DOCUMENT)


def test_the_committed_document_is_the_applications() -> None:
    assert COMMITTED.read_text() == written(create_app()), (
        "write it anew: python -m serving.api.openapi > serving/api/openapi.json"
    )


def test_the_service_hands_the_document_out(url: str) -> None:
    assert httpx.get(f"{url}/openapi.json").json() == DOCUMENT


def test_every_refusal_is_documented_as_a_problem() -> None:
    refusals = {"400", "401", "404", "413", "415", "422", "429", "500", "504"}
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


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_whatever_is_sent_the_service_answers_as_documented(
    case: schemathesis.Case, url: str
) -> None:
    case.call_and_validate(base_url=url, checks=CHECKS)
