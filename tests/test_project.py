"""The project itself: layers, documents, versions, what is packaged."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from mcp_seedream import __version__
from mcp_seedream.capabilities import ModelTable
from tests import documents

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mcp_seedream"

# Each module may import those that stand above it, and nothing below: the line runs one way.
ORDER = [
    "__init__", "errors", "tokens", "rules", "paths", "envfile", "fields", "settings", "survey", "observing", "logs",
    "stopping", "kinds", "references", "files", "capabilities", "table_file", "dimensions", "choosing", "fallback",
    "schemas", "coercion", "arguments", "link_expiry", "wire", "replies", "refusals", "retries", "answers", "turns",
    "pools", "unreached", "client", "waiting", "streaming", "heif", "pixels", "pictures", "previews", "downloads",
    "inputs", "tracing", "limits", "journal_file", "journal", "identity", "shared", "peers", "refusal_memory",
    "watch", "orphans", "jobs", "services", "generation", "lookups", "delivery", "results", "gallery", "writing",
    "guide", "prompts", "completions", "icons", "tools", "tasks", "server", "jsonrpc", "stdio", "metrics", "callers",
    "readiness", "middleware", "negotiation", "access", "sealing", "store", "registrations", "vendor", "consent",
    "grants", "oauth", "pages", "hosting", "serving", "workers", "signin", "drawing", "mishaps", "studio", "sandbox",
    "trial", "spans", "jsonc", "configfile", "entries", "differences", "asked", "installed", "findings", "reaching",
    "endpoint", "machine", "hosts", "upstream", "refusal_checks", "doctor", "links", "targets", "installing",
    "uninstalling", "cli", "__main__",
]  # fmt: skip
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def imports(module: str) -> set[str]:
    """Every module that one imports, however deep in the file."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def ours(module: str) -> set[str]:
    return {name.split(".")[1] for name in imports(module) if name.startswith("mcp_seedream.")} & set(MODULES)


def test_every_module_has_its_place() -> None:
    """A new one is put into the order on purpose."""
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", ORDER)
def test_imports_go_one_way(module: str) -> None:
    """Down the line, never back up."""
    assert ours(module) <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        (
            "mcp",
            {
                "access",
                "pages",
                "tools",
                "tasks",
                "gallery",
                "guide",
                "completions",
                "server",
                "stdio",
                "hosting",
                "trial",
                "registrations",
                "grants",
                "oauth",
                "doctor",
            },
        ),
        (
            "mcp_types",
            {
                "results",
                "tools",
                "tasks",
                "prompts",
                "completions",
                "hosting",
                "icons",
                "jsonrpc",
                "middleware",
                "negotiation",
                "pages",
                "server",
                "stdio",
                "trial",
            },
        ),
        ("httpx", {"answers", "client", "downloads", "pools", "unreached", "vendor", "reaching"}),
        ("httpcore", {"downloads"}),
        ("cryptography", {"sealing"}),
        ("redis", {"hosts", "peers", "shared"}),
        ("PIL", {"heif", "pixels", "pictures", "previews", "drawing", "studio"}),
        ("pydantic_settings", {"fields", "settings", "survey"}),
        ("dotenv", {"envfile"}),
        ("pillow_heif", {"heif"}),
        ("tenacity", {"retries"}),
        ("opentelemetry", {"pools", "tracing"}),
        ("prometheus_client", {"metrics"}),
        ("pythonjsonlogger", {"logs"}),
        ("sqlite3", {"journal", "journal_file"}),
    ],
)
def test_a_library_is_known_in_few_places(package: str, allowed: set[str]) -> None:
    """What the outside is made of stays at the edge."""
    users = {m for m in MODULES if any(name.split(".")[0] == package for name in imports(m))}
    assert users == allowed  # who needs it no longer is taken out


def test_only_the_command_line_knows_the_sandbox() -> None:
    """Nothing else depends on an emulation."""
    assert {m for m in MODULES if "sandbox" in ours(m)} == {"cli"}


def test_only_settings_read_the_environment() -> None:
    """`try` hands it on to its subprocess whole, unread; workers are told in it what the command line said.

    What libraries could not use is replaced there.
    """
    readers = {m for m in MODULES if re.search(r"os\.environ|getenv", (PACKAGE / f"{m}.py").read_text("utf-8"))}
    assert readers <= {"trial", "serving", "tracing", "workers"}


def test_nothing_about_a_model_is_written_outside_the_table(table: ModelTable) -> None:
    """No model's id, and no parameter only some models have."""
    special = {name for model in table.models for name in model.parameters} - {"stream", "tools"}
    for path in PACKAGE.glob("*.py"):
        if path.stem in ("sandbox", "mishaps", "studio"):
            continue  # they draw what the parameters ask for
        source = path.read_text("utf-8")
        assert not [model.id for model in table.models if model.id in source]
        assert not [name for name in special if re.search(rf"\b{name}\b", source)], path


def test_documents_are_generated(table: ModelTable) -> None:
    """`python -m tests.documents` writes their parts anew; each part is in one of them."""
    made = documents.blocks(table)
    texts = {path: path.read_text("utf-8") for path in documents.pages()}
    assert {path: documents.rewritten(text, made) for path, text in texts.items()} == texts
    assert all(any(f"<!-- generated: {name} -->" in text for text in texts.values()) for name in made)


def test_one_version_everywhere() -> None:
    """Package, project, registry entry and changelog."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    server = json.loads((ROOT / "server.json").read_text("utf-8"))
    newest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None
    versions = [project["version"], server["version"], server["packages"][0]["version"], newest[1]]
    assert versions == [__version__] * 4


def test_server_json_is_valid() -> None:
    """By the registry's own schema, where it is at hand."""
    schema = ROOT.parent / "shared" / "server.schema.json"
    if not schema.is_file():
        pytest.skip("the registry's schema is not beside this checkout")
    server = json.loads((ROOT / "server.json").read_text("utf-8"))
    assert [error.message for error in Draft7Validator(json.loads(schema.read_text("utf-8"))).iter_errors(server)] == []


def test_server_json_and_readme_name_the_same_server() -> None:
    """The registry looks for the mark in the README."""
    name = json.loads((ROOT / "server.json").read_text("utf-8"))["name"]
    assert f"<!-- mcp-name: {name} -->" in documents.README.read_text("utf-8")


def test_functions_fit_a_screen() -> None:
    """45 lines without the docstring, and modules stay under 320."""
    for path in PACKAGE.glob("*.py"):
        source = path.read_text("utf-8")
        assert source.count("\n") <= 320, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = ast.get_docstring(node, clean=False)
                size = (node.end_lineno or 0) - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
                assert size <= 45, f"{path.stem}.{node.name}"
