# What a checkout needs before anything can run: sourced by ./salt-call, ./test and .ci/run, which
# set `checkout` first.
# shellcheck shell=bash
#
# Everything that is said goes to stderr, a line a step. A run that finds its virtualenv as it should
# be costs two readlinks: neither Python nor pip is started to find that out.

# Two variables choose another virtualenv than the newest Salt on the first fitting Python:
#
#   QEMULAB_SALT    a release: 3006, 3007 or 3008; "own" is the newest that requirements.txt allows.
#                   Unset it lets ./salt-call take the host's own Salt (libexec/host-salt.sh)
#   QEMULAB_PYTHON  a Python's name or path

say() { printf 'qemulab: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# shellcheck source=libexec/packages.sh
. "${checkout:?}/libexec/packages.sh"

venv=$checkout/.venv
salt_range=()
case ${QEMULAB_SALT:-own} in
    own) ;;
    30[0-9][0-9])
        venv+=/var/salt-$QEMULAB_SALT
        salt_range=("salt>=$QEMULAB_SALT,<$((QEMULAB_SALT + 1))")
        ;;
    *) die "QEMULAB_SALT is a release, such as 3007, or own; not $QEMULAB_SALT" ;;
esac
case ${QEMULAB_PYTHON:-} in
    '') ;;
    *) [ "$venv" != "$checkout/.venv" ] || venv+=/var/salt
       venv+=-on-${QEMULAB_PYTHON##*/} ;;
esac
# Every file that a run leaves beside the packages themselves: configuration, caches, byte code.
# shellcheck disable=SC2034  # for those that source this
var=$venv/var

# Modes of what is made here and by Salt must not depend on the umask of whoever calls.
umask 022

# Print what the virtualenv must have been made from to count as finished: its Python and its packages.
venv_recipe() { # REQUIREMENTS
    readlink -f "$venv/bin/python" && printf '%s\n' "$(<"$checkout/$1")"
}

venv_has() { # REQUIREMENTS
    [ -x "$venv/bin/python" ] && [ -e "$venv/made-from-$1" ] \
        && [ "$(venv_recipe "$1")" = "$(<"$venv/made-from-$1")" ]
}

# Print the first Python that is new enough and can make a virtualenv, the distribution's own first;
# or set `python_problem` to what there is instead: nothing, old, no-venv.
find_python() {
    local candidate
    local -a candidates=(/usr/bin/python3 python3 python3.13 python3.12 python3.11 python3.10)
    [ -z "${QEMULAB_PYTHON:-}" ] || candidates=("$QEMULAB_PYTHON")
    python=
    python_problem=nothing
    for candidate in "${candidates[@]}"; do
        candidate=$(command -v "$candidate") || continue
        "$candidate" -I -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
            || { [ "$python_problem" != nothing ] || python_problem=old; continue; }
        "$candidate" -I -c 'import venv; from ensurepip import bootstrap' 2>/dev/null \
            || { python_problem=no-venv; continue; }
        python=$candidate
        return
    done
    return 1
}

# Set `python` to a Python for the virtualenv; as root, what the distribution has of it is installed.
ensure_python() {
    local packages manager=
    find_python && return
    [ -z "${QEMULAB_PYTHON:-}" ] \
        || die "QEMULAB_PYTHON: $QEMULAB_PYTHON is missing, older than 3.10, or has no venv"
    manager=$(package_manager)
    while [ "$EUID" = 0 ] && read -r packages; do
        # shellcheck disable=SC2086  # a list of words
        install_packages $packages
        find_python && return
    done <<<"${python_packages[${manager:-none}]:-}"
    packages=${python_packages[${manager:-none}]:-python3 python3-venv}
    packages=${packages%%$'\n'*}
    # shellcheck disable=SC2086  # a list of words
    case $python_problem in
        old) die "python3 is older than 3.10, which Salt needs: install a newer one" ;;
        no-venv) die "python3-venv is missing: $(how_to_install "${packages#python3 }")" ;;
        *) die "python3 is missing: $(how_to_install $packages)" ;;
    esac
}

# Make the virtualenv hold what a requirements file says; one that another run makes is waited for.
ensure_venv() { # REQUIREMENTS WHAT
    venv_has "$1" && return
    (
        # The lock is the checkout's directory itself: it outlives a virtualenv that is made anew,
        # and leaves no file. The subshell keeps its descriptor away from whatever runs later.
        if ! flock --nonblock 9; then
            say "waiting for another run that makes the virtualenv"
            flock 9
        fi
        venv_has "$1" || fill_venv "$1" "$2"
    ) 9<"$checkout" || exit
}

# Make the virtualenv hold what ./test needs.
ensure_test_venv() {
    ensure_venv requirements.txt "Salt (some minutes at most)"
    ensure_venv requirements-test.txt "pytest, mypy and ruff"
}

fill_venv() { # REQUIREMENTS WHAT
    venv_is_whole || make_venv
    [ -w "$venv" ] || die "$venv belongs to another user: run it as that user (root: with sudo)"
    say "installing $2"
    leave_out timelib 0.3.0
    # No byte code here: it is cached under $var, where that of the checkout's own files must go too.
    "$venv/bin/python" -I "$checkout/libexec/run_pip.py" install --no-input --no-compile \
        --prefer-binary --find-links "$venv/left-out" -r "$checkout/$1" "${salt_range[@]}" \
        >"$venv/install.log" 2>&1 || venv_failed "pip failed"
    venv_recipe "$1" >"$venv/made-from-$1.new" && mv "$venv/made-from-$1.new" "$venv/made-from-$1"
}

# Make pip count a package as there, by a wheel with nothing in it.
#
# Salt asks for timelib, and does without where it cannot be imported (a Jinja filter for dates in
# words). It is published as C source alone: with it, a fresh host would need a compiler.
leave_out() { # PACKAGE VERSION
    mkdir -p "$venv/left-out" && "$venv/bin/python" -I - "$venv/left-out" "$1" "$2+left.out" <<'PYTHON'
import sys, zipfile
folder, package, version = sys.argv[1:]
info = f"{package}-{version}.dist-info/"
files = {
    info + "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
    info + "WHEEL": "Wheel-Version: 1.0\nGenerator: qemulab\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
files[info + "RECORD"] = "".join(f"{name},,\n" for name in [*files, info + "RECORD"])
with zipfile.ZipFile(f"{folder}/{package}-{version}-py3-none-any.whl", "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
PYTHON
}

# Say whether something was once installed to its end, and into the Python that is here now. Such a
# virtualenv is brought up to date where it stands: processes of a lab may be running from it.
venv_is_whole() {
    local made
    for made in "$venv"/made-from-*.txt; do
        [ -x "$venv/bin/python" ] && [ -e "$made" ] \
            && [ "$(readlink -f "$venv/bin/python")" = "$(head -n 1 "$made")" ] && return
    done
    return 1
}

make_venv() {
    local python python_problem
    [ -w "$checkout" ] || die "$(id -un) may not write to $checkout, where the virtualenv goes"
    ensure_python
    say "making a virtualenv in $venv"
    # var/ has nothing of the old one's, but for virtualenvs with other Salts, which answer for
    # themselves.
    mkdir -p "$venv" && find "$venv" -mindepth 1 -maxdepth 1 ! -name var -exec rm -rf {} + || exit
    "$python" -I -m venv "$venv" >"$venv/install.log" 2>&1 || venv_failed "python3 -m venv failed"
}

venv_failed() { # WHAT
    local unreachable='NewConnectionError|NameResolutionError|name resolution|ConnectTimeout|ReadTimeout'
    unreachable+='|ProxyError|Network is unreachable|Connection refused'
    if grep -qE "$unreachable" "$venv/install.log"; then
        die "no network: pip could not reach the package index; nothing was installed"
    fi
    tail -n 5 "$venv/install.log" >&2
    die "$1: its last lines are above, all of them in $venv/install.log"
}
