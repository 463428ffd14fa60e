"""Folders on a real S3 server: whole objects, options in URIs, one writer, errors in one line."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from rsray.errors import UserError
from rsray.storage import Place, lock, place, read_file, write_file
from rsray.storage.address import address_beside, parent_and_name


@pytest.fixture(params=["environment", "options"])
def store(request):
    return request.getfixturevalue(
        "bucket" if request.param == "environment" else "bucket_of_options"
    )


@pytest.fixture
def folder(bucket):
    return Place.of(bucket.uri("runs/one")).make()


def test_write_read_exists_delete(store):
    folder = Place.of(store.uri("a/run"))
    assert not folder.exists() and folder.names() == []
    folder.make()
    folder.write("counts.bin", b"\x00\x01" * 1000)
    assert store.get("a/run/counts.bin") == folder.read("counts.bin") == b"\x00\x01" * 1000
    folder.write("counts.bin", b"new")
    assert folder.read("counts.bin") == b"new" and folder.is_file("counts.bin")
    inner = (folder / "counts").make()
    inner.write("part-1.parquet", b"1")
    assert store.keys() == ["a/run/counts.bin", "a/run/counts/part-1.parquet"]
    assert folder.names() == ["counts", "counts.bin"] and inner.names(".parquet") == [
        "part-1.parquet"
    ]
    assert (
        folder.exists("counts")
        and not folder.is_file("counts")
        and (inner / "part-1.parquet").is_file()
    )
    folder.delete("counts")
    folder.delete("nothing")
    assert not inner.exists() and store.keys() == ["a/run/counts.bin"]
    with pytest.raises(FileNotFoundError):
        folder.read("nothing")


def test_files_by_address_and_the_pickle(store):
    folder = pickle.loads(pickle.dumps(Place.of(store.uri("run/"))))
    write_file(folder / "x" / "summary.json", b"{}")
    assert (
        read_file(folder / "x" / "summary.json")
        == read_file(store.uri("run/x/summary.json"))
        == b"{}"
    )
    with pytest.raises(UserError, match=r"run/none\S* does not exist"):
        read_file(folder / "none")


def test_a_large_object_comes_back_whole(folder, bucket):
    content = os.urandom(23 * 2**20)  # several parts of an upload
    folder.write("model.safetensors", content)
    assert folder.read("model.safetensors") == content == bucket.get("runs/one/model.safetensors")


def test_options_stay_at_the_end_of_a_uri_and_out_of_messages():
    uri = "s3://key:secret@bucket/run?scheme=http&endpoint_override=http://h:1"
    folder = Place(uri) / "counts"
    assert (
        os.fspath(folder)
        == "s3://key:secret@bucket/run/counts?scheme=http&endpoint_override=http://h:1"
    )
    assert str(folder) == "s3://bucket/run/counts"
    assert parent_and_name(folder.uri) == (uri, "counts")
    assert (
        address_beside("s3://b/run/?scheme=http", "-alpha0.1") == "s3://b/run-alpha0.1?scheme=http"
    )
    assert address_beside("runs/a?b", "-n10") == "runs/a?b-n10"  # a local name
    assert parent_and_name("/what?.tsv") == ("/", "what?.tsv")


def test_what_the_store_refuses_is_the_users_mistake(bucket, monkeypatch):
    nowhere = Place.of("s3://no-such-bucket-here/run")
    for action in (
        nowhere.make,
        lambda: nowhere.write("a", b""),
        lambda: nowhere.locked().__enter__(),
    ):
        with pytest.raises(UserError, match="cannot .*s3://no-such-bucket-here/run") as problem:
            action()
        assert "\n" not in str(problem.value)


@pytest.mark.slow  # Arrow tries for six seconds
def test_a_server_that_does_not_answer(bucket_of_options):
    where = "s3://bucket/run?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1"
    with pytest.raises(UserError, match="cannot read s3://bucket/run: "):
        Place.of(where).exists("run.yaml")


def test_an_interrupt_leaves_whole_objects_only(folder, bucket, monkeypatch):
    """Ctrl-C while an object is open: without care, closing it would store what is there."""
    real = place._put_object

    def slow(filesystem, path, data):
        with filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(data[:10])
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            stream.write(data[10:])

    monkeypatch.setattr(place, "_put_object", slow)
    with pytest.raises(KeyboardInterrupt):
        folder.write("run.yaml", b"0123456789abcdef")
    monkeypatch.setattr(place, "_put_object", real)
    assert bucket.get("runs/one/run.yaml") == b"0123456789abcdef"


HOLD = """
    import sys
    from rsray.storage import Place
    with Place.of(sys.argv[1]).locked():
        print("held", flush=True)
        sys.stdin.read()
"""


def test_another_process_holds_the_lock_until_it_is_killed(folder, bucket):
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), folder.uri],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another rsray is writing to .*use another --out"):
            with folder.locked():
                pass
        assert len(bucket.keys()) == 1  # the loser took its claim away
    finally:
        holder.kill()
        holder.communicate()
    assert len(bucket.keys()) == 1
    with folder.locked():  # dead on this machine: no need to wait
        pass
    assert bucket.keys() == []


def test_the_lock_is_given_back(folder, bucket):
    with folder.locked(), pytest.raises(UserError, match="another rsray"), folder.locked():
        pass
    with pytest.raises(RuntimeError), folder.locked():
        raise RuntimeError
    with folder.locked():
        assert [name[:7] for name in folder.names()] == [
            ".claim-"
        ]  # hidden: "not empty" overlooks it
    assert bucket.keys() == []


def claim_of_another_machine(bucket):
    text = json.dumps({"machine": "there", "host": "there", "pid": 1, "time": time.time()})
    bucket.put("runs/one/.claim-other", text.encode())


def test_a_claim_of_another_machine_ends_when_it_is_not_renewed(folder, bucket, monkeypatch):
    claim_of_another_machine(bucket)
    with pytest.raises(UserError, match="host there, process 1.*wait [56][0-9] seconds"):
        with folder.locked():
            pass
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.0)
    time.sleep(2.2)  # S3 tells whole seconds
    with folder.locked():
        assert "runs/one/.claim-other" not in bucket.keys()


def test_a_long_run_renews_its_claim(folder, bucket, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lock, "_is_dead", lambda said: False)
    with folder.locked():
        time.sleep(3.2)
        with pytest.raises(UserError, match="another rsray"), folder.locked():
            pass
    time.sleep(0.5)
    assert bucket.keys() == []  # and is not renewed once it is given back


def test_of_many_at_once_at_most_one_holds_the_folder(folder):
    inside, most, done = [], [], []
    start = threading.Barrier(6)

    def attempt():
        start.wait()
        for _ in range(5):
            try:
                with folder.locked():
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.01)
                    inside.pop()
                    done.append(1)
            except UserError:
                time.sleep(0.01)

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) <= {1}
