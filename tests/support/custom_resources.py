"""The resources that operators add to Kubernetes, as far as we write them; what is not here is refused."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tests.support.manifests import Document


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _Metadata(_Part):
    name: str
    namespace: str | None = None
    labels: dict[str, str] = {}


class _Selector(_Part):
    matchLabels: dict[str, str]  # noqa: N815 - Kubernetes spells it so


class _Endpoint(_Part):
    port: str
    path: str
    interval: str
    scrapeTimeout: str  # noqa: N815


class _Monitor(_Part):
    selector: _Selector
    endpoints: list[_Endpoint]


class Rule(_Part):
    """An alert."""

    alert: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]
    # Prometheus spells it `for`, which Python keeps for itself.
    lasting: str = msgspec.field(default="0s", name="for")


class RuleGroup(_Part):
    """Alerts that are evaluated together."""

    name: str
    rules: list[Rule]
    interval: str = ""


class _Rules(_Part):
    groups: list[RuleGroup]


class _StoreRef(_Part):
    kind: Literal["SecretStore", "ClusterSecretStore"]
    name: str


class _RemoteRef(_Part):
    key: str
    property: str


class _SecretKey(_Part):
    secretKey: str  # noqa: N815
    remoteRef: _RemoteRef  # noqa: N815


class _Target(_Part):
    name: str
    creationPolicy: Literal["Owner"]  # noqa: N815


class _ExternalSecret(_Part):
    refreshInterval: str  # noqa: N815
    secretStoreRef: _StoreRef  # noqa: N815
    target: _Target
    data: list[_SecretKey]


class _PathMatch(_Part):
    type: Literal["PathPrefix", "Exact"]
    value: str


class _Match(_Part):
    path: _PathMatch


class _Backend(_Part):
    name: str
    port: int


class _Parent(_Part):
    name: str
    namespace: str


class _Timeouts(_Part):
    request: str


class _RouteRule(_Part):
    matches: list[_Match]
    timeouts: _Timeouts
    backendRefs: list[_Backend]  # noqa: N815


class _Route(_Part):
    parentRefs: list[_Parent]  # noqa: N815
    hostnames: list[str]
    rules: list[_RouteRule]


class _ClusterName(_Part):
    name: str


class _PgBouncer(_Part):
    poolMode: Literal["session", "transaction"]  # noqa: N815
    parameters: dict[str, str]


class _Pooler(_Part):
    cluster: _ClusterName
    instances: int
    type: Literal["rw", "ro"]
    pgbouncer: _PgBouncer


class _InitDb(_Part):
    database: str
    owner: str


class _Bootstrap(_Part):
    initdb: _InitDb


class _Storage(_Part):
    size: str


class _Synchronous(_Part):
    method: Literal["any", "first"]
    number: int


class _Postgresql(_Part):
    synchronous: _Synchronous
    parameters: dict[str, str]


class _Affinity(_Part):
    enablePodAntiAffinity: bool  # noqa: N815
    topologyKey: str  # noqa: N815


class _Cluster(_Part):
    instances: int
    primaryUpdateStrategy: Literal["unsupervised", "supervised"]  # noqa: N815
    bootstrap: _Bootstrap
    storage: _Storage
    resources: dict[Literal["requests", "limits"], dict[str, str]]
    postgresql: _Postgresql
    affinity: _Affinity


SPECS: dict[tuple[str, str], type[Any]] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _Monitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): _Rules,
    ("external-secrets.io/v1", "ExternalSecret"): _ExternalSecret,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _Route,
    ("postgresql.cnpg.io/v1", "Cluster"): _Cluster,
    ("postgresql.cnpg.io/v1", "Pooler"): _Pooler,
}


def is_custom(document: Document) -> bool:
    return (document["apiVersion"], document["kind"]) in SPECS


def check_custom(document: Document) -> None:
    """Raises ValidationError, which names the field."""
    assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
    msgspec.convert(document["metadata"], _Metadata)
    msgspec.convert(document["spec"], SPECS[document["apiVersion"], document["kind"]])
