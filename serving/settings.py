"""The settings of the service, each an environment variable `ISOGON_<NAME>`."""

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
from isogon.errors import UsageError, option
from isogon.images import ImageLimits
from isogon.runtimes import Device
from isogon.runtimes.device import usable_cores
from isogon.runtimes.memory import machine_memory
from serving.locations import bundle_path, split_places

# Most proxies probe `/healthz` or `/health`; `/v2/health/…` is KServe's.
LIVE = ("/livez", "/healthz", "/health", "/v2/health/live")
READY = ("/readyz", "/v2/health/ready")
METRICS = "/metrics"
FOR_MACHINES = frozenset((*LIVE, *READY, METRICS))
LONGEST_DEADLINE = 540.0  # seconds
_HELD = 512 * 2**20  # bytes of all bodies, if not set
_HELD_SHARE = 8  # the memory divided by this, if that is less
_NEARLY = 0.85  # difflib's ratio of a misspelt variable to a known one
# These limits for all requests must have room for one request of the largest size.
_ONE_OF = {
    "queue": ("max_images", "images of a request"),
    "max_held_bytes": ("max_body_bytes", "bytes of a body"),
}

LogFormat = Literal["json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a model's bundle is, and a name to use in place of the bundle's."""

    path: Path
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.path}" if self.name is None else f"{self.name}={self.path}"


def sources_from(value: object) -> tuple[Source, ...]:
    """Return the sources of `[NAME=]PATH` texts: one, several, or joined by `os.pathsep`.

    A path may be `bentoml:NAME[:VERSION]` too, see `bundle_path`.

    Raises:
        ValueError: there is no source.
        UsageError: BentoML's store has no such model, or a name is malformed.
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
        ValueError: a key is missing or cannot be sent in a header. The message does not
            quote the value.
    """
    keys = _separated(value)
    none = isinstance(value, str) and not keys  # set but empty: probably by mistake
    if none or not all(re.fullmatch(r"[!-~]+", str(key)) for key in keys):
        raise ValueError(
            "expected keys of ASCII letters, digits and signs, without spaces, separated "
            "by commas; unset the variable to require no key"
        )
    return keys


def origins_from(value: object) -> tuple[object, ...]:
    """Return the origins of a comma-separated text.

    Raises:
        ValueError: one is not an origin: scheme, host and port, or `*` for any.
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


def _a_device(text: str) -> str:
    try:
        Device.parse(text)
    except UsageError as error:  # pydantic reports it with the variable's name
        raise ValueError("a device is auto, cpu, cuda or cuda:1") from error
    return text


class Settings(BaseSettings):
    """The bundles to serve, and the limits of the service."""

    model_config = SettingsConfigDict(env_prefix="ISOGON_", frozen=True)

    bundle: Annotated[tuple[Source, ...], NoDecode, BeforeValidator(sources_from)] = Field(
        description="the bundles, the default first: PATH or bentoml:NAME[:VERSION]"
    )
    processes: int = Field(
        default=1,
        ge=1,
        description="processes that answer on one port; several: for small models on CPUs",
    )
    watch: bool = Field(
        default=False, description="reload a bundle that changed, as SIGHUP does"
    )
    artifact: str = Field(
        default=ONNX,
        min_length=1,
        description="the artifact that answers: its name in the bundle, or `fastest`",
    )
    alpha: float | None = Field(
        default=None, gt=0, lt=1, description="false-alarm rate; None: the bundle's"
    )
    cores: int | None = Field(
        default=None,
        ge=1,
        description="CPU cores that a model keeps busy; None: all that it may use",
    )
    deadline: float = Field(
        default=30.0, gt=0, le=LONGEST_DEADLINE, description="seconds for a request"
    )
    threads: int = Field(
        default=1,
        ge=1,
        description="threads of one run on the CPU; more: one image is faster",
    )
    device: Annotated[str, AfterValidator(_a_device)] = Field(
        default="auto", description="auto, cpu, cuda or cuda:1; only auto falls back"
    )
    cuda_graphs: bool = Field(
        default=False,
        description="run a TensorRT engine by CUDA graphs: no kernel launches",
    )
    max_images: int = Field(default=64, ge=1, description="images in one request")
    queue: int = Field(
        default=512, ge=1, description="images that may wait for a run, for each model"
    )
    max_body_bytes: int = Field(
        default=96 * 2**20, ge=1, description="bytes of a request's body"
    )
    max_held_bytes: int | None = Field(
        default=None,
        ge=1,
        description="bytes of all requests' bodies together; None: 512 MiB, or an eighth "
        "of the memory if that is less",
    )
    max_decoding_bytes: int | None = Field(
        default=None,
        ge=1,
        description="bytes for decoding all large images together; None: the memory that "
        "is left",
    )
    max_image_bytes: int = Field(
        default=ImageLimits().bytes, ge=1, description="bytes of one encoded image"
    )
    max_image_pixels: int = Field(
        default=ImageLimits().pixels, ge=1, description="width x height of one image"
    )
    upload_seconds: float = Field(
        default=300.0, gt=0, description="seconds for a request's body to arrive"
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(keys_from)] = (
        Field(
            default=(), description="a request must show one of these; none: no key needed"
        )
    )
    keys_file: Path | None = Field(
        default=None,
        description="file of more keys, each line `NAME KEY [RATE]`; reread when changed",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(origins_from)] = (
        Field(
            default=(),
            description="sites whose pages may send requests; none: no other site",
        )
    )
    drift_window: int = Field(
        default=1000,
        ge=10,
        description="number of last images that the drift test compares",
    )
    drift_run_length: float = Field(
        default=1e6,
        ge=1e3,
        description="familiar images until a false drift alarm, on average",
    )
    log_format: LogFormat = Field(
        default="json", description="format of the log on stderr: json, or text for people"
    )
    log_level: LogLevel = Field(
        default="info", description="lowest level to log: debug, info, warning or error"
    )

    @field_validator("threads")
    @classmethod
    def _of_one_process(cls, threads: int, info: ValidationInfo) -> int:
        # After a fork the thread pool of an ONNX Runtime session is gone.
        if threads > 1 and (processes := info.data.get("processes", 1)) > 1:
            raise ValueError(
                f"runs of several threads need a single process, but ISOGON_PROCESSES or "
                f"{option('processes')} is {processes}"
            )
        return threads

    @field_validator("queue", "max_held_bytes")
    @classmethod
    def _holds_one(cls, room: int | None, info: ValidationInfo) -> int | None:
        limit, needed = _ONE_OF[info.field_name or ""]
        if room is not None and room < (one := info.data.get(limit, 0)):
            raise ValueError(
                f"it should be at least ISOGON_{limit.upper()}, the {one} {needed}"
            )
        return room

    def of_each_process(self) -> Self:
        """Return the settings of one of several processes: its share of the machine.

        Each limit still has room for one request.
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
        """The bytes of all bodies together: as set, or by this machine's memory."""
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
        bundle: one or several; they override ISOGON_BUNDLE.
        given: other settings by name; they override environment variables.

    Raises:
        UsageError: a variable is missing, misspelt or has an invalid value.
    """
    _require_known(os.environ)
    try:
        named = {} if bundle is None else {"bundle": bundle}
        return Settings(**named, **(given or {}))  # type: ignore[arg-type]
    except ValidationError as error:
        fault = error.errors()[0]
        field = str(fault["loc"][0]).removeprefix("ISOGON_").lower()
        raise UsageError(
            f"The environment variable ISOGON_{field.upper()}: {_explained(field, fault)}. "
            f"Set or unset it; `isogon serve --help` lists them."
        ) from error


def _require_known(environment: Mapping[str, str]) -> None:
    """Raise `UsageError` for a variable whose name is almost that of a setting.

    A misspelt limit or key would silently have no effect. Other variables may begin with
    ISOGON_: Kubernetes sets some for a service of that name.
    """
    known = {f"ISOGON_{name.upper()}" for name in Settings.model_fields}
    for name in environment:
        if name.startswith("ISOGON_") and name not in known:
            for meant in get_close_matches(name, known, n=1, cutoff=_NEARLY):
                raise UsageError(
                    f"The environment variable {name} is not a setting; did you mean "
                    f"{meant}? Set that one, or unset {name}."
                )


def _explained(field: str, fault: Any) -> str:
    """Return what is wrong with a value, and the value, unless it is a secret."""
    message = str(fault["msg"]).removeprefix("Value error, ")
    return message if field == "api_keys" else f"{message}, got {fault['input']!r}"
