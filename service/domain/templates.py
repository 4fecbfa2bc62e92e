"""Lists the templates of a vendor account, looked up on demand and cached for a minute."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import structlog
from msgspec import Struct

from service.domain.api_keys.models import Principal
from service.domain.errors import VendorError, VendorTimeout
from service.domain.ids import Account

log = structlog.get_logger()

_CACHE_SECONDS = 60.0
# While EkaScribe is away, an older list serves for this time.
_STALE_SECONDS = 3600.0
_LOOKUP_TIMEOUT_SECONDS = 15.0
_MAX_ACCOUNTS = 1000


class VendorTemplate(Struct, frozen=True, kw_only=True):
    """One template of an account; the texts are the vendor's or the hospital's, for people."""

    id: str
    title: str
    description: str = ""
    is_default: bool = False


class TemplateSource(Protocol):
    """Lists the templates of an account at the vendor."""

    async def list_templates(self, account: Account) -> list[VendorTemplate] | None:
        """Return the account's templates, None if the vendor has no such list. Raises VendorError."""
        ...


class _Cached(Struct, frozen=True):
    at: float
    listed: list[VendorTemplate] | None


class Templates:
    """Lists templates; concurrent callers of one account share one call to the vendor."""

    def __init__(self, *, source: TemplateSource, time: Callable[[], float]) -> None:
        self._source = source
        self._time = time
        self._cache: OrderedDict[Account, _Cached] = OrderedDict()
        self._lookups: dict[Account, asyncio.Task[_Cached]] = {}

    async def available(self, principal: Principal) -> list[VendorTemplate]:
        """Return the templates that the principal's sessions may use.

        If the vendor has no such list, these are the tenant's default templates. Raises VendorError when the
        vendor is away and the cache holds no list of the last hour.
        """
        listed = await self._listed(principal.account)
        if listed is None:
            return [
                VendorTemplate(id=each, title=each, is_default=True)
                for each in principal.defaults.templates or []
            ]
        return listed

    async def stop(self) -> None:
        """Cancel the calls that are under way."""
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    async def _listed(self, account: Account) -> list[VendorTemplate] | None:
        cached = self._cache.get(account)
        if cached is not None and self._time() < cached.at + _CACHE_SECONDS:
            return cached.listed
        lookup = self._lookups.get(account)
        if lookup is None:
            lookup = self._lookups[account] = asyncio.create_task(self._look_up(account))
            lookup.add_done_callback(lambda _: self._lookups.pop(account, None))
        try:
            # A caller that hangs up must not cancel the call that other callers wait for.
            return (await asyncio.shield(lookup)).listed
        except VendorError as error:
            if cached is None or self._time() >= cached.at + _STALE_SECONDS:
                raise
            log.warning("templates_not_listed", account=account, error=type(error).__name__)
            return cached.listed

    async def _look_up(self, account: Account) -> _Cached:
        try:
            async with asyncio.timeout(_LOOKUP_TIMEOUT_SECONDS):
                listed = await self._source.list_templates(account)
        except TimeoutError:
            raise VendorTimeout("EkaScribe did not list its templates in time", sent=True) from None
        cached = self._cache[account] = _Cached(self._time(), listed)
        self._cache.move_to_end(account)
        while len(self._cache) > _MAX_ACCOUNTS:
            self._cache.popitem(last=False)
        return cached
