import pytest, httpx2
from tests.bridge import Bridge

@pytest.mark.parametrize("n", range(10))
async def test_x(bridge: Bridge, n) -> None:
    if n == 0:
        print(bridge.settings.database_url, bridge.settings.redis_url)
        s = await bridge.create(templates=["a\n"], reference="a\u0000b")
        print(s)
        for b in [{"chunks": "3"}, {"force": 1}, {"force": "true"}, {"chunks": True}, {"chunks": 3.0}]:
            r = await bridge.end(s["id"], **b); print(b, r.status_code, r.text)
        for p in ["/v1/sessions/a%00b", "/v1/sessions?limit=1.0", f"/v1/sessions/{s['id']}?wait=nan",f"/v1/sessions/{s['id']}/documents?template_id=%00", "/v1/sessions?created_after=9999-12-31T23:59:59-23:59"]:
            r = await bridge.api.get(p); print(p, r.status_code, r.text[:300])
        for d in (10,100,300,500,700,900,990,1000,1500):
            m = "["*d + "]"*d
            r = await bridge.api.post("/v1/sessions", content='{"metadata":{"a":'+m+'}}', headers={"content-type":"application/json"}); print(d, r.status_code, r.text[:150])
        for v in ("1"*25, "1"*1000, "1"*4000, "1e999", "-0", "1"*5000):
            r = await bridge.api.post("/v1/sessions", content='{"metadata":{"a":'+v+'}}', headers={"content-type":"application/json"}); print(v[:20], r.status_code, r.text[-650:])
