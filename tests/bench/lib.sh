# What `substitute` stands on: the peers, the cache server, a link with latency. Sourced by bash.

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# The machine must have these commands; the package that has each stands beside it.
need() {
  local missing=() command package
  while read -r command package; do
    command -v "$command" >/dev/null || missing+=("$package")
  done
  ((${#missing[@]} == 0)) || die "missing; install: apt-get install --no-install-recommends ${missing[*]}"
}

# Makes $work/bin/<peer>-nix and -nix-store; sets `peers`, the reference of the ratios first.
# Each is one exec, so that the timer sees the program's own use of the machine.
make_peers() {
  peers=()
  mkdir -p "$work/bin"
  local tool
  if [[ -n ${PEER_CHROOT:-} ]]; then
    for tool in nix nix-store; do
      # The mounts live in a namespace of their own and end with it.
      cat >"$work/bin/chroot-$tool" <<WRAPPER
#!/bin/sh
exec unshare -m --propagation private sh -c '
  root=\$1; work=\$2; tool=\$3; shift 3
  mkdir -p "\$root\$work" && mount --rbind "\$work" "\$root\$work" &&
  mount --rbind /dev "\$root/dev" && mount -t proc proc "\$root/proc" &&
  exec chroot "\$root" "\$tool" "\$@"' sh "$PEER_CHROOT" "$work" $tool "\$@"
WRAPPER
    done
    peers+=(chroot)
  fi
  if command -v nix >/dev/null; then
    for tool in nix nix-store; do
      printf '#!/bin/sh\nexec %s "$@"\n' "$(command -v $tool)" >"$work/bin/path-$tool"
    done
    peers+=(path)
  fi
  ((${#peers[@]})) || die "no Nix to compare with: install nix-bin, or set PEER_CHROOT (see README.md)"
  chmod +x "$work"/bin/*
  "$work/bin/${peers[0]}-nix" --version >/dev/null || die "the Nix in PEER_CHROOT does not run: $PEER_CHROOT"
}

nix_ref() {
  "$work/bin/${peers[0]}-nix" --extra-experimental-features nix-command \
    --option build-users-group '' "$@"
}

store_ref() { # store_ref ROOT OPERATION...
  local root=$1; shift
  "$work/bin/${peers[0]}-nix-store" --store "local?root=$root" --option build-users-group '' "$@"
}

# Serves $work/cache with nginx at $cache_url; `serve PREFIX ADDRESS` does it in a namespace.
serve() {
  local dir=$work/nginx address=${2:-127.0.0.1}
  mkdir -p "$dir"
  cat >"$dir/nginx.conf" <<CONF
user root; worker_processes 2; pid $dir/pid; error_log $dir/error.log warn;
events { worker_connections 4096; }
http {
  log_format who '\$http_user_agent|\$uri';
  access_log $dir/access.log who;
  sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_timeout 600; keepalive_requests 100000000;
  default_type application/octet-stream;
  client_body_temp_path $dir/b; proxy_temp_path $dir/p; fastcgi_temp_path $dir/f;
  uwsgi_temp_path $dir/u; scgi_temp_path $dir/s;
  server { listen $address:$port; root $work/cache; }
}
CONF
  ${1:-} nginx -p "$dir" -c "$dir/nginx.conf" -e "$dir/error.log" || die "nginx: see $dir/error.log"
  cache_url=http://$address:$port
}

stop_serving() {
  [[ -f $work/nginx/pid ]] || return 0
  kill "$(cat "$work/nginx/pid")" 2>/dev/null || true
  rm -f "$work/nginx/pid"
  sleep 0.3
}

# link_up MILLISECONDS: two network namespaces that far apart; sets in_server and in_client.
link_up() {
  [[ $work/bin/tundelay -nt $here/tundelay.c ]] || cc -O2 -o "$work/bin/tundelay" "$here/tundelay.c"
  unshare -n sleep 7200 & link_pids=($!)
  unshare -n sleep 7200 & link_pids+=($!)
  sleep 0.3
  nice -n -10 "$work/bin/tundelay" "${link_pids[@]}" "$(awk "BEGIN { print $1 / 2 }")" 0 \
    >"$work/tundelay.log" 2>&1 & link_pids+=($!)
  sleep 0.5
  kill -0 "${link_pids[2]}" 2>/dev/null || die "no delayed link here, it needs TUN: $work/tundelay.log"
  in_server="nsenter -t ${link_pids[0]} -n" in_client="nsenter -t ${link_pids[1]} -n"
  local command
  for command in "$in_server ip addr add 10.77.0.1/30 dev t0" "$in_client ip addr add 10.77.0.2/30 dev t0" \
    "$in_server ip link set t0 mtu 1500 txqueuelen 10000 up" "$in_client ip link set t0 mtu 1500 txqueuelen 10000 up" \
    "$in_server ip link set lo up" "$in_client ip link set lo up"; do
    $command || die "cannot set up the delayed link"
  done
}

link_down() {
  ((${#link_pids[@]} == 0)) || kill "${link_pids[@]}" 2>/dev/null || true
  link_pids=() in_server='' in_client=''
}
