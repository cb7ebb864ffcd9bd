#!/bin/sh
# Serves the archives of ./model_store in the foreground; SIGINT and SIGTERM end it without losing a request.
# `make serve` and the container run it. torchserve, java and python come from PATH; GRACE is manage.py stop's --grace.
# Arguments go to manage.py: --model-store DIR, --config FILE.
set -eu
# An archive brings its own code to a worker; the key file is the one that this server writes here.
unset PYTHONPATH TORCHSERVE_KEY_FILE
# As torchserve takes it.
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
command -v "$java" > /dev/null || {
    echo "error: TorchServe needs Java 17 or newer, and there is no $java: install one, set JAVA_HOME to another or" \
        "to none, or run .venv/bin/python scripts/find_java.py" >&2
    exit 1
}
project=$(dirname "$0")/..
manage=$project/scripts/manage.py
config=$(python "$manage" config --check-addresses "$@")

end() {
    # A second signal interrupts `stop`, and then the server ends at once.
    trap : INT TERM
    python "$manage" stop --grace "${GRACE:-0}" "$@" || torchserve --stop --foreground
}
trap 'end "$@"' INT TERM
# A background job ignores Ctrl-C itself. The second wait is for the launcher, since a signal ends the first one early.
torchserve --start --foreground --ts-config "$config" --log-config "$project/log4j2.xml" &
wait $! || wait $!
