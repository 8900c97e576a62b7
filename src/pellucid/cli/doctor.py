"""``pellucid doctor``: what is installed, what works, and what is broken."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Annotated, Any

import typer

from pellucid.cli.common import Debug

# Distribution -> the module it is imported as.
_MODULES = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "huggingface-hub": "huggingface_hub",
    "psd-tools": "psd_tools",
    "scikit-image": "skimage",
    "pre-commit": "pre_commit",
}
# Not ours, but when they are there and broken they break packages of ours from inside.
_BYSTANDERS = ("torchvision", "torchaudio", "xformers")
_ENCODERS = {
    "ProRes 4444 (.mov)": "prores_ks",
    "VP9 (.webm)": "libvpx-vp9",
    "H.264 (.mp4)": "libx264",
    "APNG": "apng",
}
_IMPORT_ALL = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    print(json.dumps([name]), flush=True)
    try:
        importlib.import_module(name)
        print(json.dumps([name, ""]), flush=True)
    except BaseException as error:
        print(json.dumps([name, " ".join(f"{type(error).__name__}: {error}".split())[:200]]), flush=True)
"""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Print versions, devices, cache and codecs, and name what is installed but broken (then the exit code is 1)."""
    packages = check_packages()
    codecs = check_codecs()
    facts = {"system": _system(), "packages": packages, "devices": _devices(), "codecs": codecs, "weights": _weights()}
    problems = [f"{row['package']} is installed but broken: {row['error']}" for row in packages if row["error"]]
    problems += [
        f"{row['package']} is needed and not installed" for row in packages if row["needed"] and not row["version"]
    ]
    problems += [f"{name} cannot be written" for name, found in codecs.items() if not found]
    if as_json:
        typer.echo(json.dumps(facts | {"problems": problems}, indent=2))
    else:
        _print(facts, problems)
    raise typer.Exit(1 if problems else 0)


def check_packages() -> list[dict[str, Any]]:
    """Version of each package we use or that others stumble over, and why it does not import where it does not."""
    wanted = {name: extra for name, extra in _requirements().items() if extra != "dev"}
    wanted |= {name: "" for name in _BYSTANDERS if name not in wanted}
    versions = {name: _version(name) for name in wanted}
    installed = [name for name in wanted if versions[name]]
    errors = import_errors([_MODULES.get(name, name).replace("-", "_") for name in installed])
    by_package = dict(zip(installed, errors, strict=True))
    return [
        {
            "package": name,
            "version": versions[name],
            "extra": extra,
            "needed": extra == "core",
            "error": by_package.get(name, ""),
        }
        for name, extra in wanted.items()
    ]


def import_errors(modules: list[str]) -> list[str]:
    """Import modules in another process, as a broken one can take its process down; returns "" where it went well."""
    errors: dict[str, str] = {}
    left = list(modules)
    while left:
        ended = subprocess.run([sys.executable, "-c", _IMPORT_ALL, *left], capture_output=True, text=True, check=False)
        started = ""
        for line in ended.stdout.splitlines():
            try:
                name, *error = json.loads(line)
            except ValueError:  # a module that prints when it is imported
                continue
            started = name
            errors |= {name: error[0]} if error else {}
        if started not in errors:
            errors[started or left[0]] = f"ends Python with code {ended.returncode}"
        left = [name for name in left if name not in errors]
    return [errors[name] for name in modules]


def check_codecs() -> dict[str, bool]:
    """Which of the formats we offer can be written here."""
    found: dict[str, bool] = {}
    try:
        from av.codec import Codec

        for label, name in _ENCODERS.items():
            try:
                found[label] = Codec(name, "w").name == name
            except Exception:
                found[label] = False
    except Exception:
        found |= dict.fromkeys(_ENCODERS, False)
    try:
        from PIL import features

        found |= {"WebP": bool(features.check("webp")), "colour profiles": bool(features.check("littlecms2"))}
    except Exception:
        found |= {"WebP": False, "colour profiles": False}
    return found


def _requirements() -> dict[str, str]:
    """Distribution -> ``"core"`` or the extra that brings it, from our own metadata; ``"dev"`` repeats the others."""
    wanted: dict[str, str] = {}
    for line in requires("pellucid") or []:
        spec, _, marker = line.partition(";")
        name = spec.strip().split("[")[0]
        for mark in "<>=!~ ":
            name = name.split(mark)[0]
        extra = marker.partition("extra")[2].strip(" =\"'") if "extra" in marker else "core"
        if name != "pellucid" and wanted.get(name.lower(), "dev") == "dev":
            wanted[name.lower()] = extra
    return wanted


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _system() -> dict[str, Any]:
    from pellucid import __version__
    from pellucid.io.batch import usable_cores

    return {
        "pellucid": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": usable_cores(),
    }


def _devices() -> dict[str, Any]:
    try:
        import torch
    except Exception:
        return {}
    return {
        "cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "cuda": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "mps": torch.backends.mps.is_available(),
    }


def _weights() -> dict[str, Any]:
    facts: dict[str, Any] = {"offline": os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")}
    try:
        from huggingface_hub.constants import HF_HUB_CACHE

        from pellucid.hub.pretrained import bundled

        facts |= {"cache": HF_HUB_CACHE, "bundled": [f"{entry.room}/{entry.name}" for entry in bundled()]}
    except Exception as error:  # the packages behind it are reported above
        facts["error"] = " ".join(str(error).split())
    return facts


def _print(facts: dict[str, Any], problems: list[str]) -> None:
    for key, value in facts["system"].items():
        typer.echo(f"{key}: {value}")
    for section in ("devices", "weights"):
        typer.echo(f"\n{section}")
        for key, value in facts[section].items():
            shown = ", ".join(value) or "none" if isinstance(value, list) else value
            typer.echo(f"  {key}: {shown}")
    typer.echo("\ncodecs")
    for key, found in facts["codecs"].items():
        typer.echo(f"  {key}: {'ok' if found else 'missing'}")
    typer.echo("\npackages")
    for row in facts["packages"]:
        if row["extra"] == "" and not row["version"]:
            continue
        state = "broken" if row["error"] else "ok" if row["version"] else "not installed"
        group = f"[{row['extra']}]" if row["extra"] not in ("", "core") else row["extra"]
        typer.echo(f"  {row['package']:16} {row['version'] or '-':12} {group:10} {state}")
    typer.echo("")
    for problem in problems:
        typer.echo(f"problem: {problem}")
    if not problems:
        typer.echo("everything that is installed works")
