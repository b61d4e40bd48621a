package hostsock_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

func TestInherit(t *testing.T) {
	// As a parent leaves them: blocking and without close-on-exec.
	socket := func(t *testing.T, domain, kind int) int {
		t.Helper()
		fd, err := unix.Socket(domain, kind, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	bound := func(t *testing.T) int {
		t.Helper()
		fd := socket(t, unix.AF_UNIX, unix.SOCK_STREAM)
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(t.TempDir(), "s")}); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	pair := func(t *testing.T, kind int) (fd, other int) {
		t.Helper()
		fds, err := unix.Socketpair(unix.AF_UNIX, kind, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fds[0]) })
		return fds[0], fds[1]
	}

	for _, test := range []struct {
		name      string
		open      func(t *testing.T) int
		listening bool
		ok        bool
	}{
		{"listening", func(t *testing.T) int {
			fd := bound(t)
			if err := unix.Listen(fd, 1); err != nil {
				t.Fatal(err)
			}
			return fd
		}, true, true},
		{"connected", func(t *testing.T) int {
			fd, other := pair(t, unix.SOCK_STREAM)
			t.Cleanup(func() { unix.Close(other) })
			return fd
		}, false, true},
		{"connected to one that left", func(t *testing.T) int {
			fd, other := pair(t, unix.SOCK_STREAM)
			unix.Close(other)
			return fd
		}, false, true},
		{"bound only", bound, false, false},
		{"fresh", func(t *testing.T) int { return socket(t, unix.AF_UNIX, unix.SOCK_STREAM) }, false, false},
		{"SEQPACKET", func(t *testing.T) int {
			fd, other := pair(t, unix.SOCK_SEQPACKET)
			t.Cleanup(func() { unix.Close(other) })
			return fd
		}, false, false},
		{"TCP", func(t *testing.T) int { return socket(t, unix.AF_INET, unix.SOCK_STREAM) }, false, false},
		{"file", func(t *testing.T) int {
			fd, err := unix.Open(os.DevNull, unix.O_RDONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
			return fd
		}, false, false},
		{"not open", func(t *testing.T) int { return 1 << 20 }, false, false},
		{"negative", func(t *testing.T) int { return -1 }, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			fd := test.open(t)
			status := func() [2]int {
				fl, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
				fd, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
				return [2]int{fl & unix.O_NONBLOCK, fd & unix.FD_CLOEXEC}
			}
			want := status()
			if test.ok {
				want = [2]int{unix.O_NONBLOCK, unix.FD_CLOEXEC}
			}
			listening, err := hostsock.Inherit(fd)
			if listening != test.listening || (err == nil) != test.ok {
				t.Errorf("listening %v, error %v, want %v, ok %v", listening, err, test.listening, test.ok)
			}
			if got := status(); got != want {
				t.Errorf("O_NONBLOCK, FD_CLOEXEC: %v, want %v", got, want)
			}
		})
	}
}
