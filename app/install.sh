# Sourced by app/run and tests/run: installs Debian packages that are missing.

# install_missing PACKAGE...
install_missing() {
    local missing=() package sudo=()
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        # Not Debian or Ubuntu: the build says what it lacks, we say what it is called there.
        if ! command -v meson >/dev/null || ! command -v ninja >/dev/null; then
            echo "Please install, under your system's names for them: $*" >&2
            return 1
        fi
        return 0
    fi
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    echo "installing: ${missing[*]}" >&2
    if ! { "${sudo[@]}" apt-get update -qq &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
            --no-install-recommends "${missing[@]}"; } >/tmp/dogear-apt.$$ 2>&1 </dev/null; then
        cat /tmp/dogear-apt.$$ >&2
        echo "could not install: ${missing[*]}" >&2
        rm -f /tmp/dogear-apt.$$
        return 1
    fi
    rm -f /tmp/dogear-apt.$$
}
