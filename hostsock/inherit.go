package hostsock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Kind is what sort of socket one is.
type Kind struct {
	Domain  int // AF_UNIX, ...
	Type    int // SOCK_STREAM, ...
	Listens bool
}

// Inspect returns what sort of socket fd is, or says that it is none.
func Inspect(fd int) (k Kind, err error) {
	k.Domain, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	switch {
	case errors.Is(err, unix.EBADF):
		return k, fmt.Errorf("descriptor %d is not open; pass the socket on from the parent process", fd)
	case err != nil:
		return k, fmt.Errorf("descriptor %d: %w; pass on a socket", fd, os.NewSyscallError("getsockopt", err))
	}
	if k.Type, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return k, os.NewSyscallError("getsockopt", err)
	}
	accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	k.Listens = accepts != 0
	return k, os.NewSyscallError("getsockopt", err)
}

// Inherit makes a descriptor that the parent process passed on fit for the
// loop, non-blocking and not passed on further, and reports whether it listens;
// otherwise it is connected. Anything but an AF_UNIX SOCK_STREAM socket that is
// one of the two is an error and stays as it was. The caller keeps fd.
func Inherit(fd int) (listening bool, err error) {
	kind, err := Inspect(fd)
	if err != nil {
		return false, err
	}
	if kind.Domain != unix.AF_UNIX || kind.Type != unix.SOCK_STREAM {
		return false, fmt.Errorf("descriptor %d is not an AF_UNIX stream socket; pass on one that is", fd)
	}
	if !kind.Listens {
		if _, err := unix.Getpeername(fd); err != nil {
			return false, fmt.Errorf("descriptor %d neither listens nor is connected; pass on a socket that does or is", fd)
		}
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return false, os.NewSyscallError("fcntl", err)
	}
	unix.CloseOnExec(fd)
	return kind.Listens, nil
}
