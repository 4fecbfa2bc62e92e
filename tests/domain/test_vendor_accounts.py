"""Whose account a call is made with, and what an operator may give."""

from __future__ import annotations

import hashlib

import pytest

from service.domain.errors import InvalidRequest, VendorRefused
from service.domain.ids import DEFAULT_ACCOUNT, Account, TenantId
from service.domain.vendor_accounts import (
    KEPT_SECONDS,
    AccountChange,
    Accounts,
    Credentials,
    VendorAccount,
    changed_account,
)
from tests.support.makers import TENANT

DEFAULT = VendorAccount(credentials=Credentials(token="ours"), webhook_secrets=("default",))
OWN = VendorAccount(
    credentials=Credentials(client_id="id", client_secret="s"), webhook_secrets=("one", "two")
)
HOSPITAL = Account(TENANT)


class OwnAccounts:
    """The domain's AccountStore, which counts."""

    def __init__(self, **own: VendorAccount) -> None:
        self.own_accounts = own
        self.asked: list[TenantId] = []

    async def own(self, tenant_id: TenantId) -> VendorAccount | None:
        self.asked.append(tenant_id)
        return self.own_accounts.get(tenant_id)


class Watch:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def test_the_default_account_is_nobody_s_question():
    rows = OwnAccounts()
    accounts = Accounts(default=DEFAULT, store=rows, time=Watch())
    assert await accounts.find(DEFAULT_ACCOUNT, fresh=True) == DEFAULT
    assert await accounts.webhook_secrets(DEFAULT_ACCOUNT) == ("default",)
    assert rows.asked == []


async def test_a_tenant_s_account_is_kept_for_a_while_and_then_asked_for_again():
    rows, watch = OwnAccounts(**{TENANT: OWN}), Watch()
    accounts = Accounts(default=DEFAULT, store=rows, time=watch)
    for _ in range(3):
        assert await accounts.webhook_secrets(HOSPITAL) == ("one", "two")
    assert rows.asked == [TENANT]
    rows.own_accounts[TENANT] = VendorAccount(credentials=Credentials(token="new"))
    watch.seconds = KEPT_SECONDS - 1
    assert (await accounts.credentials(HOSPITAL)).client_id == "id"
    watch.seconds = KEPT_SECONDS
    assert (await accounts.credentials(HOSPITAL)).token == "new"
    assert len(rows.asked) == 2


async def test_whoever_asks_afresh_sees_a_change_at_once_and_so_does_everybody_after():
    rows = OwnAccounts(**{TENANT: OWN})
    accounts = Accounts(default=DEFAULT, store=rows, time=Watch())
    await accounts.find(HOSPITAL)
    rows.own_accounts[TENANT] = VendorAccount(credentials=Credentials(token="new"))
    assert (await accounts.credentials(HOSPITAL, fresh=True)).token == "new"
    assert (await accounts.credentials(HOSPITAL)).token == "new"


async def test_an_account_that_was_just_given_works_at_once():
    rows = OwnAccounts()
    accounts = Accounts(default=DEFAULT, store=rows, time=Watch())
    assert await accounts.webhook_secrets(HOSPITAL) is None
    with pytest.raises(VendorRefused):
        await accounts.credentials(HOSPITAL)
    rows.own_accounts[TENANT] = OWN
    assert await accounts.find(HOSPITAL) == OWN


@pytest.mark.parametrize("name", ["", "ten_", "default ", "../x", "ten_" + "g" * 23, "ten_" + "é" * 24, "\0"])
async def test_what_cannot_be_a_tenant_is_not_asked_for(name: str):
    rows = OwnAccounts()
    assert await Accounts(default=DEFAULT, store=rows, time=Watch()).find(Account(name)) is None
    assert rows.asked == []


def test_secrets_are_never_printed_and_fingerprints_tell_credentials_apart():
    for secret in (OWN, OWN.credentials, AccountChange(credentials=OWN.credentials)):
        assert "id" not in repr(secret)
        assert "one" not in f"{secret}"
    fingerprints = {
        each.fingerprint
        for each in (
            Credentials(token="a"),
            Credentials(client_id="a", client_secret="b"),
            Credentials(client_id="a", client_secret="c"),
            Credentials(client_id="a", client_secret="b", sharing_key="c"),
            Credentials(username="a", password="b"),
            Credentials(username="a", password="c"),
        )
    }
    assert len(fingerprints) == 6
    assert Credentials(token="a").fingerprint == Credentials(token="a").fingerprint
    assert not any("secret" in each for each in fingerprints)


def test_replicas_of_the_version_before_users_agree_whose_tokens_are_kept():
    # Otherwise a rolling update makes old and new replicas throw away each other's tokens and log in in turn.
    before = hashlib.sha256(b'[null,"a","b",null]').hexdigest()
    assert Credentials(client_id="a", client_secret="b").fingerprint == before
    assert Credentials(token="t").fingerprint == hashlib.sha256(b'["t",null,null,null]').hexdigest()


def test_a_login_names_a_client_or_a_user_and_a_token_nobody():
    client, user = (
        Credentials(client_id="a", client_secret="b"),
        Credentials(username="a", password="b"),
    )
    assert (client.identity, user.identity) == (("client", "a"), ("user", "a"))
    assert Credentials(token="t").identity is None
    assert [each.are_given for each in (client, user, Credentials(token="t"), Credentials())] == [
        True,
        True,
        True,
        False,
    ]


def test_what_a_change_leaves_out_stays():
    token = Credentials(token="t")
    assert changed_account(OWN, AccountChange(credentials=token)) == VendorAccount(
        credentials=token, webhook_secrets=("one", "two")
    )
    assert changed_account(OWN, AccountChange(webhook_secrets=("three",))) == VendorAccount(
        credentials=OWN.credentials, webhook_secrets=("three",)
    )
    assert changed_account(None, AccountChange(credentials=token)) == VendorAccount(credentials=token)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (AccountChange(webhook_secrets=("one",)), "needs a token"),
        (AccountChange(credentials=Credentials(token="t", client_id="i", client_secret="s")), "goes alone"),
        (AccountChange(credentials=Credentials(token="t", sharing_key="k")), "goes alone"),
        (AccountChange(credentials=Credentials(client_id="i")), "go together"),
        (AccountChange(credentials=Credentials(client_secret="hush")), "go together"),
        (AccountChange(credentials=Credentials(sharing_key="hush")), "sharing key"),
        (AccountChange(credentials=Credentials(token="t", username="u", password="hush")), "goes alone"),
        (AccountChange(credentials=Credentials(token="t", password="hush")), "goes alone"),
        (AccountChange(credentials=Credentials(username="u")), "username and password go together"),
        (AccountChange(credentials=Credentials(password="hush")), "username and password go together"),
        (
            AccountChange(
                credentials=Credentials(username="u", password="p", client_id="i", client_secret="hush")
            ),
            "without a client",
        ),
        (
            AccountChange(credentials=Credentials(username="u", password="p", sharing_key="hush")),
            "without a client",
        ),
        (AccountChange(credentials=Credentials(username="u", password="")), "printable"),
        (AccountChange(credentials=Credentials(username="hush\r\n", password="p")), "printable"),
        (AccountChange(credentials=Credentials(username="u", password="hush\udc80")), "printable"),
        (AccountChange(credentials=Credentials(token="")), "printable"),
        (AccountChange(credentials=Credentials(token="hush\r\nx: y")), "printable"),
        (AccountChange(credentials=Credentials(token="hüsh")), "printable"),
        (AccountChange(credentials=Credentials(token="t"), webhook_secrets=("",)), "printable"),
        (AccountChange(credentials=Credentials(token="t"), webhook_secrets=("hush\n",)), "printable"),
    ],
)
def test_what_cannot_be_an_account_is_refused_without_telling_it(change: AccountChange, words: str):
    with pytest.raises(InvalidRequest, match=words) as refusal:
        changed_account(None, change)
    assert "hush" not in refusal.value.detail
