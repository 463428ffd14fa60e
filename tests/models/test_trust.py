"""Code runs only where the user's own words name it."""

import sys

import pytest

import rsray
from rsray.errors import UserError
from rsray.models import factory
from rsray.models.factory import from_factory
from rsray.storage.yaml_files import from_yaml, to_yaml


@pytest.fixture
def marked(tmp_path, monkeypatch):
    """A package in the current folder whose import leaves a mark."""
    folder = tmp_path / "stranger_net"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import pathlib, torch\n"
        f"pathlib.Path({str(tmp_path / 'RAN')!r}).touch()\n"
        "def make(image_shape, num_classes):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    yield tmp_path / "RAN"
    sys.modules.pop("stranger_net", None)


def test_a_factory_that_only_a_file_names_is_not_imported(marked, tmp_path):
    run = rsray.train(
        dataset="digits", objective="gaussian", model="stranger_net:make", epochs=1, limit=64,
        out=tmp_path / "run", progress=False,
    )  # fmt: skip
    assert marked.exists()
    marked.unlink()
    sys.modules.pop("stranger_net")
    for wrong in (
        lambda: rsray.predict(run, n=20, limit=2),
        lambda: rsray.plan(run, seconds=0.1),
        lambda: rsray.predict(f"{run.path}/model.safetensors", n=20, limit=2),
        lambda: run.model(),
        lambda: rsray.train(config=f"{run.path}/run.yaml", out=tmp_path / "b", progress=False),
        lambda: rsray.tune(config=f"{run.path}/run.yaml", out=tmp_path / "t", progress=False),
    ):
        with pytest.raises(UserError, match="names the network 'stranger_net:make', which is code"):
            wrong()
    assert not marked.exists()
    assert rsray.predict(run, model="stranger_net:make", n=20, limit=2).table.num_rows == 2
    assert marked.exists()


@pytest.mark.parametrize(
    "name", ["stranger_net:make", "stranger_net:make://", "stranger_net:x://y"]
)
def test_a_run_yaml_that_was_edited_imports_nothing(name, marked, tmp_path):
    run = rsray.train(
        dataset="digits", objective="gaussian", epochs=1, limit=64, out=tmp_path / "run",
        progress=False,
    )  # fmt: skip
    record = tmp_path / "run" / "run.yaml"
    record.write_bytes(to_yaml({**from_yaml(record.read_bytes(), "r"), "model": name}))
    with pytest.raises(UserError, match="which is code|of the form package.module:factory"):
        rsray.predict(run.path, n=20, limit=2)
    assert not marked.exists()


def test_the_current_folder_is_looked_at_last(marked, tmp_path):
    (tmp_path / "yaml.py").write_text("raise RuntimeError('the wrong yaml')")
    from_factory("stranger_net:make", (1, 8, 8), 10, {})
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "sys:exit",
        "signal:pause",
        "os:abort",
        "os.path:join",
        "torch:os.abort",
        "torch:os._exit",
        "torch:multiprocessing.Process",
        "rsray.models.factory:signal.pause",
    ],
)
def test_nothing_of_python_itself_is_called(name):
    with pytest.raises(UserError, match="is a part of Python, not of yours"):
        from_factory(name, (1, 8, 8), 10, {})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit(3)", "SystemExit"),
        ("import os; os._exit(3)", "SystemExit: it would end rsray"),
        ("import os; os.abort()", "SystemExit: it would end rsray"),
        ("raise BaseException('x')", "BaseException: x"),
        ("import time; time.sleep(30)", "has not returned in 0.2 seconds"),
        (
            "import time\n    while True:\n        try: time.sleep(30)\n        except Exception: pass",
            "has not returned in 0.2 seconds",
        ),
    ],
)
def test_a_factory_that_ends_the_process_or_does_not_end_is_refused(
    tmp_path, monkeypatch, body, words
):
    monkeypatch.setattr(factory, "MOST_SECONDS", 0.2)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"ends_{len(body)}"
    (tmp_path / f"{name}.py").write_text(f"def make():\n    {body}\n")
    with pytest.raises(UserError, match=words):
        from_factory(f"{name}:make", (1, 8, 8), 10, {})


def test_a_module_that_hangs_or_ends_the_process_as_it_is_imported_is_refused(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(factory, "MOST_SECONDS", 0.2)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "hangs_16.py").write_text("import time\ntime.sleep(30)\n")
    (tmp_path / "ends_16.py").write_text("import os\nos._exit(3)\n")
    with pytest.raises(UserError, match="has not returned in 0.2 seconds"):
        from_factory("hangs_16:make", (1, 8, 8), 10, {})
    with pytest.raises(UserError, match="it would end rsray"):
        from_factory("ends_16:make", (1, 8, 8), 10, {})


def test_the_children_of_a_factory_end_as_ever(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "forks_16.py").write_text(
        "import os, torch\n"
        "def make():\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os._exit(7)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "    return torch.nn.Linear(2, 2)\n"
    )
    assert from_factory("forks_16:make", (1, 8, 8), 10, {}) is not None


@pytest.mark.parametrize(
    "more",
    [
        {"starts": {"macer": {"model": "stranger_net:make"}}},
        {"search": {"objective": "choice(gaussian,macer)", "model": "choice(stranger_net:make)"}},
        {"search": {"objective": "choice(gaussian,macer)", "macer.model": "choice(stranger_net:make)"}},
    ],
    ids=["a start", "the space", "the space of one objective"],
)  # fmt: skip
def test_a_search_of_a_file_imports_no_factory(more, marked, tmp_path):
    file = tmp_path / "tune.yaml"
    settings = {
        "train": {"dataset": "digits", "objective": "gaussian", "model": "lenet"},
        "search": {"objective": "choice(gaussian,macer)", "lr": "log(0.01,0.1)"},
    }
    file.write_bytes(to_yaml({**settings, **more}))
    with pytest.raises(UserError, match="names the network 'stranger_net:make', which is code"):
        rsray.tune(config=file, out=tmp_path / "t", trials=2, progress=False)
    assert not marked.exists() and not (tmp_path / "t").exists()


@pytest.mark.parametrize("starts", [5, {"macer": 5}, ["macer"]])
def test_starts_that_are_none_are_told_in_a_line(starts, tmp_path):
    file = tmp_path / "tune.yaml"
    file.write_bytes(to_yaml({
        "train": {"dataset": "digits", "objective": "gaussian"}, "starts": starts,
        "search": {"objective": "choice(gaussian,macer)", "lr": "log(0.01,0.1)"},
    }))  # fmt: skip
    with pytest.raises(UserError, match="starts holds no settings"):
        rsray.tune(config=file, out=tmp_path / "t", trials=2, progress=False)
