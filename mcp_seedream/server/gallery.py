"""The MCP App that shows pictures in the chat: its page, and the metadata that binds the tools to it.

Facts: the MCP Apps specification (`io.modelcontextprotocol/ui`) of 2026-01-26.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from mcp.server.apps import Apps, ResourceCsp, ResourcePermissions

from mcp_seedream import __version__
from mcp_seedream.catalog.table import Model, ModelTable, side

URI = "ui://seedream/gallery"
TOOL_META: dict[str, Any] = {"ui": {"resourceUri": URI}, "ui/resourceUri": URI}
"""Metadata of tools whose results the page shows; some hosts still read the flat key."""
_SLOT = '<script type="application/json" id="table">{}</script>'


def gallery(table: ModelTable, image_hosts: Sequence[str]) -> Apps:
    """The app as an extension of the server.

    Args:
        table: The capability table.
        image_hosts: Origins (`https://…`) from which the page may load pictures. It may load nothing else.
    """
    apps = Apps()
    apps.add_html_resource(
        URI,
        page(table),
        name="gallery",
        title="Gallery",
        description="Shows the pictures of a result, with buttons for further actions",
        csp=ResourceCsp(resource_domains=list(image_hosts)),
        permissions=ResourcePermissions(clipboard_write={}),
        prefers_border=True,
    )
    return apps


def page(table: ModelTable) -> str:
    """The HTML of the page, including the data that it needs from the table."""
    html = files("mcp_seedream.server").joinpath("gallery.html").read_text("utf-8")
    facts = json.dumps(_facts(table), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return html.replace(_SLOT, _SLOT.replace("{}", facts))


def _facts(table: ModelTable) -> dict[str, Any]:
    """The models, and the names of parameters, grouped by their use in the page's buttons."""
    parameters = table.parameters.items()
    callbacks = [name for name, parameter in parameters if parameter.type == "url"]
    repeating = [name for name, parameter in parameters if parameter.makes_repeatable]
    return {
        "version": __version__,
        "models": [_model(model) for model in table.models],
        "counting": [[name, parameter.object_key] for name, parameter in parameters if parameter.counts_outputs],
        "repeating": repeating,
        "callbacks": callbacks,
        "once": [*repeating, *callbacks, "stream"],
        "kept": [name for name, parameter in parameters if parameter.every_model is not None and name not in callbacks],
    }


def _model(model: Model) -> dict[str, Any]:
    """A model, with its named sizes and their pixels, the smallest first."""
    sizes = sorted((square * square, size) for size in model.sizes if (square := side(size)))
    return {
        "id": model.id,
        "name": model.name,
        "edits": model.supports("edit"),
        "sizes": [[size, pixels] for pixels, size in sizes],
    }
