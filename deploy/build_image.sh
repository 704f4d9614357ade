#!/bin/sh
# Build the Dockerfile without Docker and without an image registry, and run `dvc repro --dry --force` in the image.
#
#   apt-get install buildah debootstrap
#   deploy/build_image.sh                          as root, on Debian or Ubuntu; 6 GB of disk
#   deploy/build_image.sh --build-arg NPM=true     any option of `buildah build`
#
# The base image is Debian's own Python on a Debian made by debootstrap, and is kept for the next build.
# --isolation chroot needs neither user namespaces nor a daemon, so it works in a container or a virtual machine.
set -eu
cd "$(dirname "$0")/.."

base=localhost/darkroom-base
image=localhost/darkroom

if ! buildah inspect --type image "$base" > /dev/null 2>&1; then
    folder=$(mktemp --directory)
    trap 'rm -rf "$folder"' EXIT
    debootstrap --variant=minbase --include=ca-certificates,python3-venv,python-is-python3 bookworm "$folder"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$folder" /
    buildah commit --quiet --rm "$container" "$base"
fi

buildah build --isolation chroot --build-arg "BASE=$base" --tag "$image" "$@" .

container=$(buildah from "$image")
status=0
buildah run --isolation chroot "$container" -- dvc repro --dry --force || status=$?
buildah rm "$container" > /dev/null
exit "$status"
