"""Our server overrides uvicorn's methods, and relies on its internals: a change of either must be seen."""

import inspect
import tomllib
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.http_server.graceful_shutdown import DrainingHttpProtocol, DrainingWebSocketProtocol
from service.http_server.server import Server
from service.sandbox.serving import StandInServer

SUBCLASSES: dict[type, type] = {
    DrainingHttpProtocol: HttpToolsProtocol,
    DrainingWebSocketProtocol: WebSocketsSansIOProtocol,
    Server: uvicorn.Server,
    StandInServer: uvicorn.Server,
}
# Not overridden, but our code sets or reads what they keep: a request's body, events and transport, a
# connection's queue and frames.
RELIED_ON: list[Any] = [
    FlowControl,
    RequestResponseCycle,
    HttpToolsProtocol.timeout_keep_alive_handler,
    HttpToolsProtocol._start_asgi_task,
    HttpToolsProtocol._unset_keepalive_if_required,
    WebSocketsSansIOProtocol.connection_lost,
    WebSocketsSansIOProtocol.handle_events,
    WebSocketsSansIOProtocol.handle_parser_exception,
    WebSocketsSansIOProtocol.send_receive_event_to_app,
    WebSocketsSansIOProtocol.stop_keepalive,
    uvicorn.Server._serve,
    uvicorn.Server.serve,
    uvicorn.Server.startup,
]
# Of uvicorn 0.54: the CRC-32 of each one's source.
REVIEWED = {
    "FlowControl": 3168744826,
    "HttpToolsProtocol.__init__": 233454501,
    "HttpToolsProtocol._should_upgrade": 2419313880,
    "HttpToolsProtocol._start_asgi_task": 2249907383,
    "HttpToolsProtocol._unset_keepalive_if_required": 1757244875,
    "HttpToolsProtocol.connection_lost": 2159918548,
    "HttpToolsProtocol.connection_made": 116668401,
    "HttpToolsProtocol.data_received": 1232120897,
    "HttpToolsProtocol.handle_websocket_upgrade": 4066497923,
    "HttpToolsProtocol.on_body": 2226630759,
    "HttpToolsProtocol.on_header": 22891759,
    "HttpToolsProtocol.on_headers_complete": 1652550485,
    "HttpToolsProtocol.on_message_begin": 3656681946,
    "HttpToolsProtocol.on_message_complete": 1222657557,
    "HttpToolsProtocol.on_response_complete": 876082119,
    "HttpToolsProtocol.on_url": 1114467971,
    "HttpToolsProtocol.shutdown": 4078802573,
    "HttpToolsProtocol.timeout_keep_alive_handler": 865897540,
    "RequestResponseCycle": 3445378447,
    "Server.__init__": 3024453942,
    "Server._serve": 1013776406,
    "Server.capture_signals": 1408809435,
    "Server.main_loop": 404528999,
    "Server.serve": 2669923623,
    "Server.shutdown": 215549664,
    "Server.startup": 2833208200,
    "WebSocketsSansIOProtocol.__init__": 2052574903,
    "WebSocketsSansIOProtocol.connection_lost": 4073110463,
    "WebSocketsSansIOProtocol.data_received": 1487265961,
    "WebSocketsSansIOProtocol.handle_connect": 998904398,
    "WebSocketsSansIOProtocol.handle_events": 1400231871,
    "WebSocketsSansIOProtocol.handle_parser_exception": 1578930293,
    "WebSocketsSansIOProtocol.handle_ping": 2626167531,
    "WebSocketsSansIOProtocol.send": 3416825369,
    "WebSocketsSansIOProtocol.send_receive_event_to_app": 2727053111,
    "WebSocketsSansIOProtocol.shutdown": 475079528,
    "WebSocketsSansIOProtocol.stop_keepalive": 4071257740,
}


def functions_that_matter() -> dict[str, Any]:
    """Return uvicorn's functions and classes whose change could break our server, by their names."""
    overridden = [
        getattr(base, name)
        for subclass, base in SUBCLASSES.items()
        for level in inspect.getmro(subclass)[: inspect.getmro(subclass).index(base)]
        for name, value in vars(level).items()
        if inspect.isfunction(value) and hasattr(base, name)
    ]
    return {each.__qualname__: each for each in [*overridden, *RELIED_ON]}


@pytest.mark.parametrize("name", sorted(functions_that_matter().keys() | REVIEWED.keys()))
def test_what_we_override_is_as_it_was_when_our_code_was_written(name: str) -> None:
    found = functions_that_matter().get(name)
    assert found is not None, f"{name} is no longer overridden: delete its line in REVIEWED"
    checksum = crc32(inspect.getsource(found).encode())
    assert REVIEWED.get(name) == checksum, (
        f"{name} of uvicorn {uvicorn.__version__} is not the one that service/http_server was written for. "
        f"Read its source beside our override, adapt ours, run tests/api/test_bounded_*.py, "
        f"tests/http_server/test_request_bodies.py and tests/e2e/test_stopping.py, then put {checksum} here."
    )


def test_uvicorn_is_pinned_to_the_minor_version_that_was_reviewed() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    (pin,) = [each for each in project["project"]["dependencies"] if each.startswith("uvicorn")]
    major, minor = map(int, uvicorn.__version__.split(".")[:2])
    assert pin == f"uvicorn>={major}.{minor},<{major}.{minor + 1}"
