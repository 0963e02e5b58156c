"""Links that put this server into a client, read as the client reads them."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qs, unquote, urlsplit

from mcp_seedream.install.clients import HOSTED, TOKEN
from mcp_seedream.install.links import cursor_links, entry_without_secret, vscode_links
from tools.documents import README


def test_the_links_of_cursor() -> None:
    """One for pages and one for itself, with the same entry, which has no secret in it."""
    for command in (None, ["/opt/ö/mcp-seedream"]):
        entry = entry_without_secret("cursor", command, HOSTED, token=True)
        web, own = cursor_links("seedream", entry)
        assert web.startswith("https://cursor.com/en/install-mcp?")
        assert own.startswith("cursor://anysphere.cursor-deeplink/mcp/install?")
        for link in (web, own):
            query = parse_qs(urlsplit(link).query, strict_parsing=True)
            assert query["name"] == ["seedream"]
            assert json.loads(base64.b64decode(query["config"][0], validate=True)) == entry
    assert entry_without_secret("cursor", None, HOSTED, token=True) == {"url": HOSTED}
    assert entry["env"] == {TOKEN: "${env:ACEDATACLOUD_API_TOKEN}"}


def test_the_links_of_vscode() -> None:
    """They have it ask for the token, hidden; the sandbox has none to ask for."""
    for command, place in ((None, "headers"), (["/opt/ö/mcp-seedream"], "env")):
        entry = entry_without_secret("vscode", command, HOSTED, token=True)
        web, own = vscode_links("seedream", entry)
        query = parse_qs(urlsplit(web).query, strict_parsing=True)
        assert (query["name"], json.loads(query["config"][0])) == (["seedream"], entry)
        asked = json.loads(query["inputs"][0])
        assert [(one["type"], one["password"]) for one in asked] == [("promptString", True)]
        assert f"${{input:{asked[0]['id']}}}" in next(iter(entry[place].values()))
        scheme, _, whole = own.partition("?")  # as its handler reads it: JSON.parse(decodeURIComponent(query))
        assert (scheme, json.loads(unquote(whole))) == (
            "vscode:mcp/install",
            {"name": "seedream", **entry, "inputs": asked},
        )
    web, own = vscode_links("seedream", entry_without_secret("vscode", ["/opt/mcp-seedream"], HOSTED, token=False))
    assert "inputs" not in web + own


def test_the_address_is_the_registrys() -> None:
    """What people are led to by links is what catalogues name."""
    server = json.loads((README.parent / "server.json").read_text("utf-8"))
    assert [remote["url"] for remote in server["remotes"]] == [HOSTED]
