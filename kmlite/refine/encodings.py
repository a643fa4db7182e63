"""Bytes of a file as UTF-8, whatever they were: compressed, UTF-16, a line of CP949 among others. Damage is passed on as `Lost`.

A compressed file is read member by member: what stands before and after a damaged one is kept. Lines are read as UTF-8 where they
are that, else as CP949 where that gives Korean; others keep U+FFFD where a byte was broken, or are named with the encoding that they
seem to have.
"""

import codecs
import contextlib
import itertools
import mmap
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

BLOCK = 1 << 18  # bytes read at once
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
SKIPPABLE = b"\x2a\x4d\x18"  # behind the first byte of a zstd frame that holds notes and no data


class Packing(NamedTuple):
    decoder: Callable[[], Any]
    magic: bytes  # what a member begins with
    at_once: int  # bytes unpacked at once: one may give a thousand, of zstd 30,000


GZIP = Packing(lambda: zlib.decompressobj(31), b"\x1f\x8b\x08", 1 << 14)
ZSTD = Packing(lambda: zstandard.ZstdDecompressor().decompressobj(), b"\x28\xb5\x2f\xfd", 1 << 10)
PACKED = {".gz": GZIP, ".zst": ZSTD, ".zstd": ZSTD}
DAMAGE = (zlib.error, zstandard.ZstdError)


class Lost(NamedTuple):
    """A stretch that could not be read; what stood before and after it must not be joined."""

    bytes: int  # of the file as it lies on the disk; 0 where that is not known
    why: str
    records: int = 0  # where the format says how many


def blocks(path: Path, start: int = 0) -> Iterator[bytes | Lost]:
    """The bytes of a file from `start` on (of an uncompressed one alone), unpacked, as UTF-8 but for lines in other encodings."""
    packing = PACKED.get(path.suffix.lower())
    source = members(path, packing) if packing else plain(path, start)
    if start:
        yield from source
        return
    first = next(source, b"")
    head = first if isinstance(first, bytes) else b""
    encoding = encoding_of(head)
    if encoding == "utf-8-sig":
        first = head.removeprefix(codecs.BOM_UTF8)
    elif encoding != "utf-8":
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        for block in itertools.chain([first], source):
            yield block if isinstance(block, Lost) else decoder.decode(block).encode("utf-8", "replace")
        yield decoder.decode(b"", final=True).encode("utf-8", "replace")
        return
    yield first
    yield from source


def plain(path: Path, start: int) -> Iterator[bytes | Lost]:
    with open(path, "rb") as file:
        file.seek(start)
        while block := file.read(BLOCK):
            yield block


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


def members(path: Path, packing: Packing) -> Iterator[bytes | Lost]:
    """Unpack a file of one or more members; from a damaged one on, go on at the next."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        at = 0
        while at < size:
            if not view[at : at + 6].startswith(packing.magic) and view[at + 1 : at + 4] != SKIPPABLE:
                after = next_member(view, packing, at)
                if view[at:after].strip(b"\0"):  # zeros fill a tape's last block
                    yield Lost(after - at, "these bytes are no part of a compressed file")
                at = after
                continue
            one, start, good = packing.decoder(), at, at + 1
            try:
                while at < size and not one.eof:
                    chunk = view[at : at + packing.at_once]
                    out = one.decompress(chunk)
                    at += len(chunk) - len(one.unused_data)
                    if out:
                        yield out
                        good = at
                if not one.eof:
                    yield Lost(size - start, "the compressed file ended before its end marker")
            except DAMAGE as error:
                yield before_the_damage(packing, view, start, at)
                at = next_member(view, packing, good)
                yield Lost(at - start, f"damaged: {error}"[:200])


def next_member(view: mmap.mmap, packing: Packing, at: int) -> int:
    found = view.find(packing.magic, at)
    return len(view) if found < 0 else found


def before_the_damage(packing: Packing, view: mmap.mmap, start: int, at: int) -> bytes:
    """What can be had, byte by byte, of the chunk from `at` on in which the member from `start` on breaks."""
    one = packing.decoder()
    for begin in range(start, at, packing.at_once):
        one.decompress(view[begin : min(at, begin + packing.at_once)])
    out = []
    with contextlib.suppress(*DAMAGE):  # the same again, which the caller reports
        for i in range(at, len(view)):
            out.append(one.decompress(view[i : i + 1]))
    return b"".join(out)


def lines(
    source: Iterator[bytes | Lost], start: int = 0, stop: int | None = None, split: bool = False
) -> Iterator[tuple[bytes, bool] | tuple[Lost, bool]]:
    """(line, whole) from byte `start` (the source stands one before it) to the line that `stop` is in.

    Of a line over LINE_MOST only the beginning comes and `whole` is False; with `split` all of it comes, in parts of which the last
    alone is `whole`. What stands before and after a loss is never joined.
    """
    at = start - 1 if start else 0  # where the line begins that is being read
    skip = start > 0  # a line that began before `start` is the earlier piece's
    rest, size = b"", 0  # of a line whose end has not come: its beginning, and its bytes so far
    most = PART if split else LINE_MOST
    for block in source:
        if isinstance(block, Lost):
            if size and not skip:
                yield rest, size <= most
            rest, size, skip = b"", 0, False
            yield block, False
            continue
        *ended, tail = block.split(b"\n")
        for line in ended:
            size += len(line)
            if not skip:
                yield (rest + line if split or size <= most else rest), split or size <= most
            at += size + 1
            if stop is not None and at >= stop:
                return
            rest, size, skip = b"", 0, False
        size += len(tail)
        if split or size <= most or not rest:
            rest += tail
        if split and size > most:
            cut = rest.rfind(b" ", size // 2) + 1  # a blank is no second byte in any encoding
            cut = cut or next(i for i in range(size - 1, 0, -1) if rest[i] & 0xC0 != 0x80)  # else before a sign's first byte
            yield rest[:cut], False
            rest, size = rest[cut:], size - cut
    if size and not skip:
        yield rest, split or size <= most


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
    return (korean, "cp949") if reads_as_korean(korean) else (text, name_of(line))


def reads_as_korean(text: str) -> bool:
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
