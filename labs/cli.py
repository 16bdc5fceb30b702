"""The `kailab` command: thin, every verb lives in a module of its own."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cluster.errors import KailabError
from cluster.workspace import Workspace
from labs import gpu_cli

if TYPE_CHECKING:
    from rich.console import Console

    from checkers.results import Report
    from labs.catalog import LabFolder
    from labs.desk import Desk
    from labs.lifecycle import Course

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Kubernetes for AI: labs on a real local cluster, checked. Start with `make lab-6` or `kailab up`.",
)  # fmt: skip
app.add_typer(gpu_cli.app, name="gpu")
Number = Annotated[int, typer.Argument(metavar="N", help="the lab's number, see `kailab list`")]
TaskOption = Annotated[str, typer.Option("--task", "-t", help="only this task")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on stdout (checkers/schema.json)")]
Runner = Literal["local", "kubernetes"]
INTERRUPTED = 130
AT_FAULT = 2  # exit status: the checker or the cluster, not the student's work


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


@app.command()
def doctor() -> None:
    """What this machine has, lacks, or has too old, and the command that mends each."""
    from cluster.doctor import examine
    from labs.screens import show_findings

    findings = examine(Workspace.here())
    show_findings(findings, _console())
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


@app.command()
def up() -> None:
    """Bring the course cluster up, or repair it. Safe to repeat, also after Ctrl-C."""
    from labs.setup import bring_up

    bring_up(Workspace.here(), _console())


@app.command()
def status() -> None:
    """The course cluster's nodes and add-ons; changes nothing."""
    from cluster.bringup import status as cluster_status
    from labs.screens import show_status

    found = cluster_status(Workspace.here())
    show_status(found, _console())
    raise typer.Exit(0 if found.is_ready else AT_FAULT)


@app.command()
def down() -> None:
    """Remove the course cluster. Your files in work/ and your points stay."""
    from cluster.bringup import down as take_down

    take_down(Workspace.here(), _console())


@app.command(hidden=True)
def distclean() -> None:
    """Remove the caches too."""
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
def start(number: Number) -> None:
    """Make the lab's namespace with what it gives you, and your folder in work/."""
    from labs.desk import Desk
    from labs.screens import show_started

    desk = Desk(Workspace.here(), _lab(number))
    if fleets := desk.lab.file.fleets:
        count = sum(fleet.nodes for fleet in fleets)
        _console().print(f"{count} simulated nodes join the cluster, unless they are there: about 10 s")
    show_started(desk.lab, desk.folder, desk.start(), _console())


@app.command()
def reset(number: Number, yes: Annotated[bool, typer.Option("--yes", "-y", help="don't ask")] = False) -> None:
    """Begin the lab anew. Your files move to a folder beside; nothing is lost."""
    from labs.desk import Desk

    lab = _lab(number)
    if not yes:
        typer.confirm(f"Delete everything in namespace {lab.namespace} and start lab {number} anew?", abort=True)
    kept = Desk(Workspace.here(), lab).reset()
    typer.echo(f"lab {number} is as at the start" + (f"; your files are in {kept}" if kept else ""))


@app.command()
def finish(number: Number) -> None:
    """Remove the lab from the cluster. Your files and points stay."""
    from labs import lifecycle

    lab = _lab(number)
    with lifecycle.Course.opened(Workspace.here()) as course:
        lifecycle.finish(course, lab)
    typer.echo(f"lab {number} is off the cluster; your files stay in {Workspace.here().work / lab.namespace}")


@app.command()
def check(
    number: Number, task: TaskOption = "", as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="check again whenever the cluster changes")] = False,
    quick: Annotated[bool, typer.Option("--quick", "-q", help="one look: no waiting, nothing disturbed")] = False,
) -> None:  # fmt: skip
    """Grade the live state of a lab. Exit status: 0 full marks, 1 less, 2 checker or cluster at fault."""
    from labs.lifecycle import require_task

    lab = _lab(number)
    require_task(lab, task)
    if watch:
        from labs.watching import watch_lab

        raise typer.Exit(watch_lab(Workspace.here(), lab, task, _console()))
    raise typer.Exit(_check(lab, task, as_json, quick=quick))


@app.command("lab", hidden=True)
def lab_command(number: Number, as_json: JsonOption = False) -> None:
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
    raise typer.Exit(_check(lab, "", as_json))


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
        remarks = notes(course.api, desk.folder, lab.namespace) if report.exit_code == 1 and not as_json else []
    if not task and not quick:
        desk.note(report)
    _print(report, desk, as_json)
    if remarks:
        from labs.screens import show_notes

        show_notes(remarks, _console())
    return report.exit_code


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
def hint(number: Number, task: TaskOption = "") -> None:
    """The next hint, chosen by what the last check saw."""
    from labs.hints import give_hint

    give_hint(Workspace.here(), _lab(number), task, _console())


@app.command()
def solution(
    number: Number, give_up: Annotated[bool, typer.Option("--give-up", help="show it before a pass")] = False
) -> None:
    """One right solution, after full marks or with --give-up."""
    from labs.hints import show_solution

    show_solution(Workspace.here(), _lab(number), give_up, _console())


@app.command()
def explain(
    pod: Annotated[str, typer.Argument(help="a pod, or deployment/NAME")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="default: the lab started last")] = "",
) -> None:
    """Why a pod is Pending or failing: taints, labels, capacity, quota, claims, image, probes."""
    from labs.explaining import explain_pod_named

    explain_pod_named(Workspace.here(), pod, namespace, _console())


@app.command()
def grade(
    paths: Annotated[list[Path], typer.Argument(metavar="DIR...", help="folders, YAML files, notebooks, zip archives")],
    number: Annotated[int, typer.Option("--lab", "-l", help="the lab that they are for")],
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="side by side, as far as the lab has room")] = 4,
    out: Annotated[Path, typer.Option("--out", "-o", help="the table; feedback goes beside it")] = Path("grades.csv"),
    again: Annotated[bool, typer.Option("--again", help="also what is graded already")] = False,
    runner: Annotated[Runner, typer.Option(help="where the grader runs: here, or as a Job in the cluster")] = "local",
    stop: Annotated[bool, typer.Option("--stop", help="end a Job that goes on in the cluster, and remove it")] = False,
    kubeconfig: Annotated[Path | None, typer.Option(help="with --runner kubernetes: another cluster's")] = None,
    context: Annotated[str, typer.Option(help="its context, by name")] = "",
    image: Annotated[str, typer.Option(help="the name by which its nodes find the grader's image")] = "",
    sure: Annotated[bool, typer.Option("--yes-this-cluster", help="what is made there was read and agreed to")] = False,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Grade a class: each submission in a namespace of its own. Run it again to go on after a stop."""
    from labs.grading.remote.where import Place
    from labs.grading.screen import end_run, grade_class

    lab, console = _lab(number), _console(stderr=as_json)
    place = Place(kubeconfig, context, sure, image) if runner == "kubernetes" else None
    if place is None and (stop or kubeconfig or context or image):
        raise KailabError("These options belong to --runner kubernetes.")
    if place and stop:
        raise typer.Exit(end_run(Workspace.here(), lab, place, console))
    raise typer.Exit(grade_class(Workspace.here(), lab, paths, jobs=jobs, out=out, again=again, as_json=as_json,
                                 console=console, place=place))  # fmt: skip


@app.command()
def regrade(
    files: Annotated[list[Path], typer.Argument(help="evidence files, or the table that `kailab grade --out` wrote")],
    write: Annotated[bool, typer.Option("--write", help="of a table: make what comes out the results")] = False,
    as_json: JsonOption = False,
) -> None:
    """Grade recorded evidence again, without a cluster; of a class, show who has other points now, and why."""
    from labs.regrading import regrade_files

    tables = [path for path in files if path.suffix == ".csv"]
    if tables:
        from labs.grading.regrade import regrade_class

        if len(tables) < len(files) or as_json:
            raise KailabError("Tables and evidence files don't go together, and a table is shown as one.",
                              mend="kailab regrade grades.csv [--write]")  # fmt: skip
        raise typer.Exit(max([regrade_class(table, _console(), write=write) for table in tables]))
    raise typer.Exit(regrade_files(files, as_json, _console()))


@app.command()
def gate(
    number: Number,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="submissions side by side; 0: what the lab allows")] = 0,
    only: Annotated[str, typer.Option(help="only submissions whose name contains this")] = "",
) -> None:
    """The author gate: starter fails, solutions pass, every mutant fails where it says, nothing is left behind."""
    from labs.gate import run_gate

    raise typer.Exit(1 if run_gate(Workspace.here(), _lab(number), _console(), jobs=jobs, only=only) else 0)


@app.command()
def env() -> None:
    """Shell lines that put `kubectl`, set to the course cluster, and `kailab` on PATH: eval "$(kailab env)"."""
    from cluster.tools import program_folders

    workspace = Workspace.here()
    print(f"export KUBECONFIG={shlex.quote(str(workspace.kubeconfig))}")
    print(f'export PATH={shlex.quote(":".join(program_folders(workspace)))}:"$PATH"')


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
             add_help_option=False)  # fmt: skip
def kubectl(args: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Kubectl on the course cluster, in the namespace of the lab started last."""
    from cluster.tools import find_kubectl

    workspace = Workspace.here()
    program = find_kubectl(workspace)
    if program is None:
        raise KailabError("There is no kubectl yet.", mend="kailab up")
    environment = {**os.environ, "KUBECONFIG": str(workspace.kubeconfig)}
    os.execve(program, [str(program), *(args or [])], environment)  # noqa: S606 - no shell wanted


def _lab(number: int) -> LabFolder:
    from labs.catalog import lab_numbered

    return lab_numbered(number)


def main() -> None:
    """Entry point: errors become a few lines and status 2, Ctrl-C status 130; never a traceback."""
    try:
        app()
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            print("\nInterrupted; nothing is lost. Run the same command again to go on.", file=sys.stderr)
        raise
    except KailabError as failed:
        _give_up(failed)
    except OSError as failed:
        where = f" ({failed.filename})" if failed.filename else ""
        full = failed.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = (
            "free some space (kailab doctor shows where it is needed), then run the same command again" if full else ""
        )
        _give_up(KailabError(f"The system refused something: {failed.strerror or failed}{where}", mend=mend))
    except Exception as broken:  # noqa: BLE001 - a student must never see a traceback
        _give_up(_crash(broken))


def _give_up(failed: KailabError) -> None:
    from checkers.report.terminal import show_error

    show_error(failed, _console(stderr=True))
    sys.exit(AT_FAULT)


def _crash(broken: Exception) -> KailabError:
    log = Workspace.here().logs / "crash.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(traceback.format_exception(broken)))
    return KailabError(
        f"kailab itself broke: {type(broken).__name__}: {broken}",
        why="Your work on the cluster and in work/ is as it was.",
        mend=f"run it again; if it stays, report it with {log}",
    )


if __name__ == "__main__":
    main()
