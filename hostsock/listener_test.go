package hostsock_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

var private = hostsock.Options{Mode: 0o600, UID: -1, GID: -1, Type: unix.SOCK_STREAM, Backlog: 16}

func listen(t *testing.T, path string) *hostsock.Listener {
	t.Helper()
	l, err := hostsock.Listen(path, private)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// dial connects to path and returns the connection and connect's error.
func dial(t *testing.T, path string) (fd int, err error) {
	t.Helper()
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Error(err)
		return -1, err
	}
	return fd, unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

// reach returns the error of a connect to path.
func reach(t *testing.T, path string) error {
	t.Helper()
	fd, err := dial(t, path)
	unix.Close(fd)
	return err
}

// leaveStale leaves at path a socket that nobody listens on.
func leaveStale(t testing.TB, path string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
}

// names returns what the directory holds.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := names(t, dir); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the directory holds %q, want %q", got, want)
	}
}

// withUmask runs f under a umask; it is the process's, so no test is parallel.
func withUmask(mask int, f func()) {
	defer unix.Umask(unix.Umask(mask))
	f()
}

func TestListenAcceptsAndIsNonBlocking(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vm.sock")
	l := listen(t, path)
	if l.Path != path {
		t.Errorf("Path %q, want %q", l.Path, path)
	}
	wantNames(t, dir, "vm.sock")
	if flags, err := unix.FcntlInt(uintptr(l.FD), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Fatalf("status flags %#x, %v, want O_NONBLOCK", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(l.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v, want FD_CLOEXEC", flags, err)
	}
	if err := reach(t, path); err != nil {
		t.Fatalf("connect: %v", err)
	}
	conn, _, err := unix.Accept4(l.FD, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	unix.Close(conn)
}

func TestListenRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	listen(t, "vm.sock")
	if err := reach(t, "vm.sock"); err != nil {
		t.Fatal(err)
	}
	wantNames(t, ".", "vm.sock")
}

func TestListenSeqpacket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	o := private
	o.Type = unix.SOCK_SEQPACKET
	l, err := hostsock.Listen(path, o)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := reach(t, path); err != unix.EPROTOTYPE {
		t.Fatalf("stream connect to a SEQPACKET socket: %v, want EPROTOTYPE", err)
	}
	if _, err := hostsock.Listen(path, private); !errors.Is(err, hostsock.ErrInUse) {
		t.Fatalf("a live socket of another type: %v, want ErrInUse", err)
	}
}

func TestModeIsExact(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077, 0o777} {
		for _, mode := range []os.FileMode{0o600, 0o660, 0o666, 0o777, 0o200, 0} {
			t.Run(fmt.Sprintf("umask=%03o/mode=%04o", mask, mode), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "vm.sock")
				o := private
				o.Mode = mode
				withUmask(mask, func() {
					l, err := hostsock.Listen(path, o)
					if err != nil {
						t.Fatal(err)
					}
					defer l.Close()
					info, err := os.Lstat(path)
					if err != nil {
						t.Fatal(err)
					}
					if got := info.Mode(); got != mode|os.ModeSocket {
						t.Errorf("mode %v, want %v", got, mode|os.ModeSocket)
					}
				})
			})
		}
	}
}

// Root can give the socket to anybody, others only to themselves and to a group
// they are in: the test asks for what the process may do.
func TestOwner(t *testing.T) {
	uid, gid := os.Getuid(), os.Getgid()
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if uid == 0 {
		uid, gid = 12345, 23456
	} else if len(groups) > 0 {
		gid = groups[len(groups)-1]
	}
	for _, test := range []struct{ uid, gid, wantUID, wantGID int }{
		{-1, -1, os.Getuid(), os.Getgid()},
		{uid, -1, uid, os.Getgid()},
		{-1, gid, os.Getuid(), gid},
		{uid, gid, uid, gid},
	} {
		t.Run(fmt.Sprintf("%d:%d", test.uid, test.gid), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "vm.sock")
			o := private
			o.Mode, o.UID, o.GID = 0o660, test.uid, test.gid
			l, err := hostsock.Listen(path, o)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			st := info.Sys().(*syscall.Stat_t)
			if int(st.Uid) != test.wantUID || int(st.Gid) != test.wantGID || info.Mode().Perm() != 0o660 {
				t.Errorf("owner %d:%d mode %v, want %d:%d mode 0660",
					st.Uid, st.Gid, info.Mode().Perm(), test.wantUID, test.wantGID)
			}
		})
	}
}

func TestOwnerRefusedLeavesNothing(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may give files away")
	}
	dir := t.TempDir()
	o := private
	o.UID = os.Getuid() + 1
	if _, err := hostsock.Listen(filepath.Join(dir, "vm.sock"), o); !errors.Is(err, unix.EPERM) {
		t.Fatalf("error %v, want EPERM", err)
	}
	wantNames(t, dir)
}

// poll connects to path without a pause until stop is closed and returns what
// connect said, and how often.
func poll(path string, stop <-chan struct{}) map[error]int {
	seen := make(map[error]int)
	for {
		select {
		case <-stop:
			return seen
		default:
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			seen[err]++
			return seen
		}
		seen[unix.Connect(fd, &unix.SockaddrUnix{Name: path})]++
		unix.Close(fd)
	}
}

// A client that comes while the name appears finds no socket or a listening
// one: a socket bound but not listening would refuse it. In place of a stale
// socket there is never no socket.
func TestNameAppearsAccepting(t *testing.T) {
	for _, test := range []struct {
		name   string
		before func(*testing.T, string)
		absent error // what clients see before
	}{
		{"free", func(*testing.T, string) {}, unix.ENOENT},
		{"stale", func(t *testing.T, path string) { leaveStale(t, path) }, unix.ECONNREFUSED},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for round := range 200 {
				path := filepath.Join(dir, fmt.Sprint(round))
				test.before(t, path)
				stop := make(chan struct{})
				var client sync.WaitGroup
				var seen map[error]int
				polling := make(chan struct{})
				client.Go(func() {
					close(polling)
					seen = poll(path, stop)
				})
				<-polling
				o := private
				o.Backlog = 4096
				l, err := hostsock.Listen(path, o)
				close(stop)
				client.Wait()
				if err != nil {
					t.Fatal(err)
				}
				l.Close()
				for err := range seen {
					if err != nil && err != test.absent && err != unix.EAGAIN { // EAGAIN: backlog full
						t.Fatalf("round %d: a client saw %v, want %v or success", round, err, test.absent)
					}
				}
			}
		})
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vm.sock")
	leaveStale(t, path)
	if err := reach(t, path); err != unix.ECONNREFUSED {
		t.Fatalf("connect to the stale socket: %v", err)
	}
	listen(t, path)
	if err := reach(t, path); err != nil {
		t.Fatal(err)
	}
	wantNames(t, dir, "vm.sock")
}

// A stale socket gives way whatever its type was and whatever the new one's is.
func TestStaleSocketOfAnotherType(t *testing.T) {
	types := []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET}
	for _, stale := range types {
		for _, o := range types {
			path := filepath.Join(t.TempDir(), "vm.sock")
			fd, err := unix.Socket(unix.AF_UNIX, stale|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
			options := private
			options.Type = o
			l, err := hostsock.Listen(path, options)
			if err != nil {
				t.Fatalf("type %d over a stale socket of type %d: %v", o, stale, err)
			}
			l.Close()
		}
	}
}

func TestWhatIsInTheWayStays(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(*testing.T, string)
		want error
	}{
		{"live socket", func(t *testing.T, path string) { listen(t, path) }, hostsock.ErrInUse},
		{"live socket with a full backlog", func(t *testing.T, path string) {
			o := private
			o.Backlog = 0
			l, err := hostsock.Listen(path, o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			for err = nil; err == nil; {
				var fd int
				fd, err = dial(t, path)
				t.Cleanup(func() { unix.Close(fd) })
			}
			if err != unix.EAGAIN {
				t.Fatalf("connect to a full backlog: %v", err)
			}
		}, hostsock.ErrInUse},
		{"datagram socket", func(t *testing.T, path string) {
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}, hostsock.ErrInUse},
		{"regular file", func(t *testing.T, path string) { write(t, path) }, hostsock.ErrNotSocket},
		{"directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, hostsock.ErrNotSocket},
		{"fifo", func(t *testing.T, path string) {
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, hostsock.ErrNotSocket},
		{"link to nothing", func(t *testing.T, path string) { symlink(t, path+".none", path) }, hostsock.ErrNotSocket},
		{"link to a stale socket", func(t *testing.T, path string) {
			leaveStale(t, path+".stale")
			symlink(t, path+".stale", path)
		}, hostsock.ErrNotSocket},
		{"link to a directory", func(t *testing.T, path string) { symlink(t, filepath.Dir(path), path) }, hostsock.ErrNotSocket},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "vm.sock")
			test.make(t, path)
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			namesBefore := names(t, dir)

			l, err := hostsock.Listen(path, private)
			if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if l != nil {
				l.Close()
			}
			if err != nil && !strings.Contains(err.Error(), path) {
				t.Errorf("error %q does not name the path", err)
			}
			after, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, after) {
				t.Errorf("what was there is gone: %v", err)
			}
			wantNames(t, dir, namesBefore...)
		})
	}
}

// Nobody but root can connect to a socket without permission, so that the test
// needs another user to try as.
func TestSocketWithoutPermissionStays(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root is refused nothing")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "vm.sock")
	leaveStale(t, path)
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := hostsock.Listen(path, private); !errors.Is(err, hostsock.ErrNotKnown) {
		t.Fatalf("error %v, want ErrNotKnown", err)
	}
	wantNames(t, dir, "vm.sock")
}

func TestListenWithoutDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "vm.sock")
	if _, err := hostsock.Listen(path, private); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), path) {
		t.Fatalf("error %v, want ENOENT with the path", err)
	}
}

// Of many that start on one stale socket, exactly one has the name in the end.
func TestOneOfManyReplacesAStaleSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vm.sock")
	for round := range 200 {
		leaveStale(t, path)
		var winners [8]*hostsock.Listener
		var errs [8]error
		var all sync.WaitGroup
		for i := range winners {
			all.Go(func() { winners[i], errs[i] = hostsock.Listen(path, private) })
		}
		all.Wait()

		var won *hostsock.Listener
		for i, l := range winners {
			switch {
			case l == nil && !errors.Is(errs[i], hostsock.ErrInUse):
				t.Errorf("round %d: a loser got %v, want ErrInUse", round, errs[i])
			case l != nil && won != nil:
				t.Errorf("round %d: two won", round)
				l.Close()
			case l != nil:
				won = l
			}
		}
		if won == nil {
			t.Fatalf("round %d: nobody won", round)
		}
		wantNames(t, dir, "vm.sock")
		checkReaches(t, won)
		won.Close()
		wantNames(t, dir)
		if t.Failed() {
			t.FailNow()
		}
	}
}

// Between the check and the exchange a foreign program may have bound a socket
// of its own in place of the stale one.
func TestExchangeGivesALiveSocketBack(t *testing.T) {
	dir := t.TempDir()
	theirs := listen(t, filepath.Join(dir, "theirs"))
	ours := listen(t, filepath.Join(dir, "ours"))
	if err := ours.Exchange(theirs.Path, unix.SOCK_STREAM); !errors.Is(err, hostsock.ErrInUse) {
		t.Fatalf("error %v, want ErrInUse", err)
	}
	wantNames(t, dir, "ours", "theirs")
	checkReaches(t, theirs)
	if ours.Path != filepath.Join(dir, "ours") {
		t.Errorf("Path %q", ours.Path)
	}
	checkReaches(t, ours)
}

// Whoever replaces a stale socket waits for others who do, but not for ever:
// the lock of a directory like /tmp is anybody's.
func TestReplacingWaitsForTheLock(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vm.sock")
	leaveStale(t, path)
	lock, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	listen(t, path)
	if waited := time.Since(start); waited < hostsock.LockPatience {
		t.Errorf("went on after %v though the directory is locked", waited)
	}
}

// checkReaches fails unless a client of l.Path arrives at l.
func checkReaches(t *testing.T, l *hostsock.Listener) {
	t.Helper()
	drainBacklog(l) // probes of those who lost
	if err := reach(t, l.Path); err != nil {
		t.Errorf("connect: %v", err)
	}
	if drainBacklog(l) != 1 {
		t.Error("the client did not arrive")
	}
}

func drainBacklog(l *hostsock.Listener) (clients int) {
	for {
		waiting := []unix.PollFd{{Fd: int32(l.FD), Events: unix.POLLIN}}
		if n, err := unix.Poll(waiting, 0); n <= 0 && err != unix.EINTR {
			return clients
		}
		if fd, _, err := unix.Accept4(l.FD, unix.SOCK_CLOEXEC); err == nil {
			unix.Close(fd)
			clients++
		}
	}
}

func TestCloseRemovesOnlyItsOwn(t *testing.T) {
	for _, test := range []struct {
		name    string
		replace func(*testing.T, string)
	}{
		{"another socket", func(t *testing.T, path string) { leaveStale(t, path) }},
		{"regular file", func(t *testing.T, path string) { write(t, path) }},
		{"link to our own socket", func(t *testing.T, path string) { symlink(t, path+".moved", path) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "vm.sock")
			l := listen(t, path)
			if err := os.Rename(path, path+".moved"); err != nil {
				t.Fatal(err)
			}
			test.replace(t, path)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("removed what was not its own: %v", err)
			}
		})
	}
}

// File systems give the number of a removed inode to the next file. A Listener
// whose socket was closed elsewhere must not take that file for its own.
func TestCloseKnowsAReusedInode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	for range 100 {
		l := listen(t, path)
		unix.Close(l.Take())
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		leaveStale(t, path)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal("removed a stranger's socket that has the number of its own")
		}
	}
}

func TestCloseTwiceAndWithoutName(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vm.sock")
	l := listen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if l.FD != -1 {
		t.Errorf("FD %d after Close, want -1", l.FD)
	}
}

func TestTakePassesTheSocketOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	l := listen(t, path)
	fd := l.Take()
	defer unix.Close(fd)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := reach(t, path); err != unix.ENOENT {
		t.Errorf("connect after Close: %v, want ENOENT", err)
	}
	if listening, err := hostsock.Inherit(fd); !listening || err != nil {
		t.Errorf("the socket that was taken: listening %v, %v", listening, err)
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkListen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "vm.sock")
	for _, stale := range []bool{false, true} {
		b.Run(fmt.Sprintf("stale=%v", stale), func(b *testing.B) {
			for b.Loop() {
				if stale {
					leaveStale(b, path)
				}
				l, err := hostsock.Listen(path, private)
				if err != nil {
					b.Fatal(err)
				}
				l.Close()
			}
		})
	}
}
