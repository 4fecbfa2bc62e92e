"""The Kubernetes manifests: their files, and what Kustomize makes of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "infra/k8s"
OVERLAYS = ("dev", "production")
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())

Document = dict[str, Any]


@cache
def build(folder: Path) -> list[Document]:
    """What `kubectl kustomize` makes of a folder; skips the test on a machine that has no kubectl."""
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    else:
        pytest.skip("neither kubectl nor kustomize is installed: the manifests are not built")
    made = subprocess.run([*command, folder], capture_output=True, text=True, check=False, timeout=60)
    assert made.returncode == 0, made.stderr
    return [document for document in yaml.safe_load_all(made.stdout) if document]


def overlay(name: str) -> list[Document]:
    return build(K8S / "overlays" / name)


def with_components(folder: Path, *components: str) -> list[Document]:
    """The base with these components, built in a folder of the test's."""
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(K8S / "base", folder.resolve())],
        "components": [os.path.relpath(K8S / "components" / name, folder.resolve()) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return build(folder)


def files() -> list[Path]:
    """Every file that holds whole resources: no kustomization, no patch."""
    found = []
    for kustomization in sorted(K8S.rglob("kustomization.yaml")):
        resources = yaml.safe_load(kustomization.read_text()).get("resources", [])
        paths = [kustomization.parent / name for name in resources]
        found += [path for path in paths if path.is_file()]
    return found


def read(path: Path) -> list[Document]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    return [document for document in documents if document["kind"] in kinds]


def named(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = [each for each in of_kind(documents, kind) if each["metadata"]["name"] == name]
    return found


@dataclass(frozen=True)
class Pods:
    """What a Deployment, a StatefulSet or a Job starts."""

    name: str
    kind: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Those that stay."""
        return self.spec["containers"]

    @property
    def all_containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.containers]

    @property
    def ours(self) -> bool:
        return self.labels["app.kubernetes.io/name"] == "ekabridge"


def pods(documents: list[Document]) -> list[Pods]:
    return [
        Pods(each["metadata"]["name"], each["kind"], template["metadata"]["labels"], template["spec"])
        for each in documents
        if (template := each.get("spec", {}).get("template")) and "spec" in template
    ]


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector selects; `In` is the only operator that we use."""
    wanted = {key: [value] for key, value in selector.get("matchLabels", {}).items()}
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        wanted[expression["key"]] = expression["values"]
    return all(labels.get(key) in values for key, values in wanted.items())


def environment(container: dict[str, Any]) -> Iterator[str]:
    yield from (each["name"] for each in container.get("env", []))
