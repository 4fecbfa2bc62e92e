"""Signatures of the stand-in's webhooks."""

import hashlib
import hmac


def signature_fits(entry, secret, signed):
    parts = dict(part.split("=") for part in entry.split(","))
    mac = hmac.new(secret.encode(), f"{parts['t']}.".encode() + signed, hashlib.sha256)
    return hmac.compare_digest(mac.hexdigest(), parts["v1"])
