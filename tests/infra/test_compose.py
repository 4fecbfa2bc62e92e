"""Docker Compose and the manifests start what the documentation says, and watch the same metrics."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from service.cli.main import cli
from service.settings import PREFIX
from service.settings.parsers import PARSERS
from tests.infra.prometheus_rule import MADE, SOURCES, prometheus_rule
from tests.support.custom_resources import RuleGroup
from tests.support.manifests import ROOT, overlay, pods
from tests.support.pages import rows

INFRA = ROOT / "infra"


def compose() -> dict[str, Any]:
    return yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]


def of_ours() -> dict[str, dict[str, Any]]:
    return {name: each for name, each in compose().items() if each["image"].startswith("ekabridge")}


def test_compose_starts_what_the_documentation_says() -> None:
    documented = {row[0] for row in rows(ROOT / "docs/operations.md", "process")}
    assert {f"ekabridge {each['command'][0]}" for each in of_ours().values()} == documented
    for each in of_ours().values():
        command, *options = each["command"]
        known = {option for parameter in cli.commands[command].params for option in parameter.opts}
        assert {option for option in options if option.startswith("--")} <= known
    assert {"service", "worker", "migrate", "postgres", "redis", "prometheus", "grafana"} == compose().keys()


def test_the_manifests_start_the_same_commands() -> None:
    started = {pod.containers[0]["name"]: pod.containers[0]["args"] for pod in pods(overlay("production"))}
    assert started == {name: each["command"] for name, each in of_ours().items()}


def test_compose_gives_no_more_rights_than_needed() -> None:
    for name, each in of_ours().items():
        assert each["read_only"] is True, name
        assert each["cap_drop"] == ["ALL"], name
        assert each["tmpfs"] == ["/tmp"], name
    for name in ("service", "worker"):
        assert int(compose()[name]["stop_grace_period"].removesuffix("s")) >= 35
    for name, each in compose().items():
        assert re.search(r":(?!latest$)[\w.-]+$", each["image"]), name
        for port in each.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network"


def test_what_compose_needs_is_explained_in_the_example() -> None:
    given = set(re.findall(r"^(\w+)=", (INFRA / "compose.env.example").read_text(), re.MULTILINE))
    text = (INFRA / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) <= given
    known = {PREFIX + each.upper() for each in PARSERS}
    names = given | {name for each in of_ours().values() for name in each["environment"]}
    assert {name for name in names if name.startswith(PREFIX)} <= known


def test_what_compose_mounts_and_scrapes_is_there() -> None:
    for name, each in compose().items():
        for volume in each.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("./") and source != "./grafana/dashboards":
                assert (INFRA / source).exists(), f"{name}: {source}"
    prometheus = yaml.safe_load((INFRA / "prometheus/prometheus.yml").read_text())
    targets = {each["static_configs"][0]["targets"][0] for each in prometheus["scrape_configs"]}
    assert targets == {"service:8080", "worker:8081"}
    (datasource,) = yaml.safe_load((INFRA / "grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert datasource["url"] == "http://prometheus:9090"


def test_the_rules_of_prometheus_and_of_its_operator_are_the_same() -> None:
    assert MADE.read_text() == prometheus_rule(), "run `make manifests`"


@pytest.mark.parametrize("path", sorted(SOURCES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_alert_says_how_bad_it_is_and_what_is_wrong(path: Path) -> None:
    for group in msgspec.convert(yaml.safe_load(path.read_text())["groups"], list[RuleGroup]):
        for rule in group.rules:
            assert rule.labels["severity"] in {"critical", "warning"}, rule.alert
            assert rule.annotations["summary"], rule.alert


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_its_configuration_and_the_rules(tmp_path: Path) -> None:
    configuration = (INFRA / "prometheus/prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(configuration.replace("/etc/prometheus/rules", str(SOURCES)))
    said = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_dockerfile_is_clean() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint has no program for this platform")
    said = subprocess.run(
        [hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60
    )
    assert said.returncode == 0, said.stdout


def test_the_image_is_labelled_and_runs_as_the_manifests_say() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert {"title", "description", "licenses", "version", "revision", "base.name"} == set(
        re.findall(r"org\.opencontainers\.image\.([a-z.]+)=", text)
    )
    user, group = re.search(r"^USER (\d+):(\d+)$", text, re.MULTILINE).groups()  # type: ignore[union-attr]
    for pod in pods(overlay("production")):
        security = pod.spec["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"]) == (int(user), int(group))
