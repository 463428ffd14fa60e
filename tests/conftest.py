"""What all tests begin with, and a real S3 server on this machine for those that ask for it."""

import logging
import os
import signal
import uuid

import pytest

# As in a terminal: what starts the tests (`nohup`, a shell's `&`) may ignore signals that tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores: torch, which is not imported yet, starts no threads of its own.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Bucket:
    """A new bucket, and what boto3 (not our code) sees in it."""

    def __init__(self, server):
        import boto3

        self.server, self.name = server, f"b-{uuid.uuid4().hex[:12]}"
        self.client = boto3.client(
            "s3", endpoint_url=server, aws_access_key_id="test", aws_secret_access_key="test",
            region_name="us-east-1",
        )  # fmt: skip
        self.client.create_bucket(Bucket=self.name)

    def uri(self, path):
        return f"s3://{self.name}/{path}"

    def keys(self, prefix=""):
        """Return the names of the objects, the markers of folders left out."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        found = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [key for key in found if not key.endswith("/")]

    def get(self, key):
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def put(self, key, content):
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def upload(self, folder, prefix):
        for file in folder.rglob("*"):
            if file.is_file():
                self.put(f"{prefix}/{file.relative_to(folder).as_posix()}", file.read_bytes())


@pytest.fixture(scope="session")
def s3_server():
    """The address of moto's S3 server."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """An empty bucket that `s3://` reaches by the environment, as with any S3-like store."""
    for key, value in {**KEYS, "AWS_ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(key, value)
    return Bucket(s3_server)


@pytest.fixture
def bucket_of_options(s3_server, monkeypatch):
    """An empty bucket that is reached by the options in a URI alone."""
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    found = Bucket(s3_server)
    options = f"?endpoint_override={s3_server.removeprefix('http://')}&scheme=http"
    found.uri = lambda path: f"s3://{found.name}/{path}{options}"
    return found
