"""The limit of calls at the doors: counted once it is known who calls, told with every answer.

The fields are those of the newest IETF draft (draft-ietf-httpapi-ratelimit-headers-11), `RateLimit-Policy`
and `RateLimit`, and the three of its older versions, which most clients and gateways read today.
"""

import math
from typing import Any

from prometheus_client import Counter

from service.api.dependencies import Services
from service.domain.errors import RateLimited
from service.domain.ids import KeyId, TenantId
from service.domain.token_bucket import Standing
from service.redis.rate_limiter import SharedRates

FIELDS = ("ratelimit-policy", "ratelimit", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
_KEY = "ekabridge.rate"

REFUSED = Counter("ekabridge_rate_limited", "Calls refused with 429, by what there was too much of.", ("of",))


async def count_call(scope: Any, services: Services, key_id: KeyId) -> None:
    """Count a call with a key. Raises RateLimited."""
    if services.rates is not None:
        standing = scope[_KEY] = await services.rates.take(key_id)
        check(standing, "calls")


async def count_handshake(rates: SharedRates | None, tenant_id: TenantId) -> None:
    """Count the opening of a stream, which no key is shown for, for its tenant. Raises RateLimited."""
    if rates is not None:
        check(await rates.take(tenant_id), "stream handshakes")


def check(standing: Standing, of: str) -> None:
    """Refuse what is too much, and count the refusal. Raises RateLimited."""
    if not standing.is_allowed:
        REFUSED.labels(of).inc()
        raise RateLimited(
            "too many calls at once; wait as Retry-After says", retry_after_seconds=standing.wait_seconds
        )


def standing_fields(scope: Any) -> list[tuple[bytes, bytes]]:
    """Return how the caller stands, for the head of the answer, whatever the answer is."""
    standing: Standing | None = scope.get(_KEY)
    return [] if standing is None else _fields(standing)


def _fields(standing: Standing) -> list[tuple[bytes, bytes]]:
    policy = standing.policy
    # A bucket is no window; the nearest one is the time in which it fills.
    window = math.ceil(policy.burst / policy.per_second)
    reset = max(1, math.ceil(standing.wait_seconds))
    values = (
        f'"key";q={policy.burst};w={window}',
        f'"key";r={standing.remaining};t={reset}',
        str(policy.burst),
        str(standing.remaining),
        str(reset),
    )
    return [(name.encode(), value.encode()) for name, value in zip(FIELDS, values, strict=True)]
