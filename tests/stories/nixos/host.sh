#!/bin/sh
# What surrounds the host of these stories: a mirror of its realm, and an operator who reads its state and
# does one thing after the other, each time that all is well. Those things are lines of /story/orders.
exec > /dev/console 2>&1
orders=/story/orders

# The time stamp says which version is the newest.
publish() {
  cp "/story/timestamps/$1" /run/timestamp
  mv /run/timestamp /run/mirror/r/main/metadata/timestamp.json
}
if [ "$1" = mirror ]; then
  # Any web server is one.
  cp -r /story/mirror /run/mirror
  publish "$(cat /story/newest)"
  exec busybox httpd -p 127.0.0.1:80 -h /run/mirror
fi

# Waits until the agent says something else, and tells it.
told=
await() {
  while :; do
    status=$(agent status --json 2> /run/complaint | tr -d '\n')
    words=$(echo "$status" | grep -o '"\(state\|code\)" *: *"[a-z_]*"' | sed '1d; s/.*"\(.*\)"/\1/' | tr '\n' ' ')
    [ "$words" = "$told" ] || break
    sleep 0.5
  done
  told=$words
  echo "status: $status"
  echo "## is $words"
}

while :; do
  await
  case $told in
    'converged '*)
      read -r order < $orders || continue
      sed -i 1d $orders
      echo "## $order"
      case $order in
        reboot) systemctl reboot ;;
        'publish '*)
          echo "${order#publish }" > /story/newest
          publish "${order#publish }"
          ;;
      esac
      ;;
    'rolled_back '*)
      # Another agent does not try again, either.
      systemctl restart shoal-agent
      for round in 1 2 3; do agent once > /dev/null 2>&1; done
      told=
      await
      echo "## settled"
      ;;
  esac
done
