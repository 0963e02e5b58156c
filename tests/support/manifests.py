"""The manifests that `kubectl apply -k` would send: implements the features of kustomize that deploy/kubernetes uses.

Secrets come from the examples. Generated names have no hash.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
UNDERSTOOD = {
    "apiVersion", "kind", "namespace", "resources", "components", "labels", "images", "configMapGenerator",
    "secretGenerator",
}  # fmt: skip

Resource = dict[str, Any]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def read_env(path: Path) -> dict[str, str]:
    """A file of NAME=VALUE lines; of one with secrets, its example, whether it is there or not."""
    example = path.with_name(f"{path.name}.example")
    path = example if example.is_file() else path
    lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def rendered(folder: Path = KUBERNETES) -> list[Resource]:
    """Every resource of a kustomization, its components included."""
    asked = read(folder / "kustomization.yaml")
    assert set(asked) <= UNDERSTOOD
    found = [read(folder / name) for name in asked.get("resources", [])]
    found += [generated("ConfigMap", folder, each) for each in asked.get("configMapGenerator", [])]
    found += [generated("Secret", folder, each) for each in asked.get("secretGenerator", [])]
    for name in asked.get("components", []):
        found += rendered(folder / name)
    for resource in found:
        for each in asked.get("labels", []):
            add_labels(resource, each)
        for image in asked.get("images", []):
            set_image(resource, image)
        if "namespace" in asked and resource["kind"] != "Namespace":
            resource["metadata"]["namespace"] = asked["namespace"]
    return found


def generated(kind: str, folder: Path, asked: dict[str, Any]) -> Resource:
    assert set(asked) == {"name", "envs"}
    values: dict[str, str] = {}
    for name in asked["envs"]:
        values |= read_env(folder / name)
    field = "data" if kind == "ConfigMap" else "stringData"
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": asked["name"]}, field: values}


def add_labels(resource: Resource, asked: dict[str, Any]) -> None:
    places = [resource["metadata"]]
    if asked.get("includeTemplates") and (template := resource.get("spec", {}).get("template")):
        places.append(template["metadata"])
    for place in places:
        place["labels"] = {**place.get("labels", {}), **asked["pairs"]}


def set_image(resource: Resource, asked: dict[str, str]) -> None:
    for container in containers(resource):
        if container["image"].split(":")[0] == asked["name"]:
            container["image"] = f"{asked.get('newName', asked['name'])}:{asked['newTag']}"


def containers(resource: Resource) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = resource.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    return found


def one(kind: str, name: str = "seedream") -> Resource:
    [found] = [each for each in rendered() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return copy.deepcopy(found)


def seconds(text: str) -> float:
    """A time as Compose and nginx write it, in seconds or minutes."""
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]
