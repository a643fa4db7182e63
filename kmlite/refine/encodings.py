"""Bytes of a file as UTF-8, whatever they were: compressed, UTF-16, a line of CP949 among others. Damage is passed on as `Lost`.

A compressed file is read member by member (gzip, bzip2, xz) or frame by frame (zstd): what stands before and after a damaged one
is kept. Lines are read as UTF-8 where they are that, else as CP949 where that gives Korean; others keep U+FFFD where a byte was
broken, or are named with the encoding that they seem to have.
"""

import bz2
import codecs
import lzma
import mmap
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK = 1 << 18  # bytes read at once
PACKED_BLOCK = 1 << 14  # of a compressed file, of which a byte may give a thousand
MOST_SEEN = 4096  # bytes from which a file's encoding is told
LINE_MOST = 16 << 20  # bytes of a line that is read: what is longer is a broken file, and would break the memory of a worker
PART = 1 << 20  # of a line without end that is wanted whole
BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
BROKEN = "\ufffd"
FOREIGN = re.compile(r"[^\x00-\x7f]")
HANGUL = re.compile("[가-힣]")
NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f]")
READABLE = re.compile("[\t\n\r -~\u00a0-\u00ff\u2000-\u206f\u3000-\u30ff\u3130-\u318f가-힣\u4e00-\u9fff\uff00-\uffef]")
FREQUENT = re.compile("[이다는의에을가고하은로를지도한기사인서으자리스어시대과수나정일보해]")  # a third of the syllables of Korean prose
ZSTD, SKIPPABLE = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"
PACKED: dict[str, tuple[Callable[[], Any], bytes]] = {
    ".gz": (lambda: zlib.decompressobj(31), b"\x1f\x8b\x08"),
    ".bz2": (bz2.BZ2Decompressor, b"BZh"),
    ".xz": (lzma.LZMADecompressor, b"\xfd7zXZ\x00"),
}


class Lost(NamedTuple):
    """A stretch that could not be read; what stood before and after it must not be joined."""

    bytes: int  # of the file as it lies on the disk; 0 where that is not known
    why: str
    records: int = 0  # where the format says how many


def blocks(path: Path, start: int = 0) -> Iterator[bytes | Lost]:
    """The bytes of a file from `start` on (of an uncompressed one alone), unpacked, as UTF-8 but for lines in other encodings."""
    suffix = path.suffix.lower()
    if suffix in PACKED:
        source: Iterator[bytes | Lost] = members(path, *PACKED[suffix])
    elif suffix in (".zst", ".zstd"):
        source = frames(path)
    else:
        source = plain(path, start)
    if start:
        yield from source
        return
    first = next(source, b"")
    head = first if isinstance(first, bytes) else b""
    encoding = encoding_of(head)
    if encoding == "utf-8-sig":
        first = head.removeprefix(codecs.BOM_UTF8)
    elif encoding != "utf-8":
        yield from recoded(first, source, encoding)
        return
    yield first
    yield from source


def plain(path: Path, start: int) -> Iterator[bytes | Lost]:
    with open(path, "rb") as file:
        file.seek(start)
        while block := file.read(BLOCK):
            yield block


def recoded(first: bytes | Lost, rest: Iterator[bytes | Lost], encoding: str) -> Iterator[bytes | Lost]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    block: bytes | Lost | None = first
    while block is not None:
        if isinstance(block, bytes):
            yield decoder.decode(block).encode("utf-8", "replace")
        else:
            yield block
        block = next(rest, None)
    yield decoder.decode(b"", final=True).encode("utf-8", "replace")


def encoding_of(head: bytes) -> str:
    """utf-8 (lines may differ), utf-8-sig, utf-16, utf-16-le, utf-16-be or utf-32, from a file's first bytes."""
    for bom, name in BOMS:
        if head.startswith(bom):
            return name
    head = head[: MOST_SEEN & ~1]
    head = head[: len(head) & ~1]
    if b"\0" in head:
        for name in ("utf-16-le", "utf-16-be"):
            try:
                text = codecs.getincrementaldecoder(name)().decode(head)
            except UnicodeDecodeError:
                continue
            if len(READABLE.findall(text)) > 0.95 * len(text):
                return name
    return "utf-8"


def cut_anywhere(path: Path) -> bool:
    """Whether an uncompressed file of lines may be read from any byte on: not where a line end has two bytes or four."""
    with open(path, "rb") as file:
        return encoding_of(file.read(MOST_SEEN)).startswith("utf-8")


def members(path: Path, decoder: Callable[[], Any], magic: bytes) -> Iterator[bytes | Lost]:
    """Unpack a file of one or more members; from a damaged one on, go on at the next that begins with `magic`."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if not size:
            return
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        at = 0
        while at < size:
            if view[at : at + len(magic)] != magic:
                after = view.find(magic, at)
                after = size if after < 0 else after
                if view[at:after].strip(b"\0"):  # zeros fill a tape's last block
                    yield Lost(after - at, "these bytes are no part of a compressed file")
                at = after
                continue
            one = decoder()
            start = at
            try:
                while at < size and not one.eof:
                    chunk = view[at : at + PACKED_BLOCK]
                    before = one.copy() if hasattr(one, "copy") else None
                    if out := one.decompress(chunk):
                        yield out
                    at += len(chunk) - len(one.unused_data)
                if not one.eof:
                    yield Lost(size - start, "the compressed file ended before its end marker")
            except (zlib.error, OSError, lzma.LZMAError, EOFError) as error:
                yield from before_the_damage(before, chunk)
                after = view.find(magic, at + 1)
                at = size if after < 0 else after
                yield Lost(at - start, f"damaged: {error}"[:200])


def before_the_damage(decoder: Any, chunk: bytes) -> Iterator[bytes]:
    """What can be had of the chunk in which gzip data break, byte by byte."""
    if decoder is None:
        return
    out = []
    try:
        for i in range(len(chunk)):
            out.append(decoder.decompress(chunk[i : i + 1]))
    except zlib.error:
        pass  # the caller reports it: this is where it was expected
    yield b"".join(out)


def frames(path: Path) -> Iterator[bytes | Lost]:
    """Unpack a .zst frame by frame."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        whole = source.read_buffer()
        size, at = whole.size, 0
        view = memoryview(whole)
        while at < size:
            end = frame_end(view, at)
            if end is None:
                after = next_frame(path, at + 1)
                stop = size if after is None else after
                yield from unpacked(whole.slice(at, stop - at), stop - at)
                at = stop
            elif bytes(view[at + 1 : at + 4]) == SKIPPABLE:
                at = end
            else:
                yield from unpacked(whole.slice(at, end - at), end - at)
                at = end


def frame_end(view: memoryview, at: int) -> int | None:
    """Where a zstd frame ends (RFC 8878), or None where these bytes are none, or not a whole one."""
    size = len(view)
    head = bytes(view[at : at + 8])
    if len(head) == 8 and head[1:4] == SKIPPABLE and head[0] & 0xF0 == 0x50:
        end = at + 8 + int.from_bytes(head[4:8], "little")
        return end if end <= size else None
    if head[:4] != ZSTD or len(head) < 6:
        return None
    flags = head[4]
    single = flags >> 5 & 1
    at += 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
    while at + 3 <= size:
        block = int.from_bytes(bytes(view[at : at + 3]), "little")
        kind = block >> 1 & 3
        if kind == 3:
            return None
        at += 3 + (1 if kind == 1 else block >> 3)
        if block & 1:
            at += 4 * (flags >> 2 & 1)
            return at if at <= size else None
    return None


def next_frame(path: Path, at: int) -> int | None:
    with open(path, "rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        while (at := view.find(ZSTD, at)) >= 0:
            if frame_end(memoryview(view), at) is not None:
                return at
            at += 1
    return None


def unpacked(buffer: Any, size: int) -> Iterator[bytes | Lost]:
    """One zstd frame; of a damaged one what stands before the damage."""
    import pyarrow as pa

    done = 0
    try:
        with pa.CompressedInputStream(pa.BufferReader(buffer), "zstd") as stream:
            while block := stream.read(BLOCK):
                done += len(block)
                yield block
        return
    except OSError as error:
        why = str(error)[:200]
    try:
        with pa.CompressedInputStream(pa.BufferReader(buffer), "zstd") as stream:
            while done and (block := stream.read(min(done, BLOCK))):
                done -= len(block)
            while block := stream.read(256):
                yield block
    except OSError:
        pass  # the same damage again, said below
    yield Lost(size, f"damaged: {why}")


def lines(
    source: Iterator[bytes | Lost], start: int = 0, stop: int | None = None, split: bool = False
) -> Iterator[tuple[bytes, bool] | tuple[Lost, bool]]:
    """(line, whole) from byte `start` (the source stands one before it) to the line that `stop` is in.

    Of a line over LINE_MOST only the beginning comes and `whole` is False; with `split` all of it comes, in parts of which the last
    alone is `whole`. What stands before and after a loss is never joined.
    """
    at = start - 1 if start else 0  # where the line begins that is being read
    skip = start > 0  # a line that began before `start` is the earlier piece's
    parts: list[bytes] = []
    size = 0
    most = PART if split else LINE_MOST
    for block in source:
        if isinstance(block, Lost):
            if size and not skip:
                yield (b"".join(parts), True) if size <= most else (parts[0], False)
            parts, size, skip = [], 0, False
            yield block, False
            continue
        *ended, rest = block.split(b"\n")
        for i, tail in enumerate(ended):
            if i == 0:
                size += len(tail)
                tail = b"".join([*parts, tail]) if size <= most else parts[0] if not split else b"".join([*parts, tail])
            else:
                size = len(tail)
            if skip:
                skip = False
            else:
                yield tail, split or size <= most
            at += size + 1
            if stop is not None and at >= stop:
                return
            parts, size = [], 0
        size += len(rest)
        if size <= most or not parts or split:
            parts.append(rest)
        if split and size > most:
            whole = b"".join(parts)
            cut = whole.rfind(b" ", size // 2) + 1  # a blank is no second byte in any encoding
            cut = cut or next(i for i in range(size - 1, 0, -1) if whole[i] & 0xC0 != 0x80)  # else before a sign's first byte
            yield whole[:cut], False
            parts, size = [whole[cut:]], len(whole) - cut
    if size and not skip:
        yield (b"".join(parts), True) if split or size <= most else (parts[0], False)


# ---- one line


def decode(line: bytes) -> tuple[str, str]:
    """(text, the encoding it was in): utf-8, cp949, or another's name, and then the text has U+FFFD for what could not be read."""
    try:
        return line.decode(), "utf-8"
    except UnicodeDecodeError:
        text = line.decode("utf-8", "replace")
    broken, good = text.count(BROKEN), len(FOREIGN.findall(text))
    if good - broken > broken or (not good - broken and broken <= 2 and len(line) > 40 * broken):
        return text, "utf-8"  # a byte was broken in it
    try:
        korean = line.decode("cp949")
    except UnicodeDecodeError:
        korean = line.decode("cp949", "replace")
        if korean.count(BROKEN) > 0.02 * len(korean):
            return text, name_of(line)
    return (korean, "cp949") if is_korean(korean) else (text, name_of(line))


def is_korean(text: str) -> bool:
    """Whether text that was read as CP949 is Korean, not what Japanese or Chinese bytes look like in it."""
    foreign = [c for c in FOREIGN.findall(text) if c != BROKEN]
    syllables = HANGUL.findall(text)
    if NO_TEXT.search(text) or len(syllables) < 0.6 * len(foreign):
        return False
    if len("".join(syllables).encode("euc_kr", "ignore")) < 1.8 * len(syllables):  # Korean keeps to its 2,350 syllables; Shift JIS does not
        return False
    return len(syllables) < 20 or len(FREQUENT.findall(text)) > 0.15 * len(syllables)


def name_of(line: bytes) -> str:
    """The encoding that bytes seem to have, by charset-normalizer."""
    from charset_normalizer import from_bytes

    best = from_bytes(line[:20_000]).best()
    return best.encoding if best else "unknown"
