//go:build crash

package home

import (
	"fmt"
	"os"
	"sync/atomic"

	"nameplate/records"

	"golang.org/x/sys/unix"
)

// crash says where to die: NAMEPLATE_CRASH="before write.begun 2" kills this
// process in the middle of the transaction that would hold the second
// write.begun; "after" kills it when that event is on disk and nothing was done
// with it yet.
var crash = struct {
	when  string
	kind  records.Kind
	count int64
	seen  atomic.Int64
}{}

func init() {
	fmt.Sscan(os.Getenv("NAMEPLATE_CRASH"), &crash.when, &crash.kind, &crash.count)
}

func crashPoint(when string, kind records.Kind) {
	if when != crash.when || kind != crash.kind || crash.seen.Add(1) != crash.count {
		return
	}
	unix.Kill(os.Getpid(), unix.SIGKILL)
	select {} // the signal is on its way; nothing may run on
}
