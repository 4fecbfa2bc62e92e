"""Makes the PrometheusRule of the manifests out of Prometheus's own rule files, which Compose reads.

`python -m tests.infra.prometheus_rule` writes it.
"""

from __future__ import annotations

import yaml

from tests.support.manifests import K8S, ROOT

SOURCES = ROOT / "infra/prometheus/rules"
MADE = K8S / "components/monitoring/rules.yaml"
_HEAD = "# Made by `make manifests` out of infra/prometheus/rules: change it there.\n"


def prometheus_rule() -> str:
    """The manifest's text."""
    sources = [yaml.safe_load(path.read_text()) for path in sorted(SOURCES.glob("*.yaml"))]
    groups = [group for source in sources for group in source["groups"]]
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "ekabridge", "labels": {"app.kubernetes.io/name": "ekabridge"}},
        "spec": {"groups": groups},
    }
    return _HEAD + yaml.safe_dump(manifest, sort_keys=False, width=110)


if __name__ == "__main__":
    MADE.write_text(prometheus_rule())
