package activated_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/activated"
)

// pass returns a descriptor as a service manager passes it on: of a new socket, bound
// if addr is not nil.
func pass(t *testing.T, domain, kind int, addr unix.Sockaddr, listen bool) *os.File {
	t.Helper()
	fd, err := unix.Socket(domain, kind, 0)
	if err == nil && addr != nil {
		err = unix.Bind(fd, addr)
	}
	if err == nil && listen {
		err = unix.Listen(fd, 8)
	}
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "")
	t.Cleanup(func() { f.Close() })
	return f
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	unixAt := func(path string) unix.Sockaddr { return &unix.SockaddrUnix{Name: path} }
	for _, tt := range []struct {
		name    string
		file    *os.File
		network activated.Network
		path    string
		fault   string
	}{
		{"stream", pass(t, unix.AF_UNIX, unix.SOCK_STREAM, unixAt(path), true), activated.Unix, path, ""},
		{"SEQPACKET", pass(t, unix.AF_UNIX, unix.SOCK_SEQPACKET, unixAt(path+"2"), true), activated.UnixPacket, path + "2", ""},
		{"abstract", pass(t, unix.AF_UNIX, unix.SOCK_STREAM, unixAt("@vsock-"+path), true), activated.Unix, "", ""},
		{"TCP", pass(t, unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, true), activated.TCP, "", ""},
		{"not listening", pass(t, unix.AF_UNIX, unix.SOCK_STREAM, unixAt(path+"3"), false), "", "", "does not listen"},
		{"datagrams", pass(t, unix.AF_UNIX, unix.SOCK_DGRAM, unixAt(path+"4"), false), "", "", "neither"},
		{"UDP", pass(t, unix.AF_INET, unix.SOCK_DGRAM, nil, false), "", "", "neither"},
		{"file", null, "", "", "pass on a socket"},
		{"not open", os.NewFile(1<<20, ""), "", "", "is not open"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := activated.New("name", tt.file)
			if s.Network != tt.network || s.Path() != tt.path || s.HasPlace() != (tt.path != "" || tt.network == activated.TCP) {
				t.Errorf("network %q, path %q, address %q", s.Network, s.Path(), s.Address)
			}
			if tt.fault == "" && s.Fault != nil || tt.fault != "" && (s.Fault == nil || !strings.Contains(s.Fault.Error(), tt.fault)) {
				t.Errorf("fault %v, want %q", s.Fault, tt.fault)
			}
		})
	}
}

func TestSocketNamesItself(t *testing.T) {
	f := pass(t, unix.AF_INET6, unix.SOCK_STREAM, &unix.SockaddrInet6{Addr: [16]byte{15: 1}}, true)
	s := activated.New("web/socket", f)
	if host, _, err := net.SplitHostPort(s.Address); err != nil || host != "::1" {
		t.Errorf("address %q", s.Address)
	}
	for _, want := range []string{`"web/socket"`, s.Address} {
		if !strings.Contains(s.String(), want) {
			t.Errorf("%s: no %s", s, want)
		}
	}
}

// Each user of the socket has a descriptor of its own, and the socket stays.
func TestSocketOutlivesItsUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := activated.New("", pass(t, unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: path}, true))
	for range 2 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fd, err := s.Dup()
		if err != nil {
			t.Fatal(err)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags %#x, error %v: want FD_CLOEXEC", flags, err)
		}
		accepted, _, err := unix.Accept(fd)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(accepted)
		if _, _, err := unix.Accept(fd); err != unix.EAGAIN {
			t.Errorf("error %v, want EAGAIN", err)
		}
		unix.Close(fd)
	}
	l, err := s.Listener()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// What was passed on to another process is not taken, and nobody is told of it.
func TestTakeCleansTheEnvironment(t *testing.T) {
	variables := map[string]string{"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "socket"}
	for name, value := range variables {
		t.Setenv(name, value)
	}
	if got := activated.Take(); got != nil {
		t.Errorf("took %v", got)
	}
	for name := range variables {
		if value, there := os.LookupEnv(name); there {
			t.Errorf("%s=%s", name, value)
		}
	}
}
