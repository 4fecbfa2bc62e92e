"""Whom we believe to be the vendor: the certificate authorities that the machine trusts."""

import functools
import ssl

import httpx2


@functools.cache
def trusted_context() -> ssl.SSLContext:
    """Return the one context of this process for the vendor's servers; it shows no certificate of ours.

    To read all authorities takes 20 ms and more, in which nothing else runs: too long for each client at the
    start, and far too long for each stream.
    """
    return httpx2.create_ssl_context()
