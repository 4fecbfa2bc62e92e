"""How many files and connections a process may have open: shells and containers often allow too few."""

import resource

import structlog

log = structlog.get_logger()


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files and connections to `count`, as far as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < count:
        log.warning("open_files_limited", allowed=wanted, wanted=count)
