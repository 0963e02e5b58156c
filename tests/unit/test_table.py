"""The capability table: its facts, and errors for invalid tables."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.core.errors import ConfigurationError
from tests.support.models import LITE, PRO, SEEDEDIT, T2I, V4, V5, V45

SEQUENTIAL = {"sequential_image_generation", "sequential_image_generation_options", "stream"}


@pytest.mark.parametrize(
    ("model", "max_images", "sizes", "area", "only"),
    [
        (V5, 14, "2K 3K 4K | 1K adaptive", (3_686_400, 16_777_216), {*SEQUENTIAL, "output_format", "tools"}),
        (LITE, 14, "2K 3K 4K | 1K adaptive", (3_686_400, 16_777_216), {*SEQUENTIAL, "output_format", "tools"}),
        (
            PRO,
            10,
            "1K 1.5K 2K | adaptive",
            (921_600, 4_624_220),
            {"output_format", "background", "layer_decomposition"},
        ),
        (V45, 14, "2K 4K | 1K adaptive", (3_686_400, 16_777_216), SEQUENTIAL),
        (V4, 14, "1K 2K 4K | adaptive", (921_600, 16_777_216), SEQUENTIAL),
        (T2I, 0, " | 1K 2K 4K adaptive", (512, 2048), {"seed", "guidance_scale"}),
        (SEEDEDIT, 1, " | 1K 2K 4K adaptive", (512, 2048), {"seed", "guidance_scale"}),
    ],
)
def test_each_model_has_the_facts_of_its_row(
    table: ModelTable, model: str, max_images: int, sizes: str, area: tuple[int, int], only: set[str]
) -> None:
    """An independent copy of the upstream's model table; sizes that production refuses follow the "|"."""
    entry = table.by_id[model]
    assert entry.max_images == max_images
    taken, refused = sizes.split(" | ")
    assert entry.sizes == taken.split()
    assert entry.refused_sizes == refused.split()
    assert tuple(entry.pixels or entry.sides or ()) == area
    assert set(entry.parameters) - {"optimize_prompt_options"} == only
    assert entry.generate is (model != SEEDEDIT)


@pytest.mark.parametrize(
    ("model", "modes"),
    [
        (V5, ["standard"]),
        (LITE, ["standard"]),
        (PRO, ["standard", "fast"]),
        (V45, ["standard"]),
        (V4, ["standard", "fast"]),
    ],
)
def test_prompt_optimisation_modes(table: ModelTable, model: str, modes: list[str]) -> None:
    """Fast is for 5.0 Pro and 4.0 only."""
    assert table.by_id[model].parameters["optimize_prompt_options"].values == modes


def test_guidance_defaults(table: ModelTable) -> None:
    """2.5 when generating, 5.5 when editing."""
    assert table.by_id[T2I].parameters["guidance_scale"].default == 2.5
    assert table.by_id[SEEDEDIT].parameters["guidance_scale"].default == 5.5


def test_order_of_preference(table: ModelTable) -> None:
    """5.0, then Lite, for both operations; withdrawn models come last."""
    assert [model.id for model in table.models_for("generate")][:2] == [V5, LITE]
    assert [model.id for model in table.models_for("edit")][:2] == [V5, LITE]
    assert [model.id for model in table.models if model.withdrawn] == [T2I, SEEDEDIT]
    assert [model.id for model in table.models][-2:] == [T2I, SEEDEDIT]
    assert len(table.models) == 7


@pytest.mark.parametrize(
    ("written", "model"),
    [
        ("seedream-4.5", V45), ("Seedream 4.5", V45), ("seedream_4_5", V45), ("4.5", V45), ("doubao-seedream-4-5", V45),
        ("seedream-5", V5), ("Seedream 5.0", V5), ("5.0 pro", PRO), ("seedream-5-pro", PRO),
        ("SEEDREAM-5.0-LITE", LITE),
        ("bytedance/seedream-4.5", V45), ("ByteDance Seedream 4.0", V4), ("fal-ai/bytedance/seedream/v4", V4),
        ("Seedream v4.5", V45), ("doubao/seedream-5.0-pro", PRO), ("bytedance/seededit-3.0", SEEDEDIT),
        ("seedream-4", V4), ("seedream-4-0-250828", V4), ("seedream-3.0", T2I), ("seededit-3", SEEDEDIT),
    ],
)  # fmt: skip
def test_a_model_is_found_by_what_people_write(table: ModelTable, written: str, model: str) -> None:
    """Any unambiguous spelling of its id, name or label."""
    found = table.find(written)
    assert found
    assert found.id == model


@pytest.mark.parametrize(
    "written", ["seedream", "dall-e-3", "", "pro max", "seedream-6", "0", "fal-ai/flux/pro", "x/4.5"]
)
def test_a_name_that_means_no_model_finds_none(table: ModelTable, written: str) -> None:
    """Ambiguous and unknown names match no model."""
    assert table.find(written) is None


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("max_images = 14", 'max_images = "14"', "max_images: it must be a whole number"),
        ("seed = { minimum = -1", "sed = { minimum = -1", "parameters.sed: is not one of [parameters]"),
        ("generate = false", "generat = false", "generat: the name is unknown"),
        ('type = "url"', 'type = "uri"', "parameters.callback_url.type: it must be 'boolean', 'integer'"),
        ("aspect_ratio = 16", "aspect_ratio = ", "can't be read: Invalid value (at line"),
        (f'id = "{LITE}"', f'id = "{V5}"', "is used twice"),
        ("default = 2.5", "defualt = 2.5", "guidance_scale.defualt: the name is unknown"),
        ("default = 2.5", "default = 25", "guidance_scale: default must be from 1 to 10"),
        ("when = { stream = true }", "when = { streem = true }", "streem is not one of [parameters]"),
        ("default = 2.5", "default = true", "guidance_scale: default is not a number"),
        ("maximum = 2147483647", "maximum = -5", "seed: minimum is above maximum"),
        ("default = 2.5", "values = ['a']", "guidance_scale: only a string has values"),
        ('label = "Lite"', 'label = "5.0"', "5.0 is used twice"),
        ("pixels = [921_600, 4_624_220]", "pixels = [9, 4]", "pixels: the lower bound must come first"),
        ("pixels = [921_600, 4_624_220]", "pixels = [9]", "pixels: it must have 2 or more"),
    ],
)
def test_a_wrong_table_names_the_line_at_fault(tmp_path: Path, right: str, wrong: str, complaint: str) -> None:
    """The error describes the fault and names its line."""
    source = files("mcp_seedream.catalog").joinpath("models.toml").read_text("utf-8")
    assert right in source
    path = tmp_path / "models.toml"
    path.write_text(source.replace(right, wrong, 1), "utf-8")
    line = source[: source.index(right)].count("\n") + 1
    with pytest.raises(ConfigurationError) as caught:
        read_table(path)
    assert f"line {line}" in caught.value.message
    assert complaint in caught.value.message


def test_a_missing_key_is_found_in_its_entry(tmp_path: Path) -> None:
    """The error names the line where the entry starts."""
    source = files("mcp_seedream.catalog").joinpath("models.toml").read_text("utf-8")
    path = tmp_path / "models.toml"
    path.write_text(source.replace('name = "Seedream 4.5"\n', "", 1), "utf-8")
    line = source[: source.index(f'id = "{V45}"')].count("\n")
    with pytest.raises(ConfigurationError, match=rf"line {line}: models.3.name: it is missing"):
        read_table(path)


def test_a_table_must_have_a_model_for_each_operation(tmp_path: Path) -> None:
    """Without a model that edits, edit_image would have no model to publish."""
    source = files("mcp_seedream.catalog").joinpath("models.toml").read_text("utf-8")
    head, *models = source.split("\n[[models]]\n")
    path = tmp_path / "models.toml"
    path.write_text("\n[[models]]\n".join([head, *(m for m in models if "max_images = 0" in m)]), "utf-8")
    with pytest.raises(ConfigurationError, match="models: no model can edit"):
        read_table(path)
    path.write_text("\n[[models]]\n".join([head, *(m for m in models if "generate = false" in m)]), "utf-8")
    with pytest.raises(ConfigurationError, match="models: no model can generate"):
        read_table(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b""])
def test_an_unreadable_table_is_a_configuration_error(tmp_path: Path, content: bytes | None) -> None:
    """A missing file, invalid UTF-8, or an empty file."""
    path = tmp_path / "models.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"models\.toml"):
        read_table(path)
