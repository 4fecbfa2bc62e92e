"""The output of `ekabridge webhook`: this installation's subscriptions at EkaScribe, without secrets."""

from typing import Literal

from msgspec import Struct

ApiName = Literal["connect", "protocol"]
# `already`: the subscription existed; `absent`: there was none to remove; `unavailable`: no such API.
Outcome = Literal["listed", "registered", "already", "removed", "absent", "unavailable", "failed"]


class Subscription(Struct, kw_only=True, frozen=True):
    """A URL that the account's webhooks go to, without its query; `ours`: it is this installation's."""

    api: ApiName
    id: str
    endpoint: str
    ours: bool
    status: str | None
    events: list[str]


class ApiReport(Struct, kw_only=True, frozen=True):
    """The outcome at one of EkaScribe's two APIs; `detail` explains an unexpected one."""

    api: ApiName
    outcome: Outcome
    detail: str | None = None


class SubscriptionReport(Struct, kw_only=True, frozen=True):
    """This installation's URL, the outcome at each API, and all current subscriptions."""

    endpoint: str
    apis: list[ApiReport]
    items: list[Subscription]

    @property
    def is_well(self) -> bool:
        """Whether at least one API succeeded and none failed."""
        outcomes = {each.outcome for each in self.apis}
        return "failed" not in outcomes and outcomes != {"unavailable"}
