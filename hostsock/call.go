package hostsock

import (
	"os"

	"golang.org/x/sys/unix"
)

// call makes the system call f, again when a signal interrupted it, as may
// happen on file systems in user space.
func call(name string, f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return os.NewSyscallError(name, err)
		}
	}
}
