"""The generated parts of the documents. `python -m tools.documents` updates them, and a test compares them.

A generated part is between `<!-- generated: NAME -->` and `<!-- end -->`, in any document.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcp_seedream.catalog.schemas import as_json
from mcp_seedream.catalog.selection import ImageSpec, choose
from mcp_seedream.catalog.table import ANY, ModelTable, Operation, Value, or_list
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.core.settings import Settings, read_settings
from mcp_seedream.install.clients import HOSTED
from mcp_seedream.install.links import cursor_links, entry_without_secret, vscode_links
from mcp_seedream.sandbox.faults import WORDS
from mcp_seedream.server.resources import models_markdown, parameters_markdown
from tools import architecture, reference

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TOOLS, MODELS = ROOT / "docs" / "tools.md", ROOT / "docs" / "models.md"
_ONE, _TWO = ("https://example.com/a.png",), ("https://example.com/a.png", "https://example.com/b.png")
_CHOICES: list[tuple[str, Operation, tuple[str, ...], str | None, dict[str, Value]]] = [
    ("only a prompt", "generate", (), None, {}),
    ('`size: "4K"`', "generate", (), "4K", {}),
    ('`size: "1.5K"`', "generate", (), "1.5K", {}),
    ('`size: "1024x1024"`', "generate", (), "1024x1024", {}),
    ("`seed: 7`", "generate", (), None, {"seed": 7}),
    ('a set: `sequential_image_generation: "auto"`', "generate", (), None, {"sequential_image_generation": "auto"}),
    ('`optimize_prompt_options: {"mode": "fast"}`', "generate", (), None, {"optimize_prompt_options": "fast"}),
    ("one input picture", "edit", _ONE, None, {}),
    ('one input picture, `size: "3K"`', "edit", _ONE, "3K", {}),
    ("two input pictures", "edit", _TWO, None, {}),
    ("`layer_decomposition: true`", "edit", _ONE, None, {"layer_decomposition": True}),
    (
        "`seed: 7` in a set",
        "generate",
        (),
        None,
        {"seed": 7, "sequential_image_generation": "auto"},
    ),
]
"""Calls without `model`, for the table of chosen models: a description, and the arguments of an `ImageSpec`."""


def pages() -> list[Path]:
    """All documents that the tests check."""
    more = [path for folder in ("deploy", "examples") if (path := ROOT / folder / "README.md").is_file()]
    return [README, *sorted((ROOT / "docs").glob("*.md")), *more]


def parts(table: ModelTable) -> dict[str, str]:
    """All generated parts by name. Some are answers of the sandbox, which takes seconds."""
    return {
        **model_parts(table),
        "sandbox": _sandbox(),
        "settings": _settings(),
        "links": _links(),
        **architecture.parts(),
        "errors": reference.errors(),
        **reference.answers(table),
    }


def model_parts(table: ModelTable) -> dict[str, str]:
    """The generated parts that a new model changes."""
    return {
        "models": models_markdown(table),
        "parameters": parameters_markdown(table),
        "combinations": _combinations(table),
        "choices": _choices(table),
        **reference.tools(table),
    }


def with_parts(text: str, parts: Mapping[str, str]) -> str:
    """A document with its generated parts updated.

    Raises:
        KeyError: The document has a part of an unknown name.
    """
    pattern = r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda found: found[1] + parts[found[2]] + found[3], text, flags=re.DOTALL)


def _table(*rows: tuple[str, ...]) -> str:
    """A Markdown table; the first row is its head."""
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"| {' | '.join('---' for _ in rows[0])} |", *rest]) + "\n"


def _settings() -> str:
    rows = [("setting", "default", "description")]
    for field in Settings.model_fields.values():
        [name] = field.validation_alias.choices  # type: ignore[union-attr]
        default = ", ".join(field.default) if isinstance(field.default, list) else field.default
        shown = "-" if default in (None, "") else f"`{str(default).lower() if default is False else default}`"
        bounds = "".join(_bounds(field.metadata))
        rows.append((f"`{name}`", f"{shown}{bounds}", str(field.description)))
    return _table(*rows)


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for rule in metadata:
        for name, words in (("gt", "above {}"), ("ge", "{} or more"), ("le", "{} or less")):
            if (bound := getattr(rule, name, None)) is not None:
                yield f", {words.format(bound)}"


def _combinations(table: ModelTable) -> str:
    """A list of what parameters need and exclude."""
    lines = []
    for rule in table.combinations:
        kinds = [kind.upper() for kind in rule.input_kinds]
        parts = [f"needs {' and '.join(_spelled(rule.needs))}"] if rule.needs else []
        parts += [f"can't be combined with {or_list(_spelled(rule.excludes))}"] if rule.excludes else []
        parts += [f"accepts pictures in {or_list(kinds)}"] if kinds else []
        parts += ["needs them to have an alpha channel"] if rule.input_alpha else []
        lines.append(f"- {' and '.join(_spelled(rule.when))} {', and '.join(parts)}.")
    return "\n".join(lines) + "\n"


def _spelled(values: Mapping[str, Value]) -> list[str]:
    return [f"`{name}`" if value == ANY else f"`{name}: {as_json(value)}`" for name, value in values.items()]


def _sandbox() -> str:
    return _table(("in the prompt", "effect"), *((f"`[sandbox:{word}]`", effect) for word, effect in WORDS.items()))


def _choices(table: ModelTable) -> str:
    rows = [("a call without `model`, with", "is served by")]
    for words, operation, images, size, options in _CHOICES:
        try:
            model = choose(table, ImageSpec(operation, "a fox", images, size, options))
            rows.append((words, f"{model.name}"))
        except InvalidArguments as error:
            rows.append((words, f"an error: {error.message}"))
    return _table(*rows)


def _links() -> str:
    """Links that add the hosted server to clients. Code hosts make only web addresses clickable."""
    links = {
        title: make("seedream", entry_without_secret(client, None, HOSTED, token=True))[0]
        for title, client, make in (("Cursor", "cursor", cursor_links), ("VS Code", "vscode", vscode_links))
    }
    shown = " · ".join(f"[Add to {title}]({link})" for title, link in links.items())
    return f"{shown}. Cursor opens a page to sign in; VS Code asks for your token.\n"


def main() -> None:
    """Update the documents."""
    logging.basicConfig(level=logging.WARNING)
    updated = parts(read_table(read_settings().models_file))
    for path in pages():
        text = path.read_text("utf-8")
        if (new := with_parts(text, updated)) != text:
            path.write_text(new, "utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
