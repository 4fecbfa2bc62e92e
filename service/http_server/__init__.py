"""The HTTP server: everything that subclasses or configures uvicorn. Other rooms import from here alone."""

from service.http_server.connection_owners import assign_owner, cut_unread
from service.http_server.graceful_shutdown import is_shutting_down, on_deadline, on_shutdown
from service.http_server.http_limits import MAX_CONNECTIONS
from service.http_server.rlimits import allow_open_files
from service.http_server.server import drain_seconds, listen, serve, serving_health
from service.http_server.signals import on_stop_signal
from service.http_server.supervisor import Supervisor
from service.http_server.websocket_fast_path import on_binary_frame

__all__ = [
    "MAX_CONNECTIONS",
    "Supervisor",
    "allow_open_files",
    "assign_owner",
    "cut_unread",
    "drain_seconds",
    "is_shutting_down",
    "listen",
    "on_binary_frame",
    "on_deadline",
    "on_shutdown",
    "on_stop_signal",
    "serve",
    "serving_health",
]
