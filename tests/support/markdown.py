"""Parses the Markdown of the documents: fenced blocks and the comments above them, links, headings and anchors."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,})(?P<language>\w*)\s*")
_COMMENT = re.compile(r"\s*<!-- (.+) -->\s*")
_GENERATED = re.compile(r"<!-- generated: (\w+) -->")
_END = "<!-- end -->"
_HEADING = re.compile(r"#{1,6} +(.+?) *#*")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
_SOURCE = re.compile(r"""<(?:img|source|a)\b[^>]*?\b(?:src|srcset|href)=["']([^"'\s]+)["']""")
_ANCHOR = re.compile(r"""<a\b[^>]*?\b(?:id|name)=["']([^"']+)["']""")
_CODE = re.compile(r"(`+)(?!`)(.*?)(?<!`)\1(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language and text, and what the comment right above it says.

    `made` is the name of the generated part it stands in, "" where a person wrote it.
    """

    path: Path
    line: int
    language: str
    text: str
    mark: str = ""
    made: str = ""


@dataclass(frozen=True)
class Page:
    """A document: its blocks, the targets of its links and pictures, and the anchors that can be linked to."""

    path: Path
    blocks: list[Block]
    links: list[str]
    anchors: set[str]
    prose: str


def read(path: Path) -> Page:
    """Read a document.

    Raises:
        ValueError: A fence has no end.
    """
    blocks: list[Block] = []
    prose: list[str] = []
    open_fence: re.Match[str] | None = None
    inside: list[str] = []
    made, before, mark, start = "", "", "", 0
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        fence = _FENCE.fullmatch(line)
        if open_fence is not None:
            if fence and fence["ticks"] >= open_fence["ticks"] and not fence["language"]:
                blocks.append(Block(path, start, open_fence["language"], "\n".join(inside), mark, made))
                open_fence, before = None, ""
            else:
                inside.append(line.removeprefix(open_fence["indent"]))
            continue
        if fence:
            open_fence, inside, start = fence, [], number
            comment = _COMMENT.fullmatch(before)
            mark = comment[1] if comment else ""
            continue
        before = line
        if found := _GENERATED.fullmatch(line.strip()):
            made, before = found[1], ""
        elif line.strip() == _END:
            made, before = "", ""
        prose.append(line)
    if open_fence is not None:
        raise ValueError(f"{path.name}:{start}: the fence has no end")
    # A link or a piece of code may go on in the next line, but not beyond its paragraph.
    paragraphs = [_CODE.sub("", part.replace("\n", " ")) for part in re.split(r"\n\s*\n", "\n".join(prose))]
    links = [target for part in paragraphs for way in (_LINK, _PICTURE, _SOURCE) for target in way.findall(part)]
    return Page(path, blocks, list(dict.fromkeys(links)), _anchors(prose), "\n".join(prose))


def _anchors(lines: list[str]) -> set[str]:
    """Those that code hosts make of headings: small letters, no punctuation, hyphens for blanks, a number if again."""
    found = {anchor for line in lines for anchor in _ANCHOR.findall(line)}
    seen: Counter[str] = Counter()
    for line in lines:
        if heading := _HEADING.fullmatch(line):
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
            seen[slug] += 1
    return found
