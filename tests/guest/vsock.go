package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
)

// socket is an AF_VSOCK socket in the care of Go's poller: thousands of
// them need no thread each.
type socket struct{ *os.File }

// newSocket takes ownership of fd, a non-blocking socket.
func newSocket(fd int) socket { return socket{os.NewFile(uintptr(fd), "vsock")} }

// localCID asks the driver for the guest's own address.
func localCID() (uint32, error) {
	f, err := os.Open("/dev/vsock")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	cid, err := unix.IoctlGetUint32(int(f.Fd()), unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID)
	if err != nil {
		return 0, os.NewSyscallError("ioctl(IOCTL_VM_SOCKETS_GET_LOCAL_CID)", err)
	}
	if cid == unix.VMADDR_CID_ANY {
		return 0, errors.New("no vsock device")
	}
	return cid, nil
}

// kind is what a socket is made with.
type kind struct {
	seqpacket  bool
	bufferSize uint64 // 0 keeps the kernel's window
}

func kindOf(req *script.Request) kind { return kind{req.Seqpacket, req.BufferSize} }

func open(k kind) (socket, error) {
	typ := unix.SOCK_STREAM
	if k.seqpacket {
		typ = unix.SOCK_SEQPACKET
	}
	fd, err := unix.Socket(unix.AF_VSOCK, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return socket{}, os.NewSyscallError("socket", err)
	}
	s := newSocket(fd)
	if k.bufferSize == 0 {
		return s, nil
	}
	// The maximum first: the kernel cuts the size to it.
	for _, opt := range []int{unix.SO_VM_SOCKETS_BUFFER_MAX_SIZE, unix.SO_VM_SOCKETS_BUFFER_SIZE} {
		if err := unix.SetsockoptUint64(fd, unix.AF_VSOCK, opt, k.bufferSize); err != nil {
			s.Close()
			return socket{}, os.NewSyscallError("setsockopt", err)
		}
	}
	return s, nil
}

// dial connects to a port of the host.
func dial(port uint32, k kind) (socket, error) {
	s, err := open(k)
	if err != nil {
		return socket{}, err
	}
	if err := s.connect(&unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port}); err != nil {
		s.Close()
		return socket{}, os.NewSyscallError("connect", err)
	}
	return s, s.sendWhole()
}

// sendWhole prepares a connected socket for messages. Linux sends what credit allows of
// one and then, if the socket must not block, says EAGAIN and forgets how much that was.
func (s socket) sendWhole() error {
	return s.control(func(fd int) error {
		typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		if err != nil || typ != unix.SOCK_SEQPACKET {
			return err
		}
		return unix.SetNonblock(fd, false)
	})
}

func (s socket) connect(to unix.Sockaddr) error {
	rc, err := s.SyscallConn()
	if err != nil {
		return err
	}
	begun := false
	var result error
	err = rc.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			result = unix.Connect(int(fd), to)
			return result != unix.EINPROGRESS
		}
		var done bool
		done, result = connectResult(int(fd))
		return done
	})
	return errors.Join(err, result)
}

// connectResult tells whether a connect that was in progress has ended: the poller
// also wakes for the readiness an unconnected socket shows.
func connectResult(fd int) (done bool, err error) {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if errno != 0 {
		return true, syscall.Errno(errno)
	}
	if _, err := unix.Getpeername(fd); err == unix.ENOTCONN {
		return false, nil
	}
	return true, nil
}

// backlog is what the kernel caps a listener's queue at (net.core.somaxconn).
const backlog = 4096

func listen(port uint32, k kind) (socket, error) {
	s, err := open(k)
	if err != nil {
		return socket{}, err
	}
	err = s.control(func(fd int) error {
		if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
			return os.NewSyscallError("bind", err)
		}
		return os.NewSyscallError("listen", unix.Listen(fd, backlog))
	})
	if err != nil {
		s.Close()
		return socket{}, fmt.Errorf("port %d: %w", port, err)
	}
	return s, nil
}

func (l socket) accept() (s socket, err error) {
	rc, err := l.SyscallConn()
	if err != nil {
		return socket{}, err
	}
	var fd int
	var result error
	err = rc.Read(func(l uintptr) bool {
		fd, result = acceptNow(int(l))
		return result != unix.EAGAIN
	})
	if err := errors.Join(err, result); err != nil {
		return socket{}, os.NewSyscallError("accept", err)
	}
	s = newSocket(fd)
	return s, s.sendWhole()
}

// acceptNow does not wait, yet a signal may interrupt it: vsock looks for one before it
// says EAGAIN.
func acceptNow(l int) (fd int, err error) {
	for {
		fd, _, err = unix.Accept4(l, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (s socket) CloseRead() error { return s.shutdown(unix.SHUT_RD) }

func (s socket) CloseWrite() error { return s.shutdown(unix.SHUT_WR) }

func (s socket) shutdown(how int) error {
	return s.control(func(fd int) error { return os.NewSyscallError("shutdown", unix.Shutdown(fd, how)) })
}

func (s socket) control(f func(fd int) error) error {
	rc, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	return errors.Join(rc.Control(func(fd uintptr) { result = f(int(fd)) }), result)
}
