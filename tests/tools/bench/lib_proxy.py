"""A proxy as a team would write it in an hour: fastapi-proxy-lib before the port of BENCH_UPSTREAM."""

import os

from fastapi_proxy_lib.fastapi.app import reverse_http_app

app = reverse_http_app(base_url=f"http://127.0.0.1:{os.environ['BENCH_UPSTREAM']}/")
