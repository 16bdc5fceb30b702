"""Where in a cell the API server's words point to."""

from __future__ import annotations

import pytest

from course.manifest import _where

TEXT = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ai-api
spec:
  replica: 3
  template:
    spec:
      containers:
        - name: helper
          image: x
        - name: api
          images: y
"""


@pytest.mark.parametrize(("message", "line"), [
    ('unknown field "spec.replica"', 11),
    (".spec.replica: field not declared in schema", 11),
    ('.spec.template.spec.containers[name="api"].images: field not declared in schema', 18),
    ("spec.template.spec.containers[0].image: Invalid value", 16),
    ('Deployment.apps "ai-api" is invalid: spec.template.spec.containers[1].images: no', 18),
])  # fmt: skip
def test_a_field_is_found_in_the_cell_whose_first_line_is_the_magic(message: str, line: int) -> None:
    assert _where(message, TEXT, 1) == f", line {line}"


@pytest.mark.parametrize(
    "message", ["", "no such thing", "spec.selector: Required value", "metadata.labels[x.y/z]: no"]
)
def test_what_the_text_does_not_have_has_no_line(message: str) -> None:
    assert _where(message, TEXT, 1) == ""
