# One of these stands between the daemon and each local job, so that the job outlives the daemon and its end is recorded.
#
#   sh shim.sh FOLDER BOOT_ID SEGMENT TOOLS SETSID WORKDIR COMMAND [ARGUMENT ...]
#
# It comes with its own session, the job's output pipe as stdin (to read) and stdout (to write), and leaves in FOLDER:
#   claim      "pid boot-id" of the one shim that may run this attempt; whoever finds it there runs nothing
#   started    "pid start-time" of the job, written by the job's own process before its first instruction
#   exit       the exit code, above 128 for a signal
#   log.N      the output from byte N on; of a flood the first segment and the newest two are kept
# A record is one line written by one write(2); without its newline it does not count.
# All names begin with shim_, so that no variable of the job is changed on the way. All is read before any of it runs,
# because the file may be replaced by an upgrade while the job runs.
#
# A shim may also be started ahead, before anybody knows for which job, so that its own start costs that job nothing:
#
#   sh shim.sh --stand-by BOOT_ID SEGMENT TOOLS SETSID
#
# It starts the process that will be the job, which is `sh shim.sh --await CLAIM` until then, in a session of its own. What keeps the log, the
# shim and the job's process each get an order, assignments to source, on descriptors 4, 5 and 6; the shim looks at its own when the job has
# ended. The last line, shim_order=whole, says that nothing is missing; without it, as when the daemon dies, all end and nothing has happened.
# On 7 the job's process tells its "pid start-time" when it waits. The claim of such a shim ends in its start time, because its arguments
# do not name the folder.

shim_signals='HUP INT QUIT TERM PIPE USR1 USR2 ALRM TSTP TTIN TTOU'

# Copy at most $1 reads of stdin to the end of file $2, each as it comes; tell shim_reads and shim_bytes.
# dd counts a short read like a full one, so a segment is filled by several dd, each given what surely fits.
shim_copy() {
  shim_report=$(LC_ALL=C dd bs=16384 count="$1" of="$2" oflag=append conv=notrunc 2>&1)
  shim_status=$?
  shim_bytes=${shim_report% byte*}
  shim_bytes=${shim_bytes##*[!0-9]}
  shim_bytes=${shim_bytes:-0}
  shim_reads=${shim_report% records in*}
  shim_reads=${shim_reads##*[!0-9+]}
  shim_reads=$((${shim_reads:-0}))
  return "$shim_status"
}

# Copy the pipe to the log until its last writer is gone.
# What a full disk refuses is dropped: a job must not stop for its log.
shim_keep_log() {
  # By exec, because sh would keep a copy of what it redirects for a function, and with it the pipe open.
  exec <&3 3<&- >/dev/null
  PATH=$shim_tools
  shim_at=0 shim_used=0 shim_before=0
  while :; do
    shim_room=$(((shim_segment - shim_used) / 16384))
    if shim_copy "$shim_room" "$shim_folder/log.$shim_at"; then
      [ "$shim_reads" -eq "$shim_room" ] || exit
      shim_used=$((shim_used + shim_bytes))
      [ "$shim_used" -ge $((shim_segment / 8 * 7)) ] || continue
    else
      shim_used=$((shim_used + shim_bytes))
      shim_copy "$shim_room" /dev/null || exit
      [ "$shim_reads" -eq "$shim_room" ] || exit
      shim_used=$((shim_used + shim_bytes))
    fi
    [ "$shim_before" -eq 0 ] || rm -f "$shim_folder/log.$shim_before"
    shim_before=$shim_at
    shim_at=$((shim_at + shim_used)) shim_used=0
  done
}

# Find out who this process is: shim_pid and shim_start.
shim_look_at_self() {
  read -r shim_pid shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ \
    shim_ shim_ shim_ shim_start shim_ </proc/self/stat
}

# Become the job. `setsid` is a program because sh cannot leave its process group; it does not fork here.
shim_become_job() {
  trap - $shim_signals
  cd "$shim_workdir" || exit
  unset OLDPWD
  shim_look_at_self
  echo "$shim_pid $shim_start" >"$shim_folder/started" || exit
  exec "$shim_setsid" "$@"
}

# Wait, as the process that will be the job, for the order; then claim the folder for the shim, and become the job.
shim_await() {
  shim_claim=$1 shim_order=
  shim_look_at_self
  echo "$shim_pid $shim_start" >&7
  exec 7>&-
  . /dev/fd/6
  exec 6<&-
  [ "$shim_order" = whole ] || exit
  set -C
  echo "$shim_claim" 2>/dev/null >"$shim_folder/claim" || exit
  set +C
  cd "$shim_workdir" 2>&1 || exit
  unset OLDPWD
  echo "$shim_pid $shim_start" >"$shim_folder/started" || exit
  exec "$@" 2>&1
}

shim_stand_by() {
  shim_boot=$1 shim_segment=$2 shim_tools=$3 shim_setsid=$4 shim_order=
  trap '' $shim_signals
  shim_look_at_self
  shim_claim="$shim_pid $shim_boot $shim_start"
  exec 3<&0 </dev/null
  (
    exec 5<&- 6<&- 7>&-
    . /dev/fd/4
    exec 4<&-
    [ "$shim_order" = whole ] && shim_keep_log
  ) &
  exec 3<&- 4<&-
  # Not in the background, where sh would have it ignore INT and QUIT.
  (
    trap - $shim_signals
    exec 5<&-
    exec "$shim_setsid" /bin/sh "$0" --await "$shim_claim"
  )
  shim_code=$?
  exec >/dev/null 6<&- 7>&-
  . /dev/fd/5
  exec 5<&-
  [ "$shim_order" = whole ] || exit
  # Another shim may have been faster, or the order may not have reached the job's process.
  read -r shim_claimed 2>/dev/null <"$shim_folder/claim" && [ "$shim_claimed" = "$shim_claim" ] || exit
  until echo "$shim_code" >|"$shim_folder/exit"; do sleep 1; done
}

shim() {
  shim_folder=$1 shim_boot=$2 shim_segment=$3 shim_tools=$4 shim_setsid=$5 shim_workdir=$6
  shift 6
  trap '' $shim_signals
  set -C
  echo "$$ $shim_boot" 2>/dev/null >"$shim_folder/claim" || exit
  # sh gives what runs in the background /dev/null as stdin, so the pipe has to come by another number.
  exec 3<&0 </dev/null
  shim_keep_log &
  exec 3<&-
  (shim_become_job "$@") 2>&1
  shim_code=$?
  # With this end of the pipe closed, the log ends with its last writer.
  exec >/dev/null
  until echo "$shim_code" >|"$shim_folder/exit"; do sleep 1; done
}

case $1 in
  --stand-by) shift && shim_stand_by "$@" ;;
  --await) shift && shim_await "$@" ;;
  *) shim "$@" ;;
esac
exit
