# The Salt that the host already has: sourced by ./salt-call after bootstrap.sh.
# shellcheck shell=bash
#
# To find out what a salt-call is takes Salt's own start, some seconds. So it is written down, and
# believed as long as the files are the same ones; a run that has it written down costs one stat.

# Print the salt-call programs of the host, one a line: those on PATH, the packages of Salt's makers.
salt_candidates() {
    local candidate
    { type -aP salt-call; printf '%s\n' /opt/saltstack/salt/salt-call /usr/bin/salt-call; } \
        | while read -r candidate; do
            # Somebody may have put the checkout, or its virtualenv, on PATH.
            case $(readlink -f "$candidate") in
                "${checkout:?}"/* | '') ;;
                *) [ ! -x "$candidate" ] || printf '%s\n' "$candidate" ;;
            esac
        done
}

# Set host_salt to the first of the host's Salts that can run a lab: salt-call, its Python, and
# whether that Python has supervisord. Empty where there is none.
find_host_salt() {
    local candidates note=${var:?}/host-salt found
    host_salt=()
    mapfile -t candidates < <(salt_candidates)
    [ "${#candidates[@]}" -gt 0 ] || return 0
    # What a package manager or pip replaces is another file, changed now, whatever its date says.
    found=$(stat -L -c '%n %i %Z' "${candidates[@]}")
    if [ ! -e "$note" ] || [[ $(<"$note") != "$found"$'\n\n'* ]]; then
        mkdir -p "$var" || exit
        printf '%s\n\n%s\n' "$found" "$(first_fit "${candidates[@]}")" >"$note.$$" || exit
        mv -f "$note.$$" "$note"
    fi
    mapfile -t host_salt < <(sed '1,/^$/d' "$note")
    [ "${host_salt[0]}" != none ] || host_salt=()
}

first_fit() { # SALT_CALL...
    local candidate
    for candidate in "$@"; do
        examine_salt "$candidate" && return
    done
    echo none
}

# Print what find_host_salt wants to know; or say why this one will not do.
examine_salt() { # SALT_CALL
    local version python directory
    version=$("$1" --version 2>/dev/null </dev/null)
    [[ $version =~ [0-9]{4,} ]] || { say "$1 does not run: passed over"; return 1; }
    version=${BASH_REMATCH[0]}
    if [ "$version" -lt 3006 ]; then
        say "$1 is Salt $version, older than 3006: passed over"
        return 1
    fi
    # A package's salt-call may be a shell script that looks for its Python: Salt knows which it is.
    directory=$(mktemp -d) && printf "root_dir: '%s'\nid: qemulab\n" "$directory" >"$directory/minion"
    python=$("$1" --local --config-dir="$directory" --out=txt grains.get pythonexecutable \
        2>/dev/null </dev/null)
    rm -rf "$directory"
    python=${python#local: }
    if ! "$python" -I -c 'import salt.version' 2>/dev/null; then
        say "$1 does not say which Python it runs on: passed over"
        return 1
    fi
    if ! "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        say "$1 runs on $("$python" --version), older than 3.10: passed over"
        return 1
    fi
    say "using the host's own Salt $version, $1"
    printf '%s\n' "$1" "$python"
    "$python" -I -c 'import supervisor.supervisord' 2>/dev/null && echo has-supervisord
    return 0
}

# Where neither systemd nor the host's Salt nor the host can run a lab's processes, have a supervisord
# in a virtualenv of its own, and put it (and nothing else from there) on PATH.
ensure_supervisord() {
    local programs=$var/programs
    if [ -d /run/systemd/system ] || [ -n "${host_salt[2]:-}" ] || type -P supervisord >/dev/null; then
        return
    fi
    if [ ! -x "$programs/supervisord" ]; then
        venv=$var/supervisord ensure_venv requirements-supervisord.txt \
            "supervisord, which runs a lab without systemd"
        mkdir -p "$programs" && ln -sfn "$var/supervisord/bin/supervisord" "$programs/" || exit
    fi
    PATH=$PATH:$programs
}
