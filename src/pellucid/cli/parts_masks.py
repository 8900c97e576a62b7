"""Which masks a verb of ``pellucid parts`` is about, how they are read, shown and written."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pellucid.cli.outputs import Output, Stdin, is_empty, stripped
from pellucid.errors import ConfigError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.io.batch import Job
    from pellucid.layers import LayerStack, Meta
    from pellucid.registry import Method

logger = logging.getLogger(__name__)

TASK = "face-parts"
EDITED, SWAPPED, MIXED, RENDERED, PARSED = "edited", "swapped", "mixed", "rendered", "mask"
MOST = 99  # results of one mask
OWN = (
    *(EDITED, SWAPPED, MIXED, RENDERED, PARSED),
    *(f"{word}-{number}" for word in (EDITED, SWAPPED, MIXED, RENDERED) for number in range(1, MOST + 1)),
)
_SUFFIXES = (".png", ".npz", ".npy", ".bmp", ".tif", ".tiff", ".webp", ".ora", ".psd")  # a folder is searched for
_LAYERED = (".ora", ".psd")
FORMATS = (".png", ".npz", *_LAYERED)


@dataclass(frozen=True)
class Source:
    """Where masks come from, as plain values that a worker process can be sent.

    Attributes:
        method: as a value: worker processes see the registry as it is on disk.
        model, device, offline: of the pipeline.
        order: label order of bare ids.
        class_set: file of the class set that the masks are in; None is that of the weights.
        photos: inputs are photographs.
        parser: folder of what finds their masks.
        render: a generator of `generators.open_generator`, None for none.
        style: a picture, a folder of them, a number, or None.
        style_mask: the style picture's own mask.
    """

    method: "Method"
    model: str | None = None
    device: str = "auto"
    offline: bool = False
    order: str | None = None
    class_set: Path | None = None
    photos: bool = False
    parser: Path | None = None
    render: str | None = None
    style: str | None = None
    style_mask: Path | None = None

    def __post_init__(self) -> None:
        if self.style is not None and self.render is None:
            raise ConfigError("--style is for rendering, and nothing is rendered", "add --render preview")
        if self.style_mask is not None and (self.style is None or self.style.isdecimal()):
            raise ConfigError("--style-mask is the mask of a --style picture, and none is given")
        if self.parser is not None and not self.photos:
            raise ConfigError("--parser finds the masks of photographs, and none is given", "add --photo PICTURE")


class Desk:
    """The pipeline in whichever process works, with what reads masks for it and shows them."""

    def __init__(self, source: Source) -> None:
        from pellucid.registry import resolve

        self.source = source
        self.pipe: Any = resolve(source.method.pipeline).from_pretrained(
            source.model, device=source.device, offline=source.offline
        )
        self.classes: Any = self.pipe.classes
        self._files = source.method.module("masks.mask_files")
        self._sets = source.method.module("masks.celebamask")
        self._foreign = self._matched()
        self._parser: Any = None
        if source.photos:
            self._parser = source.method.module("masks.photo").FaceParser(
                source.parser, source.order, self.classes, device=source.device
            )
        self._style: Any = None
        if source.render is not None:
            generator = self.pipe.generator(source.render)
            if source.style is not None and source.style.isdecimal():
                self._style = self._drawn_style(int(source.style))
            elif source.style_mask is not None:
                labels = self.read(source.style_mask).labels
                self._style = source.method.module("look").Look.make(generator, labels, source.style).style

    def read(self, source: Any) -> Any:
        """Read a mask: path or open file -> `mask_files.Mask` of the weights' class set.

        Raises:
            InputError, ConfigError: see `mask_files.read_mask`.
        """
        if self._foreign is None:
            return self._files.read_mask(source, self.classes, order=self.source.order)
        foreign, table = self._foreign
        mask = self._files.read_mask(source, foreign, order=self.source.order)
        return replace(mask, labels=table[mask.labels.long()], classes=self.classes)

    def mask_of(self, job: "Job") -> tuple[Any, Path | None]:
        """The mask of a job, and its photograph where the mask was found in one."""
        if self._parser is not None:
            picture = job.source if job.source is not None else Stdin(sys.stdin.buffer.read())
            return self._parser.parse(picture), job.source
        if job.source is None:
            return self.read(Stdin(sys.stdin.buffer.read())), None
        return self.read(job.source), None

    def masks_in(self, folder: Path, split: str | None) -> list[tuple[str, Any]]:
        """Name and file of each mask of a set, for `load`; names differ.

        Raises:
            InputError: it holds no masks, or none of the split.
        """
        found = self._sets.find_masks(folder, self._foreign[0] if self._foreign else self.classes, self.source.order)
        wanted = [one for one in found if split in (None, one.split)]
        if not wanted:
            splits = ", ".join(sorted({str(one.split) for one in found}))
            raise InputError(f"{folder}: no masks of split {split!r}, found split {splits}")
        stems = [one.path.name if one.in_parts else one.path.stem for one in wanted]
        taken: dict[str, int] = {}
        names = []
        for stem in stems:
            taken[stem] = taken.get(stem, 0) + 1
            names.append(stem if taken[stem] == 1 else f"{stem}_{taken[stem]}")
        return list(zip(names, wanted, strict=True))

    def load(self, file: Any) -> "Tensor":
        """Read a mask that `masks_in` found: ids ``(H, W)`` of the weights' class set."""
        if self._foreign is None:
            return self._sets.load(file, self.classes)
        foreign, table = self._foreign
        return table[self._sets.load(file, foreign).long()]

    def stack_of(self, labels: "Tensor", meta: "Meta", look: dict[str, Any], seed: int = 0) -> "LayerStack":
        """One layer a class of a label map ``(H, W)`` that is as it is, shown as ``look`` says."""
        picture = None
        if look:
            more = {name: value for name, value in look.items() if name != "render"}
            picture = self.pipe.render(labels, backend=look["render"], seed=seed, **more)
        meta = replace(meta, method=self.source.method.name, weights=self.pipe.weights, seed=seed)
        return self._files.as_stack(labels, self.classes, picture, meta)

    def look(self, job: "Job | None", photo: Path | None) -> dict[str, Any]:
        """The arguments of the pipeline that say how its result is shown."""
        if self.source.render is None:
            return {}
        look: dict[str, Any] = {"render": self.source.render}
        if self._style is not None:
            return look | {"style": self._style}
        if self.source.style is not None:
            return look | {"photo": _picture_for(job, self.source.style)}
        return look | ({} if photo is None else {"photo": photo})

    def _drawn_style(self, seed: int) -> Any:
        generator = self.pipe.generator(self.source.render)
        if not hasattr(generator, "random_style"):
            raise ConfigError(
                f"--style {seed} draws the looks of the preview, found the generator {self.source.render}",
                "give the picture of a face",
            )
        return generator.random_style(seed)

    def random_look(self, seed: int) -> dict[str, Any]:
        """Looks for a mask that nobody photographed: drawn ones for the preview, else the generator's mean."""
        if self.source.render == "preview" and self.source.style is None:
            return {"render": "preview", "style": self._drawn_style(seed)}
        return self.look(None, None)

    def _matched(self) -> tuple[Any, "Tensor"] | None:
        """The class set that masks come in and, for each of its ids, the id of the class of that name here."""
        if self.source.class_set is None:
            return None
        import torch

        foreign = self.source.method.module("masks.classes").ClassSet.load(self.source.class_set)
        if lacking := [name for name in foreign.names if name not in self.classes.names]:
            raise ConfigError(
                f"class set {self.source.class_set}: {', '.join(lacking[:6])} {'is' if len(lacking) == 1 else 'are'} "
                f"not among the classes of the weights, {self.classes.name!r}",
                "masks must have classes that the weights know",
            )
        return foreign, torch.tensor([self.classes.id_of(name) for name in foreign.names], dtype=torch.uint8)


def _picture_for(job: "Job | None", style: str) -> Path:
    """The style picture of a job when ``--style`` is a folder of them: same place and stem below it."""
    folder = Path(style)
    if not folder.is_dir() or job is None:
        if not folder.is_file():
            raise InputError(f"--style {style} is not there", "give the picture of a face, or a number")
        return folder
    place, stem = folder / job.relative.parent, job.relative.stem
    found = sorted(path for path in place.glob("*") if path.stem == stem) if place.is_dir() else []
    if not found:
        raise InputError(f"{job.label}: no style picture {place / stem}.* is there", "see --style")
    return found[0]


def collect_masks(
    masks: Sequence[str] | None, photos: Sequence[str] | None, out: str | None, word: str, suffix: str, source: Source
) -> "list[Job]":
    """Turn masks or photographs of a command line into jobs whose results are called ``<stem>.<word><suffix>``.

    Raises:
        ConfigError: both were given, or neither.
        InputError: something is not there.
    """
    from pellucid.io import batch

    if bool(masks) == bool(photos):
        found = "both" if masks else "neither"
        raise ConfigError(f"masks or --photo PICTURE are needed, found {found}", "give one of them")

    def extension(path: Path) -> str:
        return suffix

    if photos:
        from pellucid.cli.outputs import is_film, readable_suffixes

        stills = {one for one in readable_suffixes() if not is_film(Path(f"a{one}"))}
        return batch.collect(photos, out, suffixes=stills, layer=word, extension=extension, own=OWN)
    faces: list[Path] = []
    rest: list[str] = []
    for text in masks or ():
        found_here = [] if text == batch.STDIO or Path(text).is_file() else _faces(Path(text), source)
        faces += found_here
        rest += [] if found_here else [text]
    if not faces:
        return batch.collect(rest, out, suffixes=_SUFFIXES, layer=word, extension=extension, own=OWN)
    several = len(faces) + len(rest) > 1
    if several and out is not None and not batch.is_folder(out):
        raise ConfigError(f"-o {out} is one file for several masks", f"give a folder, -o {out}/")
    jobs = [_job_of(face, out, f"{face.name}.{word}{suffix}", several) for face in faces]
    if rest:
        jobs += batch.collect(rest, out, suffixes=_SUFFIXES, layer=word, extension=extension, own=OWN)
    return jobs


def _job_of(face: Path, out: str | None, name: str, several: bool) -> "Job":
    from pellucid.io.batch import STDIO, Job, is_folder

    target: Path | None = face.parent / name
    if out == STDIO:
        target = None
    elif out is not None:
        target = Path(out) / name if is_folder(out) else Path(out)
    return Job(face, target, Path(face.name), explicit=not several)


def _faces(path: Path, source: Source) -> list[Path]:
    """Faces that lie as one picture a part below a path, each as `mask_files.read_mask` takes it."""
    if not path.is_dir() and (path.suffix or not path.parent.is_dir()):
        return []
    classes = _classes_of(source)
    split_name = source.method.module("masks.part_files").split_name
    if path.is_dir():
        named = [split_name(one.stem, classes) for one in sorted(path.iterdir()) if one.suffix.casefold() == ".png"]
        if not named or None in named:
            return []
        faces = list(dict.fromkeys(one[0] for one in named if one is not None))
        return [path] if len(faces) == 1 else [path / face for face in faces]
    # A face in a folder of many, by its number: 0/00012.
    is_face = any((path.parent / f"{path.name}_{name}.png").is_file() for name in classes.names)
    return [path] if is_face else []


def _classes_of(source: Source) -> Any:
    """The class set that masks come in, before the pipeline is loaded."""
    from pellucid.hub.pretrained import resolve_weights

    room = source.method.module("pipeline")
    own = source.class_set
    if own is None:
        folder = resolve_weights(
            source.model, room=source.method.name, default=room.DEFAULT_WEIGHTS, offline=source.offline
        )
        own = folder / room.CLASSES
    known = source.method.module("masks.classes")
    return known.ClassSet.load(own) if own.is_file() else known.CELEBAMASK_HQ


def label_suffix(out: str | None, format: str | None) -> str:
    """Suffix of label maps by ``--format``, else that of ``-o FILE``, else ``.png``.

    Raises:
        ConfigError: label maps cannot be written so, or the two ask for different formats.
    """
    from pellucid.io import batch

    told = "" if out in (None, batch.STDIO) or batch.is_folder(out) else Path(out).suffix.lower()
    asked = f".{format.lower().lstrip('.')}" if format is not None else told or ".png"
    if asked not in FORMATS:
        able = ", ".join(one.lstrip(".") for one in FORMATS)
        raise ConfigError(
            f"a label map cannot be written as {asked.lstrip('.')}", f"use one of {able}; --render writes a picture"
        )
    if told and told != asked:
        raise ConfigError(f"--format {format} and -o {out} ask for different formats", "leave one of them out")
    return asked


def rendering_of(target: Path) -> Path:
    """Where the rendering of a label map goes: ``a.edited-2.png`` -> ``a.rendered-2.png``."""
    stem, _, last = target.stem.rpartition(".")
    for word in (EDITED, SWAPPED, MIXED):
        if last == word or last.startswith(f"{word}-"):
            return target.with_name(f"{stem}.{RENDERED}{last.removeprefix(word)}.png")
    return target.with_name(f"{target.stem}.{RENDERED}.png")


def numbered(target: Path, number: int) -> Path:
    """The file of one of several results."""
    return target.with_name(f"{target.stem}-{number}{target.suffix}")


def save_labels(
    stack: "LayerStack", target: Path | None, desk: Desk, output: Output, suffix: str, overwrite: bool
) -> None:
    """Write the label map of a stack of classes; after its rendering, where there is one.

    Args:
        stack: of the pipeline, one layer a class.
        target: None is stdout.
        desk: that made it.
        output: the verb's options.
        suffix: of what goes to stdout.
        overwrite: whether a file that is there may be replaced.
    """
    if output.strip:
        stack = stripped(stack)
    if target is None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"labels{suffix}"
            save_labels(stack, path, desk, replace(output, strip=False), suffix, True)
            sys.stdout.buffer.write(path.read_bytes())
            sys.stdout.buffer.flush()
        return
    if target.suffix.lower() in _LAYERED:
        stack.save(target, overwrite=overwrite or is_empty(target))
        return
    files = desk.source.method.module("masks.mask_files")
    labels = files.from_stack(stack, desk.classes)
    files.write_mask(labels, target, desk.classes, overwrite=overwrite or is_empty(target))


def save_rendering(stack: "LayerStack", path: Path, output: Output, overwrite: bool) -> None:
    """Write the face that the layers of a stack show, as one picture."""
    from pellucid.layers import Layer

    if output.strip:
        stack = stripped(stack)
    replace(stack, layers=(Layer(RENDERED, stack.composite()[:3]),)).save(path, overwrite=overwrite)
