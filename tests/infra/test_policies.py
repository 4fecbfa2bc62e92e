"""What every pod must keep, whatever an overlay changes."""

from __future__ import annotations

import re
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from service.app import create_app
from service.cli.main import cli
from service.settings import PREFIX, SERVICE, WORKER, Settings
from service.settings.parsers import PARSERS
from service.settings.settings import SECRET_FIELDS
from tests.support.bridge import make_settings
from tests.support.manifests import (
    K8S,
    OVERLAYS,
    ROOT,
    Document,
    Pods,
    environment,
    matches,
    named,
    of_kind,
    overlay,
    pods,
    read,
)
from tests.support.pages import rows

# SIGTERM to the end, at most; and how much a process keeps in /tmp, at most.
SHUTDOWN_SECONDS = Settings().shutdown_seconds
SPOOL_BYTES = Settings().max_spool_bytes
PRIVATE = [
    "10.1.2.3",
    "172.20.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "168.63.129.16",
    "224.0.0.1",
    "::1",
    "fd00:ec2::254",
    "fe80::1",
    "64:ff9b::a00:1",
    "2002:a00:1::",
]
PUBLIC = ["1.1.1.1", "13.234.5.6", "2606:4700:4700::1111"]

every_pod = pytest.mark.parametrize("name", OVERLAYS)


def size(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(m|Ki|Mi|Gi)?", text).groups()  # type: ignore[union-attr]
    return float(number) * {None: 1, "m": 0.001, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}[unit]


def ours(name: str) -> list[Pods]:
    found = [each for each in pods(overlay(name)) if each.ours]
    assert {each.name for each in found} == {"ekabridge-service", "ekabridge-worker", "ekabridge-migrate"}
    return found


@every_pod
def test_no_pod_has_more_rights_than_it_needs(name: str) -> None:
    for pod in pods(overlay(name)):
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True, pod.name
        assert security["runAsUser"] > 0, pod.name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, pod.name
        assert pod.spec["automountServiceAccountToken"] is False, pod.name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec), pod.name
        assert not [volume for volume in pod.spec.get("volumes", []) if "hostPath" in volume], pod.name
        for container in pod.all_containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, f"{pod.name}/{container['name']}"
    for pod in ours(name):
        assert pod.spec["securityContext"]["runAsUser"] == 10001  # the image's own user
        account = named(overlay(name), "ServiceAccount", pod.spec["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False


@every_pod
def test_every_container_asks_for_what_it_needs_and_is_bounded(name: str) -> None:
    for pod in pods(overlay(name)):
        for container in pod.all_containers:
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory"} <= requests.keys() & limits.keys(), pod.name
            for what, wanted in requests.items():
                assert size(wanted) <= size(limits[what]), f"{pod.name}: {what}"


@every_pod
def test_every_image_has_a_version(name: str) -> None:
    for pod in pods(overlay(name)):
        for container in pod.all_containers:
            image = container["image"]
            assert "@sha256:" in image or re.search(r":(?!latest$)[\w.-]+$", image), image
        if pod.ours:
            assert len({container["image"] for container in pod.all_containers}) == 1, pod.name


@every_pod
def test_the_service_and_the_worker_are_asked_as_the_contract_says(name: str) -> None:
    ports = {"ekabridge-service": 8080, "ekabridge-worker": 8081}
    for pod in ours(name):
        (container,) = pod.containers
        if pod.kind == "Job":
            continue
        (port,) = container["ports"]
        assert port["containerPort"] == ports[pod.name]
        wanted = {"startupProbe": "live", "livenessProbe": "live", "readinessProbe": "ready"}
        for probe, path in wanted.items():
            asked = container[probe]
            assert asked["httpGet"] == {"path": f"/health/{path}", "port": port["name"]}, probe
        # A database that is away for a minute restarts nobody.
        liveness = container["livenessProbe"]
        assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60


@every_pod
def test_a_pod_has_the_time_to_end_in_order(name: str) -> None:
    for pod in ours(name):
        if pod.kind == "Job":
            continue
        (container,) = pod.containers
        pause = 0
        if "lifecycle" in container:
            command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
            assert command == "sleep"
            pause = int(seconds)
        assert pod.name != "ekabridge-service" or pause >= 5
        assert pod.spec["terminationGracePeriodSeconds"] >= max(35, pause + SHUTDOWN_SECONDS + 1)


@every_pod
def test_what_goes_through_tmp_fits(name: str) -> None:
    for pod in ours(name):
        (volume,) = pod.spec["volumes"]
        room = size(volume["emptyDir"]["sizeLimit"])
        for container in pod.all_containers:
            assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/tmp"}]
        assert room < size(pod.containers[0]["resources"]["limits"]["ephemeral-storage"])
        if pod.name == "ekabridge-service":
            assert room > SPOOL_BYTES


@every_pod
def test_every_start_waits_for_the_schema(name: str) -> None:
    for pod in ours(name):
        if pod.kind == "Job":
            assert pod.containers[0]["args"] == ["migrate"]
            continue
        (waiting,) = pod.spec["initContainers"]
        assert waiting["args"][:3] == ["migrate", "--check", "--wait"]
        for container in pod.all_containers:
            command, *options = container["args"]
            known = {option for parameter in cli.commands[command].params for option in parameter.opts}
            assert {option for option in options if option.startswith("--")} <= known


@every_pod
def test_a_roll_out_takes_nothing_away_and_pods_are_spread(name: str) -> None:
    for deployment in of_kind(overlay(name), "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert matches(deployment["spec"]["selector"], labels)
        if labels["app.kubernetes.io/name"] != "ekabridge":
            continue
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert {each["topologyKey"] for each in spread} == {
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        }
        assert all(matches(each["labelSelector"], labels) for each in spread)
        (budget,) = [
            each
            for each in of_kind(overlay(name), "PodDisruptionBudget")
            if matches(each["spec"]["selector"], labels)
        ]
        assert budget["spec"]["maxUnavailable"] == 1


def test_production_never_runs_one_pod_alone() -> None:
    scaled = {}
    for scaler in of_kind(overlay("production"), "HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        scaled[spec["scaleTargetRef"]["name"]] = spec
        assert spec["minReplicas"] >= 2
        deployment = named(overlay("production"), "Deployment", spec["scaleTargetRef"]["name"])
        assert "replicas" not in deployment["spec"]
    assert scaled.keys() == {"ekabridge-service", "ekabridge-worker"}
    metrics = scaled["ekabridge-worker"]["metrics"]
    assert "ekabridge_queue_depth" in [
        each.get("external", {}).get("metric", {}).get("name") for each in metrics
    ]


@every_pod
def test_settings_and_secrets_are_those_that_we_know(name: str) -> None:
    known = {PREFIX + each.upper() for each in PARSERS}
    secret = {PREFIX + each.upper() for each in SECRET_FIELDS}
    (settings,) = of_kind(overlay(name), "ConfigMap")
    assert settings["data"].keys() <= known - secret
    for pod in ours(name):
        for container in pod.all_containers:
            assert set(environment(container)) <= known, container["name"]
            for source in container.get("envFrom", []):
                assert source in (
                    {"configMapRef": {"name": settings["metadata"]["name"]}},
                    {"secretRef": {"name": "ekabridge-secrets"}},
                )
    assert not of_kind(overlay(name), "Secret")


def test_the_secret_holds_what_the_processes_need_and_each_key_is_explained() -> None:
    (external,) = read(K8S / "components/external-secrets/external-secret.yaml")
    keys = {each["secretKey"] for each in external["spec"]["data"]}
    assert {PREFIX + each for each in (SERVICE | WORKER)} <= keys
    explained = {row[0] for row in rows(ROOT / "docs/install.md", "key")}
    assert keys <= explained
    reference = re.compile(r"name: ekabridge-secrets(?:, |\n\s+)key: (\w+)")
    referenced = {key for path in K8S.rglob("*.yaml") for key in reference.findall(path.read_text())}
    assert {"EKABRIDGE_DATABASE_URL", "POOLED_DATABASE_URL"} <= referenced
    assert referenced <= explained
    assert external["spec"]["target"]["name"] == "ekabridge-secrets"


# -- The network -----------------------------------------------------------------------------------


def policies(name: str, labels: dict[str, str], way: str) -> list[Document]:
    return [
        each["spec"]
        for each in of_kind(overlay(name), "NetworkPolicy")
        if matches(each["spec"]["podSelector"], labels) and way in each["spec"]["policyTypes"]
    ]


def lets_out(name: str, labels: dict[str, str], address: str, port: int) -> bool:
    wanted = ip_address(address)
    return any(
        port in [each["port"] for each in rule["ports"]]
        and any(
            wanted in ip_network(peer["ipBlock"]["cidr"])
            and not any(wanted in ip_network(not_this) for not_this in peer["ipBlock"].get("except", []))
            for peer in rule["to"]
            if "ipBlock" in peer
        )
        for policy in policies(name, labels, "Egress")
        for rule in policy.get("egress", [])
    )


@every_pod
def test_every_pod_is_closed_both_ways_unless_a_policy_opens_it(name: str) -> None:
    for pod in pods(overlay(name)):
        for way in ("Ingress", "Egress"):
            closing = [each for each in policies(name, pod.labels, way) if way.lower() not in each]
            assert closing, f"{pod.name}: {way}"
    for policy in of_kind(overlay(name), "NetworkPolicy"):
        for rule in [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]:
            assert rule["ports"], policy["metadata"]["name"]
            assert rule.get("from") or rule.get("to"), policy["metadata"]["name"]


@every_pod
def test_only_public_addresses_are_called_and_only_over_https(name: str) -> None:
    for pod in ours(name):
        may = pod.name != "ekabridge-migrate"
        assert [lets_out(name, pod.labels, each, 443) for each in PUBLIC] == [may] * len(PUBLIC), pod.name
        assert not [each for each in PRIVATE if lets_out(name, pod.labels, each, 443)], pod.name
        assert not [each for each in PUBLIC if lets_out(name, pod.labels, each, 80)], pod.name


# -- The way in ------------------------------------------------------------------------------------


@cache
def routes() -> frozenset[str]:
    app: Any = create_app(make_settings("postgresql://unused/db", "redis://unused"))
    while not hasattr(app, "routes"):
        app = app._app
    return frozenset(route.path for route in app.routes)


def is_below(path: str, prefixes: set[str]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)


def prefixes_of(document: Document) -> set[str]:
    if document["kind"] == "Ingress":
        (rule,) = document["spec"]["rules"]
        assert {path["backend"]["service"]["name"] for path in rule["http"]["paths"]} == {"ekabridge-service"}
        return {path["path"] for path in rule["http"]["paths"]}
    (rule,) = document["spec"]["rules"]
    return {match["path"]["value"] for match in rule["matches"]}


@pytest.mark.parametrize("file", ["base/ingress.yaml", "components/gateway-api/route.yaml"])
def test_everything_is_reached_from_outside_but_health_and_metrics(file: str) -> None:
    (document,) = read(K8S / file)
    prefixes = prefixes_of(document)
    hidden = {path for path in routes() if not is_below(path, prefixes)}
    assert hidden == {"/metrics", "/health/live", "/health/ready"}
    assert all(any(is_below(path, {prefix}) for path in routes()) for prefix in prefixes)


@every_pod
def test_the_way_in_lets_chunks_and_streams_through(name: str) -> None:
    (ingress,) = of_kind(overlay(name), "Ingress")
    said = ingress["metadata"]["annotations"]
    for body in ("nginx.ingress.kubernetes.io/proxy-body-size", "nginx.org/client-max-body-size"):
        assert int(said[body].removesuffix("m")) << 20 > 10_485_760
    assert said["nginx.ingress.kubernetes.io/proxy-request-buffering"] == "off"
    for wait in (
        "nginx.ingress.kubernetes.io/proxy-read-timeout",
        "nginx.ingress.kubernetes.io/proxy-send-timeout",
        "nginx.org/proxy-read-timeout",
        "haproxy.org/timeout-tunnel",
    ):
        assert int(said[wait].removesuffix("s")) >= 3600
    assert ingress["spec"]["rules"][0]["host"] in named_url(name)


def named_url(name: str) -> str:
    (settings,) = of_kind(overlay(name), "ConfigMap")
    return settings["data"]["EKABRIDGE_PUBLIC_URL"]
