package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
)

// Descriptors that host sockets never take. At the limit recvmsg succeeds
// without the passed descriptors, and a VM loses its device for good; so there
// is always room for a frontend's messages, and for the program itself.
const (
	reservedFiles      = 64 // the program: log, polling, metrics, a message under assembly
	reservedFilesPerVM = 48 // frontends, rings, listeners
)

// raiseFileLimit lifts the soft limit of open files to the hard one and
// returns it.
func raiseFileLimit() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	if limit.Cur == limit.Max {
		return limit.Max, nil
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, os.NewSyscallError("setrlimit", err)
	}
	return limit.Max, nil
}

// connectionLimit returns how many of the wanted connections each of vms
// machines may have under a limit of open files. It is an error when that is
// not even one.
func connectionLimit(wanted, vms int, files uint64) (int, error) {
	fixed := uint64(reservedFiles + vms*(reservedFilesPerVM+muxer.Refusals))
	if need := fixed + uint64(vms); files < need {
		return 0, fmt.Errorf("the hard limit of %d open files is too low for any connection; raise it to %d or more (ulimit -Hn, LimitNOFILE=)",
			files, need)
	}
	room := (files - fixed) / uint64(vms)
	return int(min(uint64(wanted), room)), nil
}
