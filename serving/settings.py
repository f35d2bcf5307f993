"""What an operator may set, each by an environment variable `ISOGON_<NAME>`."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from isogon.bundle import ONNX
from isogon.errors import UsageError
from isogon.images import ImageLimits
from isogon.runtimes import Device
from isogon.runtimes.device import usable_cores
from serving.memory import machine_memory
from serving.stored import bundle_path, split_places

# `/healthz` and `/health` are what most proxies ask, `/v2/health/…` is KServe's.
LIVE = ("/livez", "/healthz", "/health", "/v2/health/live")
READY = ("/readyz", "/v2/health/ready")
METRICS = "/metrics"
FOR_MACHINES = frozenset((*LIVE, *READY, METRICS))


Origin = str


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a model's bundle is, and what to call it if not what the bundle says."""

    path: Path
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.path}" if self.name is None else f"{self.name}={self.path}"


def sources_from(value: object) -> tuple[Source, ...]:
    """Return the sources of `[NAME=]PATH` texts: one, several, or joined by `os.pathsep`.

    A path may be `bentoml:NAME[:VERSION]` too, see `bundle_path`.

    Raises:
        ValueError: there is none.
        UsageError: BentoML's store has no such model, or a name is not of that form.
    """
    if isinstance(value, str):
        value = split_places(value)
    parts = value if isinstance(value, list | tuple) else [value]
    found = tuple(_source(part) for part in parts if part)
    if not found:
        raise ValueError("expected a bundle's directory")
    return found


def keys_from(value: object) -> tuple[object, ...]:
    """Return the keys of a comma-separated text.

    Raises:
        ValueError: a key is missing, or could not travel in a header. Its message does
            not repeat what was given.
    """
    keys = _separated(value)
    none = isinstance(value, str) and not keys  # set, but empty: open by mistake
    if none or not all(re.fullmatch(r"[!-~]+", str(key)) for key in keys):
        raise ValueError(
            "expected keys of ASCII letters, digits and signs, without spaces in them, "
            "separated by commas; unset the variable to ask for no key"
        )
    return keys


def origins_from(value: object) -> tuple[object, ...]:
    """Return the origins of a comma-separated text.

    Raises:
        ValueError: one is no origin: scheme, host and port, or `*` for any.
    """
    origins = _separated(value)
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s?#]+", str(origin)):
            raise ValueError(
                f"expected origins such as https://app.example:8443 without a path, "
                f"separated by commas, found {origin!r} among them"
            )
    return origins


def _separated(value: object) -> tuple[object, ...]:
    if isinstance(value, list | tuple):
        return tuple(value)
    return tuple(part.strip() for part in str(value).split(",") if part.strip())


def _source(value: object) -> Source:
    if isinstance(value, Source):
        return value
    text = str(value)
    name, mark, path = text.partition("=")
    if mark and path and re.fullmatch(r"[\w.-]+", name):
        return Source(name=name, path=bundle_path(path))
    if mark and "/" not in name and not Path(text).exists():
        raise UsageError(
            f"Expected a directory or NAME=DIRECTORY, the name of letters, digits, "
            f"`.`, `_` and `-`, got {text!r}."
        )
    return Source(path=bundle_path(text))


LogFormat = Literal["json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]
LONGEST_DEADLINE = 540.0  # seconds
_HELD = 512 * 2**20  # bytes of bodies, and the share of the memory, if not set
_HELD_SHARE = 8
_NEARLY = 0.85  # of the letters, by difflib's ratio
# What has room for all requests has room for the largest one: the limit on that.
_ONE_OF = {
    "queue": ("max_images", "images of a request"),
    "max_held_bytes": ("max_body_bytes", "bytes of a body"),
}


def _a_device(text: str) -> str:
    try:
        Device.parse(text)
    except UsageError as error:  # is told with the variable's name
        raise ValueError("a device is auto, cpu, cuda or cuda:1") from error
    return text


class Settings(BaseSettings):
    """The bundles to serve and the limits under which they are served."""

    model_config = SettingsConfigDict(env_prefix="ISOGON_", frozen=True)

    bundle: Annotated[tuple[Source, ...], NoDecode, BeforeValidator(sources_from)] = Field(
        description="the bundles, the default first: PATH or bentoml:NAME[:VERSION]"
    )
    processes: int = Field(
        default=1, ge=1, description="that answer on one port; more: small models, CPU"
    )
    watch: bool = Field(
        default=False, description="take up a bundle that changed, as at SIGHUP"
    )
    artifact: str = Field(
        default=ONNX,
        min_length=1,
        description="what answers: an artifact's name in the bundle, or `fastest`",
    )
    alpha: float | None = Field(
        default=None, gt=0, lt=1, description="false-alarm rate; None: the bundle's"
    )
    cores: int | None = Field(
        default=None,
        ge=1,
        description="CPU cores that a model keeps busy; None: those it may use",
    )
    deadline: float = Field(
        default=30.0, gt=0, le=LONGEST_DEADLINE, description="seconds for a request"
    )
    threads: int = Field(
        default=1, ge=1, description="of one run on the CPU; more: one image is faster"
    )
    device: Annotated[str, AfterValidator(_a_device)] = Field(
        default="auto", description="auto, cpu, cuda or cuda:1; only auto falls back"
    )
    cuda_graphs: bool = Field(
        default=False, description="replay a TensorRT engine's runs, without launches"
    )
    max_images: int = Field(default=64, ge=1, description="images in one request")
    queue: int = Field(
        default=512, ge=1, description="images that may wait for a run, of each model"
    )
    max_body_bytes: int = Field(
        default=96 * 2**20, ge=1, description="bytes of a request's body"
    )
    max_held_bytes: int | None = Field(
        default=None,
        ge=1,
        description="bytes of all requests' bodies at a time; None: 512 MiB, or an eighth "
        "of the memory if that is less",
    )
    max_decoding_bytes: int | None = Field(
        default=None,
        ge=1,
        description="bytes that large images may take together while they are decoded; "
        "None: what the memory has left",
    )
    max_image_bytes: int = Field(
        default=ImageLimits().bytes, ge=1, description="bytes of one encoded image"
    )
    max_image_pixels: int = Field(
        default=ImageLimits().pixels, ge=1, description="width x height of one image"
    )
    upload_seconds: float = Field(
        default=300.0, gt=0, description="for a request's body to arrive"
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(keys_from)] = (
        Field(default=(), description="of which a request must show one; none: open")
    )
    keys_file: Path | None = Field(
        default=None,
        description="more keys: `NAME KEY [RATE]` on each line; read again when it changes",
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(origins_from)] = (
        Field(default=(), description="whose pages in a browser may ask; none: no other")
    )
    drift_window: int = Field(
        default=1000, ge=10, description="images that the drift test looks back upon"
    )
    drift_run_length: float = Field(
        default=1e6, ge=1e3, description="familiar images until it alarms, on average"
    )
    log_format: LogFormat = Field(
        default="json", description="of the log on stderr: json, or text for people"
    )
    log_level: LogLevel = Field(
        default="info", description="from which on: debug, info, warning, error"
    )

    @field_validator("threads")
    @classmethod
    def _of_one_process(cls, threads: int, info: ValidationInfo) -> int:
        # A fork has none of the threads that ONNX Runtime gave its session.
        if threads > 1 and (processes := info.data.get("processes", 1)) > 1:
            raise ValueError(
                f"runs of several threads are for one process, and ISOGON_PROCESSES or "
                f"--processes is {processes}"
            )
        return threads

    @field_validator("queue", "max_held_bytes")
    @classmethod
    def _holds_one(cls, room: int | None, info: ValidationInfo) -> int | None:
        limit, needed = _ONE_OF[info.field_name or ""]
        if room is not None and room < (one := info.data.get(limit, 0)):
            raise ValueError(
                f"it should hold the {one} {needed}, which is ISOGON_{limit.upper()}"
            )
        return room

    def of_each_process(self) -> Self:
        """Return the settings of one of several processes: its share of the machine.

        What has to hold one request still does.
        """
        decoding = self.max_decoding_bytes
        share: dict[str, object] = {
            "cores": max(1, (self.cores or usable_cores()) // self.processes),
            "queue": max(self.max_images, self.queue // self.processes),
            "max_held_bytes": max(self.max_body_bytes, self.held_bytes // self.processes),
            "max_decoding_bytes": None if decoding is None else decoding // self.processes,
        }
        return self.model_copy(update=share)

    @property
    def held_bytes(self) -> int:
        """The bytes of all bodies at a time: what is set, or what this machine has."""
        if self.max_held_bytes is not None:
            return self.max_held_bytes
        return max(self.max_body_bytes, min(_HELD, machine_memory() // _HELD_SHARE))

    @property
    def image_limits(self) -> ImageLimits:
        """The limits on one image, as the decoder takes them."""
        return ImageLimits(bytes=self.max_image_bytes, pixels=self.max_image_pixels)


def settings_from_environment(
    bundle: Path | Sequence[str | Path] | None = None,
    given: Mapping[str, object] | None = None,
) -> Settings:
    """Return the settings.

    Args:
        bundle: one or several; they go before ISOGON_BUNDLE.
        given: other settings by name; they go before their variables.

    Raises:
        UsageError: a variable is missing or has a value that does not do.
    """
    _require_known(os.environ)
    try:
        named = {} if bundle is None else {"bundle": bundle}
        return Settings(**named, **(given or {}))  # type: ignore[arg-type]
    except ValidationError as error:
        fault = error.errors()[0]
        field = str(fault["loc"][0]).removeprefix("ISOGON_").lower()
        raise UsageError(
            f"The environment variable ISOGON_{field.upper()}: {_told(field, fault)}. "
            f"Set or unset it; `isogon serve --help` lists them."
        ) from error


def _require_known(environment: Mapping[str, str]) -> None:
    """Raise `UsageError` for a name that is nearly a setting's.

    A limit or a key that was mistyped would not be in force, and nobody would hear of it.
    Others may begin with ISOGON_ too: Kubernetes names a service's ports so.
    """
    known = {f"ISOGON_{name.upper()}" for name in Settings.model_fields}
    for name in environment:
        if name.startswith("ISOGON_") and name not in known:
            for meant in get_close_matches(name, known, n=1, cutoff=_NEARLY):
                raise UsageError(
                    f"The environment variable {name} is no setting; {meant} is. Set "
                    f"that one, or unset it."
                )


def _told(field: str, fault: Any) -> str:
    """Return what is wrong with a value, and the value unless it is a secret."""
    message = str(fault["msg"]).removeprefix("Value error, ")
    return message if field == "api_keys" else f"{message}, got {fault['input']!r}"
