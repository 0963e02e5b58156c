"""Writes the generated parts of README.md anew: `python -m tests.documents`. A test compares them."""

from __future__ import annotations

import re
from pathlib import Path

from mcp_seedream.capabilities import ModelTable, read_table
from mcp_seedream.guide import models_markdown, parameters_markdown
from mcp_seedream.links import markdown
from mcp_seedream.mishaps import WORDS
from mcp_seedream.settings import Settings, read_settings

README = Path(__file__).parent.parent / "README.md"


def rewritten(text: str, table: ModelTable) -> str:
    """The document with every block between `<!-- generated: NAME -->` and `<!-- end -->` made anew."""
    blocks = {
        "models": models_markdown(table),
        "parameters": parameters_markdown(table),
        "settings": _settings(),
        "sandbox": _sandbox(),
        "links": markdown(),
    }
    for name, block in blocks.items():
        start, end = f"<!-- generated: {name} -->\n", "<!-- end -->"
        pattern = re.escape(start) + r".*?" + re.escape(end)
        text, found = re.subn(pattern, lambda _, new=start + block + end: new, text, count=1, flags=re.DOTALL)  # type: ignore[misc]
        assert found, f"README.md has no block {name}"
    return text


def _settings() -> str:
    rows = ["| setting | default | what it is |", "| --- | --- | --- |"]
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        name = alias.choices[0] if not isinstance(alias, str) and alias is not None else alias  # type: ignore[union-attr]
        default = ", ".join(field.default) if isinstance(field.default, list) else field.default
        rows.append(f"| `{name}` | {'-' if default is None else f'`{default}`'} | {field.description} |")
    return "\n".join(rows) + "\n"


def _sandbox() -> str:
    rows = ["| in the prompt | what happens |", "| --- | --- |"]
    rows += [f"| `[sandbox:{word}]` | {effect} |" for word, effect in WORDS.items()]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text("utf-8"), read_table(read_settings().models_file)), "utf-8")
