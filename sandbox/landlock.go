package sandbox

import (
	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// domain is what Landlock forbids but for the rules: all use of files, binding
// and connecting of TCP sockets, and connecting to abstract addresses. That is
// all of ABI 6 (Linux 6.12) without signals, which the filter of system calls
// sees to: older kernels took the program's own threads for strangers.
//
// Deviation: ABI 9 could forbid connecting to sockets in other directories,
// but <uds-path>_<port> may be a link to one.
var domain = landlock.Config{
	HandledAccessFS:  landlock.V6.HandledAccessFS,
	HandledAccessNet: landlock.V6.HandledAccessNet,
	Scoped:           ll.ScopeAbstractUnixSocket,
}

// restrictFiles leaves only paths, and what process metrics are read from, in
// use. It returns whether Landlock is there and what the kernel lacks of it. An
// error is no lack of the kernel's.
func restrictFiles(paths Paths) (inForce bool, missing, err error) {
	rules := []landlock.Rule{
		landlock.PathAccess(ll.AccessFSReadFile|ll.AccessFSReadDir, "/proc/self").IgnoreIfMissing(),
		landlock.PathAccess(ll.AccessFSReadFile, "/proc/stat").IgnoreIfMissing(), // when the system started
		// A directory is opened to lock it while a stale socket is replaced.
		landlock.PathAccess(ll.AccessFSMakeSock|ll.AccessFSRemoveFile|ll.AccessFSReadDir, paths.Sockets...),
		landlock.PathAccess(ll.AccessFSReadFile, paths.Files...),
		landlock.PathAccess(ll.AccessFSMakeReg|ll.AccessFSRemoveFile|ll.AccessFSWriteFile, paths.Written...),
	}
	if missing = domain.Restrict(rules...); missing == nil {
		return true, nil, nil
	}
	if err := domain.BestEffort().Restrict(rules...); err != nil {
		return false, missing, err
	}
	abi, err := ll.LandlockGetABIVersion()
	return err == nil && abi > 0, missing, nil
}
