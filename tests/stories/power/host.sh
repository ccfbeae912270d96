#!/bin/sh
# What the host of these stories does from one power cut to the next. On the kernel's command line:
#   from=N to=M     the versions that its realm publishes meanwhile, one after the other
#   marks=SECTOR    where to note on the disk itself how far it is, at once and without a flush
#   eager=0|1       whether even or odd rounds find a kernel that writes out of its cache soon
for word in $(cat /proc/cmdline); do
  case $word in from=* | to=* | marks=* | eager=*) eval "$word" ;; esac
done
agent="/payload/agent --config /data/agent.toml"
profiles=/data/root/nix/var/nix/profiles/shoal

say() {
  read -r up _ < /proc/uptime
  echo "## $* at $up"
  if [ -n "$marks" ]; then
    printf '%-511s\n' "$*" > /tmp/mark
    # Not the shell's own, which cannot write around the cache.
    /bin/dd if=/tmp/mark of=/dev/vda bs=512 count=1 seek="$marks" conv=notrunc oflag=direct 2> /tmp/dd
  fi
}

# Runs a command, and tells with each line what it is about.
told() {
  about=$1
  shift
  "$@" > /tmp/told 2>&1
  code=$?
  sed "s/^/$about: /" /tmp/told
  echo "$about ended with $code"
}

verify() {
  told "$1 nix" nix-store --store 'local?root=/data/root' --verify --check-contents
}

# A lazy kernel keeps what nobody syncs for half a minute; an eager one writes soon, in any order.
set_writeback() {
  if [ $(($1 % 2)) = "$eager" ]; then commit=1 centisecs=20; else commit=5 centisecs=3000; fi
  mount -o remount,commit=$commit /data
  echo $centisecs > /proc/sys/vm/dirty_expire_centisecs
  echo $((centisecs / 2)) > /proc/sys/vm/dirty_writeback_centisecs
}

# A file that is renamed over another is not written any sooner for that.
mount -t ext4 -o noauto_da_alloc /dev/vda /data || exit 1
if [ -e /data/agent.toml ]; then
  verify before
  told 'before status' $agent status --json
  echo "before link: $(readlink "$profiles/$(readlink $profiles/web)")"
else
  # The enrolment, long ago.
  cp -r /payload/state /data/state
  cp /payload/agent.toml /data/agent.toml
  sync
fi

# Any web server is a mirror; the time stamp says which version is the newest.
cp -r /payload/mirror /tmp/mirror
httpd -p 127.0.0.1:80 -h /tmp/mirror

round=$from
while [ "$round" -le "$to" ]; do
  cp "/payload/timestamps/$round" /tmp/timestamp
  mv /tmp/timestamp /tmp/mirror/r/main/metadata/timestamp.json
  set_writeback "$round"
  say "round $round begins"
  told "round $round" $agent once
  say "round $round is over"
  told "sweep $round" $agent gc --keep 2
  say "round $round is swept"
  if [ "$round" = "$from" ]; then
    verify after
    for link in $profiles/web-*-link; do echo "after generation: $(readlink "$link")"; done
    echo "after link: $(readlink "$profiles/$(readlink $profiles/web)")"
    echo "after store: $(ls /data/root/nix/store | wc -l) entries"
    say recovered
  fi
  round=$((round + 1))
done
