"""Validates bench reports with a JSON Schema library: argv is the schema, then reports.

Each report must be valid, and must no longer be once a member is missing or misspelt.
"""
import copy
import json
import sys

import jsonschema_rs

schema = json.load(open(sys.argv[1]))
validator = jsonschema_rs.Draft202012Validator(schema)
assert len(sys.argv) > 2
for path in sys.argv[2:]:
    report = json.load(open(path))
    for error in validator.iter_errors(report):
        raise SystemExit(f"{path}: {error}")
    for spoil in (
        lambda r: r.pop("device"),
        lambda r: r["rows"][0].pop("samples"),
        lambda r: r["rows"][0].update(samples=["1"]),
        lambda r: r["rows"][0].update(suite="kernel"),
        lambda r: r["device"].update(matrices=[{"m": 8}]),
        lambda r: r["program"].pop("commit"),
    ):
        spoilt = copy.deepcopy(report)
        spoil(spoilt)
        assert not validator.is_valid(spoilt), path
print("valid:", len(sys.argv) - 2)
