"""Whose the connections of a server are: nobody's give way when all are taken, and one owner has a share."""

from collections import Counter
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from uvicorn.server import ServerState

# Of a request's scope: its connection.
CONNECTION = "ekabridge.connection"
# So many that do not give way, because an answer is due to them, are looked at.
_MAX_LOOKED_AT = 64


class Connection(Protocol):
    """A connection as its owners see it."""

    owner: str | None

    @property
    def may_give_way(self) -> bool:
        """Whether nothing that is whole waits here for its answer."""
        ...

    def belong_to(self, owner: str, *, is_limited: bool) -> bool:
        """Count the connection as this owner's; false if the owner has its share of all."""
        ...

    def cut_unread(self) -> None:
        """Cut a client that has something to read."""
        ...

    def cut(self, reason: str) -> None:
        """Cut the connection."""
        ...


class ConnectionOwners:
    """The owners of one server's connections. Whoever has shown nothing yet is a stranger."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._strangers: dict[Connection, None] = {}
        # Connections that were cut, and of which the server has not heard yet.
        self._cut: set[Connection] = set()

    @property
    def cut_count(self) -> int:
        """How many of the server's connections are none any more."""
        return len(self._cut)

    def add(self, connection: Connection) -> None:
        """A connection is new, and a stranger's."""
        self._strangers[connection] = None

    def make_room(self, newcomer: Connection) -> bool:
        """Cut the connection that was a stranger's for longest; false if there is none."""
        for number, connection in enumerate(self._strangers):
            if number >= _MAX_LOOKED_AT:
                break
            if connection is not newcomer and connection.may_give_way:
                del self._strangers[connection]
                self._cut.add(connection)
                connection.cut("gave_way")
                return True
        return False

    def give(self, connection: Connection, owner: str, most: int | None) -> bool:
        """Count a connection as this owner's; false if the owner has `most` already."""
        if most is not None and self._counts[owner] >= most:
            return False
        self.forget(connection)
        self._counts[owner] += 1
        connection.owner = owner
        return True

    def forget(self, connection: Connection) -> None:
        """The connection is over, or another protocol's."""
        self._cut.discard(connection)
        self._strangers.pop(connection, None)
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


def belongs_to(scope: Any, owner: str, *, is_limited: bool = True) -> bool:
    """Count a request's connection as its sender's; false if the sender has three quarters of all already."""
    connection: Connection | None = scope.get(CONNECTION)
    return connection is None or connection.belong_to(owner, is_limited=is_limited)


def cut_unread(scope: Any) -> None:
    """Cut the connection of a request whose client reads its answer too slowly."""
    connection: Connection | None = scope.get(CONNECTION)
    if connection is not None:
        connection.cut_unread()
