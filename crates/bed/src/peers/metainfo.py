"""Writes the metainfo of one file: metainfo.py FILE PIECE_BYTES TRACKER_URL TORRENT. Uses nothing of ours."""
import hashlib
import os
import sys


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


path, piece_bytes, tracker, torrent = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
pieces = bytearray()
with open(path, "rb") as file:
    while piece := file.read(piece_bytes):
        pieces += hashlib.sha1(piece).digest()
info = {
    "length": os.path.getsize(path),
    "name": os.path.basename(path),
    "piece length": piece_bytes,
    "pieces": bytes(pieces),
    "private": 1,
}
with open(torrent, "wb") as file:
    file.write(bencode({"announce": tracker, "info": info}))
