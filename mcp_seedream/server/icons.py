"""Icons of the server and its tools: one shape each, since the answer that lists the tools has little room.

From protocol revision 2026-07-28 on, the server's is part of every answer.
"""

from __future__ import annotations

from urllib.parse import quote

from mcp_types import Icon


def _icon(path: str) -> Icon:
    """A shape on a canvas of 16 by 16, in a colour that can be seen on white and on black, as a data URI."""
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0,0,16,16'><path fill='teal' d='{path}'/></svg>"
    return Icon(src="data:image/svg+xml," + quote(svg, safe="=:/',-"))


SERVER = _icon("M8,15q1-5-1-7-5,0-6-6,5,0,7,5,1-5,7-5,0,6-6,6,0,3,0,7z")  # a seedling
TOOLS = {
    "generate_image": _icon("M8,0q0,8,8,8-8,0-8,8,0-8-8-8,8,0,8-8"),  # a spark
    "edit_image": _icon("M1,15,2,10,11,1,15,5,6,14z"),  # a pencil
    "get_task": _icon("M3,1H13L3,15H13z"),  # an hourglass
}
