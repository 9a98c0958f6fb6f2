# Given to `sh -c` with a tar, a name, and the tar's sha256 or ""; loads the image and gives it the name when the tar
# carries another one, or none.
tar=$1 name=$2 sum=$3
[ -z "$sum" ] || printf '%s  %s\n' "$sum" "$tar" | sha256sum -c - || exit 1
said=$(docker load -i "$tar") || exit 1
printf '%s\n' "$said"
docker image inspect "$name" >/dev/null 2>&1 && exit 0
loaded=$(printf '%s\n' "$said" | sed -n 's/^Loaded image\( ID\)\{0,1\}: //p' | head -n 1)
[ -n "$loaded" ] || { echo "docker load does not say what it loaded" >&2; exit 1; }
docker tag "$loaded" "$name" && printf 'tagged %s as %s\n' "$loaded" "$name"
