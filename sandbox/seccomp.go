package sandbox

import (
	"os"
	"runtime"
	"slices"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// refuse makes a system call fail with EPERM rather than end the process: a
// library that probes for one shall not take the guests' devices with it.
const refuse = seccomp.ActionErrno

// restrictCalls leaves only the system calls of the tables in use.
func restrictCalls() error {
	for _, policy := range policies(uint64(os.Getpid())) {
		err := seccomp.LoadFilter(seccomp.Filter{
			// All threads, or an error (ESRCH, Linux 5.7) and none. Without
			// SPEC_ALLOW, kernels before 5.16 slow every thread down to guard code
			// that does not trust itself; guests bring no code into this process.
			Flag:   unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
			Policy: policy,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// policies are the filters: a call must pass all of them. There is one for the
// arguments of each call that has conditions, since go-seccomp-bpf v1.6.0 lets
// calls slip through one that goes on after it looked at an argument: it takes
// the argument for the call's number. The last is the list of what is allowed.
//
// The kernel (5.11) remembers which calls pass whatever their arguments, and
// runs no filter for them.
func policies(pid uint64) []seccomp.Policy {
	const notThere = seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)
	var all []seccomp.Policy
	allowed := slices.Concat(calls, machineCalls[runtime.GOARCH])
	for _, c := range conditions(pid) {
		allowed = append(allowed, c.Name)
		all = append(all, seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls:      []seccomp.SyscallGroup{{Action: refuse, NamesWithCondtions: []seccomp.NameWithConditions{c}}},
		})
	}
	return append(all, seccomp.Policy{
		DefaultAction: refuse,
		Syscalls: []seccomp.SyscallGroup{
			{Action: seccomp.ActionAllow, Names: allowed},
			// Its flags are out of a filter's sight; a C library then takes clone.
			{Action: notThere, Names: []string{"clone3"}},
		},
	})
}
