"""The rules of the project: imports, sizes, names, generated documents, versions."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from mcp_seedream import __version__
from mcp_seedream.catalog.table import ModelTable
from tools import documents

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mcp_seedream"

LINT = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def test_imports_keep_the_contract() -> None:
    """Layers, independence, circles and libraries, as `pyproject.toml` has them."""
    done = subprocess.run(LINT, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("core/events.py", "from mcp_seedream.catalog import table", "A package imports only packages below it"),
        ("upstream/types.py", "from mcp_seedream.upstream import client", "No circles"),
        ("install/diff.py", "from mcp_seedream.telemetry import logs", "rest on core alone"),
        ("generation/service.py", "import starlette.requests", "MCP and ASGI"),
        ("server/tools.py", "import httpx", "HTTP requests"),
        ("hosting/limits.py", "import redis", "Redis and SQLite"),
    ],
)
def test_the_contract_can_be_broken(tmp_path: Path, module: str, line: str, contract: str) -> None:
    """A wrong import is found by each part of the contract."""
    shutil.copytree(PACKAGE, tmp_path / "mcp_seedream", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "mcp_seedream" / module
    path.write_text(f"{path.read_text('utf-8')}\n{line}\n", "utf-8")
    done = subprocess.run(LINT, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert re.search(rf"{contract}.* BROKEN", done.stdout), done.stdout


def test_packages_say_what_they_are() -> None:
    """A package has at most twelve modules, and an `__init__` that holds only a docstring."""
    for folder in PACKAGE.iterdir():
        if not (folder / "__init__.py").is_file():
            continue
        modules = [path for path in folder.glob("*.py") if path.stem not in ("__init__", "__main__")]
        assert len(modules) <= 12, folder.name
        tree = ast.parse((folder / "__init__.py").read_text("utf-8"))
        assert ast.get_docstring(tree), folder.name
        assert len(tree.body) == 1, f"importing {folder.name} must load nothing"


def test_one_module_uses_private_names_of_the_sdk() -> None:
    """Each use is explained there, with the public hook that would replace it."""
    served = {name: path for name, path in MODULES.items() if name.startswith(("server.", "hosting.", "oauth."))}
    users = {name for name, path in served.items() if "SLF001" in path.read_text("utf-8")}
    assert users == {"server.sdk"}


def identifiers(tree: ast.Module) -> set[str]:
    """The names of modules, functions, classes, arguments, variables and attributes that a module defines or uses."""
    found = set()
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "module"):
            found.add(str(getattr(node, field, None) or ""))
    return found


def words(identifier: str) -> set[str]:
    """The words of an identifier: `TaskWaiter` and `task_waiter` have two."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", identifier)}


def test_names_are_of_the_field() -> None:
    """No identifier has a word of the project's former vocabulary."""
    former = {"wish", "habit", "orphan", "peer", "watch", "adopt", "mishap"}
    former |= {f"{word}{ending}" for word in former for ending in ("s", "es", "ed", "er", "ing")}
    assert words("adopt_orphans WatchedCall") & former == {"adopt", "orphans", "watched"}
    for name, path in MODULES.items():
        used = identifiers(ast.parse(path.read_text("utf-8"))) | {name}
        assert {each for each in used if words(each) & former} == set(), name


def test_only_settings_read_the_environment() -> None:
    """Two modules change it: for subprocesses, for workers, and where libraries could not use a value."""
    readers = {name for name, path in MODULES.items() if re.search(r"os\.environ|getenv", path.read_text("utf-8"))}
    assert readers <= {"assembly", "cli"}


def test_nothing_about_a_model_is_written_outside_the_table(table: ModelTable) -> None:
    """No model's id, and no parameter that only some models have."""
    special = {name for model in table.models for name in model.parameters} - {"stream", "tools"}
    for name, path in MODULES.items():
        if name.startswith("sandbox."):
            continue  # it draws what the parameters say
        source = re.sub(r"mcp_seedream(\.\w+)+", "", path.read_text("utf-8"))  # names of modules
        assert not [model.id for model in table.models if model.id in source]
        if name == "upstream.error_mapping":
            continue  # these are words of errors there, not what a model takes
        assert not [one for one in special if re.search(rf"[\"'`]{one}\b", source)], path


def test_documents_are_generated(table: ModelTable) -> None:
    """They are as `python -m tools.documents` writes them, and each generated part is used."""
    made = documents.parts(table)
    texts = {path: path.read_text("utf-8") for path in documents.pages()}
    assert {path: documents.with_parts(text, made) for path, text in texts.items()} == texts
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
    """It matches the registry's schema."""
    schema = ROOT.parent / "shared" / "server.schema.json"
    if not schema.is_file():
        pytest.skip("the registry's schema is not beside this checkout")
    server = json.loads((ROOT / "server.json").read_text("utf-8"))
    assert [error.message for error in Draft7Validator(json.loads(schema.read_text("utf-8"))).iter_errors(server)] == []


def test_server_json_and_readme_name_the_same_server() -> None:
    """The registry looks for a comment with the name in the README."""
    name = json.loads((ROOT / "server.json").read_text("utf-8"))["name"]
    assert f"<!-- mcp-name: {name} -->" in documents.README.read_text("utf-8")


def test_functions_fit_a_screen() -> None:
    """A function has at most 45 lines without its docstring, a module at most 320."""
    for path in MODULES.values():
        source = path.read_text("utf-8")
        assert source.count("\n") <= 320, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = ast.get_docstring(node, clean=False)
                size = (node.end_lineno or 0) - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
                assert size <= 45, f"{path.stem}.{node.name}"
