"""nvidia-smi: the layouts that scripts and eyes rely on."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.gpu.devices import Gpu, MigDevice, NodeGpus, gpus
from cluster.gpu.node.readings import Fault, GpuFault
from cluster.gpu.node.silicon import Silicon
from cluster.gpu.node.smi import View, render
from cluster.nodeimage.programs import MODULES

T4S = gpus("gpu-b", NodeGpus("T4", 2))
A100S = gpus("gpu-a", NodeGpus("A100-80GB", 4, nvlink=((0, 1), (2, 3))))
CUT = gpus("gpu-a", NodeGpus("A100-80GB", 1, mig={0: ("3g.40gb", "1g.10gb")}))
NOON = datetime(2026, 11, 25, 12, 0, 0, 123000, tzinfo=UTC)

T4_TABLE = """\
Wed Nov 25 12:00:00 2026       
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 580.95.05              Driver Version: 580.95.05      CUDA Version: 13.0     |
+-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
|=========================================+========================+======================|
|   0  Tesla T4                       On  |   00000000:07:00.0 Off |                    0 |
| N/A   30C    P8              9W /   70W |    3000MiB /  15360MiB |      0%      Default |
|                                         |                        |                  N/A |
+-----------------------------------------+------------------------+----------------------+

+-----------------------------------------------------------------------------------------+
| Processes:                                                                              |
|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |
|        ID   ID                                                               Usage      |
|=========================================================================================|
|    0   N/A  N/A            4242      C   python3                                3000MiB |
+-----------------------------------------------------------------------------------------+
"""  # noqa: W291 - the real tool's first line ends in blanks


def view(found: tuple[Gpu, ...], *held: Gpu | MigDevice, silicon: Silicon | None = None) -> View:
    silicon = silicon or Silicon(found, lambda: 0.0)
    readings = {one.uuid: silicon.reading(one.uuid) for gpu in found for one in gpu.devices}
    return View.of(found, held or found, readings, NOON)


def printed(made: View, *argv: str) -> str:
    status, text = render(argv, made)
    assert status == 0, text
    return text


def busy_t4() -> View:
    silicon = Silicon(T4S, lambda: 0.0)
    silicon.allocate(silicon.open([T4S[0].uuid], 4242, "python3"), T4S[0].uuid, 3000)
    silicon.allocate(silicon.open([T4S[1].uuid], 1, "other"), T4S[1].uuid, 500)
    return view(T4S, T4S[0], silicon=silicon)


def test_the_table_is_the_real_ones_and_shows_only_what_is_held() -> None:
    assert printed(busy_t4()) == T4_TABLE


@pytest.mark.parametrize("made", [view(A100S), view(CUT, *CUT[0].mig), view(T4S, T4S[1])])
def test_every_line_of_a_table_is_as_wide_as_the_frame(made: View) -> None:
    lines = printed(made).splitlines()[1:]
    assert {len(line) for line in lines if line} == {91}
    assert printed(made).count("No running processes found") == 1


def test_indices_count_from_zero_inside_the_container() -> None:
    assert printed(view(A100S, A100S[3], A100S[1]), "-L") == (
        f"GPU 0: NVIDIA A100-SXM4-80GB (UUID: {A100S[3].uuid})\nGPU 1: NVIDIA A100-SXM4-80GB (UUID: {A100S[1].uuid})\n"
    )


def test_slices_are_listed_below_their_gpu_and_only_the_held_ones() -> None:
    assert printed(view(CUT, CUT[0].mig[1]), "-L") == (
        f"GPU 0: NVIDIA A100-SXM4-80GB (UUID: {CUT[0].uuid})\n"
        f"  MIG 1g.10gb     Device  0: (UUID: {CUT[0].mig[1].uuid})\n"
    )


@pytest.mark.parametrize(
    ("fields", "style", "text"),
    [
        (
            "index,name,memory.used,memory.total",
            "csv",
            "index, name, memory.used [MiB], memory.total [MiB]\n0, Tesla T4, 3000 MiB, 15360 MiB\n",
        ),
        ("memory.used,utilization.gpu", "csv,noheader,nounits", "3000, 0\n"),
        ("timestamp", "csv,noheader", "2026/11/25 12:00:00.123\n"),
        ("power.draw,power.limit", "csv,noheader", "9.00 W, 70.00 W\n"),
        ("gpu_uuid", "csv", f"gpu_uuid\n{T4S[0].uuid}\n"),
        ("clocks.sm,clocks.max.sm", "csv,noheader", "300 MHz, 1590 MHz\n"),
        ("mig.mode.current,fan.speed", "csv,noheader", "[N/A], [N/A]\n"),
    ],
)
def test_queries_print_the_csv_of_the_real_tool(fields: str, style: str, text: str) -> None:
    assert printed(busy_t4(), f"--query-gpu={fields}", f"--format={style}") == text


def test_programs_on_the_gpu_can_be_queried() -> None:
    text = printed(busy_t4(), "--query-compute-apps=pid,process_name,used_memory,gpu_uuid", "--format=csv,noheader")
    assert text == f"4242, python3, 3000 MiB, {T4S[0].uuid}\n"


def test_every_documented_field_can_be_queried() -> None:
    names = [line.strip('"') for line in printed(busy_t4(), "--help-query-gpu").splitlines() if line.startswith('"')]
    assert len(names) > 30
    text = printed(busy_t4(), f"--query-gpu={','.join(names)}", "--format=csv,noheader")
    assert len(text.split(", ")) == len(names)


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["--query-gpu=colour", "--format=csv"], 2, 'Field "colour" is not a valid field to query.'),
        (["--query-compute-apps=colour", "--format=csv"], 2, 'Field "colour" is not a valid field to query.'),
        (["--query-gpu=name"], 2, "--format"),
        (["-pm", "1"], 2, "simulated nvidia-smi does not know '-pm'"),
        (["topo", "-p2p", "r"], 2, "topo -m"),
        (["-i"], 2, "missing its value"),
        (["-i", "7"], 6, "No devices were found"),
    ],
)
def test_what_is_wrong_is_said_with_the_real_status(argv: list[str], status: int, words: str) -> None:
    found, text = render(argv, busy_t4())
    assert found == status
    assert words in text


def test_a_container_without_a_gpu_has_no_devices() -> None:
    assert render([], View((), {}, {}, NOON)) == (6, "No devices were found\n")


def test_a_lost_gpu_is_told_as_the_driver_tells_it() -> None:
    silicon = Silicon(A100S, lambda: 0.0)
    silicon.fail(A100S[1].uuid, GpuFault(Fault.LOST))
    status, text = render(["-L"], view(A100S, *A100S[:2], silicon=silicon))
    assert status == 15
    assert text.splitlines()[0].startswith("GPU 0: NVIDIA A100")
    assert "device handle for GPU1: 0000:0B:00.0: GPU is lost.  Reboot the system to recover this GPU" in text


def test_one_gpu_may_be_chosen_by_any_of_its_names() -> None:
    for name in ("1", A100S[1].uuid, A100S[1].pci, "0000:0b:00.0"):
        assert printed(view(A100S), "-L", "-i", name).count("GPU ") == 1


def test_the_matrix_shows_bonded_links() -> None:
    lines = printed(view(A100S), "topo", "-m").splitlines()
    assert [line.split("\t")[1:5] for line in lines[1:5]] == [
        [" X ", "NV12", "PHB", "PHB"],
        ["NV12", " X ", "PHB", "PHB"],
        ["PHB", "PHB", " X ", "NV12"],
        ["PHB", "PHB", "NV12", " X "],
    ]


def test_the_report_can_be_cut_down_to_sections() -> None:
    whole, memory = printed(busy_t4(), "-q"), printed(busy_t4(), "-q", "-d", "MEMORY,ECC")
    assert "    Product Name                                  : Tesla T4" in whole
    assert "        Used                                      : 3000 MiB" in memory
    assert "Temperature" in whole
    assert "Temperature" not in memory
    assert "DRAM Uncorrectable" in memory


def test_the_report_tells_the_nodes_own_number_of_a_gpu() -> None:
    text = printed(view(A100S, A100S[3]), "-q")
    assert "    Minor Number                                  : 3" in text


def test_a_hopper_slice_with_twice_the_memory_has_more_of_the_chip() -> None:
    cut = gpus("h", NodeGpus("H100-80GB", 1, mig={0: ("1g.20gb", "1g.10gb", "2g.20gb", "3g.40gb")}))
    rows = re.findall(r"^\|  0 +\d +0 +\d +\|[^|]*\| +(\d+) ", printed(view(cut, *cut[0].mig)), re.MULTILINE)
    assert rows == ["26", "16", "32", "60"]


def test_help_and_version_say_that_it_is_a_simulation() -> None:
    for flag in ("-h", "--version"):
        assert "simulated by kailab" in printed(busy_t4(), flag)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("go") is None:
        pytest.skip("the client is a Go program, and there is no Go here")
    target = tmp_path_factory.mktemp("bin") / "nvidia-smi"
    subprocess.run(["go", "build", "-o", target, "."], cwd=MODULES / "nvidia-smi", check=True)
    return target


def test_the_client_hands_on_arguments_and_the_answer(program: Path, folder: Path) -> None:
    heard: list[object] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "gpu.sock"))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rwb") as stream:
                heard.append(json.loads(stream.readline()))
                stream.write(json.dumps({"id": 1, "exit": 15, "stdout": "GPU 0: \u00e9\n"}).encode() + b"\n")

        thread = threading.Thread(target=answer)
        thread.start()
        environment = {"KAILAB_GPU_SOCKET": str(folder / "gpu.sock")}
        done = subprocess.run([program, "-L", "-i=0"], env=environment, capture_output=True, text=True, check=False)
        thread.join()
    assert (done.returncode, done.stdout) == (15, "GPU 0: \u00e9\n")
    assert heard == [{"id": 1, "op": "smi", "argv": ["-L", "-i=0"]}]


def test_the_client_refuses_nonsense_to_repeat_by(program: Path) -> None:
    done = subprocess.run([program, "-l", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "whole number" in done.stderr
