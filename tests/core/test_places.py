"""Line numbers of keys in TOML that tries to mislead."""

import tomllib

from steersman.core.places import locate

HARD = '''\
# [not.a.table]
title = """
[not.a.table]
size = 1
\\""" depth = 2
"""
raw = \'\'\'
[[no]]
size = 1 # """
\'\'\'
many = [
  [1, 2]
  , # ]
  ["a"]
]
"quoted key" = 1
"dotted.key".'b' = 2   # a = 3
text = "a # b" # [c]
inline = { depth = 1, x = [ "}" ] }
a . b = 1
[ part . "in ner" ] # comment
depth = 3
brackets = "]"
[x."a]b"]
depth = 4
[[stages]]
kind = "alpha"
[stages.inner]
depth = 5
[[stages]]
kind = "beta"
[[stages.list]]
v = 1
[[stages.list]]
v = 2
[last]
size = 9
'''


def test_locating_keys_in_a_hostile_file() -> None:
    tomllib.loads(HARD)
    lines = HARD.split("\n")
    expected = {
        "title": "title",
        "raw": "raw",
        "many": "many",
        "quoted key": '"quoted key"',
        "dotted.key.b": '"dotted',
        "text": "text",
        "inline": "inline",
        "a.b": "a . b",
        "part.in ner": "[ part",
        "part.in ner.depth": "depth = 3",
        "part.in ner.brackets": "brackets",
        "x.a]b": '[x."a]b"]',
        "x.a]b.depth": "depth = 4",
        "stages.0": "[[stages]]",
        "stages.0.kind": 'kind = "alpha"',
        "stages.0.inner": "[stages.inner]",
        "stages.0.inner.depth": "depth = 5",
        "stages.1": "[[stages]]",
        "stages.1.kind": 'kind = "beta"',
        "stages.1.list.0": "[[stages.list]]",
        "stages.1.list.0.v": "v = 1",
        "stages.1.list.1": "[[stages.list]]",
        "stages.1.list.1.v": "v = 2",
        "last": "[last]",
        "last.size": "size = 9",
    }
    places = locate(HARD, "f")
    assert places.keys() == expected.keys()
    for path, start in expected.items():
        assert lines[int(places[path].removeprefix("f:")) - 1].startswith(start), path


def test_line_numbers_count_newlines_only() -> None:
    assert locate('a = "\u2028"\r\nb = 1\n', "f") == {"a": "f:1", "b": "f:2"}
