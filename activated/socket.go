package activated

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

// Network is what kind of socket one is, as package net calls it.
type Network string

// The networks on which the program listens.
const (
	Unix       Network = "unix"       // AF_UNIX, SOCK_STREAM
	UnixPacket Network = "unixpacket" // AF_UNIX, SOCK_SEQPACKET
	TCP        Network = "tcp"        // AF_INET or AF_INET6, SOCK_STREAM
)

// networks are those by family and type.
var networks = map[[2]int]Network{
	{unix.AF_UNIX, unix.SOCK_STREAM}:    Unix,
	{unix.AF_UNIX, unix.SOCK_SEQPACKET}: UnixPacket,
	{unix.AF_INET, unix.SOCK_STREAM}:    TCP,
	{unix.AF_INET6, unix.SOCK_STREAM}:   TCP,
}

// Socket is one that was passed on. It stays open until the process ends, so that
// nobody who connects is refused while no VM uses it.
type Socket struct {
	Name    string  // of the descriptor: FileDescriptorName=, LISTEN_FDNAMES
	FD      int     // as the manager numbered it
	Network Network // empty with Fault
	Address string  // the path, @NAME of an abstract address, or HOST:PORT; may be empty
	Fault   error   // what keeps it from being listened on, or nil

	file *os.File
}

// Take returns the sockets that were passed on to this process, close-on-exec, in
// the order of their descriptors. It takes what tells of them out of the
// environment: a second call finds nothing.
func Take() []*Socket {
	var all []*Socket
	for _, f := range activation.Files(true) {
		all = append(all, New(f.Name(), f))
	}
	return all
}

// New returns a socket of this name, which owns f.
func New(name string, f *os.File) *Socket {
	s := &Socket{Name: name, FD: int(f.Fd()), file: f}
	s.Network, s.Fault = network(s.FD)
	if s.Fault == nil {
		s.Address, s.Fault = address(s.FD)
	}
	return s
}

// network returns the kind of a socket that listens.
func network(fd int) (Network, error) {
	kind, err := hostsock.Inspect(fd)
	if err != nil {
		return "", err
	}
	found, ok := networks[[2]int{kind.Domain, kind.Type}]
	switch {
	case !ok:
		return "", errors.New("neither an AF_UNIX socket for streams or SEQPACKET nor a TCP socket; give ListenStream= or ListenSequentialPacket=")
	case !kind.Listens:
		return "", errors.New("it does not listen; give Accept=no")
	}
	return found, nil
}

// address returns what a socket is bound to.
func address(fd int) (string, error) {
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return "", os.NewSyscallError("getsockname", err)
	}
	switch a := bound.(type) {
	case *unix.SockaddrUnix:
		return a.Name, nil
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String(), nil
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr).Unmap()
		return netip.AddrPortFrom(ip, uint16(a.Port)).String(), nil
	}
	return "", fmt.Errorf("bound to an address of an unknown kind, %T", bound)
}

// Path returns where the socket is in the file system, or "" where it has no name
// there that means the same from everywhere.
func (s *Socket) Path() string {
	if s.Network != TCP && filepath.IsAbs(s.Address) {
		return s.Address
	}
	return ""
}

// HasPlace reports whether Address tells where the socket is.
func (s *Socket) HasPlace() bool { return s.Network == TCP || s.Path() != "" }

// Dup returns another descriptor of the socket, non-blocking and close-on-exec,
// which is the caller's.
func (s *Socket) Dup() (int, error) {
	fd, err := unix.FcntlInt(uintptr(s.FD), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("fcntl", err)
	}
	return fd, nil
}

// Listener returns a listener on the socket, which is the caller's. Its Close leaves
// the socket, and its name, as they are.
func (s *Socket) Listener() (net.Listener, error) { return net.FileListener(s.file) }

// String says which socket it is.
func (s *Socket) String() string {
	text := fmt.Sprintf("inherited socket %q (descriptor %d", s.Name, s.FD)
	if s.Address != "" {
		text += " at " + s.Address
	}
	return text + ")"
}
