"""READs over several TCP connections by a client that costs next to nothing: it asks, and has the kernel throw the
replies away (MSG_TRUNC, tcp(7)), so that on a small machine nearly all of the processors is left to the server.
Prints the MiB a second of all connections together.

  discard-reads.py HOST PORT CONNECTIONS READ-BYTES DEPTH SECONDS EXPORT-BYTES
"""
import os, socket, struct, sys, time

host = sys.argv[1]
port, connections, length, depth, seconds, size = map(int, sys.argv[2:])


def open_export(client):
    def take(count):
        data = b''
        while len(data) < count:
            part = client.recv(count - len(data))
            assert part, 'the server closed the connection'
            data += part
        return data

    take(18)
    client.sendall(struct.pack('>I', 3) + b'IHAVEOPT' + struct.pack('>IIIH', 7, 6, 0, 0))
    while True:
        header = take(20)
        take(struct.unpack('>I', header[16:])[0])
        kind = struct.unpack('>I', header[12:16])[0]
        assert kind < 1 << 31, 'GO was refused'
        if kind == 1:
            return


def read_for(index):
    client = socket.create_connection((host, port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    open_export(client)
    base = index * (size // connections)
    count = size // connections // length
    number = 0

    def requests(how_many):
        nonlocal number
        parts = []
        for _ in range(how_many):
            offset = base + number % count * length
            parts.append(struct.pack('>IHHQQI', 0x25609513, 0, 0, number, offset, length))
            number += 1
        return b''.join(parts)

    unused = bytearray(1 << 20)
    reply = 16 + length
    pending = total = 0
    begin = time.monotonic()
    client.sendall(requests(depth))
    while time.monotonic() - begin < seconds:
        received = client.recv_into(unused, len(unused), socket.MSG_TRUNC)
        assert received > 0, 'the server closed the connection'
        total += received
        pending += received
        if pending >= reply:
            client.sendall(requests(pending // reply))
            pending %= reply
    return total / (time.monotonic() - begin) / (1 << 20)


readers = []
for index in range(connections):
    out, into = os.pipe()
    if os.fork() == 0:
        os.write(into, str(read_for(index)).encode())
        os._exit(0)
    os.close(into)
    readers.append(out)
print(sum(float(os.read(out, 64)) for out in readers))
