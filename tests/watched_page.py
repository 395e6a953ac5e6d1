"""`fmx watch` for a test: the page of a folder, served and asked for."""

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

FMX = [sys.executable, "-m", "fmx"]


@contextmanager
def watched(folder, *words, code=0):
    """Serve a folder's page; yields the process and the page's address.

    code: how the process ends, which the last line says unless a signal has ended it.
    """
    server = subprocess.Popen(
        [*FMX, "watch", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said = ""
        while "the page is at" not in said:
            said += server.stdout.readline() or pytest.fail(said)
        yield server, re.search(r"http://127\.0\.0\.1:\d+/", said)[0]
        server.send_signal(signal.SIGINT)
        output, _ = server.communicate(timeout=30)
        assert server.returncode == code, output
        assert code < 0 or output.splitlines()[-1] == "fmx watch has ended.", output
    finally:
        server.kill()
        server.communicate()


def asked(address, path="", **headers):
    request = urllib.request.Request(address + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
