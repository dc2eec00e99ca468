"""Mutations of a table or a JSON file: damage that can happen to it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from typing import Any

#: Values that may replace a cell.
CELLS = (
    *("", " ", "nan", "NaN", "None", "NULL", "inf", "-inf", "-1", "0", "-0", "1e400", "1e-400", "1e308", "-1e308"),
    *("9" * 400, "0.5e", "0,5", "1.000,5", "True", "false", "yes", "0x10", "1_000", "1;2", "½", "é", "\U0001f600"),
    *(
        "=1+1",
        "'",
        '"',
        '""',
        "a\nb",
        "a,b",
        "../../etc/passwd",
        "/etc/passwd",
        "x" * 100_000,
        "\x00",
        "a\x00b",
        "\ufeff",
    ),
    *("2147483648", "18446744073709551616", "-3", "1.5", "1e-30", "1" + " " * 300 + "0", "\u202e", "0000"),
)
#: Texts that may replace a JSON value; Python's JSON accepts more than its types suggest.
VALUES = (
    *("null", "true", "[]", "{}", '""', '"x"', '"\\ud800"', '"\\u0000"', "NaN", "Infinity", "-Infinity", "1e400", "-1"),
    *("1" + "0" * 400, "1" + "0" * 5000, "0.5", '"1.5"', "[[1, 2], [3]]", '{"a": [1]}', "[null]", '["a"]', "[1, [2]]"),
    *(
        '"' + "x" * 100_000 + '"',
        "[" * 200 + "]" * 200,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 5000 + "1" + "}" * 5000,
    ),
)


def flip_bytes(content: bytes, rng: random.Random) -> bytes:
    """Some bytes replaced."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 5, 20))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    """Only the beginning, or without a piece of the middle."""
    first, second = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:first] if rng.random() < 0.6 else content[:first] + content[second:]


def repeat(content: bytes, rng: random.Random) -> bytes:
    """A piece of the file twice."""
    first, second = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:second] + content[first:]


def other_file(content: bytes, rng: random.Random) -> bytes:
    """Something else altogether."""
    return rng.choice(
        (
            b"",
            b"\x00" * 1000,
            b"\n" * 1000,
            b"," * 5000,
            b'"' * 999,
            rng.randbytes(2000),
            b"PAR1" + rng.randbytes(100) + b"PAR1",
            b"\x1f\x8b" + rng.randbytes(100),
            b"<html><body>404</body></html>",
            content[:1],
        )
    )


def other_encoding(content: bytes, rng: random.Random) -> bytes:
    """The same text in another encoding, or with other ends of lines."""
    text = content.decode("utf-8", "replace")
    return rng.choice(
        (
            text.encode("utf-16"),
            text.encode("utf-8-sig"),
            text.replace("e", "é").encode("latin-1", "replace"),
            text.replace("\n", "\r\n").encode(),
            text.replace("\n", "\r").encode(),
            text.replace("\n", "\n\n").encode(),
            gzip.compress(content),
            content.replace(b"a", b"\xed\xa0\x80", 2),
        )
    )


def change_cells(content: bytes, rng: random.Random) -> bytes:
    """Some cells hold something else, or all of a column."""
    header, rows = _table(content)
    if not rows:
        return content
    column = rng.randrange(len(header))
    chosen = (
        range(len(rows)) if rng.random() < 0.2 else [rng.randrange(len(rows)) for _ in range(rng.choice((1, 1, 3)))]
    )
    value = rng.choice(CELLS)
    # Large values go into a few cells only, because a file of half a gigabyte would take time and test no more.
    for row in list(chosen)[:16] if len(value) > 1000 else chosen:
        if column < len(rows[row]):
            rows[row][column] = value if rng.random() < 0.8 else rng.choice(CELLS)
    return _written(header, rows)


def change_columns(content: bytes, rng: random.Random) -> bytes:
    """A column lost, renamed, twice, swapped, or very many of them."""
    header, rows = _table(content)
    if not header:
        return content
    at, into = rng.randrange(len(header)), rng.randrange(len(header))
    kind = rng.choice(("lost", "renamed", "twice", "swapped", "shifted", "many", "other separator"))
    if kind == "renamed":
        header[at] = rng.choice((*CELLS[:20], header[into], header[at].upper(), header[at] + " "))
    elif kind == "many":
        header = [*header, *(f"c{number}" for number in range(3000))]
    elif kind == "other separator":
        return _written(header, rows, rng.choice(";\t| "))
    for row in [header, *rows] if kind in ("lost", "twice", "swapped") else rows if kind == "shifted" else []:
        if max(at, into) >= len(row):
            continue
        if kind == "lost":
            del row[at]
        elif kind == "twice":
            row.append(row[at])
        elif kind == "swapped":
            row[at], row[into] = row[into], row[at]
        else:
            row.insert(at, "1")
    return _written(header, rows)


def change_rows(content: bytes, rng: random.Random) -> bytes:
    """Records lost, twice, in another order, too long or too short."""
    header, rows = _table(content)
    kind = rng.choice(("none", "one", "twice", "shuffled", "long", "short", "all long", "header twice"))
    if not rows or kind == "none":
        return _written(header, [])
    at = rng.randrange(len(rows))
    if kind == "one":
        rows = [rows[at]]
    elif kind == "twice":
        rows += rows[at : at + rng.choice((1, 10, 100))]
    elif kind == "shuffled":
        rng.shuffle(rows)
    elif kind == "long":
        rows[at].append("1")
    elif kind == "short":
        rows[at] = rows[at][: rng.randrange(len(rows[at]) + 1)]
    elif kind == "all long":
        rows = [[*row, "1"] for row in rows]
    else:
        rows.insert(at, list(header))
    return _written(header, rows)


TABLE_MUTATIONS = (
    *(change_cells, change_cells, change_cells, change_columns, change_rows),
    *(flip_bytes, cut, repeat, other_file, other_encoding),
)


def change_values(content: bytes, rng: random.Random) -> bytes:
    """Some nodes of a JSON file are something else, lost, or twice."""
    tree = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        tree = _change_node(tree, rng)
    text = json.dumps(tree)
    for number, value in enumerate(VALUES):
        text = text.replace(f'"<value {number}>"', value)
    return text.encode("utf-8", "surrogatepass")


def _change_node(node: Any, rng: random.Random) -> Any:
    if isinstance(node, (dict, list)) and node and rng.random() < 0.9:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        kind = rng.random()
        if kind < 0.1:
            del node[key]
        elif kind < 0.2 and isinstance(node, list):
            node.append(node[key])
        elif kind < 0.25 and isinstance(node, dict):
            node[rng.choice(("", "x", "image_id", "phrase"))] = node.pop(key)
        else:
            node[key] = _change_node(node[key], rng)
        return node
    return f"<value {rng.randrange(len(VALUES))}>"


JSON_MUTATIONS = (change_values, change_values, change_values, flip_bytes, cut, repeat, other_file, other_encoding)


def _table(content: bytes) -> tuple[list[str], list[list[str]]]:
    rows = list(csv.reader(io.StringIO(content.decode("utf-8", "replace").replace("\x00", ""), newline="")))
    return (rows[0], rows[1:]) if rows else ([], [])


def _written(header: list[str], rows: list[list[str]], separator: str = ",") -> bytes:
    text = io.StringIO(newline="")
    # A cell with a quote or a carriage return is quoted; a NUL is written as it is.
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerows([header, *rows])
    return text.getvalue().encode("utf-8", "surrogatepass")
