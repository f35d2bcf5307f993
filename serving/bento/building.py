"""A Bento with the bundle inside: code, requirements and model in one archive."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from isogon.errors import UsageError
from serving.publishing import Published

# The bundle's name inside a Bento; bentofile.yaml sets ISOGON_BUNDLE=bentoml:bundle.
ALIAS = "bundle"
_ROOT = Path(__file__).resolve().parents[2]


def bento_with(published: Published) -> str:
    """Build a Bento that holds a published bundle and serves it; return its tag.

    Raises:
        UsageError: this is not a checkout of the repository, which a Bento is built from.
    """
    import bentoml

    bentofile = _ROOT / "bentofile.yaml"
    if not bentofile.is_file():
        raise UsageError(f"Expected {bentofile}; build Bentos from Isogon's repository.")
    # A JSON value is a YAML value.
    models = json.dumps([{"tag": published.tag, "alias": ALIAS}])
    with TemporaryDirectory(prefix="isogon-") as folder:
        extended = Path(folder) / "bentofile.yaml"
        extended.write_text(f"{bentofile.read_text()}models: {models}\n")
        bento = bentoml.bentos.build_bentofile(str(extended), build_ctx=str(_ROOT))
    return str(bento.tag)
