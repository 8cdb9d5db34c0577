#!/usr/bin/env bash
# The addon under sanitizers, built into a temporary directory; build/ stays as it is. Any report is a failure.
#
#   sanitizers.sh address DIR   the addon with AddressSanitizer and UndefinedBehaviorSanitizer; the native tests run
#                               on it, in Node
#   sanitizers.sh thread DIR    test/native/stress.cc, write windows and worker pool without Node, with ThreadSanitizer
#
# DIR is an empty directory on a disk; whoever made it removes it. Needs g++ alone, and `npm run build:native` before,
# which says where Node's headers are.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
kind=$1
work=$2

headers=$(node -p "JSON.parse(require('fs').readFileSync('build/config.gypi','utf8').replace(/^#.*/gm,'')).variables.nodedir")/include/node
[ -f "$headers/uv.h" ] || { echo "no headers of Node in $headers" >&2; exit 1; }
common=(-std=c++17 -g1 -O1 -fno-omit-frame-pointer -Wall -Wextra -Inative -isystem "$headers")

report() {
  local found
  found=$(find "$work" -maxdepth 1 -name 'report*' -size +0)
  if [ -n "$found" ]; then
    # shellcheck disable=SC2086
    cat $found >&2
    echo "sanitizers.sh: the $kind sanitizer has something to report" >&2
    exit 1
  fi
}

case $kind in
address)
  mkdir -p "$work/build/Release" "$work/objects" "$work/test"
  # Not vptr: its check opens a pipe, and a test that has no descriptors left makes it report what is none.
  flags=("${common[@]}" -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined -fPIC -fno-exceptions
    -fvisibility=hidden -DNAPI_VERSION=8 -DNAPI_DISABLE_CPP_EXCEPTIONS -DNODE_ADDON_API_DISABLE_DEPRECATED
    -DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS -DNODE_GYP_MODULE_NAME=nbd_serve -DBUILDING_NODE_EXTENSION
    -isystem "$root/node_modules/node-addon-api")
  printf '%s\0' native/*.cc | xargs -0 -P 2 -I{} sh -c 'out=$1/$(basename "$2" .cc).o; shift 2; exec g++ "$@" -o "$out"' \
    compile "$work/objects" {} "${flags[@]}" -c {}
  g++ -shared -fsanitize=address,undefined -o "$work/build/Release/nbd_serve.node" "$work"/objects/*.o
  # The tests find the addon beside themselves.
  cp -r src package.json vitest.config.ts tsconfig.json "$work"
  cp -r test/native test/support "$work/test"
  # A program of its own, without the addon.
  rm "$work/test/native/model.test.ts"
  ln -s "$root/node_modules" "$work/node_modules"
  cd "$work"
  export LD_PRELOAD
  LD_PRELOAD=$(g++ -print-file-name=libasan.so):$(g++ -print-file-name=libubsan.so)
  # Node frees nothing at its end.
  export ASAN_OPTIONS="detect_leaks=0:log_path=$work/report:abort_on_error=0:exitcode=99"
  export UBSAN_OPTIONS="print_stacktrace=1:log_path=$work/report"
  # These tests have leftovers and workers of their own, whoever started this script.
  unset NBD_SERVE_TEST_ID "${!VITEST@}"
  status=0
  node node_modules/vitest/vitest.mjs run --project unit --maxWorkers=2 --testTimeout=120000 test/native \
    >"$work/output" 2>&1 </dev/null || status=$?
  unset LD_PRELOAD
  report
  if [ "$status" -ne 0 ]; then
    tail -n 60 "$work/output" >&2
    exit 1
  fi
  grep -E '^ *(.\[[0-9;]*m)* *Tests ' "$work/output"
  ;;
thread)
  g++ "${common[@]}" -fsanitize=thread -pthread -o "$work/stress" \
    test/native/stress.cc native/write_windows.cc native/worker_pool.cc native/page_cache.cc
  export TSAN_OPTIONS="log_path=$work/report:exitcode=99:second_deadlock_stack=1"
  # The sanitizer of g++ 12 cannot live with the address space layout of every kernel.
  without_randomisation=()
  if setarch -R true 2>/dev/null; then without_randomisation=(setarch -R); fi
  status=0
  "${without_randomisation[@]}" "$work/stress" "$work/file" || status=$?
  report
  exit "$status"
  ;;
*)
  echo "usage: sanitizers.sh address|thread DIR" >&2
  exit 1
  ;;
esac
