"""Shares a server's connections: when all are in use an unauthenticated one is cut; an owner has a quota."""

from collections import Counter
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from uvicorn.server import ServerState

# The key of a request's scope under which its connection stands.
CONNECTION = "ekabridge.connection"
# A search for a connection to cut looks at so many at most: more would block the event loop.
_MAX_SEARCHED = 64


class Connection(Protocol):
    """A connection as the quota sees it."""

    owner: str | None

    @property
    def may_be_cut(self) -> bool:
        """Whether no complete request waits here for its answer."""
        ...

    def assign_owner(self, owner: str, *, is_limited: bool) -> bool:
        """Count the connection as this owner's; false if the owner's quota is used up."""
        ...

    def cut_unread(self) -> None:
        """Cut the connection if its client leaves an answer unread."""
        ...

    def cut(self, reason: str) -> None:
        """Cut the connection."""
        ...


class ConnectionOwners:
    """The owners of one server's connections; a connection without an owner is unauthenticated."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._unauthenticated: dict[Connection, None] = {}
        # Connections that were cut and that uvicorn still counts.
        self._cut: set[Connection] = set()

    @property
    def cut_count(self) -> int:
        """How many connections uvicorn counts although they were cut."""
        return len(self._cut)

    def add(self, connection: Connection) -> None:
        """Count a new connection as unauthenticated."""
        self._unauthenticated[connection] = None

    def cut_oldest_unauthenticated(self, newcomer: Connection) -> bool:
        """Cut the connection that has been unauthenticated for longest; false if there is none."""
        for number, connection in enumerate(self._unauthenticated):
            if number >= _MAX_SEARCHED:
                break
            if connection is not newcomer and connection.may_be_cut:
                del self._unauthenticated[connection]
                self._cut.add(connection)
                connection.cut("gave_way")
                return True
        return False

    def assign(self, connection: Connection, owner: str, max_connections: int | None) -> bool:
        """Count a connection as this owner's; false if the owner has `max_connections` already."""
        if max_connections is not None and self._counts[owner] >= max_connections:
            return False
        self.remove(connection)
        self._counts[owner] += 1
        connection.owner = owner
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has closed or changed to another protocol."""
        self._cut.discard(connection)
        self._unauthenticated.pop(connection, None)
        owner, connection.owner = connection.owner, None
        if owner is not None:
            self._counts[owner] -= 1
            if not self._counts[owner]:
                del self._counts[owner]


_OWNERS: WeakKeyDictionary[ServerState, ConnectionOwners] = WeakKeyDictionary()


def owners_of(server_state: ServerState) -> ConnectionOwners:
    """Return the owners of a server's connections."""
    found = _OWNERS.get(server_state)
    if found is None:
        found = _OWNERS[server_state] = ConnectionOwners()
    return found


def assign_owner(scope: Any, owner: str, *, is_limited: bool = True) -> bool:
    """Count a request's connection as its sender's; false if the sender has three quarters of all already."""
    connection: Connection | None = scope.get(CONNECTION)
    return connection is None or connection.assign_owner(owner, is_limited=is_limited)


def cut_unread(scope: Any) -> None:
    """Cut a request's connection if its client reads the answer too slowly."""
    connection: Connection | None = scope.get(CONNECTION)
    if connection is not None:
        connection.cut_unread()
