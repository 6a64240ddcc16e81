# The distribution's packages, by its own package manager: sourced by bootstrap.sh.
# shellcheck shell=bash

# What brings a Python that makes virtualenvs, a line a try: the first one is installed, and the next
# where that Python is too old. Sources: Debian's file lists; openSUSE's python313.spec (venv and
# ensurepip are in the package itself; Leap 15 has 3.6 as python3, and 3.11 beside it); Fedora's
# python3.spec (likewise).
declare -A python_packages=(
    [apt-get]="python3 python3-venv"
    [zypper]=$'python3\npython311'
    [dnf]="python3"
)

# Print the first of the package managers known that is here: apt-get, zypper or dnf.
package_manager() {
    local manager
    for manager in apt-get zypper dnf; do
        if command -v "$manager" >/dev/null; then
            printf '%s\n' "$manager"
            return
        fi
    done
    return 1
}

# Say in a line how packages are had that cannot be installed from here.
how_to_install() { # PACKAGE...
    local manager
    if manager=$(package_manager); then
        printf '%s install %s\n' "$manager" "$*"
    else
        printf "install it with this distribution's package manager\n"
    fi
}

# Print those of some packages that are missing; asks the package manager's files, not its repositories.
missing_packages() { # PACKAGE...
    local have package
    # Not by dpkg-query's being there: Fedora has dpkg as well, and knows nothing by it.
    if [ "$(package_manager)" = apt-get ]; then
        # shellcheck disable=SC2016  # dpkg-query's own variables
        have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null \
            | sed -n 's/^installed //p')
        printf '%s\n' "$@" | grep -vxF "$have"
    elif command -v rpm >/dev/null; then
        for package in "$@"; do
            rpm --quiet -q --whatprovides "$package" || printf '%s\n' "$package"
        done
    fi
}

# Install those of some packages that are missing; says which, and fails with the manager's last lines.
install_packages() { # PACKAGE...
    local manager missing log
    manager=$(package_manager) || return 0
    mapfile -t missing < <(missing_packages "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    [ "$EUID" = 0 ] || { say "not root, so these packages stay missing: ${missing[*]}"; return 0; }
    say "installing packages: ${missing[*]}"
    log=$(mktemp) || exit
    if ! "install_by_$manager" "${missing[@]}" >"$log" 2>&1 </dev/null; then
        tail -n 5 "$log" >&2
        rm -f "$log"
        die "$manager failed: its last lines are above"
    fi
    rm -f "$log"
}

# What is known of the repositories may be old, or nothing at all: asked anew where it does not do.
install_by_apt-get() { # PACKAGE...
    local -a apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
    "${apt[@]}" install --yes --no-install-recommends "$@" \
        || { "${apt[@]}" update && "${apt[@]}" install --yes --no-install-recommends "$@"; }
}
install_by_zypper() { zypper --non-interactive install --no-recommends "$@"; }
install_by_dnf() { dnf --assumeyes --setopt=install_weak_deps=False install "$@"; }
