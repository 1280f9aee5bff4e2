"""A tracker for one bed: tracker.py PORT. Answers every announce with all other peers, compact (BEP 23)."""
import asyncio
import socket
import sys
from urllib.parse import parse_qs, urlsplit

INTERVAL_S = 2
peers = {}


def answer(target, address):
    query = parse_qs(urlsplit(target).query, encoding="latin-1")
    swarm = peers.setdefault(query["info_hash"][0], {})
    me = socket.inet_aton(address) + int(query["port"][0]).to_bytes(2, "big")
    if query.get("event") == ["stopped"]:
        swarm.pop(me, None)
    else:
        swarm[me] = True
    others = b"".join(peer for peer in swarm if peer != me)
    return b"d8:intervali%de12:min intervali%de5:peers%d:%se" % (INTERVAL_S, INTERVAL_S, len(others), others)


async def serve(reader, writer):
    try:
        request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        body = answer(request.split(b" ")[1].decode("latin-1"), writer.get_extra_info("peername")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.TimeoutError, KeyError, IndexError, ValueError, OSError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


asyncio.run(main())
