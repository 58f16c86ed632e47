"""ONNX Runtime sessions."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.networks.self_contained import check_self_contained

if TYPE_CHECKING:
    import onnxruntime as ort

LEAST_BOUND_BYTES = 2**30  # one photograph of 25 megapixels takes 600 MB
UNKNOWN_MEMORY_BYTES = 2**34  # of a system that does not say, which is Windows
CUDA = "CUDAExecutionProvider"
LARGE_PIXELS = 4_000_000  # above it a pass's memory is given back at once; below, ONNX Runtime's arena is worth keeping


def open_session(onnx_file: str | bytes) -> ort.InferenceSession:
    """A session, from a path or bytes, that computes on the calling thread only: callers run several threads."""
    return _session(onnx_file, bounded=False)


def open_model(content: bytes) -> ort.InferenceSession:
    """A session on a model.onnx that may come from anywhere: it reads no other file, and its memory is bounded.

    All of these sessions together may take half of the memory that this process may use; what would take more fails.

    Raises:
        DamagedFileError: the graph refers to another file.
    """
    check_self_contained(content)
    _bound_memory()
    return _session(content, bounded=True)


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime was built for CUDA (the package onnxruntime-gpu)."""
    import onnxruntime as ort

    return CUDA in ort.get_available_providers()


def open_on_gpu(content: bytes) -> ort.InferenceSession:
    """A session on the GPU, in full float32 (no TensorFloat-32).

    Raises:
        OSError: the libraries of CUDA or cuDNN don't load.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # that it falls back to the CPU is said here
    # HEURISTIC: cuDNN tries no convolutions against each other, which a few images would not pay for.
    cuda = (CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
    with contextlib.redirect_stdout(sys.stderr):  # both print what they miss; standard output is for the result
        ort.preload_dlls()  # those of the nvidia packages
        session = ort.InferenceSession(content, options, providers=[cuda, "CPUExecutionProvider"])
    if CUDA not in session.get_providers():
        raise OSError("the libraries of CUDA or cuDNN don't load")
    return session


def options_for(pixels: int) -> ort.RunOptions:
    """How to run a pass of images that have so many pixels together."""
    import onnxruntime as ort

    options = ort.RunOptions()
    if pixels > LARGE_PIXELS:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def available_cores() -> int:
    """Cores that this process may use (containers give fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes of memory that this process may use (containers give less than the machine has)."""
    if not hasattr(os, "sysconf"):
        return UNKNOWN_MEMORY_BYTES
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    given = limit.read_text().strip() if limit.is_file() else "max"
    return machine if given == "max" else min(machine, int(given))


def _session(onnx_file: str | bytes, *, bounded: bool) -> ort.InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4 if bounded else 3  # a graph that fails is reported by its caller
    if bounded:
        options.add_session_config_entry("session.use_env_allocators", "1")
    return ort.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])


@cache  # once a process: an allocator can't be registered again
def _bound_memory() -> None:
    import onnxruntime as ort

    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    bound = max(LEAST_BOUND_BYTES, available_memory() // 2)
    ort.create_and_register_allocator(place, ort.OrtArenaCfg(bound, -1, -1, -1))  # -1: ONNX Runtime's own defaults
