"""Values in files that are no numbers or text of this world: one line, whatever reads them."""

import pytest

from rsray.errors import UserError
from rsray.storage.records import from_json
from rsray.storage.yaml_files import from_yaml


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r'{"name": "half \ud800"}', r"'half \\ud800', which is no text"),
        (r'{"half \udfff": 1}', "which is no text"),
        ('{"a": 1e999}', "holds inf, which is no number"),
        ('{"a": 1' + "0" * 30 + "}", "a number of more than"),
        ('{"a": ' + "[" * 60 + "]" * 60 + "}", "nested too deeply"),
    ],
)
def test_what_is_no_plain_value_is_refused(text, words):
    with pytest.raises(UserError, match=words) as problem:
        from_json(text, "x.json")
    assert "\n" not in str(problem.value) and str(problem.value).isprintable()
    if "1e999" not in text:
        with pytest.raises(UserError, match=words):
            from_yaml(text.encode(), "x.yaml")


def test_plain_values_are_read():
    text = r'{"name": "Ü é", "n": 1}'
    assert from_json(text, "x") == from_yaml(text.encode(), "x") == {"name": "Ü é", "n": 1}
