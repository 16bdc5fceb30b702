"""The `kailab` command: thin, every verb lives in a module of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.errors import KailabError
from cluster.workspace import Workspace
from labs import gpu_cli

if TYPE_CHECKING:
    from rich.console import Console

    from checkers.results import Report
    from labs.catalog import LabFolder
    from labs.desk import Desk
    from labs.lifecycle import Course

number_argument = click.argument("number", metavar="N", type=int, help="the lab's number, see `kailab list`")
task_option = click.option("--task", "-t", default="", help="only this task")
json_option = click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout (checkers/schema.json)")
AnyPath = click.Path(path_type=Path)
INTERRUPTED = 130
ECHO_SECONDS = 2.0
AT_FAULT = 2  # exit status: the checker or the cluster, not the student's work


class _Kailab(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a student's first day, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Click itself says no more than "Aborted!" after Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@click.group(cls=_Kailab)
def app() -> None:
    """Kubernetes for AI: labs on a real local cluster, checked. Start with `make lab-6` or `kailab up`."""


def _console(*, stderr: bool = False) -> Console:
    from checkers.report.terminal import console

    return console(stderr=stderr)


@app.command()
def doctor() -> None:
    """What this machine lacks, and the commands that mend it."""
    from cluster.doctor import examine
    from labs.screens import show_findings

    findings = examine(Workspace.here())
    show_findings(findings, _console())
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


@app.command()
def up() -> None:
    """Bring the course cluster up, or repair it. Safe to repeat, also after Ctrl-C."""
    from labs.setup import bring_up

    bring_up(Workspace.here(), _console())


@app.command()
def status() -> None:
    """The course cluster's nodes and add-ons; changes nothing."""
    from labs.screens import show_status
    from labs.setup import status as cluster_status

    found = cluster_status(Workspace.here())
    show_status(found, _console())
    sys.exit(0 if found.is_ready else AT_FAULT)


@app.command()
def down() -> None:
    """Remove the course cluster. Its images stay for the next one; your files in work/ and your points too."""
    from cluster.bringup import down as take_down

    take_down(Workspace.here(), _console())


@app.command(hidden=True)
def distclean() -> None:
    """Remove the caches and kailab's images too. Your files, points and evidence stay."""
    from cluster.bringup import down as take_down
    from cluster.bringup import remove_caches

    take_down(Workspace.here(), _console(), stop_engine=False)
    remove_caches(Workspace.here(), _console())


@app.command("list")
def list_labs() -> None:
    """The labs, your points, and where you left off."""
    from labs.catalog import all_labs
    from labs.progress import Progress
    from labs.screens import show_labs

    show_labs(all_labs(), Progress(Workspace.here()), _console())


@app.command()
@number_argument
def start(number: int) -> None:
    """Begin a lab: its namespace, and your folder in work/."""
    from labs.desk import Desk
    from labs.screens import show_started

    desk = Desk(Workspace.here(), _lab(number))
    if fleets := desk.lab.file.fleets:
        count = sum(fleet.nodes for fleet in fleets)
        _console().print(f"{count} simulated nodes join the cluster, unless they are there: about 10 s")
    show_started(desk.lab, desk.folder, desk.start(), _console())


@app.command()
@number_argument
@click.option("--yes", "-y", is_flag=True, help="don't ask")
def reset(number: int, yes: bool) -> None:
    """Begin the lab anew. Your files move to a folder beside; nothing is lost."""
    from labs.desk import Desk

    lab = _lab(number)
    if not yes:
        click.confirm(f"Delete everything in namespace {lab.namespace} and start lab {number} anew?", abort=True)
    kept = Desk(Workspace.here(), lab).reset()
    click.echo(f"lab {number} is as at the start" + (f"; your files are in {kept}" if kept else ""))


@app.command()
@number_argument
def finish(number: int) -> None:
    """Remove the lab from the cluster. Your files and points stay."""
    from labs import lifecycle

    lab = _lab(number)
    with lifecycle.Course.opened(Workspace.here()) as course:
        lifecycle.finish(course, lab)
    click.echo(f"lab {number} is off the cluster; your files stay in {Workspace.here().work / lab.namespace}")


@app.command()
@number_argument
@task_option
@json_option
@click.option("--watch", "-w", is_flag=True, help="check again whenever the cluster changes")
@click.option("--quick", "-q", is_flag=True, help="one look: no waiting, nothing disturbed")
def check(number: int, task: str, as_json: bool, watch: bool, quick: bool) -> None:
    """Grade the live state of a lab. Exit status: 0 full marks, 1 less, 2 checker or cluster at fault."""
    from labs.lifecycle import require_task

    lab = _lab(number)
    require_task(lab, task)
    if watch:
        from labs.watching import watch_lab

        sys.exit(watch_lab(Workspace.here(), lab, task, _console()))
    sys.exit(_check(lab, task, as_json, quick=quick))


@app.command("lab", hidden=True)
@number_argument
@json_option
def lab_command(number: int, as_json: bool) -> None:
    """What `make lab-N` does: set-up that is missing, start the lab if need be, check it."""
    from labs.desk import Desk
    from labs.screens import show_started
    from labs.setup import ensure_up

    lab, workspace = _lab(number), Workspace.here()
    ensure_up(workspace, _console(stderr=as_json))
    desk = Desk(workspace, lab)
    news = desk.start()
    if news and not as_json:
        show_started(lab, desk.folder, news, _console())
    sys.exit(_check(lab, "", as_json))


def _check(lab: LabFolder, task: str, as_json: bool, *, quick: bool = False) -> int:
    from labs import lifecycle
    from labs.desk import Desk
    from labs.worknotes import notes

    desk = Desk(Workspace.here(), lab)
    with lifecycle.Course.opened(desk.workspace) as course:
        entry = desk.entry
        if as_json:
            report = lifecycle.check(course, lab, given=entry.given, task=task, quick=quick).report
        else:
            report = _check_with_progress(course, lab, task, entry.given, quick=quick)
        # First, and whatever comes after it: what was found out must not be lost.
        _note_and_print(report, desk, as_json, keep=not task and not quick)
        remarks = notes(course.api, desk.folder, lab.namespace) if report.exit_code == 1 and not as_json else []
    if remarks:
        from labs.screens import show_notes

        show_notes(remarks, _console())
    return report.exit_code


def _note_and_print(report: Report, desk: Desk, as_json: bool, *, keep: bool) -> None:
    try:
        if keep:
            desk.note(report)
    finally:  # a full disk keeps no points; what was found out is still shown
        _print(report, desk, as_json)


def _check_with_progress(course: Course, lab: LabFolder, task: str, given: dict[str, str], *, quick: bool) -> Report:
    from checkers.report.terminal import CheckProgress
    from labs import lifecycle

    titles = [(check.id, check.title) for check in lab.spec.checks]
    with CheckProgress(_console(), titles) as display:

        def listen(what: str, data: Any) -> None:
            if what == "say":
                display.say(*data)
            elif what == "started":
                display.started(data)
            else:
                display.finished(data)

        return lifecycle.check(course, lab, given=given, task=task, quick=quick, listen=listen).report


def _print(report: Report, desk: Desk, as_json: bool) -> None:
    if as_json:
        from checkers.report.document import to_document

        print(json.dumps(to_document(report), indent=2))
        return
    from checkers.report.terminal import show

    show(report, _console(), hints_left=desk.hints_left())


@app.command()
@number_argument
@task_option
def hint(number: int, task: str) -> None:
    """The next hint, chosen by what the last check saw."""
    from labs.hints import give_hint

    give_hint(Workspace.here(), _lab(number), task, _console())


@app.command()
@number_argument
@click.option("--give-up", is_flag=True, help="show it before a pass")
def solution(number: int, give_up: bool) -> None:
    """One right solution, after full marks or with --give-up."""
    from labs.hints import show_solution

    show_solution(Workspace.here(), _lab(number), give_up, _console())


@app.command()
@click.argument("pod", help="a pod, or deployment/NAME")
@click.option("--namespace", "-n", default="", help="default: the lab started last")
def explain(pod: str, namespace: str) -> None:
    """Why a pod is Pending or failing.

    Taints, labels, capacity, quota, claims, image, probes, GPUs.
    """
    from labs.explaining import explain_pod_named

    explain_pod_named(Workspace.here(), pod, namespace, _console())


@app.command()
@click.argument(
    "paths",
    metavar="DIR...",
    type=AnyPath,
    nargs=-1,
    required=True,
    help="folders, YAML files, notebooks, zip archives",
)
@click.option("--lab", "-l", "number", type=int, required=True, help="the lab that they are for")
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="side by side, as far as the lab has room",
)
@click.option(
    "--out", "-o", type=AnyPath, default="grades.csv", show_default=True, help="the table; feedback goes beside it"
)
@click.option("--again", is_flag=True, help="also what is graded already")
@click.option(
    "--runner",
    type=click.Choice(["local", "kubernetes"]),
    default="local",
    show_default=True,
    help="where the grader runs: here, or as a Job in the cluster",
)
@click.option("--stop", is_flag=True, help="end what goes on in the cluster for --out, and remove it")
@click.option("--kubeconfig", type=AnyPath, help="with --runner kubernetes: another cluster's")
@click.option("--context", default="", help="its context, by name")
@click.option("--image", default="", help="the name by which its nodes find the grader's image")
@click.option("--yes-this-cluster", "sure", is_flag=True, help="what is made there was read and agreed to")
@json_option
def grade(
    paths: tuple[Path, ...], number: int, jobs: int, out: Path, again: bool, runner: str, stop: bool,
    kubeconfig: Path | None, context: str, image: str, sure: bool, as_json: bool,
) -> None:  # fmt: skip
    """Grade a class: each submission in a namespace of its own. Run it again to go on after a stop."""
    from labs.grading.remote.where import Place
    from labs.grading.screen import end_run, grade_class

    lab, console = _lab(number), _console(stderr=as_json)
    place = Place(kubeconfig, context, sure, image) if runner == "kubernetes" else None
    if place is None and (stop or kubeconfig or context or image):
        raise KailabError("These options belong to --runner kubernetes.")
    if place and stop:
        sys.exit(end_run(Workspace.here(), lab, out, place, console))
    sys.exit(grade_class(Workspace.here(), lab, list(paths), jobs=jobs, out=out, again=again, as_json=as_json,
                         console=console, place=place))  # fmt: skip


@app.command()
@click.argument(
    "files", type=AnyPath, nargs=-1, required=True, help="evidence files, or the table that `kailab grade --out` wrote"
)
@click.option("--write", is_flag=True, help="of a table: make what comes out the results")
@json_option
def regrade(files: tuple[Path, ...], write: bool, as_json: bool) -> None:
    """Grade recorded evidence again, without a cluster.

    Of a class, it shows who has other points now, and why.
    """
    from labs.regrading import regrade_files

    tables = [path for path in files if path.suffix == ".csv"]
    if tables:
        from labs.grading.regrade import regrade_class

        if len(tables) < len(files) or as_json:
            raise KailabError("Tables and evidence files don't go together, and a table is shown as one.",
                              mend="kailab regrade grades.csv [--write]")  # fmt: skip
        sys.exit(max([regrade_class(table, _console(), write=write) for table in tables]))
    sys.exit(regrade_files(list(files), as_json, _console()))


@app.command()
@number_argument
@click.option("--jobs", "-j", type=int, default=0, help="submissions side by side; 0: what the lab allows")
@click.option("--only", default="", help="only submissions whose name contains this")
def gate(number: int, jobs: int, only: str) -> None:
    """Prove a lab, as its author.

    Its starter fails, solutions pass, every mutant fails where it says, nothing is left behind.
    """
    from labs.gate import run_gate

    sys.exit(1 if run_gate(Workspace.here(), _lab(number), _console(), jobs=jobs, only=only) else 0)


@app.command()
def env() -> None:
    """Put kubectl and kailab on PATH: eval "$(kailab env)".

    Prints shell lines; kubectl is set to the course cluster.
    """
    from cluster.tools import program_folders

    workspace = Workspace.here()
    print(f"export KUBECONFIG={shlex.quote(str(workspace.kubeconfig))}")
    print(f'export PATH={shlex.quote(":".join(program_folders(workspace)))}:"$PATH"')


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
             add_help_option=False)  # fmt: skip
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def kubectl(args: tuple[str, ...]) -> None:
    """Kubectl, in the namespace of the lab started last."""
    from cluster.tools import find_kubectl

    workspace = Workspace.here()
    program = find_kubectl(workspace)
    if program is None:
        raise KailabError("There is no kubectl yet.", mend="kailab up")
    environment = {**os.environ, "KUBECONFIG": str(workspace.kubeconfig)}
    os.execve(program, [str(program), *args], environment)  # noqa: S606 - no shell wanted


app.add_command(gpu_cli.app)


def _lab(number: int) -> LabFolder:
    from labs.catalog import lab_numbered

    return lab_numbered(number)


class _Interrupt:
    """Handles a signal as Ctrl-C is handled; shells may send one twice, which must not end the putting back."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def __call__(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        is_echo, self._last = now - self._last < ECHO_SECONDS, now
        if not is_echo:
            raise KeyboardInterrupt


def main() -> None:
    """Entry point: errors become a few lines and status 2, Ctrl-C status 130; never a traceback.

    A closed terminal and a plain `kill` are like Ctrl-C: what a check has disturbed is put back.
    """
    interrupt = _Interrupt()
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup one is ignored, and stays so
            signal.signal(number, interrupt)
    try:
        app()
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            print("\nInterrupted; nothing is lost. Run the same command again to go on.", file=sys.stderr)
        raise
    except KailabError as failed:
        _give_up(failed)
    except OSError as failed:
        from cluster.files import is_full
        from cluster.run import FREE_SPACE

        where = f" ({failed.filename})" if failed.filename else ""
        mend = f"{FREE_SPACE}; then run the same command again" if is_full(failed) else ""
        _give_up(KailabError(f"The system refused something: {failed.strerror or failed}{where}", mend=mend))
    except Exception as broken:  # noqa: BLE001 - a student must never see a traceback
        _give_up(_crash(broken))


def _give_up(failed: KailabError) -> None:
    from checkers.report.terminal import show_error

    show_error(failed, _console(stderr=True))
    sys.exit(AT_FAULT)


def _crash(broken: Exception) -> KailabError:
    log = Workspace.here().logs / "crash.log"
    with contextlib.suppress(OSError):  # a full disk is no reason to show a traceback after all
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(traceback.format_exception(broken)))
    return KailabError(
        f"kailab itself broke: {type(broken).__name__}: {broken}",
        why="Your work on the cluster and in work/ is as it was.",
        mend=f"run it again; if it stays, report it with {log}",
    )


if __name__ == "__main__":
    main()
