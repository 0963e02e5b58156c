"""What operators start it with: Dockerfile, Compose, Kubernetes, systemd, nginx, Prometheus; and whether it agrees."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from jsonschema import Draft7Validator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from starlette.routing import Route

from mcp_seedream import DISTRIBUTION, __version__
from mcp_seedream.assembly import hosted
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.cli import _parser
from mcp_seedream.core.settings import Settings, name_of, read_settings
from mcp_seedream.hosting.app import PROBES
from mcp_seedream.hosting.workers import LINGER
from mcp_seedream.telemetry.metrics import Metrics
from tests.support.manifests import (
    DEPLOY,
    KUBERNETES,
    ROOT,
    Resource,
    containers,
    one,
    read,
    read_env,
    rendered,
    seconds,
)
from tests.support.node import COMPOSE_SCHEMA, npm_install

SETTINGS = {str(field.validation_alias.choices[0]) for field in Settings.model_fields.values()}  # type: ignore[union-attr]
[WAIT] = [rule.le for rule in Settings.model_fields["wait_seconds"].metadata if hasattr(rule, "le")]
LEAVING = 5
"""Seconds for a process to be gone once its last call is answered, beside LINGER; a second is usual."""
UNIT = DEPLOY / "mcp-seedream.service"
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
NGINX = (DEPLOY / "nginx.conf").read_text("utf-8")
MANIFESTS = rendered()
names = pytest.mark.parametrize(
    "resource", MANIFESTS, ids=[f"{each['kind']} {each['metadata']['name']}" for each in MANIFESTS]
)
KEYS = "8f2c6ab1d94e07355c1e7fa08b62d3490be7a4"


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


def filled(text: str, env: Mapping[str, str]) -> str:
    """As Compose fills it in: `${NAME}`, `${NAME:-default}`, `${NAME:?why}`, one within another."""
    inner = re.compile(r"\$\{(\w+)(?::([-?])([^${}]*))?\}")
    while match := inner.search(text):
        value = env.get(match[1], "")
        assert value or match[2] != "?", match[0]
        text = text.replace(match[0], value or (match[3] if match[2] else ""))
    return text


def given_by_compose(env: Mapping[str, str]) -> dict[str, str]:
    """What the server gets, with these lines in deploy/.env: what stands under `environment` is above the file."""
    server = compose()["services"]["server"]
    assert server["env_file"] == ".env"
    return {**env, **{name: filled(value, env) for name, value in server["environment"].items()}}


LEAST = {"SEEDREAM_PUBLIC_URL": "https://a.example.com", "SEEDREAM_SEAL_KEYS": KEYS, "REDIS_PASSWORD": "word"}


def unit() -> dict[str, list[str]]:
    """The systemd unit: every value of each name, in order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text("utf-8").splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def served() -> set[str]:
    """Every path that anything is served at, with sign-in where there is one."""
    given: dict[str, Any] = {"public_url": "https://a.example.com", "vendor_client_id": "a", "seal_keys": KEYS}
    app = hosted(read_settings(**given))
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
    grace = filled(compose()["services"]["server"]["stop_grace_period"], LEAST)
    assert seconds(grace) >= float(given_by_compose(LEAST)["SEEDREAM_SHUTDOWN_SECONDS"]) + LINGER + LEAVING
    [environment], [patience] = unit()["Environment"], unit()["TimeoutStopSec"]
    [shutdown] = re.findall(r"SEEDREAM_SHUTDOWN_SECONDS=(\d+)", environment)
    assert float(patience) >= float(shutdown) + LINGER + LEAVING


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
    assert set(read_env(DEPLOY / ".env")) - SETTINGS == {"REDIS_PASSWORD", "STOP_GRACE_PERIOD"}
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
    images += re.findall(r"^ARG PYTHON=(\S+)", dockerfile, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) == ["${PYTHON}"] * 2
    assert len(images) == 6
    assert all(re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", image) for image in images)
    assert {image.rpartition(":")[2] for image in images if "mcp-seedream" in image} == {__version__}


def test_the_image_has_the_tested_versions() -> None:
    """Of every package that it installs, those that its packages need included."""
    assert " -c constraints.txt '.[hosted,otel]'" in (ROOT / "Dockerfile").read_text("utf-8")
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text("utf-8").splitlines() if "==" in line)
    found: set[str] = set()

    def add(name: str, extras: Iterable[str]) -> None:
        found.add(canonicalize_name(name))
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            applies = any(needed.marker is None or needed.marker.evaluate({"extra": extra}) for extra in ("", *extras))
            if applies and canonicalize_name(needed.name) not in found:
                add(needed.name, needed.extras)

    add(DISTRIBUTION, ["hosted", "otel"])
    assert len(found) > 20
    assert found - {canonicalize_name(name) for name in pins} == {DISTRIBUTION}


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
    asked_for = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text("utf-8")))
    assert asked_for == set(read_env(DEPLOY / ".env"))


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_compose_hands_every_setting_on(name: str) -> None:
    """Whatever stands in deploy/.env, with nothing edited."""
    assert given_by_compose({**LEAST, name: "mine"})[name] == "mine"


def test_compose_with_an_example_that_is_filled_in() -> None:
    """What is left empty there has the usual value of Compose, or the server's own."""
    given = given_by_compose(dict.fromkeys(read_env(DEPLOY / ".env"), "") | LEAST)
    assert given["SEEDREAM_REDIS_URL"] == "redis://:word@redis:6379/0"
    names = {name_of(field): field for field in Settings.model_fields}
    made = read_settings(**{names[name]: value for name, value in given.items() if name in names})
    assert (made.workers, made.log_format, made.shutdown_seconds) == (2, "json", 10)
    assert made.vendor_client_id is None


def test_secrets_go_to_who_needs_them() -> None:
    """The file with all of them to the server alone; Redis is told its password, Prometheus nothing."""
    services = compose()["services"]
    assert [name for name, service in services.items() if "env_file" in service] == ["server"]
    assert set(services["redis"]["environment"]) == {"REDIS_PASSWORD"}
    assert "environment" not in services["prometheus"]
    with pytest.raises(AssertionError, match="REDIS_PASSWORD"):
        filled(services["redis"]["environment"]["REDIS_PASSWORD"], {})


@pytest.mark.skipif(sys.platform == "win32", reason="no systemd there")
@pytest.mark.parametrize("check", [["verify", "--man=no"], ["security", "--offline=true", "--threshold=20"]], ids=str)
def test_systemd_takes_it(check: list[str], tmp_path: Path) -> None:
    """Its own tool knows every line, and finds that little is left to attack (2.0 of 10)."""
    if not (tool := shutil.which("systemd-analyze")):
        pytest.skip("systemd is not installed")
    start = str(Path(sys.executable).parent / "mcp-seedream")
    file = tmp_path / UNIT.name
    text = UNIT.read_text("utf-8")
    assert text.count("ExecStart=/opt/mcp-seedream/bin/mcp-seedream ") == 1
    file.write_text(text.replace("ExecStart=/opt/mcp-seedream/bin/mcp-seedream ", f"ExecStart={start} "), "utf-8")
    done = subprocess.run([tool, *check, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_the_unit_fits_the_server() -> None:
    """It starts what the package installs, hands on what it must, and takes away nothing that the server needs."""
    found = unit()
    [start] = found["ExecStart"]
    options = vars(_parser().parse_args(start.split()[1:]))
    assert (options["transport"], options["host"], options["port"]) == ("http", "127.0.0.1", 8000)
    assert {pair.partition("=")[0] for pair in found["Environment"][0].split()} <= SETTINGS | {"PYTHONUNBUFFERED"}
    assert found["LimitNOFILE"] == ["65536"]
    assert found["KillMode"] == ["mixed"]  # a worker that is told twice ends there and then
    assert found["RestrictAddressFamilies"] == ["AF_INET AF_INET6 AF_UNIX"]
    assert not any("@resources" in each for each in found["SystemCallFilter"])  # it raises its own limit of files


def test_what_the_network_policy_lets_out() -> None:
    """Names, also by a cache on the node; https outside; Redis; spans to where the example of a setting sends them."""
    [names, web, redis, spans] = one("NetworkPolicy")["spec"]["egress"]
    assert {(port["port"], port["protocol"]) for port in names["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in names["to"]
    assert [[port["port"] for port in each["ports"]] for each in (web, redis, spans)] == [[443], [6379], [4318]]
    [example] = re.findall(
        r"^# OTEL_EXPORTER_OTLP_ENDPOINT=(\S+)$", (KUBERNETES / "settings.env").read_text("utf-8"), re.MULTILINE
    )
    [to] = spans["to"]
    namespace = to["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert example == f"http://otel-collector.{namespace}:4318"


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
    assert not any("job=" in alert["expr"] for alert in alerts())  # it is called otherwise everywhere


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
        ["test", "rules", "tests/docs/alerts.yml"],
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
