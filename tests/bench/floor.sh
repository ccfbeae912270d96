# The physical limit of substitution here, by raw tools, stage by stage. Sourced by `substitute`.
#
# The same bytes as case `full`. With N cores nothing can take less than the CPU of download,
# decompression, hash and writing together, divided by N; and, where it must be durable, no less
# than the disk takes. Each stage alone pays for its pipe or for reading what another wrote, some
# tenths of it, so one process that does all can be a little below the sum.

floor() {
  local dir=$work/floor
  rm -rf "$dir"
  mkdir -p "$dir"
  toplevel=$(top 1)
  serve
  store_ref "$work/seed" --query --requisites "$toplevel" >"$dir/paths"
  python3 - "$dir" "$work/cache/$comp" "$cache_url/$comp" <<'PYTHON'
import sys
folder, cache, url = sys.argv[1:]
files = []
for path in open(f'{folder}/paths').read().split():
    narinfo = open(f'{cache}/{path[11:43]}.narinfo').read().splitlines()
    fields = dict(line.split(': ', 1) for line in narinfo)
    files.append((int(fields['NarSize']), int(fields['FileSize']), fields['URL']))
with open(f'{folder}/curl', 'w') as out:
    for *_, file in files: out.write(f'url = "{url}/{file}"\noutput = "/dev/null"\n')
halves, sizes = [[], []], [0, 0]
for size, _, file in sorted(files, reverse=True):
    smaller = sizes.index(min(sizes)); halves[smaller].append(f'{cache}/{file}'); sizes[smaller] += size
for number in (0, 1): open(f'{folder}/half.{number}', 'w').write('\n'.join(halves[number]) + '\n')
print(f'floor: {len(files)} files, {sum(f for _, f, _ in files) / 1e6:.0f} MB, NAR {sum(n for n, *_ in files) / 1e6:.0f} MB')
PYTHON
  local decode="$comp -dc"
  cat "$dir"/half.? | xargs cat | $decode >"$dir/nars"
  sed 's|^/||' "$dir/paths" | tar -C "$work/seed" -cf "$dir/tree.tar" -T -
  mkdir -p "$work/roots"
  if [[ -z $disk ]]; then mount -t tmpfs -o size=75% tmpfs "$work/roots"; mounted=1; fi
  local out=$work/roots/floor
  python3 "$here/pair.py" --runs "$runs" --log "$work/pair.log" \
    --prep "chmod -R u+w $out 2>/dev/null; rm -rf $out; mkdir -p $out; sync -f $out" \
    --title "floor of $workload $comp, $([[ -n $disk ]] && echo disk || echo tmpfs); ratios to the first" \
    "hash (openssl)=exec openssl dgst -sha256 $dir/nars" \
    "download (curl)=exec curl -sS -Z --parallel-max 16 -K $dir/curl" \
    "decode, 1 process=cat $dir/half.? | xargs cat | $decode >/dev/null" \
    "decode, 2 processes=for i in 0 1; do xargs cat <$dir/half.\$i | $decode >/dev/null & done; wait" \
    "write files (tar)=exec tar -C $out -xf $dir/tree.tar" \
    "the same and sync=tar -C $out -xf $dir/tree.tar && sync -f $out" \
    "write one file (dd)=exec dd if=$dir/nars of=$out/file bs=256k" || die "a tool failed: $work/pair.log"
  rm -rf "$dir" "$out"
  clean
}
