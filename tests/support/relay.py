#!/usr/bin/env python3
"""Carries TCP connections between parties, and loses them on demand.

    relay.py FIFO FROM:TO:LISTEN_HOST:LISTEN_PORT:HOST:PORT...

Each argument is a link: what FROM connects to at LISTEN goes on to TO at HOST:PORT. Commands, a line each, come through
the FIFO, which the relay makes:

    freeze A B   bytes from A to B stay here, on connections of either; so does the end of a connection
    cut A B      connections between the two are reset, new ones too
    heal         everything goes on: what was frozen arrives late

It prints "ready" when it listens, and each command when it is done.
"""
import asyncio
import os
import sys

frozen = set()   # (from, to)
cut = set()      # frozenset of two
links = set()    # (connection's parties, transports)
changed = None   # an event, new for each command


async def pump(reader, writer, sender, receiver):
    try:
        while True:
            data = await reader.read(65536)
            while (sender, receiver) in frozen:
                await changed.wait()
            if not data:
                break
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def carry(reader, writer, sender, receiver, host, port):
    pair = frozenset((sender, receiver))
    try:
        if pair in cut:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection(host, port)
    except OSError:
        writer.transport.abort()
        return
    link = (pair, (writer.transport, there_writer.transport))
    links.add(link)
    await asyncio.gather(pump(reader, there_writer, sender, receiver), pump(there_reader, writer, receiver, sender))
    links.discard(link)


def command(line):
    global changed
    words = line.split()
    if words == ["heal"]:
        frozen.clear()
        cut.clear()
    elif len(words) == 3 and words[0] == "freeze":
        frozen.add((words[1], words[2]))
    elif len(words) == 3 and words[0] == "cut":
        cut.add(frozenset(words[1:]))
        for pair, transports in list(links):
            if pair in cut:
                for transport in transports:
                    transport.abort()
    else:
        sys.exit("relay.py: what is '%s'?" % line)
    changed.set()
    changed = asyncio.Event()
    print(line, flush=True)


async def main():
    global changed
    changed = asyncio.Event()
    for argument in sys.argv[2:]:
        sender, receiver, listen_host, listen_port, host, port = argument.split(":")
        await asyncio.start_server(
            lambda r, w, s=sender, t=receiver, h=host, p=int(port): carry(r, w, s, t, h, p), listen_host, int(listen_port))
    os.mkfifo(sys.argv[1])
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_NONBLOCK)  # also as a writer: it never ends
    rest = b""

    def on_commands():
        nonlocal rest
        *lines, rest = (rest + os.read(fd, 4096)).split(b"\n")
        for line in lines:
            command(line.decode())

    asyncio.get_running_loop().add_reader(fd, on_commands)
    print("ready", flush=True)
    await asyncio.Event().wait()


try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
