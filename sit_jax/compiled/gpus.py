"""The NVIDIA GPUs that a plan can be made for, and their descriptions for the compiler."""

import importlib.util
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from sit_jax.common.errors import InputError
from sit_jax.compiled.chips import GIB, Chip, Target

PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
INSTALL = "pip install -r requirements-plan-gpu.txt"
HOST = 8  # the most GPUs in one host
FRACTION = 0.75  # JAX's default share of the memory
MOST = 0.92  # the largest share of the memory that leaves room for libraries
FRACTION_NAMES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # the first is newer
# Without a GPU, XLA cannot autotune, and all products would become untuned Triton kernels.
OPTIONS = {"xla_gpu_enable_triton_gemm": False}


class Card(NamedTuple):
    """The data of a GPU that the compiler needs in addition to its `Chip`."""

    device: str  # CUDA's name of the device
    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    clock: float  # GHz, boost
    units: int  # float32 units per core
    threads: int  # per core
    l2: int  # MiB
    shared: int  # KiB per core; a block can use 1 KiB less
    nvlinks: int  # active links


# Figures from the data sheets "NVIDIA H100 Tensor Core GPU" (SXM5), "H200 Tensor Core GPU" (SXM5), "A100 80GB" (SXM4),
# "L4 Tensor Core GPU" and from "NVIDIA Ada GPU Architecture" (RTX 4090): dense bfloat16 products with float32 sums,
# memory bandwidth, and NVLink, or PCIe 4.0 x16 without NVLink. One direction has half of the bandwidth in the sheets.
# The memory is the amount that CUDA offers, which is less than in the sheets. The network belongs to the reference
# systems DGX H100, H200 (8 x 400 Gbit/s) and A100 (8 x 200 Gbit/s); the other two GPUs have none. Float32 products of
# the highest precision run on the float32 units, other float32 products in TF32 (half as fast as bfloat16).
CHIPS = {
    "h100": Chip("H100", 79.1 * GIB, 989.4e12, 3352e9, 450e9, 50e9, passes={"highest": 989.4 / 67, "default": 2}),
    "h200": Chip("H200", 139.8 * GIB, 989.4e12, 4800e9, 450e9, 50e9, passes={"highest": 989.4 / 67, "default": 2}),
    "a100": Chip("A100", 79.2 * GIB, 312e12, 2039e9, 300e9, 25e9, passes={"highest": 312 / 19.5, "default": 2}),
    "l4": Chip("L4", 22.0 * GIB, 121e12, 300e9, 32e9, passes={"highest": 121 / 30.3, "default": 2}),
    "rtx4090": Chip("RTX 4090", 23.6 * GIB, 165.2e12, 1008e9, 32e9, passes={"highest": 2, "default": 2}),
}
# From the same sheets and the table of compute capabilities in the CUDA C++ Programming Guide.
CARDS = {
    "h100": Card("NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98, 128, 2048, 50, 228, 18),
    "h200": Card("NVIDIA H200", (9, 0), 132, 1.98, 128, 2048, 50, 228, 18),
    "a100": Card("NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41, 64, 2048, 40, 164, 12),
    "l4": Card("NVIDIA L4", (8, 9), 58, 2.04, 128, 1536, 48, 100, 0),
    "rtx4090": Card("NVIDIA GeForce RTX 4090", (8, 9), 128, 2.52, 128, 1536, 72, 100, 0),
}
# Limits shared by all GPUs, and the versions of CUDA and cuDNN to compile for.
DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: {threads}
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared_block}
  shared_memory_per_core: {shared}
  core_count: {cores}
  fpus_per_core: {units}
  clock_rate_ghz: {clock}
  memory_bandwidth: {bandwidth}
  l2_cache_size: {l2}
  device_memory_size: {memory}
  cuda_compute_capability {{ major: {major} minor: {minor} {features} }}
  device_vendor: "NVIDIA Corporation"
  device_address_bits: 64
  pcie_bandwidth: 34359738368
  name: "{name}"
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.20.0"
  device_interconnect_info {{ active_links: {nvlinks} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 20 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""


def parse_shape(topology: str) -> tuple[str, int, int]:
    """Splits `h100:8` or `h100:4x8` into (kind, hosts, GPUs per host); raises InputError for any other shape."""
    kind, _, shape = topology.partition(":")
    found = re.fullmatch(r"(?:([1-9]\d{0,3})x)?([1-9]\d?)", shape, re.ASCII)
    if not found or int(found[2]) > HOST:
        raise InputError(
            f"--topology={topology} must be {kind}:N with N GPUs of one host from 1 to {HOST}, "
            f"or {kind}:HxN with H hosts, such as {kind}:8 and {kind}:4x8"
        )
    return kind, int(found[1] or 1), int(found[2])


def describe_card(kind: str) -> str:
    """Returns the description of a GPU as the text of XLA's `GpuTargetConfigProto`."""
    card, chip = CARDS[kind], CHIPS[kind]
    return DESCRIPTION.format(
        threads=card.threads,
        shared=card.shared * 1024,
        shared_block=(card.shared - 1) * 1024,
        cores=card.cores,
        units=card.units,
        clock=card.clock,
        bandwidth=int(chip.memory_bandwidth or 0),
        l2=card.l2 * 2**20,
        memory=int(chip.memory),
        major=card.capability[0],
        minor=card.capability[1],
        features="feature_extension: ACCELERATED_FEATURES" if card.capability >= (9, 0) else "",
        name=card.device,
        nvlinks=card.nvlinks,
    )


def open_gpus(topology: str) -> Target:
    """Returns the GPUs of a topology; raises InputError if the topology is unknown or the compiler is missing."""
    kind, hosts, gpus = parse_shape(topology)
    share = memory_fraction()  # first, because the plugin reads the same variable and fails without a message
    if not any(importlib.util.find_spec(name) for name in PLUGINS):
        raise InputError(f"the compiler for GPUs is missing; install it with: {INSTALL}")
    try:
        described = topologies.get_topology_desc(
            platform="cuda", target_config=describe_card(kind), topology=f"1x{hosts}x{gpus}"
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the compiler cannot describe {topology}: {reason}; try: {INSTALL}") from error
    chip = CHIPS[kind]
    packages = tuple(name.replace("_", "-") for name in PLUGINS if importlib.util.find_spec(name))
    return Target(chip, described.devices, int(chip.memory * share), gpus, "GPU", "hosts", packages, OPTIONS)


def memory_fraction() -> float:
    """Returns the share of a GPU's memory that JAX takes; raises InputError if its variable is not in (0, 1]."""
    name = next((name for name in FRACTION_NAMES if os.environ.get(name)), "")
    try:
        fraction = float(os.environ[name]) if name else FRACTION
    except ValueError:
        fraction = 0
    if not 0 < fraction <= 1:
        raise InputError(f"{name}={os.environ[name]} must be a number above 0 and not above 1, such as {MOST}")
    return fraction


def larger_topology(topology: str) -> str:
    """Returns the topology with twice as many GPUs, on more hosts if a host is full."""
    kind, hosts, gpus = parse_shape(topology)
    if hosts == 1 and gpus < HOST:
        return f"{kind}:{min(2 * gpus, HOST)}"
    return f"{kind}:{2 * hosts}x{gpus}"
