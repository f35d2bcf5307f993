"""A stand-in of Hugging Face's hub: the routes that push and pull use."""

import base64
import hashlib
import json
from typing import Any

import yaml
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

TOKEN = "hf_test"


def stand_in(repositories: dict[str, dict[str, bytes]]) -> FastAPI:
    """Return an application that keeps one commit's files of each repository."""
    app = FastAPI()

    def sha_of(repository: str) -> str:
        digest = hashlib.sha1(repository.encode())
        for name, content in sorted(repositories[repository].items()):
            digest.update(name.encode() + hashlib.sha1(content).digest())
        return digest.hexdigest()

    def refused(request: Request) -> Response | None:
        if request.headers.get("authorization") == f"Bearer {TOKEN}":
            return None
        return JSONResponse({"error": "Invalid credentials"}, 401)

    @app.post("/api/repos/create")
    async def create(request: Request) -> Response:
        if (no := refused(request)) is not None:
            return no
        wanted = await request.json()
        name = f"{wanted['organization']}/{wanted['name']}"
        status = 409 if name in repositories else 200
        repositories.setdefault(name, {})
        return JSONResponse({"url": f"{request.base_url}{name}"}, status)

    @app.post("/api/validate-yaml")
    async def validate(request: Request) -> dict[str, Any]:
        content = (await request.json())["content"]
        assert yaml.safe_load(content.split("---\n")[1])["library_name"] == "isogon"
        return {"errors": [], "warnings": []}

    @app.post("/api/models/{user}/{name}/preupload/{revision}")
    async def preupload(request: Request) -> dict[str, Any]:
        files = (await request.json())["files"]
        return {
            "files": [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in files
            ]
        }

    @app.post("/api/models/{user}/{name}/commit/{revision}")
    async def commit(user: str, name: str, request: Request) -> Response:
        if (no := refused(request)) is not None:
            return no
        files = repositories[f"{user}/{name}"]
        for line in (await request.body()).splitlines():
            operation = json.loads(line)
            if operation["key"] == "file":
                value = operation["value"]
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
        sha = sha_of(f"{user}/{name}")
        address = f"{request.base_url}{user}/{name}/commit/{sha}"
        return JSONResponse({"commitUrl": address, "commitOid": sha})

    @app.get("/api/models/{user}/{name}/revision/{revision}")
    @app.get("/api/models/{user}/{name}")
    async def about(user: str, name: str) -> Response:
        repository = f"{user}/{name}"
        if repository not in repositories:
            error = {"X-Error-Code": "RepoNotFound"}
            return JSONResponse({"error": "Repository not found"}, 404, headers=error)
        sha = sha_of(repository)
        siblings = [{"rfilename": path} for path in repositories[repository]]
        return JSONResponse({"id": repository, "sha": sha, "siblings": siblings})

    @app.api_route("/{user}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    async def resolve(user: str, name: str, revision: str, path: str) -> Response:
        content = repositories[f"{user}/{name}"].get(path)
        if content is None:
            return Response(status_code=404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": revision,
        }
        return Response(content, headers=headers, media_type="application/octet-stream")

    return app
