"""The reference, made from the code at every build."""

import json
import re
from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic.fields import FieldInfo
from typer.cli import get_docs_for_click

from isogon.cli.main import app
from serving.api.openapi import COMMITTED
from serving.settings import Settings


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    pages = {
        "command-line": command_line_page(),
        "http": http_page(json.loads(COMMITTED.read_text(encoding="utf-8"))),
        "settings": settings_page(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def command_line_page() -> str:
    """Return every command with its arguments and options, as `--help` has them."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="isogon")
    text = get_docs_for_click(obj=group, ctx=context, name="isogon", title="Command line")
    # `[default: 3]` and the like would be the label of a link.
    return re.sub(r"\[(default|required|env)", r"\\[\1", text)


def settings_page() -> str:
    """Return the table of the service's environment variables."""
    lines = [
        "# Settings",
        "",
        "Environment variables of `isogon serve` and of the Bento. The standard ones of",
        "OpenTelemetry turn traces on.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = _default(field)
        lines.append(f"| `ISOGON_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "" if field.default in (None, ()) else f"`{field.default}`"


def http_page(document: dict[str, Any]) -> str:
    """Return every route of an OpenAPI document: parameters, bodies, answers."""
    lines = ["# HTTP", "", document["info"].get("description", ""), ""]
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            lines += [f"## `{method.upper()} {path}`", ""]
            lines += [route.get("description") or route.get("summary", ""), ""]
            lines += _parameters(route)
            lines += _body(route)
            lines += _answers(route)
    lines += ["## Schemas", ""]
    for name, schema in document["components"]["schemas"].items():
        lines += _schema(name, schema)
    return "\n".join(lines) + "\n"


def _parameters(route: dict[str, Any]) -> Iterator[str]:
    found = route.get("parameters", [])
    if found:
        yield from ("| parameter | in | values | meaning |", "|---|---|---|---|")
        for one in found:
            said = _cell(one.get("description", ""))
            yield f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {said} |"
        yield ""


def _body(route: dict[str, Any]) -> Iterator[str]:
    content = route.get("requestBody", {}).get("content", {})
    if content:
        yield f"Body: {', '.join(f'`{kind}`' for kind in content)}."
        yield ""


def _answers(route: dict[str, Any]) -> Iterator[str]:
    yield from ("| status | body | meaning |", "|---|---|---|")
    for status, answer in route["responses"].items():
        kinds = answer.get("content", {})
        shown = [
            f"`{kind}`: {_type(what['schema'])}" if what.get("schema") else f"`{kind}`"
            for kind, what in kinds.items()
        ]
        said = _cell(answer.get("description", ""))
        yield f"| {status} | {', '.join(shown)} | {said} |"
    yield ""


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield from (f"### {name}", "", schema.get("description", ""), "")
    needed = set(schema.get("required", ()))
    if schema.get("properties"):
        yield from ("| field | type | | meaning |", "|---|---|---|---|")
        for key, value in schema["properties"].items():
            said = _cell(value.get("description", ""))
            must = "always" if key in needed else ""
            yield f"| `{key}` | {_type(value)} | {must} | {said} |"
        yield ""


def _type(schema: dict[str, Any]) -> str:
    """Return a schema in a few words, other schemas as links to their headings."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[key]))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{value}`" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
