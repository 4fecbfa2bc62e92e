"""What `ekabridge webhook` prints: our subscriptions at EkaScribe, never a secret."""

from typing import Literal

from msgspec import Struct

ApiName = Literal["connect", "protocol"]
# `already`: it was there before; `absent`: nothing was there to remove; `unavailable`: there is no such API.
Outcome = Literal["listed", "registered", "already", "removed", "absent", "unavailable", "failed"]


class Subscription(Struct, kw_only=True, frozen=True):
    """One address that the account's webhooks are sent to, without its query; `ours`: it is our own door."""

    api: ApiName
    id: str
    endpoint: str
    ours: bool
    status: str | None
    events: list[str]


class ApiReport(Struct, kw_only=True, frozen=True):
    """What became of it at one of EkaScribe's two APIs, and why, where that is not plain."""

    api: ApiName
    outcome: Outcome
    detail: str | None = None


class SubscriptionReport(Struct, kw_only=True, frozen=True):
    """Our own address, what became of it at each API, and all subscriptions as they stand now."""

    endpoint: str
    apis: list[ApiReport]
    items: list[Subscription]

    @property
    def is_well(self) -> bool:
        """Whether one API at least did it, and none failed."""
        outcomes = {each.outcome for each in self.apis}
        return "failed" not in outcomes and outcomes != {"unavailable"}
