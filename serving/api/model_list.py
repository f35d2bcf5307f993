"""`/v1/models`: the models behind this service, as OpenAI's API lists them."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field

from serving.api.routes import OF_ANY
from serving.models import Models
from serving.served_model import ServedModel


class ModelEntry(BaseModel):
    """One model: OpenAI's four fields, and those that identify its embeddings."""

    id: str = Field(description="what `model` in a request may be")
    object: Literal["model"] = "model"
    created: int = Field(description="when it was distilled, seconds since 1970")
    owned_by: Literal["isogon"] = "isogon"
    fingerprint: str = Field(description="SHA-256 of the artifact that runs")
    width: int = Field(description="embedding dimension")
    default: bool = Field(description="answers requests that name no model")


class ModelList(BaseModel):
    """All models, the default first."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=OF_ANY, summary="List the models")
async def list_models(request: Request) -> ModelList:
    """List the models behind this service, the default first."""
    models: Models = request.app.state.models
    return ModelList(data=[await _entry(models, name) for name in models.names])


@router.get("/v1/models/{name}", responses=OF_ANY, summary="Retrieve a model's entry")
async def retrieve_model(
    request: Request, name: Annotated[str, Path(description="as the list has it")]
) -> ModelEntry:
    """Return one model's entry."""
    return await _entry(request.app.state.models, name)


async def _entry(models: Models, name: str) -> ModelEntry:
    async with models.use(name) as pipeline:
        model: ServedModel = pipeline.model
        return ModelEntry(
            id=model.name,
            created=int(
                datetime.fromisoformat(model.manifest.provenance.created).timestamp()
            ),
            fingerprint=model.artifact.fingerprint,
            width=model.manifest.width,
            default=model.name == models.default,
        )
