"""The object store as obstore shows it: a folder in the tests, S3 in production by the same calls."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.domain.errors import StoreUnavailable
from service.object_store.block_objects import ObjectStoreBlocks


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStoreBlocks:
    return ObjectStoreBlocks(f"file://{tmp_path}/audio")


async def names_older_than(objects: ObjectStoreBlocks, seconds: float, folder: str = "f") -> list[str]:
    return sorted([name async for page in objects.older_than(folder, seconds) for name in page])


async def test_an_object_comes_back_as_it_was_put(objects: ObjectStoreBlocks, tmp_path: Path) -> None:
    content = os.urandom(1_048_600)
    await objects.put("f/ses_1/a", content)
    assert await objects.get("f/ses_1/a") == content
    assert (tmp_path / "audio/f/ses_1/a").read_bytes() == content


async def test_deleting_twice_or_what_is_not_there_is_no_error(objects: ObjectStoreBlocks) -> None:
    await objects.put("f/a", b"1")
    await objects.put("f/b", b"2")
    await objects.delete(["f/a", "f/missing"])
    await objects.delete(["f/a"])
    assert await names_older_than(objects, -60) == ["f/b"]


async def test_a_list_holds_the_old_objects_of_its_folder_alone(objects: ObjectStoreBlocks) -> None:
    for number in range(3):
        await objects.put(f"f/ses_{number}/a", b"1")
    await objects.put("g/a", b"1")
    assert await names_older_than(objects, -60) == [f"f/ses_{number}/a" for number in range(3)]
    assert await names_older_than(objects, 60) == []
    assert await names_older_than(objects, -60, "nothing") == []


async def test_a_missing_object_and_a_store_that_is_away_are_one_error_of_ours(
    objects: ObjectStoreBlocks, tmp_path: Path
) -> None:
    with pytest.raises(StoreUnavailable):
        await objects.get("f/missing")
    (tmp_path / "audio/f").write_bytes(b"a file where the folder should be")
    with pytest.raises(StoreUnavailable):
        await objects.put("f/a", b"1")


async def test_s3_that_does_not_answer_is_unavailable_and_says_nothing_of_its_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "the-id"),
        ("AWS_SECRET_ACCESS_KEY", "the-secret"),
        ("AWS_REGION", "ap-south-1"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_ALLOW_HTTP", "true"),
    ):
        monkeypatch.setenv(name, value)
    objects = ObjectStoreBlocks("s3://bucket/prefix")
    with pytest.raises(StoreUnavailable) as failed:
        await objects.put("f/a", b"1")
    assert "the-" not in str(failed.value)
    assert failed.value.__cause__ is None
    assert "the-secret" not in repr(objects)
