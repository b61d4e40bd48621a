package hostsock_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

// The figures of sun_path on Linux: 108 bytes, one of them the NUL.
func TestPathLimits(t *testing.T) {
	if hostsock.MaxPath != 107 || hostsock.MaxBasePath != 96 {
		t.Fatalf("MaxPath %d, MaxBasePath %d, want 107, 96", hostsock.MaxPath, hostsock.MaxBasePath)
	}
}

func TestCheckPath(t *testing.T) {
	long := func(n int) string { return "/run/" + strings.Repeat("x", n-len("/run/")) }
	for _, test := range []struct {
		name     string
		path     string
		ok, base bool
	}{
		{"absolute", "/run/vm.sock", true, true},
		{"relative", "vm.sock", true, true},
		{"hidden", "/run/.vm", true, true},
		{"at sign in the name", "/run/@vm", true, true},
		{"longest base", long(96), true, true},
		{"longer than a base", long(97), true, false},
		{"longest", long(107), true, false},
		{"too long", long(108), false, false},
		{"much too long", long(5000), false, false},
		{"no room for a temporary name", "/" + strings.Repeat("d", 104) + "/x", false, false},
		{"empty", "", false, false},
		{"root", "/", false, false},
		{"directory", "/run/", false, false},
		{"this directory", "/run/.", false, false},
		{"parent directory", "..", false, false},
		{"abstract", "@vm", false, false},
		{"abstract by NUL", "\x00vm", false, false},
		{"NUL within", "/run/v\x00m", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			for what, check := range map[string]struct {
				f  func(string) error
				ok bool
			}{"CheckPath": {hostsock.CheckPath, test.ok}, "CheckBasePath": {hostsock.CheckBasePath, test.base}} {
				err := check.f(test.path)
				if (err == nil) != check.ok || err != nil && !errors.Is(err, hostsock.ErrBadPath) {
					t.Errorf("%s: %v, want ok %v", what, err, check.ok)
				}
			}
		})
	}
}

// What CheckPath accepts the kernel must accept too, temporary name included.
func TestLongestPathsWork(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir) // a short relative path to it, whatever TMPDIR is
	for _, n := range []int{hostsock.MaxBasePath, hostsock.MaxPath - 10, hostsock.MaxPath - 1, hostsock.MaxPath} {
		path := strings.Repeat("x", n)
		l, err := hostsock.Listen(path, private)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		err = reach(t, path)
		l.Close()
		if err != nil {
			t.Fatalf("%d bytes: connect: %v", n, err)
		}
		wantNames(t, dir)
	}

	// A long directory leaves the temporary name no more than it needs.
	long := strings.Repeat("d", hostsock.MaxPath-len("/.12345678."))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := hostsock.Listen(filepath.Join(long, "x"), private)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestTooLongPathMakesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if _, err := hostsock.Listen(strings.Repeat("x", hostsock.MaxPath+1), private); !errors.Is(err, hostsock.ErrBadPath) {
		t.Fatalf("error %v, want ErrBadPath", err)
	}
	wantNames(t, dir)
}

// The temporary name is what diagnostic tools show: it must tell which socket
// it was.
func TestBoundNameShowsThePath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	l := listen(t, path)
	sa, err := unix.Getsockname(l.FD)
	if err != nil {
		t.Fatal(err)
	}
	name := sa.(*unix.SockaddrUnix).Name
	if filepath.Dir(name) != filepath.Dir(path) || !strings.HasSuffix(name, ".vm.sock") {
		t.Errorf("bound as %q, want .<random>.vm.sock in the same directory", name)
	}
}
