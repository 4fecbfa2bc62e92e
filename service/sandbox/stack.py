"""Everything on one machine: embedded servers, the stand-in vendor, the service, the worker, a tenant.

The parts are the real command line's processes, so what runs here is what runs in a hospital.
"""

import base64
import contextlib
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from service.sandbox.child_process import start_guarded, stop_guarded
from service.sandbox.embedded.api import Embedded, start_embedded

START_SECONDS = 60.0
_CLI = [sys.executable, "-P", "-m", "service.cli.main"]
_KEY_FILE = "ekabridge.key"


class StackFailed(RuntimeError):
    """A part did not start; the message says which."""


@dataclass
class Stack:
    """A running stack: where its parts answer, a tenant, and its key."""

    service_url: str
    worker_url: str
    vendor_url: str
    environment: dict[str, str]
    tenant_id: str = ""
    api_key: str = ""
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def cli(self, *arguments: str) -> Any:
        """Run `ekabridge … --json` against this stack and return what it prints."""
        return json.loads(self._run(*arguments, "--json"))

    def _run(self, *arguments: str) -> bytes:
        done = subprocess.run(  # noqa: S603 - our own command line
            [*_CLI, *arguments], env=self.environment, capture_output=True, check=False
        )
        if done.returncode:
            raise StackFailed(f"ekabridge {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def migrate(self) -> None:
        """Bring the database to the newest schema."""
        self._run("migrate")

    def ended_part(self) -> str | None:
        """Return the name of a part that ended by itself, if one did."""
        return next((name for name, child in self.children.items() if child.poll() is not None), None)


@contextlib.contextmanager
def running_stack(
    *, port: int | None, log: int | None, data: Path | None = None, temporary: bool = False
) -> Iterator[Stack]:
    """Start everything, yield, and stop everything in order, however the block ends.

    `port` is the service's, None for a free one; `data` is kept there, by default in the user's cache, and
    with `temporary` thrown away at the end; `log` takes what the processes say. Raises StackFailed, or what
    `start_embedded` raises.
    """
    with start_embedded(data, temporary=temporary) as embedded:
        service, vendor, worker = port or free_port(), free_port(), free_port()
        stack = Stack(
            service_url=f"http://127.0.0.1:{service}",
            worker_url=f"http://127.0.0.1:{worker}",
            vendor_url=f"http://127.0.0.1:{vendor}",
            environment={},
        )
        stack.environment = _environment(stack, embedded)
        try:
            stack.migrate()
            _start(stack, "sandbox", ["sandbox", "--port", str(vendor)], log)
            _wait_for(stack, "sandbox", f"{stack.vendor_url}/voice/v1/.well-known/medscribealliance")
            _subscribe(stack)
            _start(stack, "serve", ["serve", "--port", str(service)], log)
            _start(stack, "worker", ["worker", "--host", "127.0.0.1", "--port", str(worker)], log)
            _wait_for(stack, "serve", f"{stack.service_url}/health/ready")
            _wait_for(stack, "worker", f"{stack.worker_url}/health/ready")
            _add_tenant(stack)
            yield stack
        finally:
            for name in ("serve", "worker", "sandbox"):
                if name in stack.children:
                    stop_guarded(stack.children[name])


def _start(stack: Stack, name: str, arguments: list[str], log: int | None) -> None:
    stack.children[name] = start_guarded([*_CLI, *arguments], stack.environment, log)


def _wait_for(stack: Stack, name: str, url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if stack.children[name].poll() is not None:
            raise StackFailed(f"`ekabridge {name}` ended before it was ready")
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(url, timeout=2.0, trust_env=False).is_success:
                return
        time.sleep(0.05)
    raise StackFailed(f"`ekabridge {name}` was not ready within {START_SECONDS:g} seconds")


def _environment(stack: Stack, embedded: Embedded) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EKABRIDGE_")}
    settings = {
        "DATABASE_URL": embedded.urls.database_url,
        "REDIS_URL": embedded.urls.redis_url,
        "PUBLIC_URL": stack.service_url,
        "EKA_BASE_URL": stack.vendor_url,
        "EKA_CLIENT_ID": "sandbox",
        "EKA_CLIENT_SECRET": "sandbox-secret",
        "WEBHOOK_SECRETS": secrets.token_urlsafe(24),
        "ENCRYPTION_KEYS": _encryption_key(embedded.folder),
        "ALLOW_PRIVATE_DESTINATIONS": "true",
    }
    # The environment of this run (a log level, a schedule) wins over the stack's own choice.
    given = {name: value for name, value in os.environ.items() if name.startswith("EKABRIDGE_")}
    own_account = {"EKA_CLIENT_ID", "EKA_CLIENT_SECRET", "EKA_SHARING_KEY", "EKA_TOKEN", "EKA_USERNAME"}
    fixed = {"DATABASE_URL", "REDIS_URL", "EKA_BASE_URL", "EKA_PASSWORD"} | own_account
    chosen = {name: value for name, value in given.items() if name.removeprefix("EKABRIDGE_") not in fixed}
    return inherited | {f"EKABRIDGE_{name}": value for name, value in settings.items()} | chosen


def _encryption_key(folder: Path) -> str:
    """Keep the key beside the data that it opens: kept data must open in the next run."""
    path = folder / _KEY_FILE
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(base64.b64encode(secrets.token_bytes(32)).decode())
    return path.read_text(encoding="ascii")


def _subscribe(stack: Stack) -> None:
    """Subscribe to the vendor's webhooks, as an operator does once."""
    httpx2.post(
        f"{stack.vendor_url}/notification/v1/connect/webhook/subscriptions",
        headers={"authorization": "Bearer sandbox-token"},
        json={
            "event_names": ["v2rx.completed"],
            "endpoint": f"{stack.service_url}/webhooks/eka",
            "signing_key": stack.environment["EKABRIDGE_WEBHOOK_SECRETS"].split(",")[0],
            "protocol": "https",
        },
        trust_env=False,
    ).raise_for_status()


def _add_tenant(stack: Stack) -> None:
    found = [item for item in stack.cli("tenant", "list")["items"] if item["name"] == "dev"]
    tenant = found[0] if found else stack.cli("tenant", "add", "dev", "--template", "eka_emr_template")
    stack.tenant_id = tenant["id"]
    # A key is shown once: an earlier run's cannot be shown again, so it gives way to a new one.
    for old in stack.cli("key", "list", stack.tenant_id)["items"]:
        if old["revoked_at"] is None:
            stack.cli("key", "revoke", stack.tenant_id, old["id"])
    stack.api_key = stack.cli("key", "add", stack.tenant_id, "--role", "admin")["key"]


def free_port() -> int:
    """Find a port that nobody has, below those that systems give to outgoing connections.

    One of those could be taken by any connection between this moment and the one when we listen.
    """
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - spread, not secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
