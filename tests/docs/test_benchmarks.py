"""The benchmarks run: real servers are measured, and what is found is written down. How fast they are is no test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import END, START, Target, number, write

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="they read /proc")
def test_a_quick_run(tmp_path: Path) -> None:
    """Over stdio and over HTTP, with the sandbox as upstream; a document that is there keeps its own words."""
    document = tmp_path / "benchmarks.md"
    document.write_text(f"# Ours\n\n{START}what was{END}\nMore.\n", "utf-8")
    done = run("--quick", "--no-vendor", "--only", "bytes,submits", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    text = document.read_text("utf-8")
    assert text.startswith(f"# Ours\n\n{START}")
    assert text.endswith(f"{END}\nMore.\n")
    assert "what was" not in text
    tables = [line for line in text.splitlines() if line.startswith(("| ours |", "| bare |"))]
    assert len(tables) == 4
    for row in tables:
        figures = [float(cell.replace(",", "")) for cell in row.split("|")[2:-1]]
        assert all(figure > 0 for figure in figures)


def test_what_can_not_be_measured(tmp_path: Path) -> None:
    """Nothing is begun, and the words say why."""
    unknown = run("--only", "cold,speed")
    assert unknown.returncode == 2
    assert "there is no figure speed" in unknown.stderr
    nowhere = run("--vendor", tmp_path, "--only", "bytes")
    assert nowhere.returncode == 1
    assert "is not installed in" in nowhere.stderr


def test_a_document_without_marks_is_left_alone(tmp_path: Path) -> None:
    """It is somebody's."""
    document = tmp_path / "benchmarks.md"
    document.write_text("# Mine\n", "utf-8")
    with pytest.raises(SystemExit, match="no marks"):
        write(document, "new")
    assert document.read_text("utf-8") == "# Mine\n"


@pytest.mark.parametrize(
    ("ours", "other", "most", "met"), [(1, 3, 1 / 3, True), (1.2, 3, 1 / 3, False), (5, 0, 1, False)]
)
def test_targets(ours: float, other: float, most: float, met: bool) -> None:
    """A ratio may be as large as its bound; beside nothing there is none."""
    assert Target("calls", "vendor", ours, other, most, "").met is met


def test_numbers() -> None:
    """Three digits, and thousands apart."""
    assert [number(value) for value in (0.01234, 3.14159, 512.4, 12345)] == ["0.0123", "3.14", "512", "12,345"]
