"""How a clip was made, kept with it: a JSON file beside it, and the same text inside files that hold text.

Pictures carry it in an XMP packet (``dc:description``), films in the tag ``comment``.
"""

import json
import re
import shutil
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, unescape

from pellucid import __version__
from pellucid.errors import InputError
from pellucid.io.files import atomic_path
from pellucid.io.film_read import open_film
from pellucid.layers import LayerStack

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>
<rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""
_DESCRIPTION = re.compile(r'<dc:description>.*?<rdf:li xml:lang="x-default">(.*?)</rdf:li>', re.DOTALL)
_PNG_HEAD = 33  # bytes of signature and IHDR
_XMP_KEY = b"XML:com.adobe.xmp"


def settings_of(stack: LayerStack, **more: Any) -> dict[str, Any]:
    """List what is needed to make a clip again: method, weights, seed and parameters, besides its size and rate.

    Args:
        stack: as its pipeline returned it.
        **more: what else belongs there, such as what was done when it was written.

    Returns:
        Values that JSON holds; others are written as text.
    """
    meta = stack.meta
    facts = {
        "made_by": f"pellucid {__version__}",
        "method": meta.method,
        "weights": meta.weights,
        "source": meta.source,
        "seed": meta.seed,
        "width": stack.width,
        "height": stack.height,
        "frames": stack.frames,
        "fps": None if stack.fps is None else str(stack.fps),
        **more,
        "parameters": dict(meta.parameters),
    }
    return json.loads(json.dumps(facts, default=str))


def to_text(settings: Mapping[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(settings, ensure_ascii=False, default=str)


def to_xmp(settings: Mapping[str, Any]) -> bytes:
    """Make the XMP packet that holds the settings as the picture's description."""
    return _PACKET.format(escape(to_text(settings))).encode()


def sidecar_path(path: Path) -> Path:
    """Name of the JSON file beside ``path``: ``clip.webm.json``; of a folder ``frames.json``."""
    return path.with_name(f"{path.name}.json")


def write_sidecar(settings: Mapping[str, Any], path: Path, *, overwrite: bool) -> Path:
    """Write the settings beside ``path``, readable for people.

    Raises:
        InputError: the JSON file is there and ``overwrite`` is false, or it cannot be written.
    """
    place = sidecar_path(path)
    with atomic_path(place, overwrite) as temporary:
        temporary.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return place


def read_settings(path: str | Path) -> dict[str, Any] | None:
    """Read what a file says of how it was made: from inside, else from the JSON file beside it; None without both.

    Args:
        path: a PNG, APNG, WebP, film, or a folder of PNG frames.

    Raises:
        InputError: there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    frames = sorted(path.glob("*.png")) if path.is_dir() else [path]
    text = _inside(frames[0]) if frames else None
    if text is None and sidecar_path(path).is_file():
        text = sidecar_path(path).read_text(encoding="utf-8")
    try:
        found = None if text is None else json.loads(text)
    except ValueError:  # somebody else's comment
        return None
    return found if isinstance(found, dict) else None


def _inside(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(16)
        if head.startswith(b"\x89PNG") or head[8:12] == b"WEBP":
            file.seek(0)
            packet = _DESCRIPTION.search(file.read().decode("utf-8", "ignore"))
            return unescape(packet[1]) if packet else None
    try:
        with open_film(path) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
    except InputError:
        return None
    return tags.get("comment")


def tag_png(path: Path, xmp: bytes) -> None:
    """Put an XMP packet, and the mark that colours are sRGB, behind the header of a PNG or APNG file."""
    beside = path.with_name(f"{path.name}.tagged")
    try:
        with path.open("rb") as old, beside.open("wb") as new:
            new.write(old.read(_PNG_HEAD))
            new.write(_chunk(b"sRGB", b"\0"))
            new.write(_chunk(b"iTXt", _XMP_KEY + b"\0\0\0\0\0" + xmp))
            shutil.copyfileobj(old, new)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
