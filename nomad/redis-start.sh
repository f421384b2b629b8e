# Makes the append-only file in the data directory $1 loadable, then becomes the command in the other arguments.
#
# Redis syncs once a second. After a power loss the file may end in blocks that were never written, and Redis refuses
# to start from it. It is not the record: bid-processing rebuilds from the log whatever is cut off or set aside here.
data=$1
aof=$data/appendonlydir
shift
if [ -d "$aof" ]; then
  # An empty manifest is "valid" to redis-check-aof, and fatal to Redis.
  if ! grep -q '^file ' "$aof/appendonly.aof.manifest" ||
    ! echo y | redis-check-aof --fix "$aof/appendonly.aof.manifest"; then
    echo "failed to repair $aof; Redis starts empty, the files are in $aof.broken" >&2
    rm -rf "$aof.broken"
    mv "$aof" "$aof.broken"
  fi
fi
# REDIS_USERS names the file of the users, with variables in place of the passwords: letters and digits.
if [ -n "$REDIS_USERS" ]; then
  rm -f "$data/users.conf"
  umask 077
  eval "cat <<END
$(grep -v '^#' "$REDIS_USERS")
END" >"$data/users.conf" || exit 1
  set -- "$@" --include "$data/users.conf"
fi
exec "$@"
