package muxer

import (
	"errors"

	"golang.org/x/sys/unix"
)

// errno returns the number of a failed system call, wrapped or not; 0 for nil.
func errno(err error) unix.Errno {
	if err == nil {
		return 0
	}
	if n, ok := err.(unix.Errno); ok {
		return n
	}
	var n unix.Errno // allocates: not for nil and EAGAIN, which are everyday
	errors.As(err, &n)
	return n
}

// readRetry reads once from a non-blocking descriptor; EINTR ends here.
func readRetry(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// unreadBytes returns how many bytes wait to be read from a socket.
func unreadBytes(fd int) int { return ioctlInt(fd, unix.SIOCINQ) }

// allTaken reports whether the program at the other end of a socket has read
// all that was written. What it has not counts with its whole buffer, hundreds of
// bytes. A count of 1 is the kernel's own: it holds that back while it wakes the
// writer (sock_wfree in Linux), and no other event tells when it has gone.
func allTaken(fd int) bool { return ioctlInt(fd, unix.SIOCOUTQ) <= 1 }

// ioctlInt reads an int that the kernel tells about a socket; 0 if it does not.
func ioctlInt(fd int, request uint) int {
	n, err := unix.IoctlGetInt(fd, request)
	if err != nil {
		return 0
	}
	return n
}

// hangsUp reports whether both directions of a socket are shut, most often
// because the program at the other end has closed it. End of file alone does not
// tell: the program may only have shut down its sending side.
func hangsUp(fd int) bool {
	p := [1]unix.PollFd{{Fd: int32(fd)}}
	for {
		_, err := unix.Poll(p[:], 0)
		if err != unix.EINTR {
			return p[0].Revents&unix.POLLHUP != 0
		}
	}
}

// writeRetry writes once to a non-blocking descriptor; EINTR ends here.
func writeRetry(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Write(fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// peek reads from a non-blocking socket without consuming.
func peek(fd int, p []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(fd, p, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return n, err
		}
	}
}
