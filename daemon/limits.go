package daemon

import (
	"cmp"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
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

// connectionLimits returns how many connections each of the VMs may have under a
// limit of open files: what it wants or else, like all the others that want more
// than is there, an equal share. It is an error when that is not even one.
func connectionLimits(vms []config.VM, files uint64) ([]int, error) {
	fixed := uint64(reservedFiles + len(vms)*(reservedFilesPerVM+muxer.Refusals))
	if need := fixed + uint64(len(vms)); files < need {
		return nil, fmt.Errorf("the hard limit of %d open files is too low for any connection; raise it to %d or more (ulimit -Hn, LimitNOFILE=)",
			files, need)
	}
	modest := make([]int, len(vms)) // indices, those who want least first
	for i := range modest {
		modest[i] = i
	}
	slices.SortFunc(modest, func(a, b int) int { return cmp.Compare(vms[a].MaxConnections, vms[b].MaxConnections) })
	limits := make([]int, len(vms))
	room := files - fixed
	for done, i := range modest {
		share := room / uint64(len(vms)-done)
		limits[i] = int(min(uint64(vms[i].MaxConnections), share))
		room -= uint64(limits[i])
	}
	return limits, nil
}
