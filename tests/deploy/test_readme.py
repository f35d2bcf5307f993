"""`deploy/README.md` is correct: its settings, commands and files.

`PYTHONPATH=. python tests/deploy/test_readme.py` writes the table of settings.
"""

import re
from pathlib import Path

from pydantic.fields import FieldInfo

from serving.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy" / "README.md"
START = "<!-- settings: python tests/deploy/test_readme.py writes them -->\n"
END = "<!-- /settings -->\n"


def settings_table() -> str:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `ISOGON_{name.upper()}` | {default(field)} | {field.description} |")
    return "\n".join(rows) + "\n"


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "" if field.default in (None, ()) else f"`{field.default}`"


def with_table(page: str) -> str:
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}{settings_table()}{END}{after}"


def test_the_table_has_every_setting_as_it_is() -> None:
    page = PAGE.read_text()
    assert START in page
    assert END in page
    assert page == with_table(page), "run: python tests/deploy/test_readme.py"
    assert all(field.description for field in Settings.model_fields.values())


def test_every_path_that_the_page_names_exists() -> None:
    named = set(re.findall(r"(?<![\w/])(?:deploy|kubernetes)/[\w./-]+\w", PAGE.read_text()))
    assert len(named) >= 4
    for path in named:
        found = ROOT / path if path.startswith("deploy/") else PAGE.parent / path
        assert found.exists(), path


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
