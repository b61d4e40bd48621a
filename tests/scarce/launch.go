package scarce

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// variable is what names a Kernel's socket to a process that is to run under it.
const variable = "SCARCE_KERNEL"

// Launch makes a process that was started by Kernel.Script the program it is to be, and
// returns in every other.
func Launch() {
	path := os.Getenv(variable)
	if path == "" {
		return
	}
	os.Unsetenv(variable)
	fmt.Fprintln(os.Stderr, "scarce:", launch(path, os.Args[1:]))
	os.Exit(1)
}

// launch returns only if it fails. The kernel asks about one thread, which becomes the
// program; another hands over the questions, since this might be one of them.
func launch(path string, args []string) error {
	filter, err := filter()
	if err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(s, &unix.SockaddrUnix{Name: path}); err != nil {
		return os.NewSyscallError("connect", err)
	}
	questions, handed := make(chan int), make(chan error)
	go func() {
		runtime.LockOSThread()
		handed <- unix.Sendmsg(s, []byte{0}, unix.UnixRights(<-questions), nil, 0)
	}()
	runtime.LockOSThread()
	fd, err := install(filter)
	if err != nil {
		return err
	}
	questions <- fd
	if err := <-handed; err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	return os.NewSyscallError("execve", unix.Exec(args[0], args, os.Environ()))
}

// filter returns a program for the kernel that asks about the calls that are watched.
func filter() ([]unix.SockFilter, error) {
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 4}} // seccomp_data.nr
	for _, nr := range watched {
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(nr), SkipTrue: 1},
			bpf.RetConstant{Val: unix.SECCOMP_RET_USER_NOTIF})
	}
	raw, err := bpf.Assemble(append(program, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}))
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return filter, err
}
