"""Quizzes that the student's own cluster answers: what is right is read with kubectl at the moment of the answer.

One file a chapter, course/quizzes/NN.yaml: a list of questions. The command that finds the answer is shown afterwards,
for that is what is worth knowing.
"""

from __future__ import annotations

import html
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import ipywidgets as widgets
from markdown_it import MarkdownIt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cluster.errors import KailabError
from cluster.run import run
from cluster.tools import find_kubectl
from cluster.workspace import Workspace
from cluster.yamls import load
from labs.catalog import LabFolder, lab_numbered

FOLDER = Path(__file__).parent / "quizzes"
SECONDS = 20.0


class Question(BaseModel):
    """`kubectl` are its arguments; of what it prints, the answer is the number of lines that aren't empty (count),
    all of it (text), or any one word (words). Without `choices` the student types. `ask` and `why` are Markdown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    ask: str
    choices: tuple[str, ...] = ()
    kubectl: Annotated[tuple[str, ...], Field(min_length=1)]
    answer: Literal["count", "text", "words"]
    why: str

    @property
    def command(self) -> str:
        return shlex.join(("kubectl", *self.kubectl))

    def truths(self, printed: str) -> tuple[str, ...]:
        """What counts as right, by what kubectl printed; empty when it printed nothing."""
        lines = [line.strip() for line in printed.splitlines() if line.strip()]
        if not lines:
            return ()
        if self.answer == "count":
            return (str(len(lines)),)
        return tuple(dict.fromkeys(printed.split())) if self.answer == "words" else (" ".join(printed.split()),)

    def is_right(self, given: str, printed: str) -> bool:
        """Whether the student's answer is one of them, however it is spaced and capitalised."""
        return " ".join(given.split()).casefold() in {truth.casefold() for truth in self.truths(printed)}


def questions(number: int) -> list[Question]:
    """Those of a chapter. Raises KailabError naming what is wrong in the file."""
    path = FOLDER / f"{number:02d}.yaml"
    try:
        text = lab_numbered(number).fill(path.read_text())
        return TypeAdapter(list[Question]).validate_python(load(text))
    except FileNotFoundError:
        raise KailabError(f"Chapter {number} has no quiz.") from None
    except ValidationError as wrong:
        raise KailabError(f"{path.name} is no valid quiz.", why=str(wrong)) from None


def printed_by_kubectl(workspace: Workspace, lab: LabFolder, question: Question) -> str:
    """What the cluster says now, asked in the lab's namespace. Raises KailabError when it says nothing."""
    kubectl = find_kubectl(workspace)
    if kubectl is None or not workspace.kubeconfig.exists():
        raise KailabError("There is no cluster to ask.", mend="kailab up, in a terminal")
    named = () if {"-n", "--namespace", "-A", "--all-namespaces"} & set(question.kubectl) else ("-n", lab.namespace)
    done = run([kubectl, "--kubeconfig", workspace.kubeconfig, *named, *question.kubectl], timeout=SECONDS, check=False)
    if done.returncode or not question.truths(done.stdout):
        raise KailabError(
            "Your cluster can't tell yet.", why=done.stderr.strip()[:300] or f"{question.command} prints nothing",
            mend=f"do the tasks of lab {lab.number} first",
        )  # fmt: skip
    return done.stdout


class Quiz(widgets.VBox):  # type: ignore[misc]
    """A chapter's questions, one below the other; each says at once whether the cluster agrees."""

    def __init__(self, number: int, workspace: Workspace | None = None) -> None:
        lab = lab_numbered(number)
        self.asked = [Asked(workspace or Workspace.here(), lab, question) for question in questions(number)]
        super().__init__(children=self.asked)


class Asked(widgets.VBox):  # type: ignore[misc]
    """One question with its answer field."""

    def __init__(self, workspace: Workspace, lab: LabFolder, question: Question) -> None:
        self.question, self._workspace, self._lab = question, workspace, lab
        wide = widgets.Layout(width="auto")
        self.field: Any = (
            widgets.RadioButtons(options=question.choices, value=None, layout=wide)
            if question.choices
            else widgets.Text(placeholder="your answer", tooltip=question.ask)
        )
        self.button = widgets.Button(description="Answer", tooltip=f"Compare with the cluster: {question.id}")
        self.said = widgets.HTML()
        self.button.on_click(lambda _: self.answer())
        text = widgets.HTML(f"<p style='margin:.8rem 0 .2rem'>{_html(question.ask)}</p>")
        super().__init__(children=[text, self.field, self.button, self.said])

    def answer(self) -> None:
        """Compare what is in the field with what the cluster says, and show it."""
        given = str(self.field.value or "").strip()
        if not given:
            self._say("Choose or write an answer first.")
            return
        try:
            printed = printed_by_kubectl(self._workspace, self._lab, self.question)
        except KailabError as failed:
            self._say(html.escape(str(failed)))
            return
        if self.question.is_right(given, printed):
            self._say(f"✓ So it is. {_html(self.question.why)}", self.question.command)
        else:
            wrong = html.escape(f"Your cluster does not say {given!r}. Look for yourself, and try again:")
            self._say(wrong, self.question.command)

    def _say(self, shown: str, command: str = "") -> None:
        code = f"<br><code>{html.escape(command)}</code>" if command else ""
        # A status is read out only where it was there before its text; an alert also when it comes with it.
        self.said.value = f"<div role='alert'>{shown}{code}</div>"


def _html(markdown: str) -> str:
    return str(MarkdownIt("commonmark", {"html": False}).renderInline(markdown))
