"""The templates that a vendor account has, looked up when somebody asks and kept for a minute."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import structlog
from msgspec import Struct

from service.domain.errors import VendorError, VendorTimeout
from service.domain.ids import Account
from service.domain.models import Principal

log = structlog.get_logger()

_KEPT_SECONDS = 60.0
# While EkaScribe is away, a list that is older than a minute serves for so long.
_STALE_SECONDS = 3600.0
_LOOK_SECONDS = 15.0
_MAX_ACCOUNTS = 1000


class VendorTemplate(Struct, frozen=True, kw_only=True):
    """One template of an account; the texts are the vendor's or the hospital's, for people."""

    id: str
    title: str
    description: str = ""
    is_default: bool = False


class TemplateSource(Protocol):
    """Where an account's templates are listed."""

    async def list_templates(self, account: Account) -> list[VendorTemplate] | None:
        """Return the account's templates, None if the vendor has no such list. Raises VendorError."""
        ...


class _Kept(Struct, frozen=True):
    at: float
    listed: list[VendorTemplate] | None


class Templates:
    """Lists templates; concurrent callers of one account share one call to the vendor."""

    def __init__(self, *, source: TemplateSource, time: Callable[[], float]) -> None:
        self._source = source
        self._time = time
        self._kept: OrderedDict[Account, _Kept] = OrderedDict()
        self._looks: dict[Account, asyncio.Task[_Kept]] = {}

    async def available(self, principal: Principal) -> list[VendorTemplate]:
        """Return the templates that the caller's sessions may ask for.

        A vendor without a list leaves those that the tenant asks for by default. Raises VendorError when the
        vendor is away and no list of the last hour is known.
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
        looks = list(self._looks.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def _listed(self, account: Account) -> list[VendorTemplate] | None:
        kept = self._kept.get(account)
        if kept is not None and self._time() < kept.at + _KEPT_SECONDS:
            return kept.listed
        look = self._looks.get(account)
        if look is None:
            look = self._looks[account] = asyncio.create_task(self._look(account))
            look.add_done_callback(lambda _: self._looks.pop(account, None))
        try:
            # One caller who hangs up must not cancel the call that others wait for.
            return (await asyncio.shield(look)).listed
        except VendorError as error:
            if kept is None or self._time() >= kept.at + _STALE_SECONDS:
                raise
            log.warning("templates_not_listed", account=account, error=type(error).__name__)
            return kept.listed

    async def _look(self, account: Account) -> _Kept:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                listed = await self._source.list_templates(account)
        except TimeoutError:
            raise VendorTimeout("EkaScribe did not list its templates in time", sent=True) from None
        kept = self._kept[account] = _Kept(self._time(), listed)
        self._kept.move_to_end(account)
        while len(self._kept) > _MAX_ACCOUNTS:
            self._kept.popitem(last=False)
        return kept
