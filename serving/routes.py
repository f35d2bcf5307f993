"""The HTTP interface: embed, score, and say what is served."""

import base64
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse

from serving.model import ServedModel
from serving.page import page
from serving.problems import MEDIA_TYPE, install_handlers
from serving.schemas import (
    CalibrationCard,
    EmbedResponse,
    EmbedResult,
    Encoding,
    ModelName,
    ModelResponse,
    Problem,
    ScoreResponse,
    ScoreResult,
)
from serving.uploads import read_images

_BINARY = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {"images": {"type": "array", "items": _BINARY}},
                }
            },
            "image/*": {"schema": _BINARY},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "byte"},
                        }
                    },
                }
            },
        },
    }
}
_PROBLEM = {"model": Problem, "content": {MEDIA_TYPE: {}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {**_PROBLEM, "description": "an image does not decode"},
    413: {**_PROBLEM, "description": "past a limit on bytes, pixels or images"},
    415: {**_PROBLEM, "description": "a type that is not accepted"},
    422: {**_PROBLEM, "description": "a field is missing, unknown or malformed"},
}


def create_app() -> FastAPI:
    """Return the application; `app.state.model` must be set before it is asked."""
    app = FastAPI(title="Isogon", version="1")
    install_handlers(app)

    @app.post("/v1/embed", responses=_REFUSALS, openapi_extra=_BODY)
    async def embed(
        request: Request,
        model: Annotated[ServedModel, Depends(_model)],
        encoding: Annotated[Encoding, Query()] = "float",
    ) -> EmbedResponse:
        """Embed each image of the request and say how unfamiliar it is."""
        images = await read_images(request, model.settings)
        outputs = await model.answer(images)
        results = [
            EmbedResult(embedding=_encoded(embedding, encoding), ood=ood)
            for embedding, ood in zip(
                outputs.embeddings, model.decisions(outputs), strict=True
            )
        ]
        return EmbedResponse(
            model=_name(model), width=model.manifest.width, results=results
        )

    @app.post("/v1/score", responses=_REFUSALS, openapi_extra=_BODY)
    async def score(
        request: Request, model: Annotated[ServedModel, Depends(_model)]
    ) -> ScoreResponse:
        """Say of each image of the request how unfamiliar it is."""
        images = await read_images(request, model.settings)
        outputs = await model.answer(images)
        results = [ScoreResult(ood=ood) for ood in model.decisions(outputs)]
        return ScoreResponse(model=_name(model), results=results)

    @app.get("/v1/model")
    async def describe(
        model: Annotated[ServedModel, Depends(_model)],
    ) -> ModelResponse:
        """Say what is served and what vouches for it."""
        return _card(model)

    @app.get("/", include_in_schema=False)
    async def home(
        request: Request, model: Annotated[ServedModel, Depends(_model)]
    ) -> HTMLResponse:
        return HTMLResponse(page(_card(model), str(request.base_url)))

    return app


def _model(request: Request) -> ServedModel:
    model: ServedModel = request.app.state.model
    return model


def _name(model: ServedModel) -> ModelName:
    return ModelName(name=model.manifest.name, fingerprint=model.artifact.fingerprint)


def _card(model: ServedModel) -> ModelResponse:
    return ModelResponse(
        name=model.manifest.name,
        fingerprint=model.artifact.fingerprint,
        width=model.manifest.width,
        space=model.manifest.space,
        artifact=model.artifact.name,
        runner=model.runner.name,
        preprocessing=model.manifest.preprocessing,
        student=model.manifest.student,
        teacher=model.manifest.teacher,
        parity=model.artifact.report.figures,
        calibration=CalibrationCard(
            alpha=model.calibration.alpha, images=len(model.calibration.scores)
        ),
    )


def _encoded(embedding: np.ndarray, encoding: Encoding) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(embedding.astype("<f4").tobytes()).decode()
    numbers: list[float] = embedding.tolist()
    return numbers
