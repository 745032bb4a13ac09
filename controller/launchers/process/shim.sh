# One of these stands between the daemon and each local job, so that the job outlives the daemon and its end is recorded.
#
#   sh shim.sh FOLDER BOOT_ID NICE SEGMENT TOOLS SETSID NICE_PROGRAM WORKDIR COMMAND [ARGUMENT ...]
#
# It comes with its own session, the job's output pipe as stdin (to read) and stdout (to write), and leaves in FOLDER:
#   claim      "pid boot-id" of the one shim that may run this attempt; whoever finds it there runs nothing
#   started    "pid start-time" of the job, written by the job's own process before its first instruction
#   exit       the exit code, above 128 for a signal
#   log.N      the output from byte N on; of a flood the first segment and the newest two are kept
# A record is one line written by one write(2); without its newline it does not count.
# All names begin with shim_, so that no variable of the job is changed on the way. All is read before any of it runs,
# because the file may be replaced by an upgrade while the job runs.

shim_signals='HUP INT QUIT TERM PIPE USR1 USR2 ALRM TSTP TTIN TTOU'

# Copy stdin to the log until its last writer is gone. What a full disk refuses is dropped: a job must not stop for its log.
shim_keep_log() {
  # By exec, because sh would keep a copy of what it redirects for a function, and with it the pipe open.
  exec <&3 3<&- >/dev/null
  PATH=$shim_tools
  shim_at=0
  while :; do
    if ! shim_copied=$(LC_ALL=C dd bs=65536 count="$shim_segment" iflag=count_bytes of="$shim_folder/log.$shim_at" 2>&1); then
      shim_copied=$(LC_ALL=C dd bs=65536 count="$shim_segment" iflag=count_bytes of=/dev/null 2>&1) || exit
    fi
    case $shim_copied in
      *"$shim_segment bytes"*) ;;
      *) exit ;;
    esac
    [ "$shim_at" -le "$shim_segment" ] || rm -f "$shim_folder/log.$((shim_at - shim_segment))"
    shim_at=$((shim_at + shim_segment))
  done
}

# Become the job. `setsid` is a program because sh cannot leave its process group; it does not fork here.
# The daemon has set the niceness from outside; only when it was too late for this process, `nice` is run.
shim_become_job() {
  trap - $shim_signals
  cd "$shim_workdir" || exit
  unset OLDPWD
  read -r shim_pid shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ shim_ \
    shim_niceness shim_ shim_ shim_start shim_ </proc/self/stat
  echo "$shim_pid $shim_start" >"$shim_folder/started" || exit
  [ "$shim_niceness" -ge "$shim_nice" ] ||
    exec "$shim_setsid" "$shim_nice_program" -n "$((shim_nice - shim_niceness))" "$@"
  exec "$shim_setsid" "$@"
}

shim() {
  shim_folder=$1 shim_boot=$2 shim_nice=$3 shim_segment=$4 shim_tools=$5 shim_setsid=$6 shim_nice_program=$7 shim_workdir=$8
  shift 8
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

shim "$@"
exit
