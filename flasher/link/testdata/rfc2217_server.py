"""An RFC 2217 server made of pyserial's own protocol engine.

Usage: rfc2217_server.py TTY LINES

It serves one client at a time on a free port of 127.0.0.1, whose number it
prints. TTY has no DTR and RTS (it is a pseudo terminal), so their levels go to
the file LINES, as two digits, before they are confirmed.

One loop does everything: what was read from TTY before a purge is sent before
the purge is confirmed.
"""
import os
import select
import socket
import sys

import serial
import serial.rfc2217


class Port(serial.Serial):
    lines = None
    cts = dsr = ri = cd = False

    def _update_dtr_state(self):
        os.pwrite(self.lines, b"%d" % self._dtr_state, 0)

    def _update_rts_state(self):
        os.pwrite(self.lines, b"%d" % self._rts_state, 1)


class Connection:
    def __init__(self, sock):
        self.write = sock.sendall


def serve(sock, port):
    manager = serial.rfc2217.PortManager(port, Connection(sock))
    pending = b""
    while True:
        readable, writable, _ = select.select(
            [port] + ([sock] if len(pending) < 4096 else []),
            [port] if pending else [], [])
        if port in readable:
            sock.sendall(b"".join(manager.escape(port.read(port.in_waiting or 1))))
        if port in writable:
            pending = pending[port.write(pending):]
        if sock in readable:
            data = sock.recv(4096)
            if not data:
                return
            pending += b"".join(manager.filter(data))


def main(tty, lines):
    Port.lines = os.open(lines, os.O_WRONLY)
    port = Port(tty, 115200, write_timeout=0)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            serve(sock, port)
        except ConnectionError:
            pass
        finally:
            sock.close()


main(*sys.argv[1:])
