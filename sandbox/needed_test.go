package sandbox_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
	"github.com/vhost-user-vsock/vhost-user-vsock/trace"
)

func TestSocketFilesComeAndGo(t *testing.T) {
	alone(t, func(t *testing.T) {
		leaveStale := func(path string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			l.Close()
		}
		const old, stale = socketsDir + "/old", socketsDir + "/stale"
		options := hostsock.Options{Mode: 0o666, UID: os.Getuid(), GID: os.Getgid(), Type: unix.SOCK_STREAM, Backlog: 1}
		before, err := hostsock.Listen(old, options)
		if err != nil {
			t.Fatal(err)
		}
		leaveStale(stale)
		enter(t)

		if dir, err := os.Open(socketsDir); err != nil { // hostsock locks it, where it can
			t.Error(err)
		} else {
			dir.Close()
		}
		for _, path := range []string{socketsDir + "/new", stale} {
			l, err := hostsock.Listen(path, options)
			if err != nil {
				t.Fatal(err)
			}
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := before.Close(); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"old", "new", "stale"} {
			if _, err := os.Lstat(socketsDir + "/" + name); !os.IsNotExist(err) {
				t.Errorf("%s is left: %v", name, err)
			}
		}
	})
}

// Landlock of today says nothing about connecting, which docs/SECURITY.md tells.
func TestConnectLeadsEverywhere(t *testing.T) {
	alone(t, func(t *testing.T) {
		l, err := net.Listen("unix", otherDir+"/program")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../"+otherDir+"/program", socketsDir+"/vm_1024"); err != nil {
			t.Fatal(err)
		}
		enter(t)
		for _, path := range []string{otherDir + "/program", socketsDir + "/vm_1024"} {
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		l.Close() //nolint:errcheck // its file cannot be removed any more
	})
}

// A daemon of root's connects to a program of anybody's.
func TestOthersSocketsStayInReach(t *testing.T) {
	alone(t, func(t *testing.T) {
		const path = socketsDir + "/vm_1024"
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		enter(t)
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
}

func TestFileIsReadAgainWhenReplaced(t *testing.T) {
	alone(t, func(t *testing.T) {
		const file = filesDir + "/" + fileName
		// Whoever replaces it is outside.
		script := fmt.Sprintf("read go && echo new >%[1]s.tmp && mv %[1]s.tmp %[1]s && echo done", file)
		outside := exec.Command("sh", "-c", script)
		told, err := outside.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		answer, err := outside.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := outside.Start(); err != nil {
			t.Fatal(err)
		}
		enter(t)
		expect := func(want string) {
			if got, err := os.ReadFile(file); err != nil || string(got) != want {
				t.Errorf("read %q, error %v; want %q", got, err, want)
			}
		}
		expect("")
		if _, err := io.WriteString(told, "go\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(answer).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		expect("new\n")
	})
}

func TestRuntimeGoesOn(t *testing.T) {
	alone(t, func(t *testing.T) {
		signals := make(chan os.Signal, 1)
		enter(t)
		var threads sync.WaitGroup
		for range 50 {
			threads.Go(func() {
				runtime.LockOSThread() // and end with the goroutine
				time.Sleep(time.Millisecond)
				_ = make([]byte, 1<<20)
			})
		}
		threads.Wait()
		runtime.GC()
		debug.FreeOSMemory()
		signal.Notify(signals, unix.SIGHUP)
		if err := unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		<-signals
	})
}

// A VM that begins anew has a new trace, and the former one is kept.
func TestTraceIsBegunAnew(t *testing.T) {
	alone(t, func(t *testing.T) {
		open := func() *trace.Recorder {
			r, err := trace.Open(trace.Config{
				Path: writtenDir + "/trace", Limit: 1 << 20, Now: time.Now, Log: logrus.New(), Stats: new(trace.Stats),
			})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		first := open()
		enter(t)
		for range 3 { // the former former one is replaced
			first.Packet(new([csm.HeaderSize]byte), 0)
			if err := first.Close(); err != nil {
				t.Error(err)
			}
			first = open()
		}
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	})
}
