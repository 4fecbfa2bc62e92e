"""`ekabridge dev`: everything on this machine until Ctrl-C."""

import signal
import threading
from pathlib import Path

import click

from service.sandbox.embedded.api import EmbeddedFailed, EmbeddedUnavailable
from service.sandbox.stack import Stack, StackFailed, running_stack

_POLL_SECONDS = 0.5
_GREETING = """
ekabridge runs. Ctrl-C stops all of it; the data is kept for the next time.

  API         {service}/v1
  API docs    {service}/docs
  key         {key}
  tenant      {tenant}
  vendor      {vendor} (stand-in; control API under /_control)
  worker      {worker}/health/ready
  database    {database}

Start a dictation:

  curl -s {service}/v1/sessions -H "Authorization: Bearer {key}" -X POST -d '{{"reference": "ENC-1"}}'

Send a chunk of audio and end it, with the session's id from that answer:

  curl -s {service}/v1/sessions/SESSION/audio/0 -H "Authorization: Bearer {key}" \
    -H "Content-Type: audio/wav" -T chunk.wav
  curl -s {service}/v1/sessions/SESSION/end -H "Authorization: Bearer {key}" -X POST

Or send a whole recording in one call:

  curl -s {service}/v1/recordings -H "Authorization: Bearer {key}" \
    -F 'session={{"reference": "ENC-1"}}' -F audio=@visit.m4a
"""


def run_dev(port: int, data: Path | None) -> int:
    """Run the stack on that data until SIGINT, SIGTERM or SIGHUP; return the exit status."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    try:
        with running_stack(port=port, data=data, log=None) as stack:
            click.echo(_greeting(stack))
            while not stopping.wait(_POLL_SECONDS):
                ended = stack.ended_part()
                if ended is not None:
                    raise StackFailed(f"`ekabridge {ended}` ended by itself")
            click.echo("stopping")
    except (StackFailed, EmbeddedFailed, EmbeddedUnavailable) as error:
        click.echo(f"ekabridge dev: {error}", err=True)
        return 1
    return 0


def _greeting(stack: Stack) -> str:
    return _GREETING.format(
        service=stack.service_url,
        worker=stack.worker_url,
        vendor=stack.vendor_url,
        key=stack.api_key,
        tenant=stack.tenant_id,
        database=stack.environment["EKABRIDGE_DATABASE_URL"],
    )
