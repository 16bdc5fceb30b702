"""Quizzes: what counts as the cluster's answer, and that every chapter's file can be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import KailabError
from cluster.workspace import Workspace
from course import questions as module
from course.chapters import Chapter, chapters
from course.questions import Asked, Question, questions
from labs.catalog import lab_numbered

LAB = lab_numbered(6)


def question(answer: str = "count", **more: object) -> Question:
    kubectl = ("get", "pods", "-o", "jsonpath={.items[*].kind}")
    return Question.model_validate({
        "id": "q", "ask": "How many?", "kubectl": kubectl, "answer": answer, "why": "Since <b>so</b>.", **more,
    })  # fmt: skip


@pytest.mark.parametrize(("answer", "printed", "right", "wrong"), [
    ("count", "pod/a\n\n pod/b\n", "2", "3"), ("text", " Burstable\n", "burstable", "BestEffort"),
    ("text", "a  b", "A b", "a"), ("words", "ReplicaSet ReplicaSet Job", "job", "Deployment"),
])  # fmt: skip
def test_the_answer_is_what_kubectl_prints(answer: str, printed: str, right: str, wrong: str) -> None:
    asked = question(answer)
    assert asked.is_right(f" {right} ", printed)
    assert not asked.is_right(wrong, printed)


@pytest.mark.parametrize("answer", ["count", "text", "words"])
def test_silence_is_no_answer(answer: str) -> None:
    assert not question(answer).truths(" \n")
    assert not question(answer).is_right("0", "")


def test_the_command_can_be_pasted() -> None:
    assert question().command == "kubectl get pods -o 'jsonpath={.items[*].kind}'"


def test_what_is_shown_is_no_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "printed_by_kubectl", lambda *_: "a\nb")
    asked = Asked(Workspace(tmp_path, tmp_path), LAB, question(ask="Is it <i>in</i> `web`?"))
    assert "&lt;i&gt;in&lt;/i&gt; <code>web</code>?" in asked.children[0].value
    asked.answer()
    assert "first" in asked.said.value
    asked.field.value = "<i>"
    asked.answer()
    assert "&lt;i&gt;" in asked.said.value
    asked.field.value = "2"
    asked.answer()
    assert "✓ " in asked.said.value
    assert "&lt;b&gt;" in asked.said.value


def test_without_a_cluster_it_says_what_to_start(tmp_path: Path) -> None:
    asked = Asked(Workspace(tmp_path, tmp_path), LAB, question(choices=["1", "2"]))
    asked.field.value = "1"
    asked.answer()
    assert "kailab up" in asked.said.value


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.path.stem)
def test_every_chapter_asks_and_is_asked(chapter: Chapter) -> None:
    asked = questions(chapter.number)
    assert len({one.id for one in asked}) == len(asked) >= 4
    assert f"quiz({chapter.number})" in chapter.path.read_text()


def test_a_chapter_without_a_quiz_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    with pytest.raises(KailabError, match="has no quiz"):
        questions(LAB.number)
    (tmp_path / "06.yaml").write_text("- {id: q, ask: what}")
    with pytest.raises(KailabError, match="no valid quiz"):
        questions(LAB.number)
