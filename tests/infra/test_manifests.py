"""The manifests build, and Kubernetes takes them, in every version that hospitals may still run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import kubernetes_validate
import msgspec
import pytest
import yaml

from tests.support.custom_resources import check_custom, is_custom
from tests.support.manifests import (
    COMPONENTS,
    K8S,
    OVERLAYS,
    Document,
    build,
    files,
    of_kind,
    overlay,
    read,
    with_components,
)

VERSIONS = ("1.29.0", "1.33.0", "1.35.0", "1.37.0")
# What each is made for: the pooler needs the cluster's secret.
TOGETHER = [
    ("monitoring",),
    ("external-secrets",),
    ("gateway-api",),
    ("pgbouncer",),
    ("cloudnative-pg",),
    ("cloudnative-pg", "cloudnative-pg-pooler"),
]


def check(document: Document, version: str) -> None:
    metadata = {key: value for key, value in document["metadata"].items() if key != "namespace"}
    check_once(msgspec.json.encode(document | {"metadata": metadata}, order="sorted"), version)


@cache
def check_once(document: bytes, version: str) -> None:
    """Overlays and components share most of what they hold, and the schemas are large."""
    read = msgspec.json.decode(document)
    if is_custom(read):
        check_custom(read)
        return
    try:
        kubernetes_validate.validate(read, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = "/".join(str(part) for part in error.path)
        name = f"{read['kind']} {read['metadata']['name']}"
        pytest.fail(f"Kubernetes {version} refuses {name} at {where}: {error.message}", pytrace=False)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_valid(name: str, version: str) -> None:
    for document in overlay(name):
        check(document, version)


@pytest.mark.parametrize("components", TOGETHER, ids="+".join)
def test_a_component_is_valid(components: tuple[str, ...], tmp_path: Path) -> None:
    for document in with_components(tmp_path, *components):
        check(document, VERSIONS[-1])


def test_every_component_is_tried() -> None:
    assert {name for names in TOGETHER for name in names} == set(COMPONENTS)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(K8S)))
def test_each_file_is_valid_by_itself(path: Path) -> None:
    """Needs no kubectl. Overlays and components add what is missing, they mend nothing."""
    for document in read(path):
        if document["kind"] != "Ingress":  # the overlay's patch names its class
            check(document, VERSIONS[-1])


def test_every_file_is_used() -> None:
    named = set(files())
    for kustomization in K8S.rglob("kustomization.yaml"):
        patches = yaml.safe_load(kustomization.read_text()).get("patches", [])
        named |= {kustomization} | {kustomization.parent / each["path"] for each in patches if "path" in each}
    assert set(K8S.rglob("*.yaml")) == named


def test_a_mistake_in_a_manifest_is_found() -> None:
    (document,) = of_kind(read(K8S / "base/migrate.yaml"), "Job")
    document["spec"]["backofLimit"] = 3
    with pytest.raises(pytest.fail.Exception, match="backofLimit"):
        check(document, VERSIONS[0])


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_is_in_the_namespace(name: str) -> None:
    (namespace,) = {each["metadata"]["name"] for each in of_kind(overlay(name), "Namespace")}
    for document in overlay(name):
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == namespace, document["metadata"]["name"]


def test_the_base_builds_without_an_overlay() -> None:
    assert of_kind(build(K8S / "base"), "Deployment")
