"""Answers datagrams on a port: a short one with its source port and its content, a long one with itself."""
import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[2], int(sys.argv[1])))
while True:
    content, source = server.recvfrom(65536)
    prefix = b"%d " % source[1] if len(content) < 100 else b""
    server.sendto(prefix + content, source)
