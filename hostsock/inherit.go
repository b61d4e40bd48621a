package hostsock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Inherit makes a descriptor that the parent process passed on fit for the
// loop, non-blocking and not passed on further, and reports whether it listens;
// otherwise it is connected. Anything but an AF_UNIX SOCK_STREAM socket that is
// one of the two is an error and stays as it was. The caller keeps fd.
func Inherit(fd int) (listening bool, err error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	switch {
	case errors.Is(err, unix.EBADF):
		return false, fmt.Errorf("descriptor %d is not open; pass the socket on from the parent process", fd)
	case err != nil:
		return false, fmt.Errorf("descriptor %d: %w; pass on a socket", fd, os.NewSyscallError("getsockopt", err))
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return false, os.NewSyscallError("getsockopt", err)
	}
	if domain != unix.AF_UNIX || kind != unix.SOCK_STREAM {
		return false, fmt.Errorf("descriptor %d is not an AF_UNIX stream socket; pass on one that is", fd)
	}
	accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return false, os.NewSyscallError("getsockopt", err)
	}
	if accepts == 0 {
		if _, err := unix.Getpeername(fd); err != nil {
			return false, fmt.Errorf("descriptor %d neither listens nor is connected; pass on a socket that does or is", fd)
		}
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return false, os.NewSyscallError("fcntl", err)
	}
	unix.CloseOnExec(fd)
	return accepts != 0, nil
}
