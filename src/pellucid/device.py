"""Where the arithmetic happens and in which precision: ``"auto"`` becomes a device, a seed becomes a generator."""

import torch

from pellucid.errors import ConfigError, DeviceError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Turn ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"`` into a device that is present.

    Raises:
        DeviceError: the device is unknown or not present on this machine.
    """
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device {name!r} is not known", "use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise DeviceError(f"device {name!r} is not there: {found} CUDA devices found", "use --device auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' is not there", "use --device auto or cpu")
    return device


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Turn ``"auto"`` or a name into a dtype; ``"auto"`` is bfloat16 on CUDA and float32 elsewhere.

    Raises:
        ConfigError: the name is none of auto, float32, bfloat16, float16.
    """
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise ConfigError(f"dtype {name!r} is not known", f"use auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def cpu_generator(seed: int | None) -> torch.Generator:
    """Make the generator that all noise comes from: on the CPU, so that one seed gives one picture on every device."""
    generator = torch.Generator(device="cpu")
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def generator_of(*numbers: int) -> torch.Generator:
    """Make the CPU generator that follows from a seed and indices; neighbouring ones give unrelated streams."""
    # Mixed like a hash: torch looks at the lower half of a seed alone.
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ number) * 0xBF58476D1CE4E5B9 % (1 << 64)
        state ^= state >> 31
    return torch.Generator().manual_seed(state % (1 << 63))
