"""What operators start it with: Dockerfile, Compose, Kubernetes, nginx, Prometheus; and whether all of it agrees."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from jsonschema import Draft7Validator
from starlette.routing import Route

from mcp_seedream import __version__
from mcp_seedream.capabilities import ModelTable
from mcp_seedream.hosting import PROBES
from mcp_seedream.metrics import Metrics
from mcp_seedream.serving import create_app
from mcp_seedream.settings import Settings, read_settings
from mcp_seedream.workers import LINGER
from tests.manifests import DEPLOY, KUBERNETES, ROOT, Resource, containers, one, read, read_env, rendered, seconds
from tests.node import COMPOSE_SCHEMA, npm_install

SETTINGS = {str(field.validation_alias.choices[0]) for field in Settings.model_fields.values()}  # type: ignore[union-attr]
[WAIT] = [rule.le for rule in Settings.model_fields["wait_seconds"].metadata if hasattr(rule, "le")]
LEAVING = 5
"""Seconds for a process to be gone once its last call is answered, beside LINGER; a second is usual."""
NGINX = (DEPLOY / "nginx.conf").read_text("utf-8")
MANIFESTS = rendered()
names = pytest.mark.parametrize(
    "resource", MANIFESTS, ids=[f"{each['kind']} {each['metadata']['name']}" for each in MANIFESTS]
)
KEYS = "a" * 32


def pod(resource: Resource) -> dict[str, Any]:
    found: dict[str, Any] = resource["spec"]["template"]["spec"]
    return found


def pods() -> list[Resource]:
    return [each for each in MANIFESTS if containers(each)]


def settings() -> dict[str, str]:
    return read_env(KUBERNETES / "settings.env")


def compose() -> dict[str, Any]:
    found: dict[str, Any] = read(DEPLOY / "compose.yaml")
    return found


def served() -> set[str]:
    """Every path that anything is served at, with sign-in where there is one."""
    given: dict[str, Any] = {"public_url": "https://a.example.com", "vendor_client_id": "a", "seal_keys": KEYS}
    app = create_app(read_settings(**given))
    return {route.path for route in app.routes if isinstance(route, Route)}


@names
@pytest.mark.parametrize("version", ["1.32", "1.37"])
def test_kubernetes_takes_it(resource: Resource, version: str) -> None:
    """By its own schemas, which know no field that is not there; the oldest and the newest version we name."""
    assert kubernetes_validate.validate(resource, version, strict=True) == version


def test_every_manifest_is_listed() -> None:
    """None is forgotten."""
    for folder in (KUBERNETES, KUBERNETES / "redis"):
        listed = read(folder / "kustomization.yaml")["resources"]
        assert sorted(listed) == sorted({path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"})


@names
def test_labels_and_ports_meet(resource: Resource) -> None:
    """Whatever chooses pods chooses some; ports that are named are theirs."""
    spec = resource.get("spec", {})
    chosen = spec.get("podSelector", spec.get("selector", {}))
    labels = chosen.get("matchLabels", chosen)
    found = [each for each in pods() if labels.items() <= each["spec"]["template"]["metadata"]["labels"].items()]
    if not labels:
        assert resource["kind"] in ("Namespace", "ConfigMap", "Secret", "Ingress", "HorizontalPodAutoscaler")
        return
    [[container]] = [containers(each) for each in found]
    ports = {port["name"] for port in container["ports"]}
    rules = [port for rule in spec.get("ingress", []) for port in rule["ports"]]
    asked = {port["port"] for port in rules} if rules else {port["targetPort"] for port in spec.get("ports", [])}
    assert asked <= ports
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        for how in ("httpGet", "tcpSocket"):
            assert container.get(probe, {}).get(how, {}).get("port", min(ports)) in ports


@pytest.mark.parametrize("resource", pods(), ids=lambda each: each["metadata"]["name"])
def test_pods_may_do_little(resource: Resource) -> None:
    """As the namespace's `restricted` asks, and more."""
    spec = pod(resource)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(resource):
        own = container["securityContext"]
        assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_references_meet() -> None:
    """The autoscaler's deployment, the ingress's service, names of settings and secrets."""
    deployment, ingress = one("Deployment"), one("Ingress")
    scaler = one("HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaler["minReplicas"] == 3
    [rule] = ingress["spec"]["rules"]
    [service] = {path["backend"]["service"]["name"] for path in rule["http"]["paths"]}
    [port] = {path["backend"]["service"]["port"]["name"] for path in rule["http"]["paths"]}
    assert port in {port["name"] for port in one("Service", service)["spec"]["ports"]}
    assert [rule["host"]] == ingress["spec"]["tls"][0]["hosts"]
    assert settings()["SEEDREAM_PUBLIC_URL"] == f"https://{rule['host']}"
    known = {(each["kind"], each["metadata"]["name"]) for each in MANIFESTS}
    for each in pods():
        for source in containers(each)[0]["envFrom"]:
            kind = "ConfigMap" if "configMapRef" in source else "Secret"
            assert (kind, next(iter(source.values()))["name"]) in known
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_server_is_given_the_time_it_takes_to_end() -> None:
    """Whoever stops it waits longer than calls have to be answered in."""
    spec = pod(one("Deployment"))
    pause = int(containers(one("Deployment"))[0]["lifecycle"]["preStop"]["exec"]["command"][1])
    ending = float(settings()["SEEDREAM_SHUTDOWN_SECONDS"]) + LINGER + LEAVING
    assert spec["terminationGracePeriodSeconds"] >= pause + ending
    server = compose()["services"]["server"]
    assert seconds(server["stop_grace_period"]) >= (
        float(server["environment"]["SEEDREAM_SHUTDOWN_SECONDS"]) + LINGER + LEAVING
    )


def test_proxies_wait_as_long_as_calls_do() -> None:
    """And take as much as the server does; they pass progress on as it comes."""
    prefix = "nginx.ingress.kubernetes.io/"
    notes = {name.removeprefix(prefix): value for name, value in one("Ingress")["metadata"]["annotations"].items()}
    assert min(int(notes["proxy-read-timeout"]), int(notes["proxy-send-timeout"])) > WAIT
    assert notes["proxy-buffering"] == "off"
    most = read_settings().max_body_mib
    assert notes["proxy-body-size"] == f"{most}m"
    assert settings()["SEEDREAM_MAX_BODY_MIB"] == str(most)
    assert f"client_max_body_size {most}m;" in NGINX
    assert "proxy_buffering off;" in NGINX
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        [found] = re.findall(rf"{name} (\w+);", NGINX)
        assert seconds(found) > WAIT


def test_the_world_sees_what_it_should() -> None:
    """Ingress and nginx pass every path on but the probes and /metrics."""
    [rule] = one("Ingress")["spec"]["rules"]
    listed = [(path["path"], path["pathType"]) for path in rule["http"]["paths"]]
    blocks = re.findall(r"location (=|~)? ?(\S+) \{([^}]*)\}", NGINX)
    passed = [(how, path) for how, path, inside in blocks if "proxy_pass" in inside and not path.startswith("@")]

    def by_ingress(path: str) -> bool:
        return any(path == p if kind == "Exact" else f"{path}/".startswith(f"{p}/") for p, kind in listed)

    def by_nginx(path: str) -> bool:
        how: dict[str, Callable[[str, str], bool]] = {
            "=": lambda path, named: path == named,
            "~": lambda path, named: bool(re.match(named, path)),
            "": lambda path, named: path.startswith(named),
        }
        return any(how[kind](path, pattern) for kind, pattern in passed)

    for path in served():
        assert by_ingress(path) == by_nginx(path) == (path not in PROBES), path
    sign_in = {"/register", "/authorize", "/token", "/revoke", "/consent", "/consent/vendor", "/oauth/callback"}
    assert all(by_ingress(path) and by_nginx(path) for path in sign_in)


def test_probes_are_there() -> None:
    """Of Kubernetes, of the image, of Prometheus."""
    [container] = containers(one("Deployment"))
    asked = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {"/health", "/ready"}
    assert asked | {one("Deployment")["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"]} <= served()


def test_settings_exist() -> None:
    """Each name that deploy/ sets is one that the server reads."""
    [[container]] = [containers(one("Deployment"))]
    assert "env" not in container
    given = settings() | read_env(KUBERNETES / "secrets.env") | compose()["services"]["server"]["environment"]
    assert set(given) <= SETTINGS
    words = re.findall(r"\b(?:SEEDREAM|ACEDATACLOUD)_[A-Z_]+\b", "".join(texts()))
    assert set(words) <= SETTINGS | set(given)


def texts() -> Iterator[str]:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            yield path.read_text("utf-8")


def test_no_secret_is_committed() -> None:
    """Examples name them and give none; the files that do have them are left out."""
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert {".env", "deploy/kubernetes/**/secrets.env"} <= set(ignored)
    examples = [path for path in DEPLOY.rglob("*.example") if path.name.startswith(("secrets.env", ".env"))]
    assert len(examples) == 3
    for path in examples:
        assert set(read_env(path).values()) == {""}


def test_images_have_versions() -> None:
    """None is `latest`; ours is this version."""
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    images = [each["image"] for each in compose()["services"].values()]
    images += [container["image"] for each in pods() for container in containers(each)]
    images += re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert len(images) == 7
    assert all(re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", image) for image in images)
    assert {image.rpartition(":")[2] for image in images if "mcp-seedream" in image} == {__version__}


def test_compose_is_valid() -> None:
    """By the Compose specification's own schema."""
    folder = npm_install([COMPOSE_SCHEMA]) / "node_modules" / "dclint" / "schemas"
    schema = json.loads((folder / "compose.schema.json").read_text("utf-8"))
    assert [error.message for error in Draft7Validator(schema).iter_errors(compose())] == []


def test_compose_is_careful() -> None:
    """Each service may do little, comes back by itself, has a check; what it is given is in the example."""
    asked = compose()
    for name, service in asked["services"].items():
        assert service["read_only"] is True
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
        assert service["restart"] == "unless-stopped"
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
        assert "healthcheck" in service or "build" in service, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert set(service["networks"]) <= set(asked["networks"])
    filled = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text("utf-8")))
    assert filled == set(read_env(DEPLOY / ".env"))


def test_prometheus_looks_where_the_server_is() -> None:
    """By the service's name in Compose, and the port of the image."""
    [job] = read(DEPLOY / "prometheus.yml")["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert name in compose()["services"]
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert f"EXPOSE {port}\n" in dockerfile
    assert f'"--port", "{port}"' in dockerfile
    assert str(containers(one("Deployment"))[0]["ports"][0]["containerPort"]) == port
    assert {alert["expr"].count('job="') for alert in alerts()} == {0, 1}
    assert job["job_name"] == "seedream"


def alerts() -> list[dict[str, Any]]:
    [group] = read(DEPLOY / "alerts.yml")["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_alerts_are_about_our_figures(table: ModelTable) -> None:
    """Each name is one of /metrics, and each figure of /metrics has an alert."""
    known = set(Metrics(table.by_id)._registry._names_to_collectors)
    asked = {name for alert in alerts() for name in re.findall(r"\bseedream_\w+", alert["expr"])}
    assert asked <= known
    figures = {re.sub(r"_(total|created|bucket|count|sum)$", "", name) for name in known}
    watched = {re.sub(r"_(total|created|bucket|count|sum)$", "", name) for name in asked}
    assert figures - watched == {"seedream_call_seconds"}  # how long callers want to wait is theirs to say


@pytest.mark.parametrize(
    "command",
    [
        ["check", "config", "deploy/prometheus.yml"],
        ["check", "rules", "deploy/alerts.yml"],
        ["test", "rules", "tests/alerts.yml"],
    ],
    ids=" ".join,
)
def test_prometheus_takes_it(command: list[str]) -> None:
    """Its own tool reads the configuration, and has every alert fire."""
    if not (tool := shutil.which("promtool")):
        pytest.skip("promtool is not installed")
    done = subprocess.run([tool, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_run_as_nobody_in_particular() -> None:
    """By number, for Kubernetes; without a shell, so that signals arrive; with a healthcheck."""
    lines = (ROOT / "Dockerfile").read_text("utf-8")
    spec = pod(one("Deployment"))["securityContext"]
    assert f"\nUSER {spec['runAsUser']}:{spec['runAsGroup']}\n" in lines
    assert re.search(r'^ENTRYPOINT \["mcp-seedream"\]$', lines, re.MULTILINE)
    assert re.search(r"^CMD \[", lines, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*\\\n  CMD \[", lines, re.MULTILINE)
    assert lines.count("FROM ") == 2
