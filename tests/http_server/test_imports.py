"""The service process loads nothing that only other commands need."""

import subprocess
import sys


def test_the_service_imports_neither_migrations_nor_the_sandbox() -> None:
    unwanted = "{'sqlalchemy', 'alembic', 'service.sandbox'}"
    modules = "sys, service.cli.main, service.http_server, service.app"
    code = f"import {modules}; print(sorted({unwanted} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
