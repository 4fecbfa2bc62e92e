"""The rate limit of the API: counted once the caller is known, and told in the head of every response.

The fields are those of the newest IETF draft (draft-ietf-httpapi-ratelimit-headers-11), `RateLimit-Policy`
and `RateLimit`, and the three of its older versions, which most clients and gateways read today.
"""

import math
from typing import Any

from prometheus_client import Counter

from service.api.dependencies import Services
from service.domain.errors import RateLimited
from service.domain.ids import KeyId, TenantId
from service.domain.token_bucket import RateLimitState
from service.redis.rate_limiter import SharedRateLimiter

FIELDS = ("ratelimit-policy", "ratelimit", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
_STATE = "ekabridge.rate_limit"

REFUSED = Counter("ekabridge_rate_limited", "Calls refused with 429, by what there was too much of.", ("of",))


def count_call(scope: Any, services: Services, key_id: KeyId) -> None:
    """Count a call with an API key. Raises RateLimited."""
    if services.access.rate_limiter is not None:
        state = scope[_STATE] = services.access.rate_limiter.count(key_id)
        check(state, "calls")


async def count_handshake(limiter: SharedRateLimiter | None, tenant_id: TenantId) -> None:
    """Count the opening of a stream for its tenant, as it shows no API key. Raises RateLimited."""
    if limiter is not None:
        check(limiter.count(tenant_id), "stream handshakes")


def check(state: RateLimitState, of: str) -> None:
    """Refuse a call that exceeds its limit, and count the refusal. Raises RateLimited."""
    if not state.is_allowed:
        REFUSED.labels(of).inc()
        raise RateLimited(
            "too many calls at once; wait as Retry-After says", retry_after_seconds=state.wait_seconds
        )


def rate_limit_fields(scope: Any) -> list[tuple[bytes, bytes]]:
    """Return the fields for the response's head, whatever the response is; none for an unknown caller."""
    state: RateLimitState | None = scope.get(_STATE)
    return [] if state is None else _fields(state)


def _fields(state: RateLimitState) -> list[tuple[bytes, bytes]]:
    policy = state.policy
    # A token bucket has no window; the nearest one is the time in which it fills.
    window = math.ceil(policy.burst / policy.per_second)
    reset = max(1, math.ceil(state.wait_seconds))
    values = (
        f'"key";q={policy.burst};w={window}',
        f'"key";r={state.remaining};t={reset}',
        str(policy.burst),
        str(state.remaining),
        str(reset),
    )
    return [(name.encode(), value.encode()) for name, value in zip(FIELDS, values, strict=True)]
