"""Take from Python what Windows does not have: started as `sitecustomize`, before a command's own imports."""

import asyncio
import concurrent.futures.process
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import platform
import posix
import shutil
import signal
import subprocess
import sys
import tempfile
from types import SimpleNamespace

IMPORTED = (asyncio, concurrent, multiprocessing, platform, shutil, subprocess, tempfile)
MODULES = ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
# The public names of `posix` that `nt`, on which os is built on Windows, has too.
OS = """
abort access chdir chmod close closerange cpu_count device_encoding dup dup2 environ error execv execve fspath fstat
fsync ftruncate get_inheritable get_terminal_size getcwd getcwdb getlogin getpid getppid isatty kill link listdir lseek
lstat mkdir open pipe putenv read readlink remove rename replace rmdir scandir set_inheritable stat stat_result
statvfs_result strerror symlink system terminal_size times times_result truncate umask uname_result unlink unsetenv
urandom utime waitpid waitstatus_to_exitcode write DirEntry F_OK R_OK W_OK X_OK O_APPEND O_CREAT O_EXCL O_RDONLY O_RDWR
O_TRUNC O_WRONLY TMP_MAX
"""
SIGNAL = """
SIGABRT SIGFPE SIGILL SIGINT SIGSEGV SIGTERM SIG_DFL SIG_IGN NSIG Handlers Signals default_int_handler getsignal
raise_signal set_wakeup_fd signal strsignal valid_signals
"""
# Where sys.platform is linux, torch, NumPy and Lightning use these.
LIBRARIES = "register_at_fork uname sched_getaffinity RTLD_NOW RTLD_GLOBAL SIGKILL SIGSTOP SIGUSR1"

whole = {"os": SimpleNamespace(**vars(os)), "signal": SimpleNamespace(**vars(signal))}
for module in [*sys.modules.values()]:  # of the standard library, which has other code for Windows
    for name, value in [*vars(module).items()]:
        if value in (os, signal) and module.__name__ not in {"os", "signal", __name__}:
            setattr(module, name, whole[value.__name__])
for name in MODULES:
    sys.modules[name] = None  # importing it raises ImportError
for name in {*dir(posix), "fork", "forkpty", "register_at_fork", "environb", "getenvb"}:
    if not name.startswith("_") and name not in {*OS.split(), *LIBRARIES.split()} and hasattr(os, name):
        delattr(os, name)
for name in {*dir(signal)} - {*SIGNAL.split(), *LIBRARIES.split()}:
    if not name.startswith("_"):
        delattr(signal, name)
