from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.settings import DATABASE, PREFIX, SERVICE, STORE, WORKER, Settings, SettingsError, load_settings

KEY, OLD_KEY = bytes(range(32)), bytes(range(32, 64))
KEY_TEXT, OLD_KEY_TEXT = (base64.b64encode(each).decode() for each in (KEY, OLD_KEY))
WHOLE = {
    "DATABASE_URL": "postgresql://u:dbpass@db/ekabridge",
    "REDIS_URL": "redis://:redispass@cache/0",
    "ENCRYPTION_KEYS": KEY_TEXT,
    "WEBHOOK_SECRETS": "hooksecret",
}


def load(needs: frozenset[str] = frozenset(), **variables: str) -> Settings:
    return load_settings({PREFIX + name: value for name, value in variables.items()}, needs=needs)


def problems_of(needs: frozenset[str] = frozenset(), **variables: str) -> list[str]:
    with pytest.raises(SettingsError) as failure:
        load(needs, **variables)
    return failure.value.problems


def test_the_defaults_are_those_of_the_contract():
    found = load()
    assert found == Settings()
    assert found.eka_base_url == "https://api.eka.care"
    assert found.webhook_tolerance_seconds == 300
    assert found.webhook_allow_unsigned is False
    assert found.reconcile_after_seconds == 30
    assert found.forward_timeout_seconds == 20
    assert found.allow_private_destinations is False
    assert found.chunk_max_bytes == 10_485_760
    assert sum(found.forward_schedule_seconds) >= 3 * 86_400
    assert (found.public_url, found.eka_token, found.webhook_secrets) == (None, None, ())


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("DATABASE_URL", "postgres://db/x", "postgres://db/x"),
        ("REDIS_URL", "rediss://cache:6380/1", "rediss://cache:6380/1"),
        ("REDIS_URL", "unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("PUBLIC_URL", "https://bridge.example/", "https://bridge.example"),
        ("SUPPORT_EMAIL", "it@hospital.example", "it@hospital.example"),
        ("KEEP_AUDIO", "until_result", "until_result"),
        ("KEEP_AUDIO", "30", "30"),
        (
            "VOICE_ORIGINS",
            "https://EMR.example:443/, http://localhost:3000,https://[::1]:8443",
            ("https://emr.example", "http://localhost:3000", "https://[::1]:8443"),
        ),
        ("EKA_STREAM_HOSTS", "Stream.eka.care, 10.0.0.5", ("stream.eka.care", "10.0.0.5")),
        ("EKA_BASE_URL", "http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("EKA_TOKEN", " token ", "token"),
        ("WEBHOOK_SECRETS", "new, old", ("new", "old")),
        ("WEBHOOK_SECRETS", "one,,two,", ("one", "two")),
        ("WEBHOOK_ALLOW_UNSIGNED", "TRUE", True),
        ("WEBHOOK_ALLOW_UNSIGNED", "0", False),
        ("WEBHOOK_TOLERANCE_SECONDS", "60", 60),
        ("ENCRYPTION_KEYS", f"{KEY_TEXT}, {OLD_KEY_TEXT}", (KEY, OLD_KEY)),
        ("RECONCILE_AFTER_SECONDS", "30", 30.0),
        ("FORWARD_SCHEDULE_SECONDS", "1, 2.5,60", (1.0, 2.5, 60.0)),
        ("FORWARD_TIMEOUT_SECONDS", "7.5", 7.5),
        ("ALLOW_PRIVATE_DESTINATIONS", "yes", True),
        ("FHIR_PATIENT_SYSTEM", "https://hospital.example/mrn", "https://hospital.example/mrn"),
        ("FHIR_ENCOUNTER_SYSTEM", "urn:oid:1.2.3", "urn:oid:1.2.3"),
        ("CHUNK_MAX_BYTES", "1024", 1024),
        ("RATE_LIMIT_PER_SECOND", "0", 0),
        ("RATE_LIMIT_BURST", "50", 50),
        ("DATABASE_POOL_SIZE", "4", 4),
        ("DATABASE_STATEMENT_CACHE_SIZE", "0", 0),
        ("SWEEP_INTERVAL_SECONDS", "0.5", 0.5),
        ("LOG_LEVEL", "WARNING", "warning"),
    ],
)
def test_each_variable_is_read(name, raw, value):
    assert getattr(load(**{name: raw}), name.lower()) == value


def test_the_vendor_account_is_read_as_a_whole():
    found = load(EKA_CLIENT_ID="id", EKA_CLIENT_SECRET="secret", EKA_SHARING_KEY="sharing")
    assert (found.eka_client_id, found.eka_client_secret, found.eka_sharing_key) == (
        "id",
        "secret",
        "sharing",
    )
    for lonely in ("EKA_CLIENT_ID", "EKA_CLIENT_SECRET"):
        (problem,) = problems_of(**{lonely: "x"})
        assert "EKA_CLIENT_ID" in problem
        assert "EKA_CLIENT_SECRET" in problem


def test_a_user_on_premises_is_read_as_a_whole_and_with_no_other_login():
    found = load(EKA_USERNAME="lab", EKA_PASSWORD="pässword, one")
    assert (found.eka_username, found.eka_password) == ("lab", "pässword, one")
    for lonely in ("EKA_USERNAME", "EKA_PASSWORD"):
        (problem,) = problems_of(**{lonely: "hunter2"})
        assert f"{PREFIX}EKA_USERNAME and {PREFIX}EKA_PASSWORD go together" in problem
        assert "hunter2" not in problem
    (problem,) = problems_of(EKA_USERNAME="lab", EKA_PASSWORD="hunter2", EKA_TOKEN="hunter2")
    assert f"go alone, without {PREFIX}EKA_TOKEN:" in problem
    assert "hunter2" not in problem


def test_every_problem_of_the_logins_is_told_at_once():
    problems = problems_of(
        EKA_USERNAME="lab", EKA_TOKEN="t", EKA_CLIENT_ID="id", EKA_SHARING_KEY="k", EKA_BASE_URL="ftp://x"
    )
    assert [problem.replace(PREFIX, "").split(":")[0] for problem in problems] == [
        "EKA_BASE_URL must be a URL that starts with https",
        "EKA_CLIENT_ID and EKA_CLIENT_SECRET go together",
        "EKA_USERNAME and EKA_PASSWORD go together",
        "EKA_USERNAME and EKA_PASSWORD go alone, without EKA_TOKEN, EKA_CLIENT_ID, EKA_SHARING_KEY",
    ]


BAD = {
    "DATABASE_URL": "mysql://root:hunter2@db/x",
    "REDIS_URL": "http://hunter2",
    "PUBLIC_URL": "https://",
    "SUPPORT_EMAIL": "hunter2",
    "KEEP_AUDIO": "hunter2",
    "VOICE_ORIGINS": "https://hunter2/path",
    "EKA_STREAM_HOSTS": "https://hunter2",
    "EKA_BASE_URL": "ftp://hunter2",
    "EKA_TOKEN": "hunter2\nX: y",
    "EKA_CLIENT_ID": "hunter2é",
    "EKA_CLIENT_SECRET": "hunter2\r",
    "EKA_SHARING_KEY": "hunter2\0",
    "EKA_USERNAME": "hun\nter2",
    "EKA_PASSWORD": "hun\udc80ter2",
    "WEBHOOK_ALLOW_UNSIGNED": "perhaps",
    "WEBHOOK_TOLERANCE_SECONDS": "0",
    "ENCRYPTION_KEYS": "hunter2",
    "RECONCILE_AFTER_SECONDS": "nan",
    "FORWARD_SCHEDULE_SECONDS": "1,soon",
    "FORWARD_TIMEOUT_SECONDS": "inf",
    "ALLOW_PRIVATE_DESTINATIONS": "2",
    "FHIR_PATIENT_SYSTEM": "hunter2",
    "FHIR_ENCOUNTER_SYSTEM": "urn:hun ter2",
    "CHUNK_MAX_BYTES": "10MB",
    "RATE_LIMIT_PER_SECOND": "-1",
    "RATE_LIMIT_BURST": "0",
    "DATABASE_POOL_SIZE": "-1",
    "DATABASE_STATEMENT_CACHE_SIZE": "1e3",
    "SWEEP_INTERVAL_SECONDS": "",
    "LOG_LEVEL": "loud",
}


def test_all_problems_are_told_at_once_and_no_value_with_them():
    # Spaces around a value are cut off, so the secret's line end must stand inside it.
    bad = BAD | {"EKA_CLIENT_SECRET": "hun\rter2", "EKA_SHARING_KEY": "hun\0ter2"}
    problems = problems_of(SERVICE, **bad)
    for name in BAD:
        if name != "SWEEP_INTERVAL_SECONDS":
            assert any(problem.startswith(PREFIX + name + " ") for problem in problems), name
    assert any("WEBHOOK_SECRETS is missing" in problem for problem in problems)
    assert "hunter2" not in "; ".join(problems)
    assert "ter2" not in "; ".join(problems)


@pytest.mark.parametrize("name", [name for name in BAD if name != "SWEEP_INTERVAL_SECONDS"])
def test_each_bad_value_alone_is_refused(name):
    value = {"EKA_CLIENT_SECRET": "a\rb", "EKA_SHARING_KEY": "a\0b"}.get(name, BAD[name])
    problems = problems_of(**{name: value})
    assert any(problem.startswith(PREFIX + name + " ") for problem in problems)


@pytest.mark.parametrize(
    ("needs", "missing"),
    [
        (frozenset(), set()),
        (DATABASE, {"DATABASE_URL"}),
        (STORE, {"DATABASE_URL", "ENCRYPTION_KEYS"}),
        (WORKER, {"DATABASE_URL", "ENCRYPTION_KEYS", "REDIS_URL"}),
        (SERVICE, {"DATABASE_URL", "ENCRYPTION_KEYS", "REDIS_URL", "WEBHOOK_SECRETS"}),
    ],
)
def test_each_process_misses_what_it_cannot_do_without(needs, missing):
    given_ = {name: value for name, value in WHOLE.items() if name not in missing}
    if not missing:
        assert load(needs, **given_).database_url == WHOLE["DATABASE_URL"]
        return
    problems = problems_of(needs, **given_)
    assert {problem.split()[0].removeprefix(PREFIX) for problem in problems} == missing


def test_an_empty_variable_counts_as_absent():
    assert load(EKA_TOKEN="", LOG_LEVEL="  ") == Settings()
    assert problems_of(DATABASE, DATABASE_URL=" ") == [f"{PREFIX}DATABASE_URL is missing"]


@pytest.mark.parametrize("name", ["WEBHOOK_SECRETS", "ENCRYPTION_KEYS"])
@pytest.mark.parametrize("raw", [",", " , ", ",,"])
def test_a_list_of_nothing_counts_as_absent_where_it_is_needed(name, raw):
    problems = problems_of(SERVICE, **(WHOLE | {name: raw}))
    assert [problem.split()[0] for problem in problems] == [PREFIX + name]


def test_a_schedule_without_any_wait_is_refused():
    # An empty one would make each delivery dead at its first hiccup.
    (problem,) = problems_of(FORWARD_SCHEDULE_SECONDS=",")
    assert problem.startswith(f"{PREFIX}FORWARD_SCHEDULE_SECONDS")


def test_unsigned_webhooks_must_be_allowed_in_so_many_words():
    without = {name: value for name, value in WHOLE.items() if name != "WEBHOOK_SECRETS"}
    assert any("WEBHOOK_SECRETS" in problem for problem in problems_of(SERVICE, **without))
    assert load(SERVICE, **without, WEBHOOK_ALLOW_UNSIGNED="true").webhook_secrets == ()


@pytest.mark.parametrize(
    "raw", [base64.b64encode(bytes(31)).decode(), base64.b64encode(bytes(33)).decode(), "é="]
)
def test_an_encryption_key_is_32_bytes_of_base64(raw):
    (problem,) = problems_of(ENCRYPTION_KEYS=f"{KEY_TEXT},{raw}")
    assert raw not in problem
    assert KEY_TEXT not in problem


secret_text = st.text("0123456789!$%&()*+-./<=>?@^_{|}~", max_size=30).map("Zq".__add__)


@given(secret_text)
def test_no_secret_is_ever_shown(secret):
    found = Settings(
        database_url=f"postgresql://u:{secret}@db/x",
        redis_url=f"redis://:{secret}@db/x",
        eka_token=secret,
        eka_client_secret=secret,
        eka_sharing_key=secret,
        eka_username=secret,
        eka_password=secret,
        webhook_secrets=(secret,),
        encryption_keys=(secret.encode(),),
    )
    for shown in (repr(found), str(found), f"{found}", f"{[found]!r}"):
        assert secret not in shown
        assert "set" in shown


def test_what_is_no_secret_is_shown_and_what_is_not_set_is_told():
    shown = repr(Settings(eka_token="x"))
    assert "'eka_token': 'set'" in shown
    assert "'eka_client_secret': 'not set'" in shown
    assert "'forward_timeout_seconds': 20.0" in shown


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_a_password_that_was_not_encoded_is_told_and_not_shown(name):
    """An unescaped slash makes part of the password look like a port, which a library would quote."""
    scheme = "redis" if name == "REDIS_URL" else "postgresql"
    with pytest.raises(SettingsError) as failure:
        load_settings({f"EKABRIDGE_{name}": f"{scheme}://u:S3cret/right@host/0"}, needs=frozenset())
    assert name in str(failure.value)
    assert "S3cret" not in str(failure.value)


def test_the_spool_must_hold_the_largest_chunk():
    problem = "EKABRIDGE_MAX_SPOOL_BYTES must not be less than EKABRIDGE_CHUNK_MAX_BYTES"
    assert problems_of(MAX_SPOOL_BYTES="2000000") == [problem]
    load(MAX_SPOOL_BYTES="2000000", CHUNK_MAX_BYTES="2000000")


@pytest.mark.parametrize(
    "raw", ["*", "null", "https://*.emr.example", "emr.example", "https://a.example?x", "https://ü.example"]
)
def test_no_page_of_just_anywhere_can_be_allowed(raw):
    (problem,) = problems_of(VOICE_ORIGINS=raw)
    assert problem.startswith("EKABRIDGE_VOICE_ORIGINS must be ")
