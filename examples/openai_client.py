"""Embed images with OpenAI's own client: openai_client.py URL IMAGE..."""

import base64
import mimetypes
import sys
from pathlib import Path

from openai import OpenAI


def data_url(path: str) -> str:
    """Return the file as a data URL; the service fetches nothing."""
    kind = mimetypes.guess_type(path)[0] or "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


if __name__ == "__main__":
    url, *paths = sys.argv[1:]
    client = OpenAI(base_url=f"{url}/v1", api_key="a key, where the service wants one")
    model = client.get("/model", cast_to=object)["name"]
    answer = client.embeddings.create(model=model, input=[data_url(p) for p in paths])
    for path, item in zip(paths, answer.data, strict=True):
        verdict = "unfamiliar" if item.ood["is_ood"] else "familiar"
        print(f"{path}  p = {item.ood['p_value']:.4f}  {verdict}  {item.embedding[:4]} ...")
