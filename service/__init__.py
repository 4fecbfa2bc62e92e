"""The gateway's processes.

structlog takes rich along wherever it is installed, to draw errors on a terminal. Ours are JSON, and rich is
a twelfth of a start: so structlog is loaded here, before anybody asks for it, as if there were no rich.
"""

import sys

if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog as structlog
    finally:
        del sys.modules["rich"]
