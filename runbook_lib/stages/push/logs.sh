# Given to `sh -c` with LINES and files or folders; prints every log under its name: the first lines of its older part
# that look like errors, then its end. The cause stands early, and a busy service soon pushes it out of the end.
lines=$1
shift
find "$@" -type f -name '*.log' -exec sh -c '
lines=$1
shift
for file in "$@"; do
    printf "==> %s <==\n" "$file"
    older=$(($(wc -l < "$file") - lines))
    if [ "$older" -gt 0 ]; then
        head -n "$older" "$file" | grep -aiE -m 100 "error|fatal|critical|exception|ERR:|fail|out of memory|cannot|killed|timeout|time out|invalid|lost"
    fi
    tail -n "$lines" "$file"
done' sh "$lines" {} +
