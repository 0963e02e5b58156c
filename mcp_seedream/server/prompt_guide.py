"""How to write prompts, in our own words; models, parameters and limits in it are rendered from the table."""

from __future__ import annotations

from collections.abc import Iterable

from mcp_seedream.catalog.schemas import as_json
from mcp_seedream.catalog.table import Model, ModelTable

_TEXT = """\
# Writing prompts

## From text: generate_image

- Write sentences rather than heaps of keywords: who or what, doing what, where; then style, light, colours, point of
  view. "A red fox asleep in fresh snow under a birch, low winter sun, loose watercolour."
- Say what the picture is for where that matters: a poster, an icon, a slide.
- Say what there is rather than what there is not: "an empty beach", not "no people".
- Stay below some 600 English words or 300 Chinese characters, as the vendor advises: of more, details get lost.
- The shape belongs into `size`. Leave `model` out unless a certain one is wanted: the first that can do it is taken.

## Changing pictures: edit_image

- Say what changes, into what, and what stays: "Replace the car with a green bicycle. Keep the street, the light and
  the shadows."
- Name things by what and where they are, "the left lamp", not "it".
- Several pictures are counted in the order of `image`: "Put the person of image 1 into the room of image 2."
  At most {inputs}.
- One change at a time is surer than many at once: `task:ID` in `image` goes on from an earlier result.
{optional}
{sets}## Words in the picture

- Put them into double quotation marks, exactly as they should read, and say where they stand and how they look:
  A shop sign over the door reads "OPEN" in white, hand-painted capitals.
- Short texts come out right more often than long ones. Read them in the result; edit_image can mend a wrong letter.

## Chinese and English

- Prompts may be Chinese or English: take the one you can be precise in, and translate what is in another language.
- Words to be shown keep their own language, in quotation marks, whatever the rest is in:
  "A tea house poster with the title “春茶”", 茶馆海报，标题写着“SPRING TEA”，水墨风格。
- Chinese things (dishes, places, styles of painting) are named most surely in Chinese.
"""  # noqa: RUF001  (Chinese has commas of its own)


def prompt_guide(table: ModelTable) -> str:
    """The guide as Markdown."""
    most: dict[int, list[Model]] = {}
    for model in table.models_for("edit"):
        most.setdefault(model.max_images, []).append(model)
    return _TEXT.format(
        inputs=", ".join(f"{count} ({_names(models)})" for count, models in most.items()),
        optional="".join(_optional(table, name) for name, p in table.parameters.items() if p.prompt_optional),
        sets=_sets(table),
    )


def _optional(table: ModelTable, name: str) -> str:
    able = [model for model in table.models if table.rule(model, name)]
    return f"- With `{name}` ({_names(able)}) the prompt may be left out.\n" if able else ""


def _sets(table: ModelTable) -> str:
    name = table.count_parameter
    if name is None:
        return ""
    needed = ", ".join(f"`{n}: {as_json(v)}`" for n, v in table.needed_with(name).items())
    given = f", with {needed}" if needed else ""
    return (
        "## Sets of images\n\n"
        "- Say in the prompt how many there are, what they share and what differs: "
        '"Four pictures of the same fox,\n  one for each season, in the same watercolour style."\n'
        f"- {_names(table.models_for_sets())} make sets{given}. "
        f"`{name}` is the most there may be, not how many there are.\n"
        f"- Pictures given and pictures made are at most {table.upstream_limits.images_in_and_out} together.\n\n"
    )


def _names(models: Iterable[Model]) -> str:
    return ", ".join(model.name for model in models)
