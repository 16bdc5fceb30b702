"""The small real programs that labs deploy, as image recipes."""

from __future__ import annotations

from pathlib import Path

from cluster.images import ROOT, ImageRecipe

_AI_API = Path(__file__).parent / "ai_api"


def _ai_app(tag: str) -> ImageRecipe:
    return ImageRecipe(f"ai-app:{tag}", _AI_API, {"RELEASE": tag}, _AI_API / "requirements.txt")


# v1: a linear model. v2: a better one. broken: v1's program with a damaged model file, as a bad release has.
AI_APP = tuple(_ai_app(tag) for tag in ("v1", "v2", "broken"))
GPU_APP = ImageRecipe(
    "gpu-app:v1", Path(__file__).parent / "gpu_app", sources=(ROOT / "cluster/gpu/workload/kailab_gpu.py",)
)
IMAGES = (*AI_APP, GPU_APP)
