"""What can go wrong between a client and the service.

ClientError
├── RefusedError        the service answered with a problem
├── UnreachableError    it did not answer, or not as the service does
└── FingerprintError    another model answers than is expected
"""

from typing import Any

import httpx


class ClientError(Exception):
    """The base of every error of a client."""


class RefusedError(ClientError):
    """The service refused a request; `detail` says what to do."""

    def __init__(
        self, status: int, title: str, detail: str, index: int | None = None
    ) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.index = index  # which of the images given, where it is about one


class UnreachableError(ClientError):
    """No service answered at the address."""


class FingerprintError(ClientError):
    """Another model answers than the one whose embeddings these are to be compared with."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(
            f"Expected the model with the fingerprint {expected[:12]}…, but "
            f"{found[:12]}… answers. Their embeddings do not compare: embed the index "
            f"anew, or serve the model that made it."
        )
        self.expected = expected
        self.found = found


def refusal(response: httpx.Response, start: int) -> RefusedError:
    """Return the error for an answer that is no success.

    Args:
        response: the service's, or that of something in between.
        start: which of the images given is the first of this request.
    """
    title, detail, index = response.reason_phrase, response.text[:300], None
    problem = _problem(response)
    if problem:
        title, detail = problem.get("title", title), problem.get("detail", detail)
        index = problem.get("index")
        if isinstance(index, int):
            detail = detail.replace(f"images[{index}]", f"images[{start + index}]", 1)
            index += start
    return RefusedError(response.status_code, title, detail, index)


def _problem(response: httpx.Response) -> dict[str, Any]:
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    try:
        problem = response.json()
    except ValueError:  # it broke off
        return {}
    return problem if isinstance(problem, dict) else {}
