"""How long after a tool's result its first picture is painted, in a real browser: `python -m benchmarks.gallery`.

Milliseconds from the moment at which our page hears of the result to the frame after the picture is decoded, and beside
them those of the barest page that does the same in the same run: an `img` whose address is set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import anyio

from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.sandbox.app import Sandbox, running
from tests.support.gallery_host import Host, bundle, hosting

# The clock starts before the page's own listener, and stops in the frame that comes after the picture is there.
CLOCK = """
window.painted = new Promise((resolve) => {
  window.addEventListener("message", ({ data }) => {
    if (data?.method !== "ui/notifications/tool-result") return;
    const begun = performance.now();
    const look = () => {
      const image = document.querySelector("article img");
      if (image?.complete && image.naturalWidth) requestAnimationFrame(() => resolve(performance.now() - begun));
      else requestAnimationFrame(look);
    };
    look();
  });
});
"""
BARE = """
(address) => new Promise((resolve) => {
  const begun = performance.now();
  const image = document.createElement("img");
  document.body.append(image);
  image.src = address;
  const look = () => {
    if (image.complete && image.naturalWidth) requestAnimationFrame(() => resolve(performance.now() - begun));
    else requestAnimationFrame(look);
  };
  look();
})
"""


async def once(host: Host, *, preview: bool) -> tuple[float, float]:
    """Our page's time, and the bare one's for the same picture."""
    await host.call(prompt="a red fox in the snow", size="2560x1440")
    ours: float = await host.frame.evaluate("window.painted")
    result = await host.page.evaluate("window.state.result")
    url = result["structuredContent"]["images"][0]["url"]
    block = result["content"][-1]
    address = f"data:{block['mimeType']};base64,{block['data']}" if preview else f"{url}?again"
    bare: float = await host.frame.evaluate(BARE, address)
    return ours, bare


async def measure(table: ModelTable, upstream: str, times: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        script = bundle(Path(folder))
        for preview in (True, False):
            found = []
            for _ in range(times):
                async with hosting(table, upstream, script, preview=preview, before=CLOCK) as host:
                    found.append(await once(host, preview=preview))
            ours, bare = ([pair[at] for pair in found] for at in (0, 1))
            figures = {
                "result": "with a preview" if preview else "with a link alone, drawn and sent by the sandbox",
                "median_ms": round(statistics.median(ours), 1),
                "worst_ms": round(max(ours), 1),
                "bare_median_ms": round(statistics.median(bare), 1),
                "ratio": round(statistics.median(ours) / statistics.median(bare), 2),
            }
            print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=7)
    times = parser.parse_args().times
    table = read_table()
    with running(Sandbox(table, seconds=0.2)) as upstream:
        anyio.run(measure, table, upstream, times)


if __name__ == "__main__":
    main()
