"""What the commands in scripts/ share."""

import sys

if sys.platform == "win32":
    # Here, since every command imports this first: TorchServe's worker sockets, dlib and the locks
    # of files are POSIX's.
    print("error: this project needs Linux or macOS; on Windows, use WSL", file=sys.stderr)
    raise SystemExit(2)
