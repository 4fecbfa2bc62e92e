"""Manages our webhook subscriptions at Connect and protocol v0.1 (docs/vendor.md#subscriptions)."""

from collections.abc import Awaitable, Callable
from typing import Any, assert_never
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from schemas.webhook_subscriptions import ApiName, ApiReport, Outcome, Subscription, SubscriptionReport
from service.domain.errors import VendorError, VendorFailure
from service.domain.ids import DEFAULT_ACCOUNT, Account
from service.domain.vendor_limits import Limits
from service.eka.client import EkaClient
from service.eka.http_exchange import VendorAnswer, check

CONNECT_PATH = "/notification/v1/connect/webhook/subscriptions"
# The only event of EkaScribe that Connect publishes (docs/vendor.md#webhook-gaps); it may refuse other names.
CONNECT_EVENTS = ["v2rx.completed"]
# Only final events: we start and end the sessions ourselves.
PROTOCOL_EVENTS = ["session.completed", "session.partial", "session.failed", "session.expired"]

_NO_SUCH_API = frozenset({404, 405})
_REGISTERED_ALREADY = frozenset({400, 409})
_LISTS = ("data", "subscriptions", "webhooks", "items")
_IDS = ("id", "webhook_id", "subscription_id")

Done = tuple[Outcome, list[Subscription]]


def webhook_endpoint(public_url: str, account: Account) -> str:
    """Return our address for an account's webhooks."""
    own = "" if account == DEFAULT_ACCOUNT else f"/{account}"
    return f"{public_url}/webhooks/eka{own}"


class _Api(Struct, frozen=True):
    """One of the two APIs: its name and address, or the reason why it cannot be called."""

    name: ApiName
    url: str
    absence: str | None = None


class _NoSuchApiError(Exception):
    """The vendor has no such API."""


class Subscriptions:
    """Lists, registers and removes the subscription of our endpoint."""

    def __init__(self, *, client: EkaClient, limits: Callable[[], Awaitable[Limits]]) -> None:
        self._client = client
        self._limits = limits

    async def look(self, account: Account, endpoint: str) -> SubscriptionReport:
        """List the account's subscriptions; `endpoint` is our own. Never raises a VendorError."""

        async def work(api: _Api) -> Done:
            return "listed", await self._list(account, api, endpoint)

        return await self._each(endpoint, work)

    async def register(self, account: Account, endpoint: str, secret: str | None) -> SubscriptionReport:
        """Register one subscription at each API, signed with the secret; an existing one stays unchanged."""

        async def work(api: _Api) -> Done:
            return await self._register(account, api, endpoint, secret)

        return await self._each(endpoint, work)

    async def remove(self, account: Account, endpoint: str) -> SubscriptionReport:
        """Remove the subscriptions of our endpoint, and no other."""

        async def work(api: _Api) -> Done:
            return await self._remove(account, api, endpoint)

        return await self._each(endpoint, work)

    async def _each(self, endpoint: str, work: Callable[[_Api], Awaitable[Done]]) -> SubscriptionReport:
        reports, items = [], []
        for api in (_Api("connect", CONNECT_PATH), await self._protocol_api()):
            detail = api.absence
            outcome: Outcome = "unavailable"
            try:
                if detail is None:
                    outcome, found = await work(api)
                    items += found
            except _NoSuchApiError:
                detail = "EkaScribe has no such API here"
            except VendorError as error:
                outcome, detail = "failed", error.detail
            reports.append(ApiReport(api=api.name, outcome=outcome, detail=detail))
        return SubscriptionReport(endpoint=endpoint, apis=reports, items=items)

    async def _protocol_api(self) -> _Api:
        url = (await self._limits()).webhooks_url
        if url is None:
            return _Api("protocol", "", "EkaScribe's discovery document names no webhooks_url")
        if not self._client.is_vendor_url(url):
            return _Api("protocol", "", "its webhooks_url is not at EKA_BASE_URL: no token goes elsewhere")
        return _Api("protocol", url)

    async def _register(self, account: Account, api: _Api, endpoint: str, secret: str | None) -> Done:
        try:
            found: list[Subscription] | None = await self._list(account, api, endpoint)
        except _NoSuchApiError:
            # Some servers answer 404 for an empty list, so only the registration shows whether the API
            # exists.
            found = None
        if found and any(each.ours for each in found):
            return "already", found
        answer = await self._ask(account, "POST", api.url, _new(api, endpoint, secret))
        if answer.status in _REGISTERED_ALREADY:
            if found is None:
                return "already", []
            found = await self._list(account, api, endpoint)
            if any(each.ours for each in found):
                return "already", found
        check(answer, 200, 201)
        return "registered", [] if found is None else await self._list(account, api, endpoint)

    async def _remove(self, account: Account, api: _Api, endpoint: str) -> Done:
        found = await self._list(account, api, endpoint)
        ours = [each for each in found if each.ours]
        for each in ours:
            if not each.id:
                raise VendorFailure("EkaScribe lists our subscription without an id", sent=True)
            url = f"{api.url}/{quote(each.id, safe='')}"
            answer = await self._client.ask(account, "DELETE", url)
            # A 404 means that somebody else removed it meanwhile.
            check(answer, 200, 202, 204, 404)
        return ("removed" if ours else "absent"), [each for each in found if not each.ours]

    async def _list(self, account: Account, api: _Api, endpoint: str) -> list[Subscription]:
        answer = check(await self._ask(account, "GET", api.url), 200)
        try:
            listed = _entries(msgspec.json.decode(answer.body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise VendorFailure("EkaScribe's list of subscriptions cannot be read", sent=True) from error
        return [read for entry in listed if (read := _read(entry, api.name, endpoint))]

    async def _ask(self, account: Account, method: str, url: str, body: Any = None) -> VendorAnswer:
        answer = await self._client.ask(account, method, url, body=body)
        if answer.status in _NO_SUCH_API:
            raise _NoSuchApiError
        return answer


def _new(api: _Api, endpoint: str, secret: str | None) -> dict[str, Any]:
    own: dict[str, Any]
    match api.name:
        case "protocol":
            own = {"url": endpoint, "events": PROTOCOL_EVENTS}
            return own if secret is None else own | {"secret": secret}
        case "connect":
            own = {"event_names": CONNECT_EVENTS, "endpoint": endpoint, "protocol": urlsplit(endpoint).scheme}
            return own if secret is None else own | {"signing_key": secret}
        case _:
            assert_never(api.name)


def _entries(found: Any) -> list[Any]:
    """Return the list, which is the answer itself or a field with one of the known names."""
    if isinstance(found, list):
        return found
    if isinstance(found, dict):
        return next((_entries(found[name]) for name in _LISTS if found.get(name)), [])
    return []


def _read(entry: Any, api: ApiName, endpoint: str) -> Subscription | None:
    if not isinstance(entry, dict):
        return None
    target = entry.get("endpoint", entry.get("url"))
    if not isinstance(target, str):
        return None
    events = entry.get("event_names", entry.get("events"))
    status = entry.get("status")
    return Subscription(
        api=api,
        id=next((str(entry[name]) for name in _IDS if entry.get(name) is not None), ""),
        endpoint=_redacted(target),
        ours=target.rstrip("/") == endpoint.rstrip("/"),
        status=status if isinstance(status, str) else None,
        events=[each for each in events if isinstance(each, str)] if isinstance(events, list) else [],
    )


def _redacted(target: str) -> str:
    """Return a URL without its user, password and query, which may be secrets of another party."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "(not a URL)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
