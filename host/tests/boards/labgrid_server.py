"""labgrid-client in processes that are forked: it takes most of a second to start, and a farm is asked often.

``python labgrid_server.py SOCKET CLIENT`` with labgrid's Python makes CLIENT, a program that is used like ``labgrid-client``.
"""

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

CLIENT = """#!{python} -ISE
import array, json, os, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect({socket!r})
words = json.dumps([sys.argv, dict(os.environ), os.getcwd()]).encode()
streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
link.sendmsg([len(words).to_bytes(4, "little")], streams)
link.sendall(words)
os._exit(int(link.recv(4) or 1))
"""


def run(link: socket.socket, main) -> None:
    """One command, in this process, which ends with its client."""
    size, streams, *_ = socket.recv_fds(link, 4, 3)
    words = link.makefile("rb").read(int.from_bytes(size, "little"))
    sys.argv, environment, folder = json.loads(words)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    threading.Thread(target=lambda: link.recv(1) or os._exit(1), daemon=True).start()
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    link.sendall(str(status if isinstance(status, int) else int(status is not None)).encode())
    os._exit(0)


if __name__ == "__main__":
    from labgrid.remote.client import main

    address, client = sys.argv[1:]
    with socket.create_server(address, family=socket.AF_UNIX, backlog=20) as server:
        Path(client).write_text(CLIENT.format(python=sys.executable, socket=address))
        Path(client).chmod(0o755)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            link, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                run(link, main)
            link.close()
