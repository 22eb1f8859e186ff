"""Lets verl run on a CPU: named in VERL_USE_EXTERNAL_MODULES, so that every process of a test imports it with verl.

verl has platforms for accelerators only. Here is one for the CPU, the FSDP2 engine without pinned memory, and a rollout
served by transformers. Nothing of DGPO is in this file.
"""

import contextlib
import types

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

torch.set_num_threads(1)


class _CpuModule(types.ModuleType):
    """`torch.cpu` with the memory functions that verl asks of `torch.<device>`."""

    _ZEROS = ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved")
    _NOTHING = ("empty_cache", "reset_peak_memory_stats", "ipc_collect", "set_per_process_memory_fraction")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._ZEROS:
            return lambda *args, **kwargs: 0
        if name in self._NOTHING:
            return lambda *args, **kwargs: None
        if name == "mem_get_info":
            return lambda *args, **kwargs: (0, 0)
        if name in ("get_rng_state", "set_rng_state"):
            return getattr(torch, name)
        if name == "get_device_name":
            return lambda *args, **kwargs: "CPU"
        return getattr(torch.cpu, name)


_MODULE = _CpuModule("torch_cpu")
_MODULE.is_available = lambda: False


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _MODULE

    def is_available(self):
        return True

    def current_device(self):
        return "cpu"

    def device_count(self):
        return 1

    def set_device(self, index):
        pass

    def synchronize(self, index=None):
        pass

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    def manual_seed_all(self, seed):
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings):
        pass

    def empty_cache(self):
        pass

    def get_device_capability(self, index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CPU_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, message):
        yield

    def profiler_start(self):
        pass

    def profiler_stop(self):
        pass

    def ray_resource_name(self):
        return "GPU"

    def ray_noset_envvars(self):
        return []

    def is_ipc_supported(self):
        return False

    def cudart(self):
        return None


def _on_the_cpu_engine():
    """Parameters are on the CPU already: no offloading, and verl's own engine is registered for it."""
    import verl.workers.engine.fsdp.transformer_impl as impl
    from verl.workers.engine.base import EngineRegistry

    impl.CPUOffloadPolicy = lambda pin_memory=True: None
    EngineRegistry.register("language_model", ["fsdp", "fsdp2"], device="cpu")(impl.FSDPEngineWithLMHead)


def _gloo_alone():
    """verl asks for "cpu:gloo,cpu:gloo", which torch refuses."""
    import torch.distributed as dist

    init = dist.init_process_group

    def init_process_group(backend=None, *args, **kwargs):
        return init("gloo", *args, **kwargs)

    dist.init_process_group = init_process_group


_gloo_alone()
_on_the_cpu_engine()
import verl_cpu_rollout  # noqa: E402, F401
