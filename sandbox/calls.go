package sandbox

import (
	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// calls are the system calls that the daemon makes, or the Go runtime, with any
// arguments. Where they lead by a path is Landlock's to say.
var calls = []string{
	// Bytes of host programs, notifications of rings, messages of frontends.
	"read", "readv", "write", "recvmsg", "sendmsg", "recvfrom", "sendto",
	"epoll_create1", "epoll_ctl", "epoll_pwait", "eventfd2", "timerfd_create", "timerfd_settime", "pipe2", "ppoll",

	// Sockets; socket itself is below.
	"accept4", "bind", "connect", "listen", "shutdown",
	"getpeername", "getsockname", "getsockopt", "setsockopt",

	// Files: their sockets', guest memory's, what metrics are read from.
	"openat", "close", "fcntl", "flock", "fstat", "fstatfs", "statfs", "getdents64", "lseek", "pread64", "readlinkat",
	"fchmod", "fchmodat", "fchownat", "renameat2", "unlinkat",

	// Memory; mmap and mprotect are below.
	"brk", "madvise", "munmap",

	// Threads, time and signals of the runtime; clone and tgkill are below.
	"clock_gettime", "clock_nanosleep", "nanosleep", "futex", "getrandom", "restart_syscall",
	"gettid", "sched_getaffinity", "sched_yield", "exit", "exit_group",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
	"rseq", "set_robust_list", // a C library's threads, as under the race detector

	// Timers of the runtime's profiler, under --pprof.
	"timer_create", "timer_settime", "timer_delete",

	// They cannot fail, so no caller looks whether they did.
	"getpid", "getppid", "getuid", "geteuid", "getgid", "getegid",
}

// machineCalls are more of them by GOARCH: those that have another name, or
// that only the older machine has beside its successor.
var machineCalls = map[string][]string{
	"amd64": {"newfstatat", "epoll_wait", "poll"},
	"arm64": {"fstatat"},
}

// conditions are further system calls by the arguments with which they are
// refused; pid is the process's own.
func conditions(pid uint64) []seccomp.NameWithConditions {
	return []seccomp.NameWithConditions{
		{Name: "socket", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_UNIX}}},
		{Name: "ioctl", Conditions: seccomp.ArgumentConditions{
			{Argument: 1, Operation: seccomp.NotEqual, Value: unix.SIOCINQ},
			{Argument: 1, Operation: seccomp.NotEqual, Value: unix.SIOCOUTQ},
		}},
		{Name: "mmap", Conditions: seccomp.ArgumentConditions{{Argument: 2, Operation: seccomp.BitsSet, Value: unix.PROT_EXEC}}},
		{Name: "mprotect", Conditions: seccomp.ArgumentConditions{{Argument: 2, Operation: seccomp.BitsSet, Value: unix.PROT_EXEC}}},
		// Threads, not processes; the runtime interrupts its threads and names its
		// memory.
		{Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsNotSet, Value: unix.CLONE_THREAD}}},
		{Name: "tgkill", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.NotEqual, Value: pid}}},
		{Name: "prctl", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.NotEqual, Value: unix.PR_SET_VMA}}},
	}
}
